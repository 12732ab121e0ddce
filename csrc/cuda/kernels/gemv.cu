// Products with up to 8 inputs, at the memory's speed. A block of 16 warps has a tile of two panels
// of 16 rows; 8 warps share a panel's units, each loading its own weights straight into registers a
// few units ahead, across tiles. Inputs lie in shared memory in the order of the fragments.
#include "cuda/kernels/epilogue.cuh"
#include "cuda/kernels/kv.cuh"

namespace llama_rt::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = kWarps * kWarp;
constexpr int kSlices = kWarps / 2;  // warps of a panel
constexpr int kColumns = 8;          // of a fragment of inputs
constexpr int kChunkK = 64;          // columns whose fragments a lane reads together
constexpr int kChunkBytes = kChunkK * 2;
constexpr int kPrefetchBytes = 64 * 1024;  // of each panel that a block begins with
static_assert(kMatvecShape.units_per_step == kSlices && kMatvecShape.columns == kColumns);

// Shared memory: sums of the warps of two tiles, reductions, then the inputs.
struct Shared {
  float part[2][kWarps][kWarp * 4];
  float reduce[kWarps][kColumns];
  float factor[kColumns];  // that normalises each input
  float scale[kColumns];   // that brings it into the range of halves
  Place place[kColumns];   // in the cache, for kAppend
  int flag;
};
// Inputs that are summed for formats with mins.
template <DType kType>
inline constexpr int kSumGroup = Packed<kType>::kGroupTiles * kTileK;
constexpr int kInputsAt = (sizeof(Shared) + 127) / 128 * 128;

// Bytes of one input (of one part). 16 more than its length, so that two columns' equal chunks lie
// in different banks.
__host__ __device__ constexpr int64_t column_bytes(int64_t padded_k) { return padded_k * 2 + 16; }

template <DType kType>
__host__ __device__ constexpr int64_t sums_bytes(int64_t padded_k) {
  if constexpr (Packed<kType>::kHasMin) {
    return padded_k / kSumGroup<kType> * kColumns * 4;
  } else {
    return 0;
  }
}
template <DType kType>
__host__ __device__ constexpr int64_t shared_bytes(int64_t padded_k, int64_t n) {
  return kInputsAt + sums_bytes<kType>(padded_k) + n * kInputParts<kType> * column_bytes(padded_k);
}

// Reduces `run(column, k)` (of the columns k to k + 7 of an input) over all k, per input and in the
// same order for any number of inputs; then in shared.reduce's first row for all threads.
template <class Run, class Fold>
__device__ void reduce_inputs(Shared& shared, const MatmulTask& task, Run run, Fold reduce) {
  float total[kColumns] = {};
  for (int64_t k = int64_t{threadIdx.x} * kInputRun; k < task.k;
       k += int64_t{kThreads} * kInputRun) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (c < task.n) total[c] = reduce(total[c], run(c, k));
    }
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (c >= task.n) break;
    for (int step = kWarp / 2; step > 0; step /= 2) {
      total[c] = reduce(total[c], __shfl_xor_sync(kAllLanes, total[c], step));
    }
    if (lane_index() == 0) shared.reduce[warp_index()][c] = total[c];
  }
  __syncthreads();
  if (threadIdx.x < task.n) {
    float all = 0.0f;
    for (int w = 0; w < kWarps; ++w) all = reduce(all, shared.reduce[w][threadIdx.x]);
    shared.reduce[0][threadIdx.x] = all;
  }
  __syncthreads();
}

// What each input is multiplied by before it is rounded, for all threads.
template <DType kType>
__device__ void find_factors(const MatmulTask& task, Shared& shared) {
  if (threadIdx.x < kColumns) shared.factor[threadIdx.x] = shared.scale[threadIdx.x] = 1.0f;
  __syncthreads();
  if (task.gain) {
    const auto run = [&](int c, int64_t k) {
      float v[kInputRun];
      load_run(task.x + c * task.x_stride, k, task.k, v);
      return sum_of_squares(v);
    };
    reduce_inputs(shared, task, run, [](float a, float b) { return a + b; });
    if (threadIdx.x < task.n) {
      const float mean = shared.reduce[0][threadIdx.x] / static_cast<float>(task.k);
      shared.factor[threadIdx.x] = rsqrtf(mean + task.eps);
    }
    __syncthreads();
  }
  if constexpr (kInputParts<kType> == 2) {
    const auto run = [&](int c, int64_t k) {
      float v[kInputRun];
      load_input(task, task.x + c * task.x_stride, k, shared.factor[c], v);
      return largest_of(v);
    };
    reduce_inputs(shared, task, run, [](float a, float b) { return fmaxf(a, b); });
    if (threadIdx.x < task.n) {
      shared.scale[threadIdx.x] = half_range_scale(shared.reduce[0][threadIdx.x]);
    }
    __syncthreads();
  }
}

// Normalises and rounds the inputs into shared memory: [sums][part][column]. Pair p of a chunk lies
// where lane t reads its fragments of four tiles: at 32 t + 8 tile + 4 half.
template <DType kType>
__device__ void stage_inputs(const MatmulTask& task, int padded_k, Shared& shared, float* sums,
                             std::byte* inputs) {
  constexpr int kParts = kInputParts<kType>;
  find_factors<kType>(task, shared);
  const int64_t column = column_bytes(padded_k);
  const int n = static_cast<int>(task.n);
  for (int start = 0; start < padded_k; start += kThreads * kInputRun) {
    const int k = start + static_cast<int>(threadIdx.x) * kInputRun;
    std::byte* chunk = inputs + k / kChunkK * kChunkBytes + k % kChunkK / kInputRun * 4;
#pragma unroll 2
    for (int c = 0; c < n; ++c) {
      float v[kInputRun];
      load_input(task, task.x + c * task.x_stride, k, shared.factor[c], v);
      float sum = 0.0f;
#pragma unroll
      for (int t = 0; t < kInputRun / 2; ++t) {
        uint32_t parts[kParts];
        round_pair<kParts>(v[2 * t] * shared.scale[c], v[2 * t + 1] * shared.scale[c], parts);
        sum += __uint_as_float(parts[0] << 16) + __uint_as_float(parts[0] & 0xffff0000u);
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          std::byte* to = chunk + (part * n + c) * column + 32 * t;
          if (k < padded_k) *reinterpret_cast<uint32_t*>(to) = parts[part];
        }
      }
      if constexpr (Packed<kType>::kHasMin) {  // neighbours have the columns of a group
        constexpr int kGroup = kSumGroup<kType>;
#pragma unroll
        for (int step = 1; step < kGroup / kInputRun; step *= 2) {
          sum += __shfl_xor_sync(kAllLanes, sum, step);
        }
        if (k % kGroup == 0 && k < padded_k) sums[k / kGroup * kColumns + c] = sum;
      }
    }
  }
  if constexpr (Packed<kType>::kHasMin) {
    const auto count = static_cast<int>(sums_bytes<kType>(padded_k) / 4);
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
      if (i % kColumns >= n) sums[i] = 0.0f;
    }
  }
}

// What a lane of one warp needs to multiply units.
template <DType kType>
struct Multiplier {
  using Format = Packed<kType>;
  static constexpr int kParts = kInputParts<kType>;
  const std::byte* inputs;  // of this lane's column, at its place in a chunk; null: no such column
  int64_t part_bytes;
  const float* sums;  // of this lane's two columns of results

  // Fragments of the tiles of a piece.
  __device__ __forceinline__ void load(uint4 (&b)[kParts][2], int index) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        b[part][i] = make_uint4(0, 0, 0, 0);
        if (inputs) {
          b[part][i] = *reinterpret_cast<const uint4*>(inputs + part * part_bytes +
                                                       index * kChunkBytes + i * 16);
        }
      }
    }
  }

  // sum += piece p of a unit, number `index` of the panel, times the inputs.
  __device__ __forceinline__ void multiply(const typename Format::Piece& piece, int p, int index,
                                           float (&sum)[4]) const {
    uint4 b[kParts][2];
    load(b, index);
    float group[4];
#pragma unroll
    for (int t = 0; t < kPieceTiles; ++t) {
      Fragment a;
      Format::tile(piece, t, a);
      if constexpr (!Format::kScaled) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          const uint4& v = b[part][t / 2];
          multiply_tile<kType>(sum, a, word_of(v, t % 2 * 2), word_of(v, t % 2 * 2 + 1));
        }
      } else {
        if (t % Format::kGroupTiles == 0) group[0] = group[1] = group[2] = group[3] = 0.0f;
        const uint4& v = b[0][t / 2];
        multiply_tile<kType>(group, a, word_of(v, t % 2 * 2), word_of(v, t % 2 * 2 + 1));
        if (t % Format::kGroupTiles == Format::kGroupTiles - 1) {
          constexpr int kGroups = kPieceTiles / Format::kGroupTiles;
          add_group(Format::scales(piece, p, t), index * kGroups + t / Format::kGroupTiles, group,
                    sum);
        }
      }
    }
  }

  __device__ __forceinline__ void add_group(const RowScales& s, int sum_group,
                                            const float (&group)[4], float (&sum)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] += s.scale[i / 2] * group[i];
    if constexpr (Format::kHasMin) {
      const float2 x = *reinterpret_cast<const float2*>(sums + sum_group * kColumns);
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] -= s.min[i / 2] * (i % 2 ? x.y : x.x);
    }
  }
};

// Rotates a thread's two results of q or k. Their partners are each other where pairs are half a
// head apart, else the neighbouring rows, which a lane with another bit 4 has.
__device__ __forceinline__ void rotate_results(const StoreKvTask& append, const float* cos,
                                               const float* sin, const int (&feature)[2],
                                               float (&value)[2]) {
  if (append.style == RopeStyle::kHalves) {
    const float2 pair = rotate_pair(value[0], value[1], cos[feature[0]], sin[feature[0]]);
    value[0] = pair.x, value[1] = pair.y;
    return;
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float partner = __shfl_xor_sync(kAllLanes, value[h], 16);
    const bool second = feature[h] % 2 == 1;
    const int i = feature[h] / 2;
    const float2 pair =
        rotate_pair(second ? partner : value[h], second ? value[h] : partner, cos[i], sin[i]);
    value[h] = second ? pair.y : pair.x;
  }
}

// Two features of a key or a value of KV head g.
template <KvType kType>
__device__ __forceinline__ void put_features(const Place& place, int width, int g, bool is_value,
                                             const int (&feature)[2], const float (&value)[2]) {
  std::byte* keys = place.page + g * head_share<kType>(width);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    std::byte* to =
        is_value ? keys + values_at<kType>(width) + value_at<kType>(width, place.p, feature[h])
                 : keys + key_at<kType>(width, place.p, feature[h]);
    store_element<kType>(to, value[h]);
  }
}

// What store_kv does, with rows `row` and plan.apart panels on of q, k or v; by whole warps.
__device__ __forceinline__ void append_results(const MatmulTask& task, const ProductPlan& plan,
                                               const ProductJob& job, int row, int column,
                                               const Place& place, float (&value)[2]) {
  const StoreKvTask& append = task.append;
  const int e = static_cast<int>(append.cache.e);
  const int rows[2] = {row, row + plan.apart * kPanelRows};
  const int head = row / e;  // of both
  const int feature[2] = {rows[0] - head * e, rows[1] - head * e};
#pragma unroll
  for (int h = 0; h < 2; ++h) value[h] = with_bias(job, rows[h], value[h]);
  const bool exists = column < task.n;
  if (job.heads != Heads::kValues) {
    const int64_t angles = exists ? int64_t{column} * (e / 2) : 0;
    rotate_results(append, append.cos + angles, append.sin + angles, feature, value);
  }
  if (!exists) return;
  if (job.heads == Heads::kQueries) {
    float* out = job.out + column * job.out_stride;
    out[rows[0]] = value[0], out[rows[1]] = value[1];
    return;
  }
  const bool is_value = job.heads == Heads::kValues;
  switch (append.cache.type) {
    case KvType::kF32:
      return put_features<KvType::kF32>(place, e, head, is_value, feature, value);
    case KvType::kF16:
      return put_features<KvType::kF16>(place, e, head, is_value, feature, value);
    case KvType::kBF16:
      return put_features<KvType::kBF16>(place, e, head, is_value, feature, value);
    case KvType::kQ8:
      return;  // not in products, see can_append
  }
}

// Adds the warps' sums of a tile and writes its results; value r of a half is element r % 4 of lane
// r / 4's fragment.
template <DType kType>
__device__ void finish_tile(const MatmulTask& task, const ProductPlan& plan, int tile, int buffer,
                            Shared& shared) {
  constexpr int kValues = kPanelRows * kColumns;
  const int r = static_cast<int>(threadIdx.x);
  float value[2] = {};
  if (r < kValues) {
#pragma unroll
    for (int w = 0; w < kWarps; ++w) value[w / kSlices] += shared.part[buffer][w][r];
  }
  const int row = r / 16 + r % 4 / 2 * 8, column = r / 4 % 4 * 2 + r % 2;
  const bool mine =
      gather_parts(task, plan, tile, r, kValues, value, &shared.flag, [] { __syncthreads(); });
  if (!mine || r >= kValues) return;
  if constexpr (kInputParts<kType> == 2) {
    value[0] /= shared.scale[column];
    value[1] /= shared.scale[column];
  }
  const HalfTile first = half_tile<1>(task, plan, tile, 0);
  const int64_t at = static_cast<int64_t>(first.panel) * kPanelRows + row;
  const ProductJob& job = task.job[first.job];
  if (task.epilogue == Epilogue::kAppend) {
    append_results(task, plan, job, static_cast<int>(at), column, shared.place[column], value);
  } else if (task.epilogue == Epilogue::kSwiglu) {
    store_gated(task, at, column, value[0], value[1]);
  } else {
    store_result(task, job, at, column, value[0]);
    store_result(task, job, at + kPanelRows, column, value[1]);
  }
}

// Brings the first weights of a range into L2, by the threads that share the panel: weights do not
// wait for the kernel before, and inputs take a while.
template <class Format, class Cursor>
__device__ __forceinline__ void prefetch_panel(const ProductPlan& plan, const Cursor& ahead) {
  constexpr int kLine = 128;
  const int64_t first = int64_t{ahead.first} * kSlices * Format::kUnitBytes;
  const int64_t left = plan.panel_bytes - first;
  const int bytes = left < kPrefetchBytes ? static_cast<int>(left) : kPrefetchBytes;
  const int thread = static_cast<int>(threadIdx.x) % (kSlices * kWarp);
  for (int at = thread * kLine; at < bytes; at += kSlices * kWarp * kLine) {
    prefetch_line(ahead.panel + first + at);
  }
}

template <DType kType>
__global__ void __launch_bounds__(kThreads, 1)
    matvec_kernel(const __grid_constant__ MatmulTask task,
                  const __grid_constant__ ProductPlan plan) {
  using Format = Packed<kType>;
  // Units in flight: about 4 KiB per warp, 64 KiB per processor.
  constexpr int kAhead = Format::kUnitBytes < 1536 && Format::kPieces <= 2 ? 4 : 2;
  const int begin = range_begin(plan, static_cast<int>(blockIdx.x));
  const int end = range_begin(plan, static_cast<int>(blockIdx.x) + 1);
  const int slice = warp_index() % kSlices, lane = lane_index();

  PanelCursor<1, 1, kAhead> ahead(task, plan, warp_index() / kSlices, 0, begin, end);
  typename Format::Piece units[kAhead][Format::kPieces];
  const auto fetch = [&](typename Format::Piece(&unit)[Format::kPieces]) {
    const int index = ahead.item() * kSlices + slice;
    if (ahead.exists() && index < plan.units) {
      const std::byte* from = ahead.panel + int64_t{index} * Format::kUnitBytes;
#pragma unroll
      for (int p = 0; p < Format::kPieces; ++p) Format::load(unit[p], from, p, lane);
    }
    ahead.next();
  };
  prefetch_panel<Format>(plan, ahead);

  auto& shared = *reinterpret_cast<Shared*>(dynamic_shared());
  const int padded_k = plan.units * Format::kUnitK;
  auto* sums = reinterpret_cast<float*>(dynamic_shared() + kInputsAt);
  std::byte* inputs = dynamic_shared() + kInputsAt + sums_bytes<kType>(padded_k);
  wait_for_previous();
  stage_inputs<kType>(task, padded_k, shared, sums, inputs);
  __syncthreads();
  let_next_start();
#pragma unroll
  for (int i = 0; i < kAhead; ++i) fetch(units[i]);
  // Looked up while the first weights are on their way.
  if (task.epilogue == Epilogue::kAppend && threadIdx.x < task.n) {
    shared.place[threadIdx.x] = place_of(task.append.cache, static_cast<int>(threadIdx.x));
  }

  const int64_t column = column_bytes(padded_k);
  const Multiplier<kType> multiplier{
      lane / 4 < task.n ? inputs + lane / 4 * column + lane % 4 * 32 : nullptr, task.n * column,
      sums + lane % 4 * 2};
  int buffer = 0;
  for (int step = begin; step < end;) {
    const Span span = span_at(plan, step, end);
    float sum[4] = {};
    for (int i = 0; i < span.count; i += kAhead) {
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int index = (span.first + i + j) * kSlices + slice;
        if (i + j < span.count && index < plan.units) {
#pragma unroll
          for (int p = 0; p < Format::kPieces; ++p) {
            multiplier.multiply(units[j][p], p, index * Format::kPieces + p, sum);
          }
        }
        fetch(units[j]);
      }
    }
    *reinterpret_cast<float4*>(shared.part[buffer][warp_index()] + lane * 4) =
        make_float4(sum[0], sum[1], sum[2], sum[3]);
    __syncthreads();
    finish_tile<kType>(task, plan, span.tile, buffer, shared);
    buffer ^= 1;
    step += span.count;
  }
}

// The task of `n` of the inputs.
MatmulTask part_of(const MatmulTask& task, int64_t first, int64_t n) {
  MatmulTask part = task;
  part.x += first * task.x_stride;
  part.n = n;
  for (int j = 0; j < part.jobs; ++j) part.job[j].out += first * part.job[j].out_stride;
  if (task.epilogue != Epilogue::kAppend) return part;
  StoreKvTask& append = part.append;
  append.cache.positions += first;
  append.cache.segment_of += first;
  append.cos += first * (append.cache.e / 2);
  append.sin += first * (append.cache.e / 2);
  return part;
}

}  // namespace

// As many inputs at a time as fit in shared memory; how many changes no bit.
template <DType kType>
void matvec(const MatmulTask& task, cudaStream_t stream) {
  using Format = Packed<kType>;
  MatmulTask some = task;
  some.n = task.n < kColumns ? task.n : kColumns;
  ProductPlan plan = plan_product(some, Format::kUnitK, Format::kUnitBytes, kMatvecShape);
  if (plan.tiles == 0) return;
  plan.partials = reinterpret_cast<float*>(task.scratch);
  const int64_t padded_k = int64_t{plan.units} * Format::kUnitK;
  const int64_t free = device_limits().shared_bytes - shared_bytes<kType>(padded_k, 0);
  int64_t most = free / (kInputParts<kType> * column_bytes(padded_k));
  most = most < 1 ? 1 : most > kColumns ? kColumns : most;
  for (int64_t first = 0; first < task.n; first += most) {
    some = part_of(task, first, task.n - first < most ? task.n - first : most);
    Launch how;
    how.stream = stream;
    how.grid = dim3(static_cast<unsigned>(plan.blocks));
    how.block = dim3(kThreads);
    how.shared_bytes = static_cast<size_t>(shared_bytes<kType>(padded_k, some.n));
    launch(how, matvec_kernel<kType>, some, plan);
  }
}

#define LLAMA_RT_INSTANCE(id) template void matvec<DType::k##id>(const MatmulTask&, cudaStream_t);
LLAMA_RT_PACKED_DTYPES(LLAMA_RT_INSTANCE)
#undef LLAMA_RT_INSTANCE

}  // namespace llama_rt::cuda
