// The weight of a linear layer as its values and its bitmask, and the batch that it meets: what the kernels that expand
// it read.
#pragma once

#include <algorithm>
#include <vector>

#include "common.h"
#include "cpu/bitmask.h"
#include "cpu/dispatch.h"
#include "cpu/products.h"
#include "cpu/tensors.h"
#include "dtypes.h"

namespace sparsekern {

Tensor bit_index(const Tensor& row_ptr, const Tensor& col, int64_t cols);

struct PackedWeight {
  Tensor bits, values;
  Bitmask mask;
  int64_t cols, size, capacity;
  const BitKernels& kernels;
  const char* data;

  int64_t rows() const { return mask.rows; }
  int64_t nnz() const { return mask.start(mask.rows); }
  bool full() const { return nnz() == mask.rows * cols; }  // the values are the matrix
  const char* at(int64_t position) const { return data + position * size; }

  // Expands words [word, word + count) of row r, whose values start at `position`; returns how many they are.
  int64_t expand(int64_t r, int64_t word, int64_t count, int64_t position, char* out) const {
    position = std::min(position, capacity);
    return kernels.expand(mask.row(r) + word, count, at(position), capacity - position, out);
  }
};

inline PackedWeight packed_weight(const std::vector<Tensor>& index, const Tensor& values, int64_t rows, int64_t cols) {
  require_parts(index);
  const Tensor& row_ptr = index[kRowPtr];
  const Tensor bits = index[kBits].numel() > 0 ? index[kBits] : bit_index(row_ptr, index[kCol], cols);
  const Bitmask mask = bitmask_of(row_ptr, bits, cols);
  require(mask.rows == rows, "index describes ", mask.rows, " rows, expected ", rows);
  const int64_t size = size_of(values.scalar_type(), "values"), nnz = mask.start(rows);
  require(values.dim() == 1 && values.numel() >= nnz, "values must be 1-D with at least ", nnz, " elements, got ",
          values.numel());
  const Tensor packed = dense_vector(values);
  const char* data = static_cast<const char*>(packed.const_data_ptr());
  return {bits, packed, mask, cols, size, values.numel(), bit_kernels(size), data};
}

// [*, features], a contiguous matrix.
struct Batch {
  Tensor tensor;
  ScalarType dtype;
  int64_t size, features, rows = 1;
  char* data;

  Batch(const Tensor& t, const PackedWeight& w)
      : tensor(dense_vector(t)),
        dtype(t.scalar_type()),
        size(w.size),
        features(t.size(t.dim() - 1)),
        data(static_cast<char*>(const_cast<void*>(tensor.const_data_ptr()))) {
    require(dtype == w.values.scalar_type(), "operands must have one dtype, got ", dtype, " and ",
            w.values.scalar_type());
    for (int64_t d = 0; d + 1 < t.dim(); ++d) rows *= t.size(d);
  }

  char* at(int64_t row, int64_t column) const { return data + (row * features + column) * size; }
  Tensor all() const { return matrix(at(0, 0), dtype, rows, features, features); }
  Tensor block(int64_t row, int64_t height, int64_t column, int64_t width) const {
    return matrix(at(row, column), dtype, height, width, features);
  }
};

}  // namespace sparsekern
