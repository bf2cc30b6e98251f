// The active entries of dense rows, into their slots.
#include <algorithm>

#include "common.h"
#include "cpu/columns.h"
#include "dtypes.h"

namespace sparsekern {

void collect(const Tensor& dense, const Tensor& row_ptr, const Tensor& col, int64_t start, int64_t stop, Tensor out) {
  const int64_t cols = dense.dim() == 2 ? dense.size(1) : 0;
  const Columns columns(row_ptr, col, cols);
  const int32_t* ptr = columns.ptr();
  const int64_t rows = columns.rows();
  require_rows(start, stop, rows);
  require(dense.dim() == 2 && dense.size(0) == stop - start, "dense must have ", stop - start, " rows");
  require(out.dim() == 1 && out.is_contiguous() && out.numel() >= ptr[rows],
          "out must be contiguous and 1-D with at least ", ptr[rows], " elements, got ", out.numel());
  const int64_t row_stride = dense.stride(0), col_stride = dense.stride(1);
  with_floating_type(dense.scalar_type(), "dense", [&](auto in) {
    with_floating_type(out.scalar_type(), "out", [&](auto to) {
      using In = decltype(in);
      using Out = decltype(to);
      const In* d = data<In>(dense);
      Out* o = mutable_data<Out>(out);
      const int64_t grain = std::max<int64_t>(1, (1 << 13) * (stop - start) / (1 + ptr[stop] - ptr[start]));
      columns.each(start, stop, grain, [&](int64_t r, const int32_t* c) {
        const In* row = d + (r - start) * row_stride;
        for (int32_t k = ptr[r]; k < ptr[r + 1]; ++k) o[k] = static_cast<Out>(row[*c++ * col_stride]);
      });
    });
  });
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("collect", TORCH_BOX(&sparsekern::collect)); }
