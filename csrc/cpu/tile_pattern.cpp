// A pattern in tiles, as the L1-blocked kernels of the linear layer walk it: O(nnz + rows * tiles across); and back.
#include "cpu/tile_pattern.h"

#include <algorithm>
#include <atomic>

#include "cpu/csr.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace sparsekern {

TileView tiles_of(const Tensor& tiles, const int32_t* row_ptr, int64_t rows, int64_t cols) {
  const int64_t nnz = row_ptr[rows];
  const bool bytes = tiles.scalar_type() == ScalarType::Byte && tiles.is_contiguous();
  const int32_t* header = bytes && tiles.numel() >= 4 * kTileHeader ? data<int32_t>(tiles) : nullptr;
  const bool fits = header && header[0] == rows && header[1] == cols && header[2] > 0 && header[2] <= kMostSide &&
                    header[3] == nnz && tiles.numel() >= tile_bytes(rows, cols, nnz, header[2]);
  require(fits, "tiles must be those of a ", rows, " x ", cols, " pattern of ", nnz, " nonzeros, made by tile_pattern");
  return tile_view(header, row_ptr);
}

bool read_columns(const TileView& tiles, int64_t i, int32_t* columns) {
  if (!rows_fit(tiles, i)) return false;
  linear_kernels(Storage::float32).tile_columns(tiles, i, columns);
  return true;
}

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

Tensor tile_columns(const Tensor& row_ptr, const Tensor& tiles, int64_t cols, int64_t capacity) {
  const int32_t* ptr = pointer_data(row_ptr, "row_ptr");
  const int64_t rows = row_ptr.numel() - 1, nnz = ptr[rows];
  require(nnz <= capacity, "capacity must be at least ", nnz, ", got ", capacity);
  const TileView view = tiles_of(tiles, ptr, rows, cols);
  Tensor col = torch::stable::new_empty(row_ptr, {capacity});
  int32_t* out = mutable_data<int32_t>(col);
  std::fill(out + nnz, out + capacity, 0);
  std::atomic<bool> wrong{false};
  parallel_for(0, view.down, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (!read_columns(view, i, out + ptr[i * view.side])) wrong = true;
  });
  require(!wrong, "tiles must have as many nonzeros in each row as row_ptr says");
  pattern_of(row_ptr, col, cols, "columns in tiles");
  return col;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) {
  m.impl("tile_pattern", TORCH_BOX(&sparsekern::tile_pattern));
  m.impl("tile_columns", TORCH_BOX(&sparsekern::tile_columns));
}
