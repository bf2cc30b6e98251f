// Panels of batch columns for the kernels of cpu/simd/linear.h: activations are packed into them, results unpacked.
#pragma once

#include "cpu/simd/linear.h"
#include "cpu/simd/vector-inl.h"

namespace sparsekern {
namespace linear {
namespace {

template <class A>
constexpr int kPanelVectors = kPanel / kLanes<A> < 8 ? kPanel / kLanes<A> : 8;

// ---- packing

// The next m batch columns of n features of `in`, at most L of both: rows[i] is what a panel has of feature i, zero
// past the columns. Adds them up to sums[i] unless that is null; the first columns of a panel begin the sums.
template <class S, class A, int L>
SPARSEKERN_INLINE void take(const S* in, int64_t stride, int64_t m, int64_t n, A* sums, bool first,
                            Vector<A> (&rows)[L]) {
  if (n == L && m == L) {
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) rows[i] = load(in + i * stride);
  } else {
    for (int i = 0; i < L; ++i) rows[i] = i < m ? load_part(in + i * stride, n, Vector<A>{}) : Vector<A>{};
  }
  if (sums) {
    Vector<A> sum = first ? Vector<A>{} : load_part(sums, n, rows[0]);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) sum += rows[i];
    store_part(sums, sum, n);
  }
  transpose(rows);
}

// Takes the input a vector of batch columns at a time, so that it is read in few streams.
template <class S>
void pack(const void* input, int64_t stride, const Panel& panel, int64_t begin, int64_t end, void* packed,
          void* sums_) {
  using A = Sum<S>;
  constexpr int L = kLanes<A>;
  const int64_t width = panel.width;
  A* sums = static_cast<A*>(sums_);
  for (int64_t b = 0; b < width; b += L) {
    const S* in = static_cast<const S*>(input) + (panel.begin + b) * stride;
    A* to = static_cast<A*>(packed) + b;
    for (int64_t f = begin; f < end; f += L) {
      const int64_t n = least(L, end - f);
      Vector<A> rows[L];
      take(in + f, stride, least(L, panel.columns - b), n, sums ? sums + f : nullptr, b == 0, rows);
      if (n == L) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store(to + (f + i) * width, rows[i]);
      } else {
        for (int i = 0; i < n; ++i) store(to + (f + i) * width, rows[i]);
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
