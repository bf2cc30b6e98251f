// The library's own dense products (BLAS, oneDNN), on memory that it does not own. Called in `parallel_for` they run on
// the calling thread.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "common.h"

namespace sparsekern {

// A matrix somewhere in memory; strides in elements.
inline Tensor matrix(const void* data, ScalarType dtype, int64_t rows, int64_t cols, int64_t row_stride,
                     int64_t col_stride = 1) {
  const int64_t sizes[] = {rows, cols}, strides[] = {row_stride, col_stride};
  return torch::stable::from_blob(const_cast<void*>(data), {sizes, 2}, {strides, 2},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), dtype);
}

// out = a b
inline void multiply(const Tensor& out, const Tensor& a, const Tensor& b) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
}

// out = a b + c
inline void multiply_add(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor& c) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), c.get(), a.get(), b.get(), 1, 1));
}

}  // namespace sparsekern
