// The device's draw and the host's, side by side; loaded by test_sample.py.
#include <string>
#include <vector>

#include "cuda/kernel_table.h"
#include "cuda/launch.h"
#include "execution.h"
#include "sampling/sampler.h"

// The passes over the vocabulary of the host's sampler.
#define LLAMA_RT_LEVEL scalar
#include "cpu/kernels/common/scan.cpp"

namespace llama_rt::cuda {
void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw emulation::Fault(std::string(what) + ": " + cudaGetErrorString(error));
  }
}
void allow_overlap(bool) {}
bool overlap_allowed() { return true; }
}  // namespace llama_rt::cuda

using namespace llama_rt;
using namespace llama_rt::cuda;

extern "C" {

struct Settings {
  float temperature;
  int32_t top_k;
  float top_p, min_p;
  uint64_t seed;
};

// `draws` draws from each row of logits [rows, vocab] by its settings: host and device [draws,
// rows].
const char* draw_both(const Settings* settings, int64_t rows, int64_t vocab, const float* logits,
                      int64_t draws, int32_t* host, int32_t* device) {
  static std::string text;
  try {
    Kernels kernels;
    register_sample(kernels);
    std::vector<Sampler> samplers;
    for (int64_t i = 0; i < rows; ++i) {
      SamplerOptions o;
      o.temperature = settings[i].temperature, o.top_k = settings[i].top_k;
      o.top_p = settings[i].top_p, o.min_p = settings[i].min_p, o.seed = settings[i].seed;
      samplers.emplace_back(static_cast<int>(vocab), o, cpu::scalar::kScan.scan);
    }
    const auto n = static_cast<size_t>(rows), size = static_cast<size_t>(rows * vocab);
    SampleTask t;
    t.rows = rows, t.vocab = vocab;
    float* on_device;
    SampleRow* specs;
    cudaMalloc(&on_device, size * sizeof(float));
    cudaMalloc(&specs, n * sizeof(SampleRow));
    cudaMalloc(&t.tokens, n * sizeof(int32_t));
    cudaMalloc(&t.scratch, static_cast<size_t>(sample_scratch_bytes(rows, vocab)));
    cudaMemcpy(on_device, logits, size * sizeof(float), cudaMemcpyHostToDevice);
    t.logits = on_device, t.row = specs;
    for (int64_t d = 0; d < draws; ++d) {
      std::vector<SampleRow> now;
      for (const Sampler& sampler : samplers) now.push_back(*sampler.spec());
      cudaMemcpy(specs, now.data(), n * sizeof(SampleRow), cudaMemcpyHostToDevice);
      kernels.sample(t, nullptr);
      check(cudaDeviceSynchronize(), "drawing");
      cudaMemcpy(device + d * rows, t.tokens, n * sizeof(int32_t), cudaMemcpyDeviceToHost);
      for (int64_t i = 0; i < rows; ++i) {
        const std::span<const float> row(logits + i * vocab, static_cast<size_t>(vocab));
        try {
          host[d * rows + i] = samplers[static_cast<size_t>(i)].sample(row).token;
        } catch (const std::exception&) {
          host[d * rows + i] = -1;  // no token can be sampled
        }
      }
    }
    cudaFree(on_device);
    cudaFree(specs);
    cudaFree(t.tokens);
    cudaFree(t.scratch);
    return nullptr;
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  }
}
}
