// Rows of a sparse matrix, dense.
#include <algorithm>

#include "common.h"
#include "cpu/columns.h"
#include "dtypes.h"

namespace sparsekern {

Tensor expand(const Tensor& values, const Tensor& row_ptr, const Tensor& col, int64_t start, int64_t stop,
              int64_t cols) {
  const Columns columns(row_ptr, col, cols);
  const int32_t* ptr = columns.ptr();
  const int64_t rows = columns.rows();
  require_rows(start, stop, rows);
  require(values.dim() == 1 && values.numel() >= ptr[rows], "values must be 1-D with at least ", ptr[rows],
          " elements, got ", values.numel());
  Tensor dense = torch::stable::new_empty(values, {stop - start, cols});
  const Tensor flat = torch::stable::contiguous(values);
  with_floating_type(values.scalar_type(), "values", [&](auto zero) {
    using T = decltype(zero);
    const T* v = data<T>(flat);
    T* out = mutable_data<T>(dense);
    const int64_t grain = std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, cols));
    columns.each(start, stop, grain, [&](int64_t r, const int32_t* c) {
      T* row = out + (r - start) * cols;
      std::fill(row, row + cols, zero);
      for (int32_t k = ptr[r]; k < ptr[r + 1]; ++k) row[*c++] = v[k];
    });
  });
  return dense;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("expand", TORCH_BOX(&sparsekern::expand)); }
