// Checks and typed pointers over stable-ABI tensors. No ATen.
#pragma once

// One binary serves every torch from 2.11 on. Set here because torch's copy of pybind11, which module.cpp needs,
// refuses to be compiled with it.
#define TORCH_TARGET_VERSION 0x020b000000000000

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>

namespace sparsekern {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
T* mutable_data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// What a caller got wrong: a ValueError in Python, its message streamed from `parts`.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

template <class... Parts>
void require(bool ok, const Parts&... parts) {
  if (!ok) fail(parts...);
}

// An index tensor is contiguous int32; `elements` at least.
inline const int32_t* index_data(const Tensor& t, int64_t elements, const char* name) {
  require(t.scalar_type() == ScalarType::Int && t.is_contiguous(), name, " must be a contiguous int32 tensor");
  require(t.numel() >= elements, name, " must have at least ", elements, " elements, got ", t.numel());
  return data<int32_t>(t);
}

}  // namespace sparsekern
