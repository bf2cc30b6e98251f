// The columns of a compact index, as a CSR index has them: O(nnz + rows).
#include <algorithm>
#include <atomic>

#include "cpu/compact.h"
#include "cpu/csr.h"
#include "cpu/parallel.h"

namespace sparsekern {

Tensor compact_columns(const Tensor& row_ptr, const Tensor& compact, int64_t cols, int64_t capacity) {
  const int32_t* ptr = pointer_data(row_ptr, "row_ptr");
  const int64_t rows = row_ptr.numel() - 1, nnz = ptr[rows];
  require(nnz <= capacity, "capacity must be at least ", nnz, ", got ", capacity);
  Tensor col = torch::stable::new_empty(row_ptr, {capacity});
  int32_t* out = mutable_data<int32_t>(col);
  std::fill(out + nnz, out + capacity, 0);
  if (is_narrow(compact)) {
    const NarrowView view = narrow_of(compact, ptr, rows, cols);
    parallel_for(0, nnz, 1 << 15,
                 [&](int64_t begin, int64_t end) { std::copy(view.col + begin, view.col + end, out + begin); });
  } else {
    const TileView view = tiles_of(compact, ptr, rows, cols);
    std::atomic<bool> wrong{false};
    parallel_for(0, view.down, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        if (!read_columns(view, i, out + ptr[i * view.side])) wrong = true;
    });
    require(!wrong, "tiles must have as many nonzeros in each row as row_ptr says");
  }
  pattern_of(row_ptr, col, cols, "columns of a compact index");
  return col;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("compact_columns", TORCH_BOX(&sparsekern::compact_columns)); }
