// Rows of a sparse matrix, dense.
#include <algorithm>
#include <atomic>

#include "common.h"
#include "cpu/csr.h"
#include "cpu/parallel.h"
#include "dtypes.h"

namespace sparsekern {

Tensor expand(const Tensor& values, const Tensor& row_ptr, const Tensor& col, int64_t start, int64_t stop,
              int64_t cols) {
  const Csr csr = pointers_of(row_ptr, col);
  const int32_t *ptr = csr.ptr, *c = csr.col;
  const int64_t rows = csr.rows;
  require(0 <= start && start <= stop && stop <= rows, "expected 0 <= start <= stop <= ", rows, ", got ", start,
          " and ", stop);
  require(values.dim() == 1 && values.numel() >= ptr[rows], "values must be 1-D with at least ", ptr[rows],
          " elements, got ", values.numel());
  std::atomic<bool> wrong{false};
  Tensor dense = torch::stable::new_empty(values, {stop - start, cols});
  const Tensor flat = torch::stable::contiguous(values);
  with_floating_type(values.scalar_type(), "values", [&](auto zero) {
    using T = decltype(zero);
    const T* v = data<T>(flat);
    T* out = mutable_data<T>(dense);
    const int64_t grain = std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, cols));
    parallel_for(start, stop, grain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        T* row = out + (r - start) * cols;
        std::fill(row, row + cols, zero);
        if (!in_range(c + ptr[r], ptr[r + 1] - ptr[r], cols)) {
          wrong = true;
          continue;
        }
        for (int32_t k = ptr[r]; k < ptr[r + 1]; ++k) row[c[k]] = v[k];
      }
    });
  });
  require(!wrong, "col must lie in [0, ", cols, ")");
  return dense;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("expand", TORCH_BOX(&sparsekern::expand)); }
