// Weight layout: in place as stored, or copied into panels when the ISA level has kernels for them.
#include <algorithm>

#include "cpu/cpu_backend.h"
#include "platform/memory.h"
#include "platform/thread_pool.h"

namespace llama_rt::cpu {

Weight CpuBackend::do_prepare(const Tensor& matrix, Role role, Repack repack) {
  const View& view = matrix.view;
  Weight weight;
  weight.rows = view.shape[0];
  weight.cols = view.shape[1];
  weight.dtype = view.dtype;
  weight.stored = matrix;
  const PackedFormat& format = kernels_.packed[static_cast<size_t>(view.dtype)];
  // An embedding is looked up row by row, which needs the stored form.
  if (role == Role::kEmbedding || repack == Repack::kNever || !format.multiply) return weight;

  auto packed = std::make_shared<PanelWeight>();
  packed->panels = (weight.rows + kPanelRows - 1) / kPanelRows;
  packed->panel_bytes = format.panel_bytes(weight.cols);
  const auto bytes = static_cast<size_t>(packed->bytes());
  if (repack == Repack::kAuto && bytes > available_memory()) return weight;
  if (bytes < HostBuffer::kHugeBytes) {
    packed->storage = allocate(bytes);
  } else {
    const std::shared_ptr<std::byte> memory = panels_.take(bytes);
    packed->storage = Storage::borrow(memory.get(), bytes, [memory] {});
  }
  // The same split as the products', so a thread first touches the panels it will read.
  parallel_for(threads_, packed->panels, [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t row = p * kPanelRows;
      format.pack(view.data + row * view.row_stride, view.row_stride,
                  static_cast<int>(std::min<int64_t>(kPanelRows, weight.rows - row)), weight.cols,
                  packed->storage->data() + p * packed->panel_bytes);
    }
  });
  advise_dontneed(view.data, static_cast<size_t>(weight.stored_bytes()));
  weight.packed = std::move(packed);
  weight.stored = {};
  return weight;
}

}  // namespace llama_rt::cpu
