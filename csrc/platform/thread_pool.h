// The one thread pool of the process: persistent workers that split an op's work by output.
// Owns the threads and their waiting; what the work is and how it is cut belongs to the caller.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "core/cancel.h"
#include "core/function_ref.h"

namespace llama_rt {

// Workers are created when a call first needs them and live until the process ends. The calling
// thread is worker 0. One caller at a time has the workers; others wait their turn, first come
// first served. Nothing about the calling thread is changed: not its affinity, not its MXCSR.
// After fork() the child's instance() is a new pool without threads; never keep a reference.
class ThreadPool {
 public:
  // Work on the chunks [begin, end) as `worker`, 0 <= worker < threads. Of the calls of one
  // parallel_for no two run at the same time with the same worker, so per-worker scratch is safe.
  using Body = FunctionRef<void(int64_t begin, int64_t end, int worker)>;

  // Keeps the pool for the calling thread, typically during one forward pass: ops inside skip the
  // turn-taking, and the workers stay awake between them. A lease within a lease, or of one
  // thread, does nothing. Must end on the thread that made it.
  class Lease {
   public:
    explicit Lease(int threads);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

   private:
    ThreadPool* pool_;  // null when this lease has nothing to give back
  };

  // While it lives, work that the calling thread hands out is left unfinished once `flag` (which
  // may be null) is set: no further piece of it is begun. For work whose results are discarded
  // then.
  class Abandonable {
   public:
    explicit Abandonable(const CancelFlag* flag);
    ~Abandonable();
    Abandonable(const Abandonable&) = delete;
    Abandonable& operator=(const Abandonable&) = delete;

   private:
    const CancelFlag* before_;
  };

  static ThreadPool& instance();

  // Cuts `chunks` into min(threads, chunks) contiguous, nearly equal ranges; worker w starts on the
  // w-th and takes it in pieces that grow smaller, so memory first touched by a split is mostly
  // read by the same thread later. Who is done takes pieces from the others: a thread that the
  // system does not run holds nobody up before it starts, and threads of unequal speed finish
  // together. Returns when all is done; rethrows the first exception of a body. Runs inline, as one
  // call for worker 0, when threads <= 1 and when called from within a body.
  //
  // threads: may exceed the number of CPUs. chunks: <= 0 does nothing.
  void parallel_for(int threads, int64_t chunks, Body body);

  // The same for uneven chunks: workers take `grain` chunks at a time until none is left. Which
  // worker gets which is not defined in either form; after an exception nothing new is handed out.
  void parallel_for_dynamic(int threads, int64_t chunks, int64_t grain, Body body);

  // Threads that exist now, the caller included.
  int size() const { return size_.load(std::memory_order_relaxed); }

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

 private:
  struct Worker;
  struct alignas(64) Range {
    std::atomic<int64_t> next{0};  // first chunk that nobody took yet
    int64_t end = 0;
  };
  struct Piece {
    int64_t begin = 0;
    int64_t end = 0;
  };
  struct Job {
    const Body* body = nullptr;
    int64_t grain = 0;        // chunks of one piece; 0 where pieces shrink with what is left
    int ranges = 0;           // one per thread asked for, or a single one that all take from
    int threads = 0;          // workers of a higher index keep out
    uint64_t fp_control = 0;  // the caller's: a result does not depend on who computed it
    const CancelFlag* abandon = nullptr;  // null: never
  };

  ThreadPool();
  ~ThreadPool();

  static void forget_after_fork();

  void dispatch(int threads, int64_t chunks, int64_t grain, Body body);
  void run_job(int threads, int64_t chunks, int64_t grain, const Body& body);
  void open_job(int threads, int64_t chunks, int64_t grain, const Body& body);
  static Piece next_piece(Range& range, int64_t grain) noexcept;
  void take_pieces(int participant) noexcept;
  static void run_inline(int64_t chunks, const Body& body);
  void keep_error() noexcept;
  void wait_for_workers();
  void grow(int threads);
  static void make_way(Worker& worker);
  void work(Worker& self);
  void wait_for_job(Worker& self, uint32_t seen);
  void begin_turn();
  void end_turn();

  static std::atomic<ThreadPool*> instance_;

  // Turns: tickets in order of arrival.
  std::atomic<uint32_t> next_ticket_{0};
  std::atomic<uint32_t> now_serving_{0};

  // Touched only by the thread whose turn it is, or (job_) by the participants of a running job.
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<Range[]> ranges_;
  int range_capacity_ = 0;
  Job job_;

  std::atomic<int> size_{1};
  std::atomic<bool> spin_{false};  // waiting threads may spin before they park
  std::atomic<bool> held_{false};  // a lease is out: spin for longer

  // A worker enters, then looks whether a job is open; the caller closes the job, then waits until
  // nobody is inside. So a job is never rewritten under a worker, and a late one finds it closed.
  alignas(64) std::atomic<int> inside_{0};
  std::atomic<bool> open_{false};
  std::atomic<bool> caller_parked_{false};
  alignas(64) std::atomic<bool> failed_{false};
  std::exception_ptr error_;  // written by the one that set failed_, read when nobody is inside
};

// ThreadPool::instance().parallel_for and its dynamic form.
inline void parallel_for(int threads, int64_t chunks, ThreadPool::Body body) {
  ThreadPool::instance().parallel_for(threads, chunks, body);
}
inline void parallel_for_dynamic(int threads, int64_t chunks, int64_t grain,
                                 ThreadPool::Body body) {
  ThreadPool::instance().parallel_for_dynamic(threads, chunks, grain, body);
}

}  // namespace llama_rt
