// Where the segments of `kSegment` consecutive columns start in every row.
#include <algorithm>

#include "common.h"
#include "cpu/csr.h"
#include "cpu/parallel.h"

namespace sparsekern {

constexpr int32_t kSegment = 64;

Tensor segment_index(const Tensor& ptr, const Tensor& index, int64_t extent) {
  require(extent >= 0, "extent must not be negative, got ", extent);
  const Csr csr = pattern_of(ptr, index, extent, "ptr", "index");
  const int32_t *p = csr.ptr, *c = csr.col;
  const int64_t rows = csr.rows, segments = (extent + kSegment - 1) / kSegment;
  Tensor starts = torch::stable::new_empty(index, {rows, segments + 1});
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
