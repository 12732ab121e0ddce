// Every instruction that CUDA C++ has no word for, each as a small function. Nothing else in this
// folder contains assembly; the emulation replaces this file. Section names are the PTX manual's.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace llama_rt::cuda {

// ---- Loads and conversions ---------------------------------------------------------------------

// 16 bytes that are read once and by nobody else, like weights: past L1, L2 in lines of 256 bytes.
__device__ __forceinline__ uint4 load_once(const void* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

// Brings a line of 128 bytes into L2.
__device__ __forceinline__ void prefetch_line(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

// Two floats rounded to bfloat16 or half, `low` in the low 16 bits.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

// a * b + c on pairs of bfloat16, rounded once.
__device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}

// 2^x, 2 ulp, 0 below 2^-126; exactly 1 at 0 (ex2.approx).
__device__ __forceinline__ float exp2_fast(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// ---- Tensor cores, warp-level ------------------------------------------------------------------

// Address of shared memory as instructions want it.
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8 and
// gets of each matrix the elements 2 * (l % 4) and the next of row l / 4.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
// The same, each matrix transposed on the way.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

// d += a b: a [16, 16] by rows, b [16, 8] by columns, float32 sums (mma.m16n8k16).
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- Barriers ----------------------------------------------------------------------------------

// Barrier `id` (1 to 15) of `threads` of the block, whole warps.
__device__ __forceinline__ void sync_threads(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- Asynchronous copies -----------------------------------------------------------------------

// 16 bytes from global to shared memory, past L1 (cp.async); `bytes` 0: zeros are written instead.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, uint32_t bytes = 16) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(bytes)
               : "memory");
}
// Ends a group of copies; waits until all but the newest `kNewest` groups have landed.
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kNewest>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// A barrier in shared memory (mbarrier) that `arrivals` threads and announced bytes complete.
__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes initialised barriers visible to the copy engine; before the block's barrier.
__device__ __forceinline__ void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives and announces `bytes` that copies will bring.
__device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Waits for the end of the phase of this parity.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra DONE;\nbra WAIT;\nDONE:\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// `bytes` (a multiple of 16) from global to shared memory by the copy engine; `barrier` counts
// them.
__device__ __forceinline__ void copy_bulk(uint32_t to, const void* from, uint32_t bytes,
                                          uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
// Orders this thread's plain writes of shared memory before what the copy engine and wgmma do.
__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- Tensor cores, warpgroup-level (wgmma), of sm_90a ------------------------------------------

// A matrix of 16-bit elements in shared memory, unswizzled, K-major: 8 x 8 cores of 128 contiguous
// bytes, `k_bytes` apart along k and `mn_bytes` apart along the other side.
__device__ __forceinline__ uint64_t matrix_descriptor(uint32_t address, uint32_t k_bytes,
                                                      uint32_t mn_bytes) {
  return static_cast<uint64_t>((address & 0x3ffffu) >> 4) |
         static_cast<uint64_t>(k_bytes >> 4) << 16 | static_cast<uint64_t>(mn_bytes >> 4) << 32;
}

// Before the first wgmma of a batch: registers written so far are seen by it.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kNewest>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kNewest) : "memory");
}

// After wgmma_wait: nothing is done with these sums before here, whatever the compiler moves.
template <int kCount>
__device__ __forceinline__ void wgmma_settle(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// d (+)= a b for a warpgroup: a [64, 16] in registers, warp w its rows from 16 w in the fragment of
// mma.m16n8k16; b [16, kColumns] in shared memory; d[4 j ..] is the fragment of columns from 8 j.
// Neither a nor d may be touched before wgmma_wait.
#define LLAMA_RT_ROW(i)                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
// clang-format off
#define LLAMA_RT_WGMMA_64(type)                                                                   \
  asm volatile(                                                                                   \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                                \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {"                            \
      "%0, %1, %2, %3, %4, %5, %6, %7, "                                                          \
      "%8, %9, %10, %11, %12, %13, %14, %15, "                                                    \
      "%16, %17, %18, %19, %20, %21, %22, %23, "                                                  \
      "%24, %25, %26, %27, %28, %29, %30, %31 "                                                   \
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}\n"                                            \
      : LLAMA_RT_ROW(0), LLAMA_RT_ROW(8), LLAMA_RT_ROW(16), LLAMA_RT_ROW(24)                      \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{accumulate}))

#define LLAMA_RT_WGMMA_128(type)                                                                  \
  asm volatile(                                                                                   \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                                                \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {"                           \
      "%0, %1, %2, %3, %4, %5, %6, %7, "                                                          \
      "%8, %9, %10, %11, %12, %13, %14, %15, "                                                    \
      "%16, %17, %18, %19, %20, %21, %22, %23, "                                                  \
      "%24, %25, %26, %27, %28, %29, %30, %31, "                                                  \
      "%32, %33, %34, %35, %36, %37, %38, %39, "                                                  \
      "%40, %41, %42, %43, %44, %45, %46, %47, "                                                  \
      "%48, %49, %50, %51, %52, %53, %54, %55, "                                                  \
      "%56, %57, %58, %59, %60, %61, %62, %63 "                                                   \
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}\n"                                            \
      : LLAMA_RT_ROW(0), LLAMA_RT_ROW(8), LLAMA_RT_ROW(16), LLAMA_RT_ROW(24), LLAMA_RT_ROW(32),   \
        LLAMA_RT_ROW(40), LLAMA_RT_ROW(48), LLAMA_RT_ROW(56)                                      \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{accumulate}))

#define LLAMA_RT_WGMMA_256(type)                                                                  \
  asm volatile(                                                                                   \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %133, 0;\n"                                               \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {"                           \
      "%0, %1, %2, %3, %4, %5, %6, %7, "                                                          \
      "%8, %9, %10, %11, %12, %13, %14, %15, "                                                    \
      "%16, %17, %18, %19, %20, %21, %22, %23, "                                                  \
      "%24, %25, %26, %27, %28, %29, %30, %31, "                                                  \
      "%32, %33, %34, %35, %36, %37, %38, %39, "                                                  \
      "%40, %41, %42, %43, %44, %45, %46, %47, "                                                  \
      "%48, %49, %50, %51, %52, %53, %54, %55, "                                                  \
      "%56, %57, %58, %59, %60, %61, %62, %63, "                                                  \
      "%64, %65, %66, %67, %68, %69, %70, %71, "                                                  \
      "%72, %73, %74, %75, %76, %77, %78, %79, "                                                  \
      "%80, %81, %82, %83, %84, %85, %86, %87, "                                                  \
      "%88, %89, %90, %91, %92, %93, %94, %95, "                                                  \
      "%96, %97, %98, %99, %100, %101, %102, %103, "                                              \
      "%104, %105, %106, %107, %108, %109, %110, %111, "                                          \
      "%112, %113, %114, %115, %116, %117, %118, %119, "                                          \
      "%120, %121, %122, %123, %124, %125, %126, %127 "                                           \
      "}, {%128, %129, %130, %131}, %132, p, 1, 1, 0;\n}\n"                                       \
      : LLAMA_RT_ROW(0), LLAMA_RT_ROW(8), LLAMA_RT_ROW(16), LLAMA_RT_ROW(24), LLAMA_RT_ROW(32),   \
        LLAMA_RT_ROW(40), LLAMA_RT_ROW(48), LLAMA_RT_ROW(56), LLAMA_RT_ROW(64),                   \
        LLAMA_RT_ROW(72), LLAMA_RT_ROW(80), LLAMA_RT_ROW(88), LLAMA_RT_ROW(96),                   \
        LLAMA_RT_ROW(104), LLAMA_RT_ROW(112), LLAMA_RT_ROW(120)                                   \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{accumulate}))
// clang-format on

template <int kColumns>
__device__ __forceinline__ void wgmma_bf16(float (&d)[kColumns / 2], const uint32_t (&a)[4],
                                           uint64_t b, bool accumulate = true) {
  static_assert(kColumns == 64 || kColumns == 128 || kColumns == 256);
  if constexpr (kColumns == 64) LLAMA_RT_WGMMA_64("bf16");
  if constexpr (kColumns == 128) LLAMA_RT_WGMMA_128("bf16");
  if constexpr (kColumns == 256) LLAMA_RT_WGMMA_256("bf16");
}
template <int kColumns>
__device__ __forceinline__ void wgmma_f16(float (&d)[kColumns / 2], const uint32_t (&a)[4],
                                          uint64_t b, bool accumulate = true) {
  static_assert(kColumns == 64 || kColumns == 128 || kColumns == 256);
  if constexpr (kColumns == 64) LLAMA_RT_WGMMA_64("f16");
  if constexpr (kColumns == 128) LLAMA_RT_WGMMA_128("f16");
  if constexpr (kColumns == 256) LLAMA_RT_WGMMA_256("f16");
}

#undef LLAMA_RT_WGMMA_64
#undef LLAMA_RT_WGMMA_128
#undef LLAMA_RT_WGMMA_256
#undef LLAMA_RT_ROW

// Registers per thread of a warpgroup from here on: more for those that compute, fewer for the one
// that copies.
template <int kRegisters>
__device__ __forceinline__ void set_max_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

#endif

}  // namespace llama_rt::cuda
