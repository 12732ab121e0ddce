// A flag that long work looks at between layers. Set from any thread; the embedding language may
// add its own reason to stop (a pending signal).
#pragma once

#include <atomic>
#include <functional>

#include "core/error.h"

namespace llama_rt {

class CancelFlag {
 public:
  void set() { set_.store(true, std::memory_order_relaxed); }
  void clear() { set_.store(false, std::memory_order_relaxed); }
  bool is_set() const { return set_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> set_{false};
};

// What a forward pass polls: a flag that may be null, and a check that may be empty.
struct Interrupt {
  const CancelFlag* flag = nullptr;
  std::function<bool()> pending;

  bool asked() const { return (flag && flag->is_set()) || (pending && pending()); }
  void check() const {
    if (asked()) throw CancelledError("cancelled; every sequence is as it was before the call");
  }
};

}  // namespace llama_rt
