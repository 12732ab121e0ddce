// Products of packed weights: how work is dealt, how much scratch it needs, and which kernel takes
// which number of inputs.
#include <algorithm>

#include "cuda/kernels/epilogue.cuh"
#include "cuda/kernels/kv.cuh"

namespace llama_rt::cuda {
namespace {

// Time in which a tile shared between blocks is put together, and floating-point operations in the
// time of a byte of memory on tensor cores.
constexpr double kGatherSeconds = 2e-6;
constexpr int64_t kFlopsPerByte = 184;

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&value, which, device), "asking for the device's limits");
  return value;
}

// Bytes that the device's memory gives while a tile is put together.
int64_t gather_bytes() {
  const double kilohertz = attribute(cudaDevAttrMemoryClockRate);
  const double bits = attribute(cudaDevAttrGlobalMemoryBusWidth);
  return static_cast<int64_t>(2 * kilohertz * 1e3 * bits / 8 * kGatherSeconds);
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t partial_bytes(const TileShape& shape) {
  const int64_t blocks = int64_t{device_limits().multiprocessors} * shape.blocks_per_processor;
  return blocks * 2 * shape.half_panels * 2 * kPanelRows * shape.columns * 4;
}

template <DType kType>
int64_t scratch_bytes(const MatmulTask& task) {
  const int64_t inputs = input_bytes(task, kInputParts<kType>, Packed<kType>::kUnitK);
  return inputs +
         std::max({partial_bytes(kMatvecShape), partial_bytes(gemm_mma_shape(8)),
                   partial_bytes(gemm_mma_shape(16)), partial_bytes(gemm_wgmma_shape(16))});
}

template <DType kType>
int64_t packed_bytes(int64_t rows, int64_t cols) {
  return divide_up(rows, kPackRows) * (kPackRows / kPanelRows) * Packed<kType>::panel_bytes(cols);
}

template <DType kType>
void gemm(const MatmulTask& task, cudaStream_t stream) {
  task.reproducible ? matvec<kType>(task, stream) : gemm_mma<kType>(task, stream);
}

}  // namespace

bool can_append(const CacheTask& cache) {
  return cache.type != KvType::kQ8 && cache.e % (2 * kPanelRows) == 0 &&
         kv_width(cache.type, cache.e) == cache.e;
}

DeviceLimits device_limits() {
  return {attribute(cudaDevAttrMultiProcessorCount),
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
}

ProductPlan plan_product(const MatmulTask& task, int unit_k, int unit_bytes,
                         const TileShape& shape) {
  ProductPlan plan;
  plan.units = static_cast<int>(divide_up(task.k, unit_k));
  plan.panel_bytes = int64_t{plan.units} * unit_bytes;
  plan.steps = static_cast<int>(divide_up(plan.units, shape.units_per_step));
  plan.column_tiles = static_cast<int>(divide_up(task.n, shape.columns));
  const bool swiglu = task.epilogue == Epilogue::kSwiglu;
  if (task.epilogue == Epilogue::kAppend && task.append.style == RopeStyle::kHalves) {
    plan.apart = static_cast<int>(task.append.cache.e / 2 / kPanelRows);
  }
  const int64_t tile_rows = int64_t{shape.half_panels} * kPanelRows * (swiglu ? 1 : 2);
  for (int j = 0; j < (swiglu ? 1 : task.jobs); ++j) {
    plan.first_tile[j + 1] =
        plan.first_tile[j] + static_cast<int>(divide_up(task.job[j].weight.rows, tile_rows));
    plan.tiles = plan.first_tile[j + 1] * plan.column_tiles;
  }
  if (plan.tiles == 0) return plan;
  // Blocks that have a tile less than others wait; is that longer than gathering takes?
  const int64_t slots = int64_t{device_limits().multiprocessors} * shape.blocks_per_processor;
  const int64_t idle = divide_up(plan.tiles, slots) * slots - plan.tiles;
  const int64_t bytes = 2 * shape.half_panels * plan.panel_bytes;
  const int64_t flops = int64_t{4} * shape.half_panels * kPanelRows * shape.columns * task.k;
  const int64_t cost = std::max(bytes, flops / kFlopsPerByte);
  const bool cut = shape.may_cut && plan.steps > 1 && plan.tiles <= kProductCounters &&
                   idle * cost > gather_bytes();
  plan.granule = cut ? 1 : plan.steps;
  const int granules = cut ? plan.tiles * plan.steps : plan.tiles;
  plan.blocks = static_cast<int>(std::min<int64_t>(slots, granules));
  plan.share = granules / plan.blocks;
  plan.longer = granules % plan.blocks;
  return plan;
}

template <DType kType>
ProductFormat format() {
  return {packed_bytes<kType>, pack<kType>, matvec<kType>,
          kMatvecInputs,       gemm<kType>, scratch_bytes<kType>};
}

void register_matmul(Kernels& kernels) {
#define LLAMA_RT_REGISTER(id) \
  kernels.product[static_cast<size_t>(DType::k##id)] = format<DType::k##id>();
  LLAMA_RT_PACKED_DTYPES(LLAMA_RT_REGISTER)
#undef LLAMA_RT_REGISTER
}

}  // namespace llama_rt::cuda
