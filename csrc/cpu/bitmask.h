// A pattern as a bitmask: row pointers and, for every 64 columns of a row, a word whose lowest bit is the first.
#pragma once

#include "cpu/csr.h"

namespace sparsekern {

constexpr int64_t kWord = 64;

struct Bitmask {
  const int32_t* ptr;  // row r starts at ptr[r * stride]
  int64_t stride;
  const uint64_t* words;
  int64_t rows, segments;

  const uint64_t* row(int64_t r) const { return words + r * segments; }
  int64_t start(int64_t r) const { return ptr[r * stride]; }

  // How many bits are set in words [begin, end) of a row.
  int64_t count(int64_t r, int64_t begin, int64_t end) const {
    int64_t count = 0;
    for (const uint64_t* w = row(r) + begin; w < row(r) + end; ++w) count += __builtin_popcountll(*w);
    return count;
  }
};

inline const uint64_t* words_of(const Tensor& bits, int64_t rows, int64_t cols) {
  require(bits.scalar_type() == ScalarType::Long && bits.is_contiguous() && bits.dim() == 2 && bits.size(0) == rows &&
              bits.size(1) == ceil_div(cols, kWord),
          "bits must be a contiguous int64 tensor [", rows, ", ", ceil_div(cols, kWord), "]");
  return data<uint64_t>(bits);
}

// `pointers` are row pointers `[rows + 1]` or those of segments `[rows, segments + 1]`, of which the first are the
// rows'.
inline Bitmask bitmask_of(const Tensor& pointers, const Tensor& bits, int64_t cols) {
  if (pointers.dim() == 2) {
    const int64_t rows = pointers.size(0), segments = ceil_div(cols, kWord);
    require(pointers.size(1) == segments + 1, "segment_ptr must have ", segments + 1, " columns, got ",
            pointers.size(1));
    return {index_data(pointers, 0, "segment_ptr"), segments + 1, words_of(bits, rows, cols), rows, segments};
  }
  const int64_t rows = pointers.numel() - 1;
  return {pointer_data(pointers, "row_ptr"), 1, words_of(bits, rows, cols), rows, ceil_div(cols, kWord)};
}

}  // namespace sparsekern
