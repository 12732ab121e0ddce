// Runs code that may hold instructions which this processor, or the emulator or hypervisor under
// it, announces and then refuses.
#pragma once

#include "core/function_ref.h"

namespace llama_rt {

// Calls `body`; false if it met an illegal instruction and was left there. Nothing in `body` may
// need a destructor or hold a lock when that happens. The process's own SIGILL handler is back in
// place afterwards, and gets the signals of other threads meanwhile.
bool runs_without_illegal_instruction(FunctionRef<void()> body);

}  // namespace llama_rt
