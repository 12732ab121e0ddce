#include "backend/backend.h"

#include <chrono>
#include <string>
#include <type_traits>

#include "core/error.h"

namespace llama_rt {
namespace {

// `what` is a text, or builds one: the checks stand before every op of every token, and putting
// their texts together would cost a small model a tenth of its time.
template <typename What>
void require(bool ok, const char* op, const What& what) {
  if (ok) return;
  if constexpr (std::is_invocable_v<What>) {
    throw ShapeError(std::string(op) + ": " + what());
  } else {
    throw ShapeError(std::string(op) + ": " + what);
  }
}

void require_f32(const View& v, const char* op, const char* argument) {
  if (v.dtype != DType::kF32) {
    throw DTypeError(std::string(op) + ": " + argument + " must be f32, got " +
                     std::string(info(v.dtype).name));
  }
}

void require_same(const View& a, const View& b, const char* op, const char* argument) {
  require(a.shape == b.shape, op, [&] {
    return std::string(argument) + " must be " + a.shape.text() + ", got " + b.shape.text();
  });
}

void require_cache(const View& x, const KvView& kv, const char* op) {
  require(x.shape.rank == 3 && x.shape[2] == kv.layout->head_dim, op, [&] {
    return "heads must be [n, heads, " + std::to_string(kv.layout->head_dim) + "], got " +
           x.shape.text();
  });
  int64_t rows = 0;
  for (const Segment& s : kv.segments) {
    require(s.first_row == rows && s.rows > 0 && s.past >= 0, op, "segments must tile the rows");
    rows += s.rows;
  }
  require(rows == x.shape[0], op, [&] {
    return "segments hold " + std::to_string(rows) + " rows, the input " +
           std::to_string(x.shape[0]);
  });
}

[[noreturn]] void leave_to_host(const char* op, const Backend& backend) {
  throw Error(std::string(op) + ": " + backend.name() + " leaves drawing to the host");
}

}  // namespace

// Adds the time of its scope to one op's total while profiling.
class Backend::Timer {
 public:
  Timer(Backend& backend, Op op) : backend_(backend), op_(op) {
    if (backend_.profiling_) start_ = Clock::now();
  }
  ~Timer() {
    if (!backend_.profiling_) return;
    backend_.synchronize();
    backend_.seconds_[op_] += std::chrono::duration<double>(Clock::now() - start_).count();
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  Backend& backend_;
  Op op_;
  Clock::time_point start_;
};

std::vector<OpTime> Backend::take_profile() {
  constexpr std::array<const char*, kOps> kNames = {"embed",    "rms_norm",  "matmul", "rope",
                                                    "store_kv", "attention", "swiglu", "adapt"};
  std::vector<OpTime> times;
  for (size_t op = 0; op < kOps; ++op) times.push_back({kNames[op], seconds_[op]});
  seconds_ = {};
  return times;
}

Vector Backend::to_device(std::span<const float> values) {
  Vector vector{allocate(values.size_bytes())};
  upload(vector.storage->data(), values.data(), values.size_bytes());
  return vector;
}

Weight Backend::reuse_resident(const Weight& table, Role role, Repack repack) {
  return prepare(table.stored, role, repack);
}

Weight Backend::prepare(const Tensor& matrix, Role role, Repack repack) {
  const Shape& shape = matrix.view.shape;
  require(shape.rank == 2 && shape[0] > 0 && shape[1] > 0, "prepare",
          [&] { return "a matrix [rows, cols] is needed, got " + shape.text(); });
  return do_prepare(matrix, role, repack);
}

void Backend::embed(const Weight& table, std::span<const int32_t> tokens, View out) {
  const Timer timer(*this, kEmbed);
  require_f32(out, "embed", "out");
  require(out.shape == Shape(static_cast<int64_t>(tokens.size()), table.cols), "embed", [&] {
    return "out must be [n, " + std::to_string(table.cols) + "], got " + out.shape.text();
  });
  if (!tokens.empty()) do_embed(table, tokens, out);
}

void Backend::rms_norm(View x, const float* gain, float eps, View out) {
  const Timer timer(*this, kNorm);
  require_f32(x, "rms_norm", "x");
  require_same(x, out, "rms_norm", "out");
  if (x.shape.rows() > 0) do_rms_norm(x, gain, eps, out);
}

void Backend::matmul(View x, std::span<const Linear> jobs) {
  const Timer timer(*this, kMatmul);
  require_f32(x, "matmul", "x");
  for (const Linear& job : jobs) {
    require(job.weight->cols == x.shape.row(), "matmul", [&] {
      return "x has rows of " + std::to_string(x.shape.row()) + ", the weight of " +
             std::to_string(job.weight->cols);
    });
    require(job.out.shape == Shape(x.shape.rows(), job.weight->rows), "matmul", [&] {
      return "out must be [" + std::to_string(x.shape.rows()) + ", " +
             std::to_string(job.weight->rows) + "], got " + job.out.shape.text();
    });
  }
  if (x.shape.rows() > 0) do_matmul(x, jobs);
}

void Backend::rope(View x, const Rotation& rotation) {
  const Timer timer(*this, kRope);
  require_f32(x, "rope", "x");
  require(x.shape.rank == 3 && x.shape[2] % 2 == 0, "rope",
          [&] { return "x must be [n, heads, e] with even e, got " + x.shape.text(); });
  const Shape expected(x.shape[0], x.shape[2] / 2);
  require(rotation.cos.shape == expected && rotation.sin.shape == expected, "rope", [&] {
    return "cos and sin must be " + expected.text() + ", got " + rotation.cos.shape.text();
  });
  if (x.shape[0] > 0) do_rope(x, rotation);
}

void Backend::store_kv(View k, View v, const KvView& kv) {
  const Timer timer(*this, kStoreKv);
  require_f32(k, "store_kv", "k");
  require_same(k, v, "store_kv", "v");
  require_cache(k, kv, "store_kv");
  require(k.shape[1] == kv.layout->kv_heads, "store_kv", "k has another number of heads");
  do_store_kv(k, v, kv);
}

void Backend::attention(View q, const KvView& kv, const AttentionSpec& spec, View out) {
  const Timer timer(*this, kAttention);
  require_f32(q, "attention", "q");
  require_same(q, out, "attention", "out");
  require_cache(q, kv, "attention");
  require(q.shape[1] == spec.heads && spec.heads % kv.layout->kv_heads == 0, "attention", [&] {
    return std::to_string(spec.heads) + " query heads do not share " +
           std::to_string(kv.layout->kv_heads) + " key heads evenly";
  });
  do_attention(q, kv, spec, out);
}

void Backend::swiglu(View gate, View up, View out) {
  const Timer timer(*this, kSwiglu);
  require_f32(gate, "swiglu", "gate");
  require_same(gate, up, "swiglu", "up");
  require_same(gate, out, "swiglu", "out");
  if (gate.shape.rows() > 0) do_swiglu(gate, up, out);
}

void Backend::gather_rows(View x, std::span<const int32_t> rows, View out) {
  const Timer timer(*this, kEmbed);
  require_f32(x, "gather_rows", "x");
  const Shape expected(static_cast<int64_t>(rows.size()), x.shape.row());
  require(out.shape == expected, "gather_rows",
          [&] { return "out must be " + expected.text() + ", got " + out.shape.text(); });
  if (!rows.empty()) do_gather_rows(x, rows, out);
}

void Backend::sample(View, const SampleSpec*, int32_t*) { leave_to_host("sample", *this); }
std::unique_ptr<ReadbackBuffer> Backend::make_readback_buffer(size_t) {
  leave_to_host("make_readback_buffer", *this);
}
void Backend::start_readback(ReadbackBuffer&, const std::byte*, size_t) {
  leave_to_host("start_readback", *this);
}
void Backend::finish_readback(ReadbackBuffer&, void*, size_t) {
  leave_to_host("finish_readback", *this);
}

void Backend::scale_columns(View x, const float* factors, View out) {
  const Timer timer(*this, kAdapt);
  require_f32(x, "scale_columns", "x");
  require_same(x, out, "scale_columns", "out");
  do_scale_columns(x, factors, out);
}

void Backend::scale(View x, float factor) {
  const Timer timer(*this, kAdapt);
  require_f32(x, "scale", "x");
  do_scale(x, factor);
}

void Backend::add_row(const float* row, float factor, View y) {
  const Timer timer(*this, kAdapt);
  require_f32(y, "add_row", "y");
  do_add_row(row, factor, y);
}

void Backend::add_gated(View x, const float* gates, float factor, View out) {
  const Timer timer(*this, kAdapt);
  require_f32(x, "add_gated", "x");
  require_same(x, out, "add_gated", "out");
  require(x.shape.rank == 3, "add_gated",
          [&] { return "x must be [n, heads, e], got " + x.shape.text(); });
  do_add_gated(x, gates, factor, out);
}

void Backend::qkv(View x, const QkvWeights& w, float eps, const Rotation& rotation,
                  const KvView& kv, View scratch, View q, View k, View v) {
  const auto flat = [](View heads) {
    return f32_view(heads.f32(), Shape(heads.shape[0], heads.shape[1] * heads.shape[2]));
  };
  rms_norm(x, w.norm, eps, scratch);
  const Linear jobs[] = {
      {&w.q, w.q_bias, flat(q)}, {&w.k, w.k_bias, flat(k)}, {&w.v, w.v_bias, flat(v)}};
  matmul(scratch, jobs);
  norm_rope_append(q, k, v, w, eps, rotation, kv);
}

void Backend::norm_rope_append(View q, View k, View v, const QkvWeights& w, float eps,
                               const Rotation& rotation, const KvView& kv) {
  if (w.q_norm) rms_norm(q, w.q_norm, eps, q);
  if (w.k_norm) rms_norm(k, w.k_norm, eps, k);
  rope(q, rotation);
  rope(k, rotation);
  store_kv(k, v, kv);
}

void Backend::gate_up_swiglu(View x, const GateUpWeights& w, float eps, View scratch, View up,
                             View hidden) {
  rms_norm(x, w.norm, eps, scratch);
  const Linear jobs[] = {{&w.gate, w.gate_bias, hidden}, {&w.up, w.up_bias, up}};
  matmul(scratch, jobs);
  swiglu(hidden, up, hidden);
}

void Backend::linear_residual(View x, const Weight& weight, const float* bias, View residual) {
  const Linear job[] = {{&weight, bias, residual, true}};
  matmul(x, job);
}

}  // namespace llama_rt
