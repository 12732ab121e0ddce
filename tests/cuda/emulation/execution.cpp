#include "execution.h"

#include <sys/mman.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

// Saves the callee's registers on the old stack and takes those of the new one.
extern "C" void emulation_switch(void** save, void* to);
asm(R"(
.text
.p2align 4
.type emulation_switch, @function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulation_switch, .-emulation_switch
)");

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulation {

struct Thread {
  void* stack_pointer;
  uint3 index;
  int warp, lane;
  const char* waits;  // what for; null: it can run or is done
  bool done;
};

Thread* current;

namespace {

constexpr size_t kStack = 128 << 10;  // bytes, the lowest page of which is a guard
constexpr size_t kPage = 4096;
constexpr int kMostThreads = 1024;
constexpr size_t kMostShared = 256 << 10;
constexpr int kBarriers = 17;  // the last is the wait for the kernel ahead

// Lanes of one mask on their way to meet.
struct Meeting {
  uint32_t mask, arrived;
  const char* kind;
  void* argument[32];
};

struct Warp {
  uint32_t exists, ready, done;
  std::vector<Meeting> meetings;
};

struct Barrier {
  int expected = 0, arrived = 0;
  std::vector<Thread*> waiting;
};

struct Machine {
  std::byte* stacks;
  std::byte* shared;
  size_t shared_size = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barriers[kBarriers];
  std::vector<Thread*> polling;
  std::vector<std::function<void()>> endings;
  const std::function<void()>* body = nullptr;
  void* main = nullptr;  // stack pointer of run_block
  int finished = 0;
  uint64_t blocks = 0;
  bool waited = false;
  std::vector<std::span<std::byte>> hidden;  // of the running grid
  std::vector<std::byte> held;               // what they hold, while the block has not waited
  std::string fault;
  Order order = Order::kAscending;

  Machine() {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    const auto map = [&](size_t bytes) {
      void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
      if (p == MAP_FAILED) throw std::bad_alloc();
      return static_cast<std::byte*>(p);
    };
    stacks = map(kMostThreads * kStack);
    for (int i = 0; i < kMostThreads; ++i) mprotect(stacks + i * kStack, kPage, PROT_NONE);
    shared = map(kMostShared + kPage);
    mprotect(shared + kMostShared, kPage, PROT_NONE);
  }
};

Machine& machine() {
  static Machine m;
  return m;
}

void run(Thread* next, void** save) {
  current = next;
  threadIdx = next->index;
  emulation_switch(save, next->stack_pointer);
}

int pick(uint32_t lanes, Order order) {
  return order == Order::kAscending ? std::countr_zero(lanes) : 31 - std::countl_zero(lanes);
}

// The next ready thread: of the same warp if there is one, else of the next warp that has one.
Thread* next_ready(int from) {
  Machine& m = machine();
  const int count = static_cast<int>(m.warps.size());
  const int step = m.order == Order::kAscending ? 1 : count - 1;
  for (int i = 0, w = from; i < count; ++i, w = (w + step) % count) {
    if (m.warps[w].ready) return &m.threads[w * 32 + pick(m.warps[w].ready, m.order)];
  }
  return nullptr;
}

// Leaves the running thread, which is not ready any more, for another or for run_block.
void leave() {
  Machine& m = machine();
  Thread* self = current;
  Thread* next = m.fault.empty() ? next_ready(self->warp) : nullptr;
  if (next) {
    run(next, &self->stack_pointer);
  } else {
    emulation_switch(&self->stack_pointer, m.main);
  }
}

void sleep_for(const char* what) {
  Thread* self = current;
  self->waits = what;
  machine().warps[self->warp].ready &= ~(1u << self->lane);
  leave();
}

void wake(Thread* thread) {
  thread->waits = nullptr;
  machine().warps[thread->warp].ready |= 1u << thread->lane;
}

void entry() {
  Machine& m = machine();
  try {
    (*m.body)();
  } catch (const std::exception& error) {
    m.fault = error.what();
  }
  Thread* self = current;
  self->done = true;
  ++m.finished;
  Warp& w = m.warps[self->warp];
  w.ready &= ~(1u << self->lane);
  w.done |= 1u << self->lane;
  leave();
}

std::string where(const uint3& block) {
  return "block (" + std::to_string(block.x) + ", " + std::to_string(block.y) + ", " +
         std::to_string(block.z) + ")";
}

std::string stuck() {
  std::map<std::string, int> counts;
  for (const Thread& t : machine().threads) {
    ++counts[t.done ? "have ended" : std::string("wait at ") + (t.waits ? t.waits : "nothing")];
  }
  std::string text = "threads never meet:";
  for (const auto& [what, count] : counts) text += " " + std::to_string(count) + " " + what + ";";
  return text;
}

void prepare_block() {
  Machine& m = machine();
  const int count = static_cast<int>(m.threads.size());
  for (Warp& w : m.warps) w = {};
  for (Barrier& b : m.barriers) b = {};
  m.polling.clear();
  m.endings.clear();
  m.finished = 0;
  ++m.blocks;
  m.waited = false;
  m.fault.clear();
  std::memset(m.shared, kPoison, (m.shared_size + kPage) / kPage * kPage);
  for (int i = 0; i < count; ++i) {
    const auto n = static_cast<unsigned>(i);
    Thread& t = m.threads[i];
    t.index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / (blockDim.x * blockDim.y)};
    t.warp = i / 32, t.lane = i % 32, t.waits = nullptr, t.done = false;
    auto* top = reinterpret_cast<void**>(m.stacks + (static_cast<size_t>(i) + 1) * kStack);
    *--top = nullptr;  // keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(&entry);
    for (int r = 0; r < 6; ++r) *--top = nullptr;
    t.stack_pointer = top;
    m.warps[t.warp].exists |= 1u << t.lane;
    m.warps[t.warp].ready |= 1u << t.lane;
  }
}

void check_shared_end() {
  Machine& m = machine();
  const size_t end = (m.shared_size + kPage) / kPage * kPage;
  for (size_t i = m.shared_size; i < end; ++i) {
    if (m.shared[i] != std::byte{kPoison}) {
      throw Fault("shared memory was written " + std::to_string(i - m.shared_size) +
                  " bytes past its end");
    }
  }
}

void hide() {
  Machine& m = machine();
  m.held.clear();
  for (const auto& part : m.hidden) {
    m.held.insert(m.held.end(), part.begin(), part.end());
    std::memset(part.data(), kPoison, part.size());
  }
}

void show() {
  Machine& m = machine();
  const std::byte* from = m.held.data();
  bool touched = false;
  for (const auto& part : m.hidden) {
    if (m.held.empty()) break;
    for (std::byte& b : part) touched |= std::exchange(b, *from++) != std::byte{kPoison};
  }
  m.held.clear();
  if (touched) m.fault = "what the kernel ahead writes was written before waiting for it";
}

void run_block(bool dependent) {
  Machine& m = machine();
  prepare_block();
  if (dependent) hide();
  const int last = static_cast<int>(m.warps.size()) - 1;
  run(next_ready(m.order == Order::kAscending ? 0 : last), &m.main);
  show();
  if (!m.fault.empty()) throw Fault(m.fault);
  if (m.finished != static_cast<int>(m.threads.size())) throw Fault(stuck());
  if (dependent && !m.waited) throw Fault("the kernel never waits for the one ahead of it");
  for (const auto& ending : m.endings) ending();
  for (const Barrier& b : m.barriers) {
    if (b.arrived != 0) throw Fault("a barrier is left with threads that arrived");
  }
  check_shared_end();
}

}  // namespace

int lane() { return current->lane; }
int warp() { return current->warp; }
std::byte* shared_memory() { return machine().shared; }
size_t shared_bytes() { return machine().shared_size; }
void set_order(Order order) { machine().order = order; }
uint64_t block_number() { return machine().blocks; }
void wait_for_dependency() {
  machine().waited = true;
  if (!hides()) return;
  barrier(kBarriers - 1, 0);
  if (hides()) show();  // the first to go on
}
void hide_until_waited_for(std::vector<std::span<std::byte>> written) {
  machine().hidden = std::move(written);
}
bool hides() { return !machine().held.empty(); }
void at_block_end(std::function<void()> action) { machine().endings.push_back(std::move(action)); }

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, bool dependent,
              const std::function<void()>& body) {
  Machine& m = machine();
  m.threads.resize(static_cast<size_t>(block.x) * block.y * block.z);
  m.warps.resize((m.threads.size() + 31) / 32);
  m.shared_size = shared_bytes;
  m.body = &body;
  blockDim = block, gridDim = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        try {
          run_block(dependent);
        } catch (const Fault& fault) {
          throw Fault(where(blockIdx) + ", last at thread " + std::to_string(threadIdx.x) + ": " +
                      fault.what());
        }
      }
    }
  }
}

void meet(uint32_t mask, const char* kind, void* argument, Compute compute) {
  Thread* self = current;
  Warp& w = machine().warps[self->warp];
  mask &= w.exists;
  if ((mask >> self->lane & 1) == 0) throw Fault(std::string(kind) + ": lane outside its mask");
  if (mask & w.done) throw Fault(std::string(kind) + ": a lane of the mask has ended");
  size_t i = 0;
  while (i < w.meetings.size() && w.meetings[i].mask != mask) ++i;
  if (i == w.meetings.size()) w.meetings.push_back({mask, 0, kind, {}});
  Meeting& meeting = w.meetings[i];
  if (meeting.arrived == 0) meeting.kind = kind;
  if (meeting.kind != kind && std::strcmp(meeting.kind, kind) != 0) {
    throw Fault(std::string("lanes of a warp meet at ") + meeting.kind + " and at " + kind);
  }
  meeting.argument[self->lane] = argument;
  meeting.arrived |= 1u << self->lane;
  if (meeting.arrived != mask) {
    sleep_for(kind);
    return;
  }
  compute(meeting.argument, mask);
  meeting.arrived = 0;
  for (uint32_t rest = mask & ~(1u << self->lane); rest; rest &= rest - 1) {
    wake(&machine().threads[self->warp * 32 + std::countr_zero(rest)]);
  }
}

void barrier(int id, int threads, bool wait) {
  Machine& m = machine();
  const int all = static_cast<int>(m.threads.size());
  if (id < 0 || id >= kBarriers || threads < 0 || threads > all || threads % 32 != 0) {
    throw Fault("barrier " + std::to_string(id) + " of " + std::to_string(threads) + " threads");
  }
  if (threads == 0) threads = all;
  if (threads == all && m.finished > 0) throw Fault("a barrier of all threads, but some ended");
  Barrier& b = m.barriers[id];
  if (b.arrived == 0) b.expected = threads;
  if (b.expected != threads) throw Fault("a barrier with different numbers of threads");
  if (++b.arrived == b.expected) {
    for (Thread* t : b.waiting) wake(t);
    b = {};
  } else if (wait) {
    b.waiting.push_back(current);
    sleep_for(id == 0              ? "__syncthreads"
              : id < kBarriers - 1 ? "a named barrier"
                                   : "the wait for the kernel ahead");
  }
}

void wait_for_progress(const char* what) {
  machine().polling.push_back(current);
  sleep_for(what);
}

void progress() {
  Machine& m = machine();
  for (Thread* t : m.polling) wake(t);
  m.polling.clear();
}

}  // namespace emulation
