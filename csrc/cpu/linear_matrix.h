// The weight of a sparse linear layer as its index holds it, checked, and the shares of it that threads work on.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "common.h"
#include "cpu/compact.h"
#include "cpu/csr.h"
#include "cpu/shares.h"
#include "cpu/simd/linear.h"

namespace sparsekern {

struct Matrix {
  int64_t nnz = 0;
  CsrView csr{};  // by output features
  CsrView csc{};  // by input features: of a narrow index, its pointers
  bool tiled = false, narrow = false;
  TileView tiles{};
  NarrowView by_strips{};

  // Whether kernels walk over the nonzeros for one input.
  bool walked(int64_t batch) const { return batch == 1 && !tiled; }

  double density(int64_t rows, int64_t cols) const {
    return static_cast<double>(nnz) / std::max<int64_t>(1, rows * cols);
  }
};

inline Matrix matrix_of(const std::vector<Tensor>& index, const Tensor& input, const Tensor& values,
                        int64_t out_features) {
  require_parts(index);
  const int32_t* ptr = pointer_data(index[kRowPtr], "row_ptr");
  const int64_t rows = index[kRowPtr].numel() - 1;
  const int64_t cols = index[kTPtr].size(0) - 1;  // it may be empty
  require(rows == out_features, "row_ptr describes ", rows, " rows, but out_features is ", out_features);
  require(input.dim() > 0 && input.size(input.dim() - 1) == cols, "input must have ", cols,
          " features in its last dimension, got ", input.dim() > 0 ? input.size(input.dim() - 1) : 0);
  require(values.scalar_type() == input.scalar_type(), "values must have the input's dtype ", input.scalar_type(),
          ", got ", values.scalar_type());
  require(values.dim() == 1, "values must be a vector, got ", values.dim(), " dimensions");
  const int64_t nnz = ptr[rows];
  require(values.numel() >= nnz, "values must hold the ", nnz, " nonzeros of row_ptr, got ", values.numel());
  const Tensor& compact = index[kCompact];
  Matrix matrix{nnz};
  if (is_narrow(compact)) {
    const NarrowView n = matrix.by_strips = narrow_of(compact, ptr, rows, cols);
    require(ascend(n.col_ptr, cols) && n.col_ptr[cols] == nnz,
            "columns of a narrow index must start one after another, ", "and end with the ", nnz,
            " nonzeros of row_ptr");
    matrix.narrow = true;
    matrix.csr = {ptr, nullptr, nullptr, rows, cols, n.col};
    matrix.csc = {n.col_ptr, nullptr, nullptr, cols, rows, n.row};
    return matrix;
  }
  if (compact.numel() > 0) {
    matrix.tiled = true, matrix.tiles = tiles_of(compact, ptr, rows, cols);
    return matrix;
  }
  const int32_t* t_ptr = pointer_data(index[kTPtr], "t_ptr");
  require(t_ptr[cols] == nnz, "t_ptr must end with the ", nnz, " nonzeros of row_ptr, got ", t_ptr[cols]);
  matrix.csr = {ptr, index_data(index[kCol], nnz, "col"), nullptr, rows, cols};
  matrix.csc = {t_ptr, index_data(index[kTRow], nnz, "t_row"), index_data(index[kTPos], nnz, "t_pos"), cols, rows};
  return matrix;
}

// The rows of a matrix, in equal shares of the nonzeros.
inline std::pair<int64_t, int64_t> rows_of(const CsrView& csr, int64_t part, int64_t parts) {
  return row_range(csr.rows, kRowBlock, part, parts, [&](int64_t row) -> int64_t { return csr.ptr[row]; });
}

// The same for rows of tiles.
inline std::pair<int64_t, int64_t> rows_of(const TileView& t, int64_t part, int64_t parts) {
  return row_range(t.down, 1, part, parts,
                   [&](int64_t i) -> int64_t { return t.row_ptr[std::min(t.rows, i * t.side)]; });
}

// The same for columns of tiles.
inline std::pair<int64_t, int64_t> columns_of(const TileView& t, int64_t part, int64_t parts) {
  return row_range(t.across, 1, part, parts, [&](int64_t j) -> int64_t { return t.start[j * t.down]; });
}

// Positions of rows that a walk over columns keeps.
inline int64_t positions_of(const Matrix& matrix) {
  if (matrix.tiled) return matrix.tiles.down * matrix.tiles.side;
  return matrix.narrow ? matrix.by_strips.rows : 0;
}

}  // namespace sparsekern
