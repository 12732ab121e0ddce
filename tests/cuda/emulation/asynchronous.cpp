#include "asynchronous.h"

#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "execution.h"

namespace emulation {
namespace {

struct Copy {
  std::byte* to;
  const void* from;
  size_t bytes, read;
  std::vector<std::byte> seen = {};  // at its beginning, where the kernel ahead may still write
};

Copy begin_copy(std::byte* to, const void* from, size_t bytes, size_t read) {
  std::memset(to, kPoison, bytes);
  Copy c{to, from, bytes, read};
  const auto* source = static_cast<const std::byte*>(from);
  if (hides()) c.seen.assign(source, source + read);
  return c;
}

// A counted barrier: phase ends when nobody and no byte is missing.
struct Counted {
  uint32_t arrivals = 0, missing = 0;
  int64_t bytes = 0;  // announced and not yet there; may be ahead of its announcement
  uint32_t phase = 0;
  std::vector<Copy> copies;
};

struct PerThread {
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
  std::vector<Product> products;
  std::deque<std::vector<Product>> product_groups;
  bool fenced = false;
};

// Of the running block; made again with each.
struct Engine {
  std::map<const Thread*, PerThread> threads;
  std::map<uint32_t, Counted> barriers;
};
Engine* engine;

void check_left() {
  std::string left;
  for (const auto& [thread, t] : engine->threads) {
    if (!t.open.empty() || !t.groups.empty()) left = "copies are never waited for";
    if (!t.products.empty() || !t.product_groups.empty()) left = "products are never waited for";
  }
  for (const auto& [address, b] : engine->barriers) {
    if (!b.copies.empty()) left = "bulk copies are never waited for";
  }
  delete engine;
  engine = nullptr;
  if (!left.empty()) throw Fault(left);
}

uint64_t engine_block = 0;
Engine& of_block() {
  if (engine && engine_block != block_number()) {  // its block ended by a fault
    delete engine;
    engine = nullptr;
  }
  if (!engine) {
    engine = new Engine;
    engine_block = block_number();
    at_block_end(check_left);
  }
  return *engine;
}
PerThread& of_thread() { return of_block().threads[current]; }

void land(const Copy& c) {
  if (!c.seen.empty() && std::memcmp(c.seen.data(), c.from, c.read) != 0) {
    throw Fault("an asynchronous copy began before its source was there");
  }
  std::memcpy(c.to, c.from, c.read);
  std::memset(c.to + c.read, 0, c.bytes - c.read);
}

Counted& barrier_at(uint32_t address) {
  const auto found = of_block().barriers.find(address);
  if (found == of_block().barriers.end()) throw Fault("a barrier that was not initialised");
  return found->second;
}

void complete_if_full(Counted& b) {
  if (b.missing != 0 || b.bytes != 0) return;
  b.missing = b.arrivals;
  b.phase ^= 1;
  progress();
}

}  // namespace

std::byte* shared_at(uint32_t address, size_t bytes, size_t alignment) {
  if (address % alignment != 0) {
    throw Fault("shared address " + std::to_string(address) + " is not a multiple of " +
                std::to_string(alignment));
  }
  if (address + bytes > shared_bytes()) {
    throw Fault("shared address " + std::to_string(address) + " is beyond the " +
                std::to_string(shared_bytes()) + " bytes of the block");
  }
  return shared_memory() + address;
}

void copy_later(uint32_t to, const void* from, size_t bytes, size_t read) {
  std::byte* target = shared_at(to, bytes, bytes);
  if (read > bytes || (read > 0 && reinterpret_cast<uintptr_t>(from) % bytes != 0)) {
    throw Fault("an asynchronous copy from a misaligned address");
  }
  of_thread().open.push_back(begin_copy(target, from, bytes, read));
}

void commit_copies() {
  PerThread& t = of_thread();
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}

void wait_for_copies(size_t newest) {
  PerThread& t = of_thread();
  while (t.groups.size() > newest) {
    for (const Copy& c : t.groups.front()) land(c);
    t.groups.pop_front();
  }
}

void barrier_create(uint32_t address, uint32_t arrivals) {
  shared_at(address, 8, 8);
  Counted& b = of_block().barriers[address];
  if (!b.copies.empty()) throw Fault("a barrier in use is initialised again");
  b = {arrivals, arrivals, 0, 0, {}};
}

void barrier_count(uint32_t address, uint32_t announced) {
  Counted& b = barrier_at(address);
  if (b.missing == 0) throw Fault("more arrivals at a barrier than it expects");
  b.bytes += announced;
  --b.missing;
  complete_if_full(b);
}

void barrier_await(uint32_t address, uint32_t parity) {
  for (;;) {
    Counted& b = barrier_at(address);
    if (b.phase != (parity & 1)) return;  // the phase of this parity has ended
    if (!b.copies.empty()) {
      for (const Copy& c : b.copies) {
        land(c);
        b.bytes -= static_cast<int64_t>(c.bytes);
      }
      b.copies.clear();
      complete_if_full(b);
      continue;
    }
    wait_for_progress("a barrier in shared memory");
  }
}

void copy_bulk_later(uint32_t to, const void* from, size_t bytes, uint32_t barrier) {
  std::byte* target = shared_at(to, bytes, 16);
  if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) {
    throw Fault("a bulk copy that is not of 16-byte pieces");
  }
  barrier_at(barrier).copies.push_back(begin_copy(target, from, bytes, bytes));
  progress();
}

namespace {

// Element (k, n) of a K-major operand: 8 x 8 cores of 128 bytes.
float element(uint64_t descriptor, int k, int n, float (*decode)(uint16_t)) {
  const auto field = [&](int low) {
    return static_cast<uint32_t>(descriptor >> low & 0x3fff) << 4;
  };
  if (descriptor >> 62 != 0) throw Fault("a swizzled descriptor");
  const uint32_t address = field(0) + static_cast<uint32_t>(k / 8) * field(16) +
                           static_cast<uint32_t>(n / 8) * field(32) +
                           static_cast<uint32_t>(n % 8 * 16 + k % 8 * 2);
  uint16_t bits;
  std::memcpy(&bits, shared_at(address, 2, 2), 2);
  return decode(bits);
}

// One thread's row of the meeting of a warp: 16 rows of the product.
void multiply(void* const argument[32], uint32_t mask) {
  if (mask != 0xffffffffu) throw Fault("wgmma by part of a warp");
  const Product& first = *static_cast<const Product*>(argument[0]);
  const auto part = [&](uint32_t word, int half) {
    return first.decode(static_cast<uint16_t>(word >> (16 * half)));
  };
  float a[16][16];
  for (int l = 0; l < 32; ++l) {
    const auto& p = *static_cast<const Product*>(argument[l]);
    for (int i = 0; i < 4; ++i) {
      for (int h = 0; h < 2; ++h) {
        a[l / 4 + i % 2 * 8][2 * (l % 4) + i / 2 * 8 + h] = part(p.a[i], h);
      }
    }
  }
  for (int j = 0; j < first.columns / 8; ++j) {
    float b[16][8];
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) b[k][n] = element(first.descriptor, k, 8 * j + n, first.decode);
    }
    for (int l = 0; l < 32; ++l) {
      const auto& p = *static_cast<const Product*>(argument[l]);
      for (int i = 0; i < 4; ++i) {
        const int row = l / 4 + i / 2 * 8, n = 2 * (l % 4) + i % 2;
        float sum = p.accumulate ? p.d[4 * j + i] : 0.0f;
        for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][n];
        p.d[4 * j + i] = sum;
      }
    }
  }
}

}  // namespace

void product_fence() { of_thread().fenced = true; }

void product_later(const Product& product) {
  PerThread& t = of_thread();
  if (!t.fenced) throw Fault("wgmma without a fence before it");
  t.products.push_back(product);
}

void product_commit() {
  PerThread& t = of_thread();
  t.product_groups.push_back(std::move(t.products));
  t.products.clear();
}

void product_wait(size_t newest) {
  PerThread& t = of_thread();
  while (t.product_groups.size() > newest) {
    std::vector<Product> group = std::move(t.product_groups.front());
    t.product_groups.pop_front();
    for (Product& p : group) meet(0xffffffffu, "wgmma", &p, multiply);
  }
  t.fenced = false;
}

}  // namespace emulation
