// Where the segments of `kSegment` consecutive columns start in every row.
#include <algorithm>

#include "common.h"
#include "cpu/csr.h"
#include "cpu/parallel.h"

namespace sparsekern {

constexpr int32_t kSegment = 64;

Tensor segment_index(const Tensor& row_ptr, const Tensor& col, int64_t cols) {
  require(cols >= 0, "cols must not be negative, got ", cols);
  const Csr csr = pattern_of(row_ptr, col, cols);
  const int32_t *p = csr.ptr, *c = csr.col;
  const int64_t rows = csr.rows, segments = (cols + kSegment - 1) / kSegment;
  Tensor starts = torch::stable::new_empty(col, {rows, segments + 1});
  int32_t* s = mutable_data<int32_t>(starts);
  const int64_t grain = std::max<int64_t>(1, (1 << 12) / (segments + 1));
  parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      // No branch that depends on a column: every slot says where the segment behind it would start; the last is right.
      int32_t* row = s + r * (segments + 1);
      std::fill(row, row + segments + 1, p[r]);
      for (int32_t k = p[r]; k < p[r + 1]; ++k) row[c[k] / kSegment + 1] = k + 1;
      for (int64_t t = 0; t < segments; ++t) row[t + 1] = std::max(row[t], row[t + 1]);
    }
  });
  return starts;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("segment_index", TORCH_BOX(&sparsekern::segment_index)); }
