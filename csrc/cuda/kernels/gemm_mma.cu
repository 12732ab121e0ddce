// Products with any number of inputs on the tensor cores of sm_80 and later. A block of 8 warps has
// a tile of 8 panels of 16 rows; each warp streams its own panel from global memory into registers
// (every weight is read by one warp of the block) and expands it there. The inputs of 64 columns of
// k at a time lie in a ring of shared memory that all warps read.
#include "cuda/kernels/gemm.cuh"

namespace llama_rt::cuda {
namespace {

constexpr int kThreads = kGemmThreads;
constexpr int kStages = 4;

// kGroups: of 8 inputs in a tile.
template <DType kType, int kGroups>
struct Tile {
  static constexpr int kParts = kInputParts<kType>;
  static constexpr int kPartBytes = kGroups * kGroupBytes;
  static constexpr int kStageBytes = kParts * kPartBytes;
  static constexpr int kRing = kStages * kStageBytes;
  static constexpr int kShared = kRing + kExchangeBytes + 16;
  static constexpr TileShape kShape = gemm_mma_shape(kGroups);
};

// Goes through the pieces of a range and starts the copies of their inputs.
template <DType kType, int kGroups>
struct InputCursor {
  using Shape = Tile<kType, kGroups>;
  const ProductPlan& plan;
  int pieces;  // of a tile
  int left;    // to be copied
  int tile, piece;
  int stage = 0;

  __device__ InputCursor(const ProductPlan& p, int begin, int end, int pieces_of_step)
      : plan(p),
        pieces(p.steps * pieces_of_step),
        left((end - begin) * pieces_of_step),
        tile(begin / p.steps),
        piece(begin % p.steps * pieces_of_step) {}

  // The next piece's, if any, into the next stage; always one group of copies.
  __device__ __forceinline__ void copy(uint32_t ring) {
    if (left-- > 0) {
      const int64_t group = int64_t{tile % plan.column_tiles} * kGroups;
      const int64_t groups = min(plan.input_groups - group, int64_t{kGroups});
      const int64_t from = (piece * plan.input_groups + group) * kGroupBytes;
      const int bytes = static_cast<int>(groups) * kGroupBytes;
#pragma unroll
      for (int part = 0; part < Shape::kParts; ++part) {
        const uint32_t to = ring + stage * Shape::kStageBytes + part * Shape::kPartBytes;
        for (int at = static_cast<int>(threadIdx.x) * 16; at < bytes; at += kThreads * 16) {
          copy_async(to + at, plan.inputs + part * plan.part_bytes + from + at);
        }
      }
      if (++piece == pieces) {
        piece = 0;
        ++tile;
      }
    }
    copy_async_commit();
    stage = (stage + 1) % kStages;
  }
};

// sum += piece p of a unit times a stage of inputs, of which `groups` exist.
template <DType kType, int kGroups>
__device__ __forceinline__ void multiply_piece(const typename Packed<kType>::Piece& piece, int p,
                                               uint32_t stage, int groups,
                                               float (&sum)[kGroups * 4]) {
  using Shape = Tile<kType, kGroups>;
#pragma unroll
  for (int t = 0; t < kPieceTiles; t += 2) {
    Fragment a[2];
    expanded_tile<Packed<kType>>(piece, p, t, a[0]);
    expanded_tile<Packed<kType>>(piece, p, t + 1, a[1]);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      if (g >= groups) break;
      auto& d = reinterpret_cast<float (&)[4]>(sum[4 * g]);
#pragma unroll
      for (int part = 0; part < Shape::kParts; ++part) {
        uint32_t b[4];
        ldmatrix_x4(
            b, stage + part * Shape::kPartBytes + g * kGroupBytes + t * 256 + lane_index() * 16);
        multiply_tile<kType>(d, a[0], b[0], b[1]);
        multiply_tile<kType>(d, a[1], b[2], b[3]);
      }
    }
  }
}

template <DType kType, int kGroups>
__global__ void __launch_bounds__(kThreads, kGroups > 8 ? 1 : 2)
    gemm_mma_kernel(const __grid_constant__ MatmulTask task,
                    const __grid_constant__ ProductPlan plan) {
  using Format = Packed<kType>;
  using Shape = Tile<kType, kGroups>;
  // Pieces of weights in registers.
  constexpr int kAhead = kGroups > 8 || !Format::kScaled || Format::kHasOne ? 2 : 4;
  const int begin = range_begin(plan, static_cast<int>(blockIdx.x));
  const int end = range_begin(plan, static_cast<int>(blockIdx.x) + 1);
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
  wait_for_previous();
  let_next_start();

  const uint32_t ring = shared_address(dynamic_shared());
  auto* exchange = reinterpret_cast<float*>(dynamic_shared() + Shape::kRing);
  auto* flag = reinterpret_cast<int*>(dynamic_shared() + Shape::kRing + kExchangeBytes);
  InputCursor<kType, kGroups> inputs(plan, begin, end, Format::kPieces);
  for (int i = 0; i < kStages - 1; ++i) inputs.copy(ring);

  int stage = 0;
  for (int step = begin; step < end;) {
    const Span span = span_at(plan, step, end);
    const int groups =
        static_cast<int>(plan.input_groups) - span.tile % plan.column_tiles * kGroups;
    float sum[kGroups * 4] = {};
    const int count = span.count * Format::kPieces;
    for (int i = 0; i < count; i += kAhead) {
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (i + j < count) {
          copy_async_wait<kStages - 2>();
          __syncthreads();
          inputs.copy(ring);
          multiply_piece<kType, kGroups>(pieces[j], (i + j) % Format::kPieces,
                                         ring + stage * Shape::kStageBytes, groups, sum);
          stage = (stage + 1) % kStages;
        }
        fetch(pieces[j]);
      }
    }
    finish_gemm_tile(task, plan, span.tile, sum, exchange, flag, [] { __syncthreads(); });
    step += span.count;
  }
  copy_async_wait<0>();
}

template <DType kType, int kGroups>
void run(const MatmulTask& task, cudaStream_t stream) {
  using Shape = Tile<kType, kGroups>;
  const ProductPlan plan = prepare_gemm<kType>(task, Shape::kShape, stream);
  if (plan.tiles == 0) return;
  Launch how;
  how.stream = stream;
  how.grid = dim3(static_cast<unsigned>(plan.blocks));
  how.block = dim3(kThreads);
  how.shared_bytes = Shape::kShared;
  launch(how, gemm_mma_kernel<kType, kGroups>, task, plan);
}

}  // namespace

// Tiles of 64 inputs, or of 128 where there are as many; F16 weights have two parts of each input.
template <DType kType>
void gemm_mma(const MatmulTask& task, cudaStream_t stream) {
  if (kInputParts<kType> == 1 && task.n > 64) {
    run<kType, kInputParts<kType> == 1 ? 16 : 8>(task, stream);
  } else {
    run<kType, 8>(task, stream);
  }
}

#define LLAMA_RT_INSTANCE(id) template void gemm_mma<DType::k##id>(const MatmulTask&, cudaStream_t);
LLAMA_RT_PACKED_DTYPES(LLAMA_RT_INSTANCE)
#undef LLAMA_RT_INSTANCE

}  // namespace llama_rt::cuda
