// Products with many inputs on the tensor cores of sm_90a. Two warpgroups have half a tile each and
// stream its weights from global memory straight into the registers that wgmma multiplies (operand
// A), expanding them there; a third warpgroup has one thread that keeps a ring of inputs in shared
// memory full by bulk copies, 64 columns of k at a time. Blocks stay for all their tiles.
#include "cuda/kernels/gemm.cuh"

namespace llama_rt::cuda {
namespace {

constexpr int kThreads = kGemmThreads + 4 * kWarp;
constexpr int kConsumerBarrier = 1;
constexpr int kConsumerRegisters = 240, kProducerRegisters = 24;

// kGroups: of 8 inputs in a tile.
template <DType kType, int kGroups>
struct Tile {
  static constexpr int kColumns = kGroups * 8;
  static constexpr int kParts = kInputParts<kType>;
  static constexpr int kPartBytes = kGroups * kGroupBytes;
  static constexpr int kStageBytes = kParts * kPartBytes;
  static constexpr int kStages = 128 * 1024 / kStageBytes;
  static constexpr int kRing = kStages * kStageBytes;
  static constexpr int kBarriers = kRing + kExchangeBytes;
  static constexpr int kFlag = kBarriers + 2 * kStages * 8;
  static constexpr int kShared = kFlag + 16;
};

// A place in the ring and the parity of its barriers' phase.
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

template <class Shape>
struct Ring {
  uint32_t at;  // shared
  __device__ __forceinline__ uint32_t stage(int i) const { return at + i * Shape::kStageBytes; }
  __device__ __forceinline__ uint32_t full(int i) const { return at + Shape::kBarriers + 8 * i; }
  __device__ __forceinline__ uint32_t empty(int i) const { return full(i + Shape::kStages); }
};

// Copies the inputs of all pieces of a range, in order.
template <class Shape>
__device__ void produce(const ProductPlan& plan, const Ring<Shape>& ring, int begin, int end,
                        int pieces_of_step) {
  RingPlace<Shape::kStages> place;
  for (int step = begin; step < end; ++step) {
    const int group = step / plan.steps % plan.column_tiles * (Shape::kColumns / 8);
    const int64_t left = plan.input_groups - group;
    const auto bytes = static_cast<uint32_t>(
        (left < Shape::kColumns / 8 ? left : Shape::kColumns / 8) * kGroupBytes);
    for (int p = 0; p < pieces_of_step; ++p) {
      const int64_t piece = int64_t{step % plan.steps} * pieces_of_step + p;
      const std::byte* from = plan.inputs + (piece * plan.input_groups + group) * kGroupBytes;
      const uint32_t full = ring.full(place.stage);
      barrier_wait(ring.empty(place.stage), place.parity ^ 1);
      barrier_arrive_expect(full, bytes * Shape::kParts);
      for (int part = 0; part < Shape::kParts; ++part) {
        copy_bulk(ring.stage(place.stage) + part * Shape::kPartBytes, from + part * plan.part_bytes,
                  bytes, full);
      }
      place.next();
    }
  }
}

// sum (+)= four tiles in `a` times a stage of inputs.
template <DType kType, class Shape>
__device__ __forceinline__ void multiply_stage(const Fragment (&a)[kPieceTiles], uint32_t stage,
                                               bool accumulate, float (&sum)[Shape::kColumns / 2]) {
  wgmma_fence();
#pragma unroll
  for (int j = 0; j < kPieceTiles; ++j) {
#pragma unroll
    for (int part = 0; part < Shape::kParts; ++part) {
      const uint64_t b =
          matrix_descriptor(stage + part * Shape::kPartBytes + j * 256, 128, kGroupBytes);
      if constexpr (kType == DType::kF16) {
        wgmma_f16<Shape::kColumns>(sum, a[j], b, accumulate || j > 0 || part > 0);
      } else {
        wgmma_bf16<Shape::kColumns>(sum, a[j], b, accumulate || j > 0 || part > 0);
      }
    }
  }
  wgmma_commit();
}

template <DType kType, class Shape>
__device__ void consume(const MatmulTask& task, const ProductPlan& plan, const Ring<Shape>& ring,
                        int begin, int end) {
  using Format = Packed<kType>;
  constexpr int kAhead = 2;  // pieces of weights in registers
  const int lane = lane_index();
  PanelCursor<kHalf, Format::kPieces, kAhead> ahead(task, plan, warp_index() / kHalf,
                                                    warp_index() % kHalf, begin, end);
  typename Format::Piece pieces[kAhead];
  const auto fetch = [&](typename Format::Piece& piece) {
    if (ahead.exists()) {
      const int64_t unit = ahead.item() / Format::kPieces;
      Format::load(piece, ahead.panel + unit * Format::kUnitBytes, ahead.item() % Format::kPieces,
                   lane);
    }
    ahead.next();
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) fetch(pieces[i]);
  auto* exchange = reinterpret_cast<float*>(dynamic_shared() + Shape::kRing);
  auto* flag = reinterpret_cast<int*>(dynamic_shared() + Shape::kFlag);
  RingPlace<Shape::kStages> place;
  for (int step = begin; step < end;) {
    const Span span = span_at(plan, step, end);
    const int count = span.count * Format::kPieces;
    float sum[Shape::kColumns / 2];
    Fragment a[kAhead][kPieceTiles];  // of the piece being multiplied, and of the next
    int before = -1;                  // the stage still being read
    for (int i = 0; i < count; i += kAhead) {
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (i + j < count) {
#pragma unroll
          for (int t = 0; t < kPieceTiles; ++t) {
            expanded_tile<Format>(pieces[j], (i + j) % Format::kPieces, t, a[j][t]);
          }
        }
        fetch(pieces[j]);
        if (i + j < count) {
          barrier_wait(ring.full(place.stage), place.parity);
          multiply_stage<kType, Shape>(a[j], ring.stage(place.stage), before >= 0, sum);
          wgmma_wait<1>();
          if (before >= 0 && lane == 0) barrier_arrive(ring.empty(before));
          before = place.stage;
          place.next();
        }
      }
    }
    wgmma_wait<0>();
    wgmma_settle(sum);
    if (lane == 0) barrier_arrive(ring.empty(before));
    finish_gemm_tile(task, plan, span.tile, sum, exchange, flag,
                     [] { sync_threads(kConsumerBarrier, kGemmThreads); });
    step += span.count;
  }
}

template <DType kType, int kGroups>
__global__ void __launch_bounds__(kThreads, 1)
    gemm_wgmma_kernel(const __grid_constant__ MatmulTask task,
                      const __grid_constant__ ProductPlan plan) {
  using Shape = Tile<kType, kGroups>;
  const int begin = range_begin(plan, static_cast<int>(blockIdx.x));
  const int end = range_begin(plan, static_cast<int>(blockIdx.x) + 1);
  const Ring<Shape> ring{shared_address(dynamic_shared())};
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kStages; ++i) {
      barrier_init(ring.full(i), 1);
      barrier_init(ring.empty(i), kGemmWarps);
    }
    barrier_init_done();
  }
  __syncthreads();
  wait_for_previous();
  let_next_start();
  if (warp_index() < kGemmWarps) {
    set_max_registers<kConsumerRegisters>();
    consume<kType, Shape>(task, plan, ring, begin, end);
  } else {
    give_registers<kProducerRegisters>();
    if (threadIdx.x == kGemmThreads) {
      produce<Shape>(plan, ring, begin, end, Packed<kType>::kPieces);
    }
  }
}

template <DType kType, int kGroups>
void run(const MatmulTask& task, cudaStream_t stream) {
  const ProductPlan plan = prepare_gemm<kType>(task, gemm_wgmma_shape(kGroups), stream);
  if (plan.tiles == 0) return;
  Launch how;
  how.stream = stream;
  how.grid = dim3(static_cast<unsigned>(plan.blocks));
  how.block = dim3(kThreads);
  how.shared_bytes = Tile<kType, kGroups>::kShared;
  launch(how, gemm_wgmma_kernel<kType, kGroups>, task, plan);
}

// Up to 64 inputs the memory sets the pace, which gemm_mma keeps. From 1024 on a tile has 256
// inputs unless F16 weights need two parts of each.
template <DType kType>
void gemm(const MatmulTask& task, cudaStream_t stream) {
  constexpr int kWide = kInputParts<kType> == 1 ? 32 : 16;
  if (task.reproducible) return matvec<kType>(task, stream);
  if (task.n <= 64) return gemm_mma<kType>(task, stream);
  task.n >= 1024 ? run<kType, kWide>(task, stream) : run<kType, 16>(task, stream);
}

}  // namespace

void register_wgmma(Kernels& kernels) {
#define LLAMA_RT_REGISTER(id) \
  kernels.product[static_cast<size_t>(DType::k##id)].gemm = gemm<DType::k##id>;
  LLAMA_RT_PACKED_DTYPES(LLAMA_RT_REGISTER)
#undef LLAMA_RT_REGISTER
}

}  // namespace llama_rt::cuda
