// Searches in ascending numbers, and the CSR pattern as an ascending list of coordinates.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace sparsekern {

// How many of `n` ascending numbers come before the first for which `past` holds.
template <class T, class Past>
C10_HOST_DEVICE int64_t partition_point(const T* numbers, int64_t n, Past past) {
  int64_t first = 0;
  while (n > 0) {
    const int64_t half = n / 2;
    const bool right = !past(numbers[first + half]);
    first += right ? half + 1 : 0;
    n = right ? n - half - 1 : half;
  }
  return first;
}

template <class T, class V>
C10_HOST_DEVICE int64_t count_below(const T* numbers, int64_t n, V value) {
  return partition_point(numbers, n, [value](T x) { return !(x < value); });
}

template <class T, class V>
C10_HOST_DEVICE int64_t count_up_to(const T* numbers, int64_t n, V value) {
  return partition_point(numbers, n, [value](T x) { return x > value; });
}

C10_HOST_DEVICE inline bool contains(const int64_t* ascending, int64_t n, int64_t number) {
  const int64_t i = count_below(ascending, n, number);
  return i < n && ascending[i] == number;
}

struct Pattern {
  const int32_t* ptr;
  const int32_t* col;
  int64_t rows, cols;

  C10_HOST_DEVICE int64_t row(int64_t slot) const { return count_up_to(ptr, rows + 1, slot) - 1; }
  C10_HOST_DEVICE int64_t coordinate(int64_t slot) const { return row(slot) * cols + col[slot]; }

  // The first slot whose coordinate is no less than that of row `r` and column `c`.
  C10_HOST_DEVICE int64_t slot(int64_t r, int64_t c) const {
    return ptr[r] + count_below(col + ptr[r], ptr[r + 1] - ptr[r], c);
  }

  C10_HOST_DEVICE bool active(int64_t r, int64_t c) const {
    const int64_t k = slot(r, c);
    return k < ptr[r + 1] && col[k] == c;
  }
};

}  // namespace sparsekern
