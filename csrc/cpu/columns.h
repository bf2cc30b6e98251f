// The columns of a pattern, row by row, in whichever form they are held: a vector, or a compact index.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "cpu/compact.h"
#include "cpu/csr.h"
#include "cpu/parallel.h"
#include "cpu/workspace.h"

namespace sparsekern {

Tensor bit_columns(const Tensor& row_ptr, const Tensor& bits, int64_t cols, int64_t capacity);
Tensor compact_columns(const Tensor& row_ptr, const Tensor& compact, int64_t cols, int64_t capacity);

// `col` of an index, decoded where a compact index or a bitmask is in its place.
inline Tensor column_vector(const std::vector<Tensor>& index, int64_t cols) {
  const Tensor &row_ptr = index[kRowPtr], &col = index[kCol], &compact = index[kCompact], &bits = index[kBits];
  if (col.dim() == 1) return col;
  return compact.numel() > 0 ? compact_columns(row_ptr, compact, cols, col.size(0))
                             : bit_columns(row_ptr, bits, cols, col.size(0));
}

class Columns {
 public:
  // `columns` is int32 `[capacity]`, or a compact index in uint8.
  Columns(const Tensor& row_ptr, const Tensor& columns, int64_t cols)
      : ptr_(pointer_data(row_ptr, "row_ptr")), rows_(row_ptr.numel() - 1), cols_(cols) {
    if (columns.scalar_type() != ScalarType::Byte)
      col_ = index_data(columns, ptr_[rows_], "col");
    else if (is_narrow(columns))
      narrow_ = narrow_of(columns, ptr_, rows_, cols).col;
    else
      tiles_ = tiles_of(columns, ptr_, rows_, cols);
  }

  const int32_t* ptr() const { return ptr_; }
  int64_t rows() const { return rows_; }

  // f(row, its columns) for rows [start, stop), in parallel on `grain` of them or more. Skips rows with a column out of
  // range, and raises at the end.
  template <class F>
  void each(int64_t start, int64_t stop, int64_t grain, const F& f) const {
    std::atomic<bool> wrong{false};
    const auto row = [&](int64_t r, const int32_t* columns) {
      if (in_range(columns, ptr_[r + 1] - ptr_[r], cols_))
        f(r, columns);
      else
        wrong = true;
    };
    if (narrow_) {
      parallel_for(start, stop, grain, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          int32_t* columns = memory(ptr_[r + 1] - ptr_[r]);
          std::copy(narrow_ + ptr_[r], narrow_ + ptr_[r + 1], columns);
          row(r, columns);
        }
      });
    } else if (tiles_.side == 0) {
      parallel_for(start, stop, grain, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) row(r, col_ + ptr_[r]);
      });
    } else if (start < stop) {
      const int64_t side = tiles_.side, first = start / side, last = (stop - 1) / side + 1;
      parallel_for(first, last, std::max<int64_t>(1, grain / side), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t r0 = i * side, r1 = std::min(rows_, r0 + side);
          int32_t* columns = memory(ptr_[r1] - ptr_[r0]);
          if (!read_columns(tiles_, i, columns)) {
            wrong = true;
            continue;
          }
          for (int64_t r = std::max(start, r0); r < std::min(stop, r1); ++r) row(r, columns + ptr_[r] - ptr_[r0]);
        }
      });
    }
    require(!wrong, "col must lie in [0, ", cols_, ")");
  }

 private:
  static int32_t* memory(int64_t columns) { return reinterpret_cast<int32_t*>(workspace(columns * sizeof(int32_t))); }

  const int32_t* ptr_;
  int64_t rows_, cols_;
  const int32_t* col_ = nullptr;
  const uint16_t* narrow_ = nullptr;
  TileView tiles_{};
};

}  // namespace sparsekern
