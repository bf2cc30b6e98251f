// A pattern in 16-bit columns and rows, for the kernels of the linear layer: O(nnz + rows * strips).
#include "cpu/csr.h"
#include "cpu/narrow.h"
#include "cpu/parallel.h"

namespace sparsekern {

Tensor narrow_pattern(const Tensor& row_ptr, const Tensor& col, int64_t cols) {
  require(cols >= 0, "cols must not be negative, got ", cols);
  const Csr csr = pattern_of(row_ptr, col, cols);
  require(csr.rows <= kNarrowest && cols <= kNarrowest, "a narrow index has up to ", kNarrowest,
          " rows and columns, got ", csr.rows, " x ", cols);
  Tensor narrow = torch::stable::new_empty(col, {narrow_bytes(csr.rows, cols, col.numel())}, ScalarType::Byte);
  torch::stable::zero_(narrow);
  write_narrow_header(narrow.mutable_data_ptr(), csr.rows, cols, csr.nnz);
  const NarrowView view = narrow_view(narrow.const_data_ptr(), csr.ptr);
  parallel_for(0, csr.rows, 64, [&](int64_t begin, int64_t end) { narrow_rows(view, csr.col, begin, end); });
  parallel_for(0, view.strips, 1, [&](int64_t begin, int64_t end) { count_columns(view, begin, end); });
  start_columns(view);
  parallel_for(0, view.strips, 1, [&](int64_t begin, int64_t end) { fill_columns(view, begin, end); });
  return narrow;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("narrow_pattern", TORCH_BOX(&sparsekern::narrow_pattern)); }
