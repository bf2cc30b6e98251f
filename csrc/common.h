// Checks and typed pointers over stable-ABI tensors. No ATen.
#pragma once

// One binary serves every torch from 2.11 on. Set here because torch's copy of pybind11, which module.cpp needs,
// refuses to be compiled with it.
#define TORCH_TARGET_VERSION 0x020b000000000000

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "checks.h"

namespace sparsekern {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
T* mutable_data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// An index tensor is contiguous int32; `elements` at least.
inline const int32_t* index_data(const Tensor& t, int64_t elements, const char* name) {
  require(t.scalar_type() == ScalarType::Int && t.is_contiguous(), name, " must be a contiguous int32 tensor");
  require(t.numel() >= elements, name, " must have at least ", elements, " elements, got ", t.numel());
  return data<int32_t>(t);
}

}  // namespace sparsekern
