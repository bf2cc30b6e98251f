// From a scalar type at run time to a C++ type.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#include "common.h"

namespace sparsekern {

// The type in which sums over `T` are kept.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Calls `f` with a zero of the C++ type of a floating-point `dtype`.
template <class F>
void with_floating_type(ScalarType dtype, const char* name, F f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::BFloat16:
      return f(torch::headeronly::BFloat16{});
    case ScalarType::Half:
      return f(torch::headeronly::Half{});
    default:
      fail(name, " must be float32, float64, bfloat16 or float16, got ", dtype);
  }
}

// Bytes of an element.
inline int64_t size_of(ScalarType dtype, const char* name) {
  int64_t size = 0;
  with_floating_type(dtype, name, [&](auto zero) { size = sizeof zero; });
  return size;
}

}  // namespace sparsekern
