// The small element-wise ops that adapters add; memory-bound and short, so one thread does them.
#include "cpu/cpu_backend.h"

namespace llama_rt::cpu {

void CpuBackend::do_scale_columns(View x, const float* factors, View out) {
  const int64_t k = x.shape.row();
  for (int64_t i = 0; i < x.shape.rows(); ++i) {
    const float* from = x.f32(i);
    float* to = out.f32(i);
    for (int64_t j = 0; j < k; ++j) to[j] = from[j] * factors[j];
  }
}

void CpuBackend::do_scale(View x, float factor) {
  const int64_t k = x.shape.row();
  for (int64_t i = 0; i < x.shape.rows(); ++i) {
    float* row = x.f32(i);
    for (int64_t j = 0; j < k; ++j) row[j] *= factor;
  }
}

void CpuBackend::do_add_row(const float* row, float factor, View y) {
  const int64_t k = y.shape.row();
  for (int64_t i = 0; i < y.shape.rows(); ++i) {
    float* to = y.f32(i);
    for (int64_t j = 0; j < k; ++j) to[j] += factor * row[j];
  }
}

void CpuBackend::do_add_gated(View x, const float* gates, float factor, View out) {
  const int64_t heads = x.shape[1], e = x.shape[2];
  for (int64_t i = 0; i < x.shape[0] * heads; ++i) {
    const float gate = factor * gates[i % heads];
    const float* from = x.f32() + i * e;
    float* to = out.f32() + i * e;
    for (int64_t f = 0; f < e; ++f) to[f] += gate * from[f];
  }
}

}  // namespace llama_rt::cpu
