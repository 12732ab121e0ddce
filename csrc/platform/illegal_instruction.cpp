#include <setjmp.h>
#include <signal.h>

#include <mutex>

#include "platform/processor.h"

namespace llama_rt {
namespace {

std::mutex mutex;
struct sigaction host_action;
thread_local sigjmp_buf* volatile resume_at = nullptr;

void on_illegal_instruction(int signal, siginfo_t* info, void* context) {
  if (sigjmp_buf* const target = resume_at) siglongjmp(*target, 1);
  if ((host_action.sa_flags & SA_SIGINFO) != 0 && host_action.sa_sigaction != nullptr) {
    host_action.sa_sigaction(signal, info, context);
  } else if (host_action.sa_handler != SIG_DFL && host_action.sa_handler != SIG_IGN) {
    host_action.sa_handler(signal);
  } else {
    sigaction(signal, &host_action, nullptr);  // the instruction is met again, as without us
  }
}

}  // namespace

bool runs_without_illegal_instruction(FunctionRef<void()> body) {
  const std::scoped_lock lock(mutex);
  struct sigaction action = {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGILL, &action, &host_action) != 0) {
    body();
    return true;
  }
  sigjmp_buf target;
  volatile bool completed = false;
  if (sigsetjmp(target, 1) == 0) {
    resume_at = &target;
    body();
    completed = true;
  }
  resume_at = nullptr;
  sigaction(SIGILL, &host_action, nullptr);
  return completed;
}

}  // namespace llama_rt
