// The nonzeros of a convolution's weight in the orders in which its kernels take them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "common.h"
#include "cpu/planes.h"

namespace sparsekern {

// The weight, seen as a matrix [out, in / groups * taps].
struct Weight {
  const int32_t* ptr;
  const int32_t* col;
  const int32_t* t_ptr;  // null: not known
  int64_t rows, cols, nnz;
  Tensor columns;  // that `col` points to
  double density() const { return static_cast<double>(nnz) / static_cast<double>(std::max<int64_t>(1, rows * cols)); }
};

// The nonzeros of a product in order, by rows and segments.
struct Order {
  std::vector<int32_t> bounds;
  std::unique_ptr<int32_t[]> offset;
  std::unique_ptr<char[]> values;
  int64_t segments;
};

// The order of the forward pass and the gradient of the weight: by output channels.
Order forward_order(const Weight& weight, const Planes& planes);

// The order of the gradient of the input: by input channels and grids, there by output channels. `values` are
// factors of `size` bytes.
Order backward_order(const Weight& weight, const void* values, int size, const Planes& planes, int64_t channels);

}  // namespace sparsekern
