// Where the segments of `TILE` consecutive columns start in every row.
#include <algorithm>

#include "common.h"

namespace sparsekern {

constexpr int32_t TILE = 64;

Tensor tile_index(const Tensor& ptr, const Tensor& index, int64_t extent) {
  const int64_t rows = ptr.numel() - 1, tiles = (extent + TILE - 1) / TILE;
  const int32_t* p = index_data(ptr, 1, "ptr");
  const int32_t* c = index_data(index, p[rows], "index");
  require(extent > 0 || p[rows] == 0, "extent must be above every index, got ", extent);
  Tensor starts = torch::stable::new_empty(index, {rows, tiles + 1});
  int32_t* s = mutable_data<int32_t>(starts);
  const auto last = static_cast<uint32_t>(std::max<int64_t>(extent - 1, 0));
  const int64_t grain = std::max<int64_t>(1, (1 << 12) / (tiles + 1));
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      // No branch that depends on a column: every slot says where the segment behind it would start; the last is right.
      int32_t* row = s + r * (tiles + 1);
      std::fill(row, row + tiles + 1, p[r]);
      for (int32_t k = p[r]; k < p[r + 1]; ++k) row[std::min<uint32_t>(c[k], last) / TILE + 1] = k + 1;
      for (int64_t t = 0; t < tiles; ++t) row[t + 1] = std::max(row[t], row[t + 1]);
    }
  });
  return starts;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("tile_index", TORCH_BOX(&sparsekern::tile_index)); }
