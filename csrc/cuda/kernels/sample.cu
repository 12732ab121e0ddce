// Draws a token from each row of logits by the host sampler's rules (sampling/sampler.h), one block
// a row. Probabilities and the sums of an unfiltered draw have the host's bits; where a filter adds
// probabilities it does so in whole numbers, so the order of threads cannot show.
#include <cstdint>

#include "core/random.h"
#include "cuda/device/warp.cuh"
#include "cuda/kernel_table.h"
#include "cuda/launch.h"

namespace llama_rt::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBlock = 128;  // scores that the host adds up in floats, in four lanes
constexpr float kLargest = 3.402823466e38f, kSmallest = 1.175494351e-38f;
constexpr double kUnit = 17592186044416.0;  // 2^44, of probabilities as whole numbers

__host__ __device__ constexpr int64_t padded_vocab(int64_t vocab) {
  return (vocab + kBlock - 1) / kBlock * kBlock;
}
// Blocks are four floats apart so that lanes that walk different blocks meet no bank conflict.
__host__ __device__ constexpr int64_t slot(int64_t i) { return i + i / kBlock * 4; }

// What the threads of a block tell each other.
struct Shared {
  double number[kWarps];
  unsigned long long weight[256];
  unsigned long long before;
  unsigned key;
  int found;
  int token;
  float largest[kWarps];
  int index[kWarps];
};

__device__ int thread() { return static_cast<int>(threadIdx.x); }

// NaN becomes -infinity and +infinity the largest float, as on the host.
__device__ float clean(float score) { return score != score ? -INFINITY : fminf(score, kLargest); }

// The largest value and its lowest index, in every thread; index `n` if all are -infinity.
__device__ void find_largest(Shared& s, float& value, int& index) {
  const auto better = [&](float v, int i) {
    if (v > value || (v == value && i < index)) value = v, index = i;
  };
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const float v = __shfl_xor_sync(kAllLanes, value, step);
    const int i = __shfl_xor_sync(kAllLanes, index, step);
    better(v, i);
  }
  if (lane_index() == 0) s.largest[warp_index()] = value, s.index[warp_index()] = index;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) better(s.largest[w], s.index[w]);
  __syncthreads();
}

// 2^x for x <= 0 with the host's bits (sampling/scan.cpp): no product may be fused with a sum.
__device__ float exp2_negative(float x) {
  constexpr float kRound = 12582912.0f;
  x = fmaxf(x, -127.0f);
  const float shifted = __fadd_rn(x, kRound);
  const float f = __fsub_rn(x, __fsub_rn(shifted, kRound));
  float y = 1.55946778e-4f;
  y = __fadd_rn(__fmul_rn(y, f), 1.34066434e-3f);
  y = __fadd_rn(__fmul_rn(y, f), 9.61769279e-3f);
  y = __fadd_rn(__fmul_rn(y, f), 5.55031031e-2f);
  y = __fadd_rn(__fmul_rn(y, f), 2.40226522e-1f);
  y = __fadd_rn(__fmul_rn(y, f), 6.93147242e-1f);
  y = __fadd_rn(__fmul_rn(y, f), 1.0f);
  return __fmul_rn(y, __int_as_float((__float_as_int(shifted) + 127) << 23));
}

// Unsigned keys in the order of floats.
__device__ unsigned ordered(float x) {
  const unsigned bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float from_ordered(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// By falling key, the first item at which the weights so far exceed `limit`: its key, and the
// weight of all larger keys. item(i, key, weight) is false for what takes no part. False if the
// limit is never passed. Eight bits of the key at a time.
template <class Item>
__device__ bool select(Shared& s, int n, unsigned long long limit, unsigned& key,
                       unsigned long long& before, Item item) {
  key = 0, before = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = thread(); i < 256; i += kThreads) s.weight[i] = 0;
    __syncthreads();
    for (int i = thread(); i < n; i += kThreads) {
      unsigned k;
      unsigned long long weight;
      if (!item(i, k, weight)) continue;
      if (shift < 24 && (k ^ key) >> (shift + 8) != 0) continue;
      atomicAdd(&s.weight[k >> shift & 255], weight);
    }
    __syncthreads();
    if (warp_index() == 0) {  // lane l has the digits 255 - 8 l and down
      const int top = 255 - 8 * lane_index();
      unsigned long long own = 0;
      for (int i = 0; i < 8; ++i) own += s.weight[top - i];
      unsigned long long sum = own;
      for (int step = 1; step < kWarp; step *= 2) {
        const unsigned long long other = __shfl_up_sync(kAllLanes, sum, step);
        if (lane_index() >= step) sum += other;
      }
      const unsigned crossed = __ballot_sync(kAllLanes, before + sum > limit);
      if (lane_index() == 0) s.found = crossed != 0;
      if (crossed != 0 && lane_index() == __ffs(static_cast<int>(crossed)) - 1) {
        unsigned long long passed = before + sum - own;
        int digit = top;
        while (passed + s.weight[digit] <= limit) passed += s.weight[digit--];
        s.before = passed;
        s.key = key | static_cast<unsigned>(digit) << shift;
      }
    }
    __syncthreads();
    if (!s.found) return false;
    key = s.key, before = s.before;
    __syncthreads();
  }
  return true;
}

// The host's sums of an unfiltered draw: blocks of 128 in four lanes of floats.
__device__ double sum_blocks(Shared& s, const float* p, int n, double* parts) {
  const int units = n / kBlock * 4;
  for (int first = 0; first < units; first += kThreads) {
    const int unit = first + thread();
    float sum = 0.0f;
    if (unit < units) {
      const float* from = p + slot(int64_t{unit} / 4 * kBlock) + unit % 4;
      for (int i = 0; i < kBlock; i += 4) sum = __fadd_rn(sum, from[i]);
    }
    double total = static_cast<double>(sum);
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    if (unit < units && unit % 4 == 0) parts[unit / 4] = total;
  }
  __syncthreads();
  if (thread() == 0) {
    double total = 0;
    for (int b = 0; b < n / kBlock; ++b) total += parts[b];
    s.number[0] = total;
  }
  __syncthreads();
  const double total = s.number[0];
  __syncthreads();
  return total;
}

// First index where the running sum exceeds `target`; else the last with p > 0. By one thread.
__device__ int find_sum(const float* p, int n, const double* parts, double target) {
  double before = 0;
  int block = 0;
  for (; block < n / kBlock; ++block) {
    if (before + parts[block] > target) break;
    before += parts[block];
  }
  int last = min((block + 1) * kBlock, n);
  for (int i = block * kBlock; i < last; ++i) {
    before += static_cast<double>(p[slot(i)]);
    if (before > target) return i;
  }
  do --last;
  while (last > 0 && !(p[slot(last)] > 0));
  return last;
}

__device__ double warp_total(double value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Each warp's sum of its share of the ids, in s.number; the sum of all is returned.
template <class Kept>
__device__ double sum_kept(Shared& s, int share, int n, Kept kept) {
  double sum = 0;
  for (int i = warp_index() * share + lane_index(); i < min((warp_index() + 1) * share, n);
       i += kWarp) {
    sum += static_cast<double>(kept(i));
  }
  sum = warp_total(sum);
  if (lane_index() == 0) s.number[warp_index()] = sum;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < kWarps; ++w) total += s.number[w];
  return total;
}

// Draws from what is kept, kept(i) being the probability of i or 0.
template <class Kept>
__device__ void pick(Shared& s, int n, double u, Kept kept) {
  const int share = (n / kWarp + kWarps - 1) / kWarps * kWarp;
  const double target = u * sum_kept(s, share, n, kept);
  int warp = 0, filled = 0;  // the warp that passes the target, or the last that keeps any
  double before = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (s.number[w] > 0) filled = w;
  }
  while (warp < filled && before + s.number[warp] <= target) before += s.number[warp++];
  if (warp_index() != warp) return;
  int token = -1;
  for (int first = warp * share; first < min((warp + 1) * share, n); first += kWarp) {
    const int i = first + lane_index();
    const double own = i < n ? static_cast<double>(kept(i)) : 0.0;
    double sum = own;
    for (int step = 1; step < kWarp; step *= 2) {
      const double other = __shfl_up_sync(kAllLanes, sum, step);
      if (lane_index() >= step) sum += other;
    }
    const unsigned positive = __ballot_sync(kAllLanes, own > 0);
    const unsigned passed = __ballot_sync(kAllLanes, own > 0 && before + sum > target);
    if (positive != 0) token = first + 31 - __clz(static_cast<int>(positive));
    if (passed != 0) {
      token = first + __ffs(static_cast<int>(passed)) - 1;
      break;
    }
    before += __shfl_sync(kAllLanes, sum, kWarp - 1);
  }
  if (lane_index() == 0) s.token = token;
}

// The probability below which no token can pass top-p: a level whose mass alone exceeds the limit,
// or what all tokens may share of the rest at most.
__device__ float nucleus_floor(Shared& s, const float* p, int n, double total, double limit) {
  const int share = (n / kWarp + kWarps - 1) / kWarps * kWarp;
  for (int i = 0; i < 2; ++i) {
    const float level = i == 0 ? 0x1p-7f : 0x1p-12f;
    const double above = sum_kept(s, share, n, [&](int id) {
      const float one = p[slot(id)];
      return one >= level ? one : 0.0f;
    });
    __syncthreads();
    if (above > limit) return level;
  }
  const double rest = total - limit;
  return static_cast<float>((rest > 0 ? rest : 0.0) / n * 0.999);
}

__device__ void sample_token(const SampleRow& o, Shared& s, float* x, double* parts, int vocab,
                             float top) {
  const auto n = static_cast<int>(padded_vocab(vocab));
  const double u = uniform_double(philox(o.seed, o.counter));
  const float scale = fminf(__fdiv_rn(1.0f, o.temperature), kLargest);
  const float factor = fminf(__fmul_rn(scale, 1.44269504f), kLargest);
  const bool few = o.top_k > 0 && o.top_k < vocab, nucleus = o.top_p < 1;

  float min_value = -INFINITY;
  if (few) {
    unsigned key;
    unsigned long long before;
    const bool found = select(s, n, static_cast<unsigned long long>(o.top_k - 1), key, before,
                              [&](int i, unsigned& k, unsigned long long& weight) {
                                k = ordered(x[slot(i)]), weight = 1;
                                return x[slot(i)] > -INFINITY;
                              });
    min_value = found ? from_ordered(key) : -kLargest;
  }
  for (int i = thread(); i < n; i += kThreads) {
    const float score = x[slot(i)];
    const bool out = few && !(score >= min_value);
    x[slot(i)] = out ? 0.0f : exp2_negative(__fmul_rn(__fsub_rn(score, top), factor));
  }
  __syncthreads();
  const double total = sum_blocks(s, x, n, parts);
  if (!few && !nucleus && o.min_p <= 0) {
    if (thread() == 0) s.token = find_sum(x, n, parts, u * total);
    return;
  }

  // Kept are tokens of more than `crossing`, and of those equal to it the ids up to `last`.
  float floor = few ? 0.0f : kSmallest, crossing = 0.0f;
  unsigned last = 0xffffffffu;
  if (nucleus) {
    const double limit = static_cast<double>(o.top_p) * total * (1.0 + 1e-6);
    floor = fmaxf(floor, nucleus_floor(s, x, n, total, limit));
    unsigned key;
    unsigned long long before;
    const auto whole = [](float p) {
      return static_cast<unsigned long long>(static_cast<double>(p) * kUnit);
    };
    const auto wide = static_cast<unsigned long long>(limit * kUnit);
    const bool found =
        select(s, n, wide, key, before, [&](int i, unsigned& k, unsigned long long& weight) {
          const float p = x[slot(i)];
          k = __float_as_uint(p), weight = whole(p);
          return p >= floor && p > 0;
        });
    if (found) {
      crossing = __uint_as_float(key);
      const unsigned long long equals = (wide - before) / whole(crossing);  // besides the first
      const bool some =
          select(s, n, equals, key, before, [&](int i, unsigned& k, unsigned long long& weight) {
            k = ~static_cast<unsigned>(i), weight = 1;
            return x[slot(i)] == crossing;
          });
      if (some) last = ~key;
    }
  }
  floor = fmaxf(floor, fmaxf(crossing, o.min_p));
  pick(s, n, u, [&](int i) {
    const float p = x[slot(i)];
    return p >= floor && (p > crossing || static_cast<unsigned>(i) <= last) ? p : 0.0f;
  });
}

// Bytes of shared memory besides the scores.
int64_t fixed_bytes(int64_t n) { return static_cast<int64_t>(sizeof(Shared)) + n / kBlock * 8; }

// Whether a row's scores stay in shared memory, on the device in use.
bool in_shared(int64_t n) {
  int device = 0, most = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "asking for shared memory");
  return fixed_bytes(n) + slot(n) * 4 <= most;
}

__global__ __launch_bounds__(kThreads, 1) void sample_rows(SampleTask t, bool shared_scores) {
  wait_for_previous();
  let_next_start();
  const auto row = static_cast<int64_t>(blockIdx.x);
  const SampleRow options = t.row[row];
  const float* logits = t.logits + row * t.vocab;
  const auto vocab = static_cast<int>(t.vocab), n = static_cast<int>(padded_vocab(vocab));
  auto& s = *reinterpret_cast<Shared*>(dynamic_shared());
  auto* parts = reinterpret_cast<double*>(dynamic_shared() + sizeof(Shared));
  float* x = shared_scores ? reinterpret_cast<float*>(parts + n / kBlock)
                           : reinterpret_cast<float*>(t.scratch) + row * slot(n);
  const bool greedy = options.temperature == 0.0f;
  float top = -INFINITY;
  int token = vocab;
  for (int i = thread(); i < n; i += kThreads) {
    const float score = i < vocab ? clean(logits[i]) : -INFINITY;
    if (!greedy) x[slot(i)] = score;
    if (score > top) top = score, token = i;
  }
  find_largest(s, top, token);
  if (!greedy && token < vocab) {
    sample_token(options, s, x, parts, vocab, top);
    __syncthreads();
    token = s.token;
  }
  if (thread() == 0) t.tokens[row] = token < vocab ? token : -1;
}

void sample(const SampleTask& t, cudaStream_t stream) {
  const int64_t n = padded_vocab(t.vocab);
  const bool shared = in_shared(n);
  const int64_t bytes = fixed_bytes(n) + (shared ? slot(n) * 4 : 0);
  launch({stream, dim3(static_cast<unsigned>(t.rows)), dim3(kThreads), static_cast<size_t>(bytes)},
         sample_rows, t, shared);
}

}  // namespace

int64_t sample_scratch_bytes(int64_t rows, int64_t vocab) {
  const int64_t n = padded_vocab(vocab);
  return in_shared(n) ? 0 : rows * slot(n) * static_cast<int64_t>(sizeof(float));
}

void register_sample(Kernels& kernels) { kernels.sample = sample; }

}  // namespace llama_rt::cuda
