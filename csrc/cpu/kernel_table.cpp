#include "cpu/kernel_table.h"

namespace llama_rt::cpu {
namespace {

template <class T>
void take(T& slot, const T& candidate) {
  if (candidate) slot = candidate;
}

void take(PackedFormat& format, const PackedFormat& own) {
  take(format.panel_bytes, own.panel_bytes);
  take(format.pack, own.pack);
  if (own.multiply) format.multiply = own.multiply, format.activation = own.activation;
  if (own.gemm.multiply) format.gemm = own.gemm;
}

void take(ActivationFormat& format, const ActivationFormat& own) {
  if (own.convert) format = own;
}

void take(KvFormat& format, const KvFormat& own) {
  take(format.head_bytes, own.head_bytes);
  take(format.store, own.store);
  take(format.attend, own.attend);
  if (own.prefill.attend) format.prefill = own.prefill;
}

template <class Slots>
void take_each(Slots& slots, const Slots& own) {
  for (size_t i = 0; i < slots.size(); ++i) take(slots[i], own[i]);
}

}  // namespace

void register_kernels(Kernels& kernels, const Kernels& table) {
  take_each(kernels.dequantized_matmul, table.dequantized_matmul);
  take_each(kernels.packed, table.packed);
  take_each(kernels.activations, table.activations);
  take_each(kernels.decode, table.decode);
  take_each(kernels.encode, table.encode);
  take_each(kernels.kv, table.kv);
  take(kernels.rms_norm, table.rms_norm);
  take(kernels.rope, table.rope);
  take(kernels.swiglu, table.swiglu);
  if (table.scan.copy_clean) kernels.scan = table.scan;
}

}  // namespace llama_rt::cpu
