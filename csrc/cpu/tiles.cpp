#include "cpu/tiles.h"

#include <algorithm>

namespace sparsekern {
namespace {

// Sorts what counts[0..side) counts by count, most first, ties as they stand: order and the counts in this order.
void sort_counts(const uint8_t* counts, int64_t side, uint8_t* order, uint8_t* sorted) {
  int32_t first[kMostSide + 2] = {};
  for (int64_t i = 0; i < side; ++i) ++first[kMostSide - counts[i] + 1];
  for (int64_t n = 0; n <= kMostSide; ++n) first[n + 1] += first[n];
  for (int64_t i = 0; i < side; ++i) {
    const int32_t at = first[kMostSide - counts[i]]++;
    order[at] = static_cast<uint8_t>(i);
    sorted[at] = counts[i];
  }
}

}  // namespace

int64_t tile_bytes(int64_t rows, int64_t cols, int64_t nnz, int64_t side) {
  const int64_t tiles = ((rows + side - 1) / side) * ((cols + side - 1) / side);
  return 4 * (kCompactHeader + tiles + 1) + part_bytes(2 * nnz) + part_bytes(nnz) + 4 * tiles * side;
}

void write_tile_header(void* tiles, int64_t rows, int64_t cols, int64_t nnz, int64_t side) {
  int32_t* header = static_cast<int32_t*>(tiles);
  header[0] = static_cast<int32_t>(rows), header[1] = static_cast<int32_t>(cols);
  header[2] = static_cast<int32_t>(side), header[3] = static_cast<int32_t>(nnz);
}

TileView tile_view(const void* tiles, const int32_t* row_ptr) {
  const int32_t* header = static_cast<const int32_t*>(tiles);
  const int64_t rows = header[0], cols = header[1], side = header[2], nnz = header[3];
  const int64_t down = (rows + side - 1) / side, across = (cols + side - 1) / side, table = down * across * side;
  TileView view{rows, cols, side, down, across, row_ptr, header + kCompactHeader, {}, {}, {}, {}, {}, {}};
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(view.start + down * across + 1);
  view.entry = reinterpret_cast<const uint16_t*>(bytes);
  view.col = bytes + part_bytes(2 * nnz);
  view.row_order = view.col + part_bytes(nnz);
  view.row_count = view.row_order + table;
  view.col_order = view.row_count + table;
  view.col_count = view.col_order + table;
  return view;
}

void count_tiles(const TileView& t, const int32_t* col, int64_t begin, int64_t end) {
  uint8_t counts[kMostSide];
  for (int64_t i = begin; i < end; ++i) {
    const int64_t r0 = i * t.side, height = std::min(t.side, t.rows - r0);
    int32_t at[kMostSide];
    std::copy(t.row_ptr + r0, t.row_ptr + r0 + height, at);
    for (int64_t j = 0; j < t.across; ++j) {
      const int64_t c0 = j * t.side;
      uint8_t* in_column = table(t.col_count) + (j * t.down + i) * t.side;
      std::fill_n(in_column, t.side, uint8_t(0));
      std::fill_n(counts, t.side, uint8_t(0));
      for (int64_t r = 0; r < height; ++r) {
        const int32_t stop = t.row_ptr[r0 + r + 1], first = at[r];
        int32_t k = first;
        for (; k < stop && col[k] < c0 + t.side; ++k) {
          const auto c = static_cast<uint8_t>(col[k] - c0);
          table(t.col)[k] = c;
          ++in_column[c];
        }
        counts[r] = static_cast<uint8_t>(k - first);
        at[r] = k;
      }
      const int64_t by_rows = (i * t.across + j) * t.side, by_columns = (j * t.down + i) * t.side;
      table(t.start)[j * t.down + i + 1] = 0;
      for (int64_t r = 0; r < height; ++r) table(t.start)[j * t.down + i + 1] += counts[r];
      sort_counts(counts, t.side, table(t.row_order) + by_rows, table(t.row_count) + by_rows);
      std::copy(in_column, in_column + t.side, counts);
      sort_counts(counts, t.side, table(t.col_order) + by_columns, in_column);
    }
  }
}

void start_tiles(const TileView& t) {
  int32_t* start = table(t.start);
  start[0] = 0;
  for (int64_t i = 0; i < t.down * t.across; ++i) start[i + 1] += start[i];
}

void fill_tiles(const TileView& t, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t r0 = i * t.side, height = std::min(t.side, t.rows - r0);
    int32_t at[kMostSide];
    std::copy(t.row_ptr + r0, t.row_ptr + r0 + height, at);
    for (int64_t j = 0; j < t.across; ++j) {
      const uint8_t* by_columns = t.col_order + (j * t.down + i) * t.side;
      const uint8_t* count = t.col_count + (j * t.down + i) * t.side;
      int32_t next[kMostSide];
      for (int32_t c = 0, to = t.start[j * t.down + i]; c < t.side; to += count[c++]) next[by_columns[c]] = to;
      uint8_t counts[kMostSide];
      const int64_t by_rows = (i * t.across + j) * t.side;
      for (int64_t r = 0; r < t.side; ++r) counts[t.row_order[by_rows + r]] = t.row_count[by_rows + r];
      for (int64_t r = 0; r < height; ++r) {
        for (int32_t place = 0; place < counts[r]; ++place)
          table(t.entry)[next[t.col[at[r] + place]]++] = static_cast<uint16_t>(r | place << 8);
        at[r] += counts[r];
      }
    }
  }
}

bool rows_fit(const TileView& t, int64_t i) {
  const int64_t r0 = i * t.side, height = std::min(t.side, t.rows - r0);
  const int32_t* stop = t.row_ptr + r0 + 1;
  int32_t at[kMostSide];
  std::copy(stop - 1, stop + height - 1, at);
  for (int64_t j = 0; j < t.across; ++j) {
    const uint8_t* order = t.row_order + (i * t.across + j) * t.side;
    const uint8_t* counts = t.row_count + (i * t.across + j) * t.side;
    for (int64_t r = 0; r < t.side && counts[r]; ++r)
      if (order[r] >= height || (at[order[r]] += counts[r]) > stop[order[r]]) return false;
  }
  return std::equal(at, at + height, stop);
}

void positions_from(const TileView& t, int64_t first, int32_t* positions) {
  std::copy(t.row_ptr, t.row_ptr + t.rows, positions);
  std::fill(positions + t.rows, positions + t.down * t.side, t.row_ptr[t.rows]);
  for (int64_t i = 0; i < t.down; ++i) {
    for (int64_t j = 0; j < first; ++j) {
      const int64_t at = (i * t.across + j) * t.side;
      for (int64_t r = 0; r < t.side && t.row_count[at + r]; ++r)
        positions[i * t.side + t.row_order[at + r]] += t.row_count[at + r];
    }
  }
}

}  // namespace sparsekern
