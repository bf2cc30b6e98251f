// The vector kernels of cpu/simd/dense.h: one source, compiled once for each instruction set.
#pragma once

#include "cpu/simd/dense.h"
#include "cpu/simd/panels-inl.h"

namespace sparsekern {
namespace dense {
namespace {

// With the sums of a tile, a row of vectors and one factor fill the registers.
constexpr int kTileVectors = SPARSEKERN_REGISTERS == 32 ? 4 : 2;

template <class A, int M, int N>
void tile(const A* a, const BlockedRows& shape, const A* b, int64_t width, int64_t depth, bool add, A* c,
          int64_t stride) {
  constexpr int L = kLanes<A>;
  const int64_t row = shape.row, column = shape.column;
  Vector<A> sums[M][N];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sums[i][n] = add ? load(c + i * stride + n * L) : Vector<A>{};
  }
  for (int64_t k = 0; k < depth; ++k, a += column, b += width) {
    Vector<A> vectors[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) vectors[n] = load(b + n * L);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const A factor = a[i * row];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sums[i][n] += factor * vectors[n];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(c + i * stride + n * L, sums[i][n]);
  }
}

template <class A, int N, int M = kTileRows>
SPARSEKERN_INLINE void tile_of_rows(int64_t rows, const A* a, const BlockedRows& shape, const A* b, int64_t width,
                                    int64_t depth, bool add, A* c, int64_t stride) {
  if (rows == M)
    tile<A, M, N>(a, shape, b, width, depth, add, c, stride);
  else if constexpr (M > 1)
    tile_of_rows<A, N, M - 1>(rows, a, shape, b, width, depth, add, c, stride);
}

// One tile wide
template <class A, int N = kTileVectors>
SPARSEKERN_INLINE void strip(int64_t vectors, const BlockedRows& a, const A* b, int64_t width, int64_t rows,
                             int64_t depth, bool add, A* c, int64_t stride) {
  if (vectors >= N) {
    const A* from = static_cast<const A*>(a.data);
    for (int64_t i = 0; i < rows; i += kTileRows, from += a.block)
      tile_of_rows<A, N>(least(kTileRows, rows - i), from, a, b, width, depth, add, c + i * stride, stride);
  } else if constexpr (N > 1) {
    strip<A, N - 1>(vectors, a, b, width, rows, depth, add, c, stride);
  }
}

template <class A>
void multiply(const BlockedRows& a, const void* b, int64_t width, int64_t rows, int64_t depth, bool add, void* c,
              int64_t stride) {
  constexpr int64_t L = kLanes<A>;
  for (int64_t j = 0; j < width; j += kTileVectors * L)
    strip<A>((width - j) / L, a, static_cast<const A*>(b) + j, width, rows, depth, add, static_cast<A*>(c) + j, stride);
}

template <class A>
void pack(const void* in, int64_t stride, int64_t rows, int64_t depth, void* out, int64_t block) {
  for (int64_t i = 0; i < rows; i += kTileRows) {
    const A* from = static_cast<const A*>(in) + i;
    A* to = static_cast<A*>(out) + i / kTileRows * block;
    for (int64_t k = 0; k < depth; ++k, from += stride, to += kTileRows) {
      if (rows - i >= kTileRows)
        __builtin_memcpy(to, from, kTileRows * sizeof(A));
      else
        for (int64_t j = 0; j < rows - i; ++j) to[j] = from[j];
    }
  }
}

template <class A>
void fill(const void* first, int64_t width, int64_t rows, void* c) {
  for (int64_t i = 0; i < rows; ++i) {
    const Vector<A> element = Vector<A>{} + static_cast<const A*>(first)[i];
    for (int64_t j = 0; j < width; j += kLanes<A>) store(static_cast<A*>(c) + i * width + j, element);
  }
}

template <class A>
void transpose(const void* c, int64_t width, int64_t columns, int64_t rows, void* out, int64_t stride) {
  linear::unpack(static_cast<const A*>(c), width, columns, rows, static_cast<A*>(out), stride);
}

template <class A>
constexpr DenseKernels kKernels{kLanes<A>, multiply<A>, pack<A>, fill<A>, transpose<A>};

}  // namespace
}  // namespace dense

template <>
const DenseKernels& dense_kernels_of<Isa::SPARSEKERN_ISA>(Storage storage) {
  return storage == Storage::float64 ? dense::kKernels<double> : dense::kKernels<float>;
}

}  // namespace sparsekern
