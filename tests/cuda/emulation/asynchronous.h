// What runs beside the threads of a block: copies that land only when waited for, barriers in
// shared memory that count arrivals and bytes, and warpgroup products. The destination of a copy is
// poisoned when it is asked for and filled by its wait; a product reads its operands at its wait.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulation {

// Address in shared memory of `bytes` bytes; throws Fault outside of it or off `alignment`.
std::byte* shared_at(uint32_t address, size_t bytes, size_t alignment);

// cp.async: of this thread, in groups.
void copy_later(uint32_t to, const void* from, size_t bytes, size_t read);
void commit_copies();
void wait_for_copies(size_t newest);

// mbarrier and copies by the copy engine.
void barrier_create(uint32_t address, uint32_t arrivals);
void barrier_count(uint32_t address, uint32_t announced);
void barrier_await(uint32_t address, uint32_t parity);
void copy_bulk_later(uint32_t to, const void* from, size_t bytes, uint32_t barrier);

// wgmma: this thread's share of d [64, columns] (+)= a [64, 16] b; b at `descriptor`, unswizzled,
// K-major. `decode` gives an element's value.
struct Product {
  float* d;
  const uint32_t* a;  // in registers, or null: a_descriptor
  uint64_t a_descriptor;
  uint64_t descriptor;
  int columns;
  bool accumulate;
  float (*decode)(uint16_t);
};
void product_fence();
void product_later(const Product& product);
void product_commit();
void product_wait(size_t newest);

}  // namespace emulation
