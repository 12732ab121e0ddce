#include "platform/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "platform/processor.h"
#include "platform/system.h"

namespace llama_rt {
namespace {

using Clock = std::chrono::steady_clock;

// How long a thread spins before it parks. Between the ops of one forward there is little serial
// work, so workers under a lease outlast it; the bound only ends spinning beside a caller that is
// blocked or was descheduled.
constexpr auto kSpinIdle = std::chrono::microseconds(50);
constexpr auto kSpinHeld = std::chrono::milliseconds(2);
constexpr auto kSpinCaller = std::chrono::microseconds(200);
constexpr int kChecksPerClockRead = 64;
// A range is taken a quarter of what is left at a time: long pieces while there is much, single
// chunks at the end, so that threads of unequal speed finish within a chunk of each other.
constexpr int64_t kPiecesOfRest = 4;
constexpr int kMaxThreads = 1024;
// Parts of work that one thread does alone and that may be abandoned; short work is one.
constexpr int64_t kInlineParts = 8;
constexpr int64_t kShortWork = 128;  // chunks

// What the current thread is to the pool: whose turn it holds, and whether it is inside a body.
struct ThreadState {
  const ThreadPool* turn = nullptr;
  bool in_body = false;
  const CancelFlag* abandon = nullptr;  // of ThreadPool::Abandonable
};
thread_local ThreadState t_state;

// Spins until `ready()`, at most `limit()` from now; false when the time is over.
template <typename Ready, typename Limit>
bool spin_until(Ready ready, Limit limit) {
  const auto start = Clock::now();
  for (;;) {
    for (int i = 0; i < kChecksPerClockRead; ++i) {
      if (ready()) return true;
      spin_pause();
    }
    if (Clock::now() - start > limit()) return false;
  }
}

// Signals meant for the process go to threads that expect them; faults stay where they happen.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

// Spinning only pays where every thread has a CPU for itself, and under a CPU quota it would burn
// the time that the work needs.
bool may_spin(int threads) {
  const CpuInfo& cpu = cpu_info();
  return threads <= cpu.cores && (cpu.quota <= 0 || cpu.quota >= cpu.cores);
}

}  // namespace

// One mailbox per worker: the caller adds 1 to `signal` for every job that the worker is part of.
struct alignas(64) ThreadPool::Worker {
  explicit Worker(int participant) : index(participant) {}
  std::atomic<uint32_t> signal{0};
  std::atomic<bool> parked{false};
  const int index;
  pthread_t thread{};
  int avoided = -1;  // CPU that it is kept from
};

// Keeps a parked worker from the CPU of the thread that is about to wake it. The system would put
// it there while the other CPUs look busy for a moment, and leave it to wait behind its caller for
// 5 to 10 ms: seen at the start of most requests, whose thread is a new one.
void ThreadPool::make_way(Worker& worker) {
  const int here = current_cpu();
  if (here < 0 || here == worker.avoided) return;
  if (keep_from_cpu(worker.thread, here)) worker.avoided = here;
}

std::atomic<ThreadPool*> ThreadPool::instance_{nullptr};

ThreadPool::ThreadPool() = default;
ThreadPool::~ThreadPool() = default;

void ThreadPool::forget_after_fork() { instance_.store(nullptr, std::memory_order_release); }

// The pool is never destroyed: its threads may be parked in it while the process ends. A child of
// fork() leaks its copy of the parent's, which is in an unknown state and has no threads.
ThreadPool& ThreadPool::instance() {
  ThreadPool* pool = instance_.load(std::memory_order_acquire);
  if (pool != nullptr) return *pool;
  static const bool registered = pthread_atfork(nullptr, nullptr, &forget_after_fork) == 0;
  static_cast<void>(registered);
  auto* fresh = new ThreadPool;
  if (instance_.compare_exchange_strong(pool, fresh, std::memory_order_acq_rel)) return *fresh;
  delete fresh;
  return *pool;
}

ThreadPool::Lease::Lease(int threads) : pool_(nullptr) {
  ThreadPool& pool = ThreadPool::instance();
  if (threads <= 1 || t_state.turn == &pool || t_state.in_body) return;
  pool.begin_turn();
  pool_ = &pool;
  pool.held_.store(true, std::memory_order_relaxed);
}

ThreadPool::Lease::~Lease() {
  if (pool_ == nullptr) return;
  pool_->held_.store(false, std::memory_order_relaxed);
  pool_->end_turn();
}

ThreadPool::Abandonable::Abandonable(const CancelFlag* flag)
    : before_(std::exchange(t_state.abandon, flag)) {}

ThreadPool::Abandonable::~Abandonable() { t_state.abandon = before_; }

void ThreadPool::begin_turn() {
  const uint32_t ticket = next_ticket_.fetch_add(1, std::memory_order_relaxed);
  for (;;) {
    const uint32_t serving = now_serving_.load(std::memory_order_acquire);
    if (serving == ticket) break;
    now_serving_.wait(serving, std::memory_order_acquire);
  }
  t_state.turn = this;
}

void ThreadPool::end_turn() {
  t_state.turn = nullptr;
  now_serving_.fetch_add(1, std::memory_order_release);
  now_serving_.notify_all();
}

void ThreadPool::parallel_for(int threads, int64_t chunks, Body body) {
  dispatch(threads, chunks, 0, body);
}

void ThreadPool::parallel_for_dynamic(int threads, int64_t chunks, int64_t grain, Body body) {
  dispatch(threads, chunks, std::max<int64_t>(grain, 1), body);
}

void ThreadPool::dispatch(int threads, int64_t chunks, int64_t grain, Body body) {
  if (chunks <= 0) return;
  const int64_t pieces = grain == 0 ? chunks : (chunks - 1) / grain + 1;
  threads = static_cast<int>(std::min<int64_t>({threads, pieces, kMaxThreads}));
  if (threads <= 1 || t_state.in_body) {
    run_inline(chunks, body);
    return;
  }
  if (t_state.turn == this) {
    run_job(threads, chunks, grain, body);
  } else {
    const struct Lock {
      ThreadPool& pool;
      ~Lock() { pool.end_turn(); }
    } turn{(begin_turn(), *this)};
    run_job(threads, chunks, grain, body);
  }
}

// In one call, or in parts between which the flag is looked at.
void ThreadPool::run_inline(int64_t chunks, const Body& body) {
  const CancelFlag* abandon = t_state.in_body ? nullptr : t_state.abandon;
  const int64_t parts = abandon && chunks >= kShortWork ? kInlineParts : 1;
  for (int64_t i = 0; i < parts; ++i) {
    if (abandon && abandon->is_set()) return;
    body(chunks * i / parts, chunks * (i + 1) / parts, 0);
  }
}

// Writes down a job; nobody is inside.
void ThreadPool::open_job(int threads, int64_t chunks, int64_t grain, const Body& body) {
  const int ranges = grain > 0 ? 1 : threads;
  if (range_capacity_ < ranges) {
    ranges_ = std::make_unique<Range[]>(static_cast<size_t>(ranges));
    range_capacity_ = ranges;
  }
  const int64_t each = chunks / ranges, rest = chunks % ranges;
  int64_t begin = 0;
  for (int i = 0; i < ranges; ++i) {
    Range& range = ranges_[static_cast<size_t>(i)];
    range.next.store(begin, std::memory_order_relaxed);
    begin += each + (i < rest ? 1 : 0);
    range.end = begin;
  }
  job_ = Job{.body = &body,
             .grain = grain,
             .ranges = ranges,
             .threads = threads,
             .fp_control = fp_control(),
             .abandon = t_state.abandon};
  open_.store(true, std::memory_order_seq_cst);
}

void ThreadPool::run_job(int threads, int64_t chunks, int64_t grain, const Body& body) {
  grow(threads);
  const int participants = std::min(threads, static_cast<int>(workers_.size()) + 1);
  const bool has_cpus = may_spin(threads);
  spin_.store(has_cpus, std::memory_order_relaxed);
  open_job(threads, chunks, grain, body);
  // Store then look at `parked`, against the worker's set `parked` then look at the signal:
  // sequential consistency lets no wake-up fall between.
  for (int i = 0; i < participants - 1; ++i) {
    Worker& worker = *workers_[static_cast<size_t>(i)];
    if (has_cpus && worker.parked.load(std::memory_order_relaxed)) make_way(worker);
    worker.signal.fetch_add(1, std::memory_order_seq_cst);
    if (worker.parked.load(std::memory_order_seq_cst)) worker.signal.notify_one();
  }
  t_state.in_body = true;
  take_pieces(0);
  t_state.in_body = false;
  open_.store(false, std::memory_order_seq_cst);
  wait_for_workers();
  if (failed_.load(std::memory_order_relaxed)) {
    failed_.store(false, std::memory_order_relaxed);
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
}

// Takes the next piece of a range, of `grain` chunks or, with 0, a part of the rest; empty when
// nothing is left.
ThreadPool::Piece ThreadPool::next_piece(Range& range, int64_t grain) noexcept {
  int64_t begin = range.next.load(std::memory_order_relaxed);
  for (;;) {
    const int64_t left = range.end - begin;
    if (left <= 0) return {};
    const int64_t most = grain > 0 ? grain : (left + kPiecesOfRest - 1) / kPiecesOfRest;
    const int64_t end = begin + std::min(most, left);
    if (range.next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) {
      return {begin, end};
    }
  }
}

// Pieces of the participant's own range, then of the others'.
void ThreadPool::take_pieces(int participant) noexcept {
  const Job& job = job_;
  try {
    for (int i = 0; i < job.ranges; ++i) {
      Range& range = ranges_[static_cast<size_t>((participant + i) % job.ranges)];
      while (!failed_.load(std::memory_order_relaxed)) {
        if (job.abandon && job.abandon->is_set()) return;
        const Piece piece = next_piece(range, job.grain);
        if (piece.begin == piece.end) break;
        (*job.body)(piece.begin, piece.end, participant);
      }
    }
  } catch (...) {
    keep_error();
  }
}

void ThreadPool::keep_error() noexcept {
  if (!failed_.exchange(true, std::memory_order_relaxed)) error_ = std::current_exception();
}

void ThreadPool::wait_for_workers() {
  const auto done = [this] { return inside_.load(std::memory_order_seq_cst) == 0; };
  if (done()) return;
  if (spin_.load(std::memory_order_relaxed) && spin_until(done, [] { return kSpinCaller; })) return;
  caller_parked_.store(true, std::memory_order_seq_cst);
  for (int left; (left = inside_.load(std::memory_order_seq_cst)) != 0;) {
    inside_.wait(left, std::memory_order_acquire);
  }
  caller_parked_.store(false, std::memory_order_relaxed);
}

// Creates missing workers; with fewer than asked for the work is done by those that exist.
void ThreadPool::grow(int threads) {
  if (static_cast<int>(workers_.size()) + 1 >= threads) return;
  const SignalsBlocked inherited_by_workers;
  workers_.reserve(static_cast<size_t>(threads - 1));
  while (static_cast<int>(workers_.size()) + 1 < threads) {
    auto worker = std::make_unique<Worker>(static_cast<int>(workers_.size()) + 1);
    try {
      std::thread thread(&ThreadPool::work, this, std::ref(*worker));
      worker->thread = thread.native_handle();
      thread.detach();
    } catch (const std::system_error&) {
      return;  // the system has no more threads to give
    }
    workers_.push_back(std::move(worker));
    size_.store(static_cast<int>(workers_.size()) + 1, std::memory_order_relaxed);
  }
}

void ThreadPool::work(Worker& self) {
  name_thread(("llama_rt-" + std::to_string(self.index)).c_str());
  t_state.in_body = true;  // a parallel_for from inside a body runs inline
  for (uint32_t seen = 0;;) {
    wait_for_job(self, seen);
    seen = self.signal.load(std::memory_order_acquire);
    inside_.fetch_add(1, std::memory_order_seq_cst);
    if (open_.load(std::memory_order_seq_cst) && self.index < job_.threads) {
      set_fp_control(job_.fp_control);
      take_pieces(self.index);
    }
    inside_.fetch_sub(1, std::memory_order_seq_cst);
    if (caller_parked_.load(std::memory_order_seq_cst)) inside_.notify_one();
  }
}

void ThreadPool::wait_for_job(Worker& self, uint32_t seen) {
  const auto called = [&] { return self.signal.load(std::memory_order_acquire) != seen; };
  if (called()) return;
  const auto limit = [this]() -> Clock::duration {
    if (!spin_.load(std::memory_order_relaxed)) return Clock::duration::zero();
    if (held_.load(std::memory_order_relaxed)) return kSpinHeld;
    return kSpinIdle;
  };
  if (spin_.load(std::memory_order_relaxed) && spin_until(called, limit)) return;
  self.parked.store(true, std::memory_order_seq_cst);
  while (self.signal.load(std::memory_order_seq_cst) == seen) {
    self.signal.wait(seen, std::memory_order_acquire);
  }
  self.parked.store(false, std::memory_order_relaxed);
}

}  // namespace llama_rt
