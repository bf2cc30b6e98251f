#include "cpu/narrow.h"

#include <algorithm>
#include <vector>

namespace sparsekern {
namespace {

// f(row, first position, end) for the nonzeros of strips [begin, end), strip by strip, and before(strip).
template <class Before, class F>
void each_strip(const NarrowView& n, int64_t begin, int64_t end, const Before& before, const F& f) {
  std::vector<int32_t> at(n.rows);
  positions_from(n, begin, at.data());
  for (int64_t j = begin; j < end; ++j) {
    before(j);
    for (int64_t r = 0; r < n.rows; ++r) {
      const int32_t first = at[r];
      at[r] += n.count[j * n.rows + r];
      f(r, first, at[r]);
    }
  }
}

}  // namespace

int64_t narrow_bytes(int64_t rows, int64_t cols, int64_t nnz) {
  const int64_t strips = (cols + kStrip - 1) / kStrip;
  return 4 * (kCompactHeader + cols + 1) + 2 * part_bytes(2 * nnz) + part_bytes(nnz) + part_bytes(strips * rows);
}

void write_narrow_header(void* narrow, int64_t rows, int64_t cols, int64_t nnz) {
  int32_t* header = static_cast<int32_t*>(narrow);
  header[0] = static_cast<int32_t>(rows), header[1] = static_cast<int32_t>(cols);
  header[2] = 0, header[3] = static_cast<int32_t>(nnz);
}

NarrowView narrow_view(const void* narrow, const int32_t* row_ptr) {
  const int32_t* header = static_cast<const int32_t*>(narrow);
  const int64_t rows = header[0], cols = header[1], nnz = header[3];
  NarrowView view{rows,    cols,   (cols + kStrip - 1) / kStrip, row_ptr, header + kCompactHeader, nullptr, nullptr,
                  nullptr, nullptr};
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(view.col_ptr + cols + 1);
  view.col = reinterpret_cast<const uint16_t*>(bytes);
  view.row = reinterpret_cast<const uint16_t*>(bytes + part_bytes(2 * nnz));
  view.place = bytes + 2 * part_bytes(2 * nnz);
  view.count = view.place + part_bytes(nnz);
  return view;
}

void narrow_rows(const NarrowView& n, const int32_t* col, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    int32_t k = n.row_ptr[r];
    const int32_t stop = n.row_ptr[r + 1];
    for (int64_t j = 0; j < n.strips; ++j) {
      const int32_t first = k;
      for (; k < stop && col[k] < (j + 1) * kStrip; ++k) table(n.col)[k] = static_cast<uint16_t>(col[k]);
      table(n.count)[j * n.rows + r] = static_cast<uint8_t>(k - first);
    }
  }
}

void count_columns(const NarrowView& n, int64_t begin, int64_t end) {
  int32_t* counts = table(n.col_ptr) + 1;
  const auto reset = [=](int64_t j) { std::fill(counts + j * kStrip, counts + std::min(n.cols, (j + 1) * kStrip), 0); };
  each_strip(n, begin, end, reset, [=](int64_t, int32_t k, int32_t stop) {
    for (; k < stop; ++k) ++counts[n.col[k]];
  });
}

void start_columns(const NarrowView& n) {
  int32_t* start = table(n.col_ptr);
  start[0] = 0;
  for (int64_t c = 0; c < n.cols; ++c) start[c + 1] += start[c];
}

void fill_columns(const NarrowView& n, int64_t begin, int64_t end) {
  int32_t next[kStrip];
  int64_t c0 = 0;
  const auto start = [&](int64_t j) {
    c0 = j * kStrip;
    std::copy(n.col_ptr + c0, n.col_ptr + std::min(n.cols, c0 + kStrip), next);
  };
  each_strip(n, begin, end, start, [&](int64_t r, int32_t first, int32_t stop) {
    for (int32_t k = first; k < stop; ++k) {
      const int32_t to = next[n.col[k] - c0]++;
      table(n.row)[to] = static_cast<uint16_t>(r);
      table(n.place)[to] = static_cast<uint8_t>(k - first);
    }
  });
}

void positions_from(const NarrowView& n, int64_t first, int32_t* positions) {
  std::copy(n.row_ptr, n.row_ptr + n.rows, positions);
  for (int64_t j = 0; j < first; ++j)
    for (int64_t r = 0; r < n.rows; ++r) positions[r] += n.count[j * n.rows + r];
}

}  // namespace sparsekern
