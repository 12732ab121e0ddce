// Blocks, warps and threads of an emulated grid: blocks run one after another, each thread is a
// fiber, and a switch happens only where threads must meet. What can be checked cheaply is: threads
// that never meet, lanes at different instructions, shared memory written past its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};

extern uint3 threadIdx, blockIdx;  // of the running thread
extern dim3 blockDim, gridDim;

namespace emulation {

// A mistake of the kernel; ends its block and makes the launch fail with this text.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What the running thread and its block look like; read through threadIdx and its like.
struct Thread;
extern Thread* current;
int lane();
int warp();  // its number in the block

// Runs `body` once for every thread of every block. Throws Fault. `dependent`: launched so that it
// may begin before the kernel ahead of it is done, so it must wait for that one.
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, bool dependent,
              const std::function<void()>& body);

// The block's dynamic shared memory, 1024-byte aligned, and its size.
std::byte* shared_memory();
size_t shared_bytes();

// Every lane of `mask` comes here with the same `kind`; the last one computes for all of them.
// `argument[l]` is what lane l passed (null outside the mask); results are written there.
using Compute = void (*)(void* const argument[32], uint32_t mask);
void meet(uint32_t mask, const char* kind, void* argument, Compute compute);

// `threads` of the block meet at barrier `id`; 0 threads: all of the block. `wait` false: this one
// is counted but goes on.
void barrier(int id, int threads, bool wait = true);

// Lets the other threads run until one of them calls `progress`; a Fault when none can.
void wait_for_progress(const char* what);
void progress();

// Counts the blocks run so far.
uint64_t block_number();

// The thread waits for the kernel ahead.
void wait_for_dependency();
// What the kernel ahead wrote: poison in each block of the next grid, if that depends on it, until
// all threads of the block have waited. `hides`: whether the running block has yet to.
void hide_until_waited_for(std::vector<std::span<std::byte>> written);
bool hides();

// Runs `action` when the block ends, in the order of the calls (checks of what is left open).
void at_block_end(std::function<void()> action);

// Which of the ready threads runs first; two orders find most missing barriers.
enum class Order { kAscending, kDescending };
void set_order(Order order);

// A byte no kernel may rely on: as float, half or bfloat16 it makes NaN.
inline constexpr int kPoison = 0xff;

}  // namespace emulation
