// Panels of batch columns for the kernels of cpu/simd/linear.h: activations are packed into them, results unpacked.
#pragma once

#include "cpu/simd/factors-inl.h"
#include "cpu/simd/linear.h"

namespace sparsekern {
namespace linear {
namespace {

// Of factors of type T.
template <class T>
constexpr int kPanelVectors = kHalves<T> == 2          ? 4
                              : kPanel / kLanes<T> < 8 ? kPanel / kLanes<T>
                                                       : 8;

// ---- packing

// Takes the input a vector of batch columns at a time, so that it is read in few streams. Pairs have the columns in the
// order of `transpose_factors`.
template <class S, class T = Sum<S>>
void pack(const void* input, int64_t stride, const Panel& panel, int64_t begin, int64_t end, void* packed,
          void* sums_) {
  constexpr int F = kFactors<T>;
  const int64_t width = panel.width;
  auto* sums = static_cast<Sum<S>*>(sums_);
  for (int64_t b = 0; b < width; b += F) {
    const S* in = static_cast<const S*>(input) + (panel.begin + b) * stride;
    T* to = static_cast<T*>(packed) + b;
    const int64_t m = least(F, panel.columns - b);
    for (int64_t f = begin; f < end; f += F) {
      const int64_t n = least(F, end - f);
      Factors<T> rows[F];
      if (n == F && m == F) {
#pragma GCC unroll 32
        for (int i = 0; i < F; ++i) rows[i] = read_factors<T>(in + i * stride + f);
      } else {
        for (int i = 0; i < F; ++i) rows[i] = i < m ? read_factors<T>(in + i * stride + f, n) : Factors<T>{};
      }
      if (sums) {
        RowSums<T> total(sums + f, n, b > 0);
#pragma GCC unroll 32
        for (int i = 0; i < F; ++i) total.add(rows[i]);
        total.write();
      }
      transpose_factors(rows);
      if (n == F) {
#pragma GCC unroll 32
        for (int i = 0; i < F; ++i) store_factors(to + (f + i) * width, rows[i]);
      } else {
        for (int i = 0; i < n; ++i) store_factors(to + (f + i) * width, rows[i]);
      }
    }
  }
}

// out = the sum of `count` vectors that lie `stride` elements apart
template <class S>
void combine(const void* parts, int64_t count, int64_t stride, int64_t begin, int64_t end, void* out) {
  using A = Sum<S>;
  constexpr int L = kLanes<A>;
  const A* from = static_cast<const A*>(parts);
  S* to = static_cast<S*>(out);
  for (int64_t k = begin; k < end; k += L) {
    const int64_t n = least(L, end - k);
    Vector<A> sum = n == L ? load(from + k) : load_part(from + k, n, Vector<A>{});
    for (int64_t i = 1; i < count; ++i) {
      const A* p = from + i * stride + k;
      sum += n == L ? load(p) : load_part(p, n, sum);
    }
    if (n == L)
      store(to + k, sum);
    else
      store_part(to + k, sum, n);
  }
}

template <class S>
void widen_values(const void* values, int64_t begin, int64_t end, void* wide) {
  using A = Sum<S>;
  for (int64_t k = begin; k < end; k += kLanes<A>)
    store_part(static_cast<A*>(wide) + k, load_part(static_cast<const S*>(values) + k, end - k, Vector<A>{}), end - k);
}

// Writes sums [rows][width] of a block as out[batch column][row].
template <class S, class A>
void unpack(const A* sums, int64_t width, int64_t columns, int64_t rows, S* out, int64_t stride) {
  constexpr int L = kLanes<A>;
  for (int64_t b = 0; b < columns; b += L) {
    const int64_t m = least(L, columns - b);
    for (int64_t r = 0; r < rows; r += L) {
      const int64_t n = least(L, rows - r);
      Vector<A> block[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) block[i] = load(sums + (r + i) * width + b);
      transpose(block);
      if (n == L && m == L) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store(out + (b + i) * stride + r, block[i]);
      } else {
        for (int i = 0; i < m; ++i) store_part(out + (b + i) * stride + r, block[i], n);
      }
    }
  }
}

}  // namespace
}  // namespace linear
}  // namespace sparsekern
