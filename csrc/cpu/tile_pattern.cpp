// A pattern in tiles, as the L1-blocked kernels of the linear layer walk it: O(nnz + rows * tiles across).
#include "cpu/csr.h"
#include "cpu/parallel.h"
#include "cpu/tiles.h"

namespace sparsekern {

Tensor tile_pattern(const Tensor& row_ptr, const Tensor& col, int64_t cols, int64_t side) {
  require(cols >= 0, "cols must not be negative, got ", cols);
  require(side > 0 && side <= kMostSide && side % 16 == 0, "side must be a multiple of 16 up to ", kMostSide, ", got ",
          side);
  const Csr csr = pattern_of(row_ptr, col, cols);
  Tensor tiles = torch::stable::new_empty(col, {tile_bytes(csr.rows, cols, col.numel(), side)}, ScalarType::Byte);
  torch::stable::zero_(tiles);
  write_tile_header(tiles.mutable_data_ptr(), csr.rows, cols, csr.nnz, side);
  const TileView view = tile_view(tiles.const_data_ptr(), csr.ptr);
  parallel_for(0, view.down, 1, [&](int64_t begin, int64_t end) { count_tiles(view, csr.col, begin, end); });
  start_tiles(view);
  parallel_for(0, view.down, 1, [&](int64_t begin, int64_t end) { fill_tiles(view, begin, end); });
  return tiles;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("tile_pattern", TORCH_BOX(&sparsekern::tile_pattern)); }
