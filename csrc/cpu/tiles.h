// A pattern in square tiles, as the L1-blocked kernels of the linear layer walk it.
//
// A tile is `side` rows by `side` columns, at most 240, so that a row or a column within it takes one byte. Values stay
// in the order of the CSR index. Forward and for the gradient of the values a tile is walked by rows: the nonzeros of a
// row of a tile lie together, and `col` tells their columns. For the gradient of the input it is walked by columns:
// an entry is the row in the tile and the place among the row's nonzeros there. Rows and columns of a tile are walked
// in the order of their counts, most first, so that the ends of the inner loops can be predicted.
#pragma once

#include <cstdint>

#include "cpu/compact_parts.h"

namespace sparsekern {

constexpr int64_t kMostSide = 240;

struct TileView {
  int64_t rows, cols, side, down, across;
  const int32_t* row_ptr;    // [rows + 1] of the CSR index
  const int32_t* start;      // [across * down + 1], the entries before each tile; tiles by columns
  const uint16_t* entry;     // [nnz], row | place << 8
  const uint8_t* col;        // [nnz], in the order of the CSR index
  const uint8_t* row_order;  // [down][across][side]
  const uint8_t* row_count;
  const uint8_t* col_order;  // [across][down][side]
  const uint8_t* col_count;
};

// Bytes of the tiles of a pattern.
int64_t tile_bytes(int64_t rows, int64_t cols, int64_t nnz, int64_t side);

// The parts of `tiles`, a block of as many bytes whose header is written.
TileView tile_view(const void* tiles, const int32_t* row_ptr);
void write_tile_header(void* tiles, int64_t rows, int64_t cols, int64_t nnz, int64_t side);

// Makes tiles of a pattern: counts of the rows of tiles [begin, end), then where the entries of every tile start, then
// the entries of the rows of tiles [begin, end).
void count_tiles(const TileView& tiles, const int32_t* col, int64_t begin, int64_t end);
void start_tiles(const TileView& tiles);
void fill_tiles(const TileView& tiles, int64_t begin, int64_t end);

// Whether the counts of the i-th row of tiles are those of its rows.
bool rows_fit(const TileView& tiles, int64_t i);

// positions[row] = where row's nonzeros from column of tiles `first` on begin; rows past the last one have none.
void positions_from(const TileView& tiles, int64_t first, int32_t* positions);

}  // namespace sparsekern
