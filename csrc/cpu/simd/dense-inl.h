// The vector kernels of cpu/simd/dense.h: one source, compiled once for each instruction set.
#pragma once

#include "cpu/simd/dense.h"
#include "cpu/simd/panels-inl.h"

namespace sparsekern {
namespace dense {
namespace {

// With the sums of a tile, a row of vectors and one factor fill the registers.
constexpr int kTileVectors = SPARSEKERN_REGISTERS == 32 ? 4 : 2;

template <class T>
struct UnitOf {
  using type = T;
};
#if defined(SPARSEKERN_PAIRS)
template <>
struct UnitOf<BFloat16> {
  using type = uint32_t;
};
SPARSEKERN_INLINE __m512i in_all_lanes(uint32_t two) { return _mm512_set1_epi32(static_cast<int>(two)); }
#endif
template <class T>
using Unit = typename UnitOf<T>::type;

template <class A>
SPARSEKERN_INLINE Vector<A> in_all_lanes(A x) {
  return x - Vector<A>{};
}

template <class T, int M, int N>
void tile(const Unit<T>* a, const BlockedRows& shape, const Unit<T>* b, int64_t width, int64_t depth, bool add,
          Sum<T>* c, int64_t stride) {
  using A = Sum<T>;
  constexpr int L = kLanes<A>;
  const int64_t row = shape.row, column = shape.column;
  Vector<A> sums[M][N];
#pragma GCC unroll 12
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sums[i][n] = add ? load(c + i * stride + n * L) : Vector<A>{};
  }
  for (int64_t k = 0; k < depth; ++k, a += column, b += width) {
    Factors<T> vectors[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) vectors[n] = load_factors(reinterpret_cast<const T*>(b + n * L));
#pragma GCC unroll 12
    for (int i = 0; i < M; ++i) {
      const Factors<T> factor = in_all_lanes(a[i / kTileRows * shape.block + i % kTileRows * row]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sums[i][n] = add_times(sums[i][n], factor, vectors[n]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(c + i * stride + n * L, sums[i][n]);
  }
}

template <class T, int N, int M = kTileRows>
SPARSEKERN_INLINE void tile_of_rows(int64_t rows, const Unit<T>* a, const BlockedRows& shape, const Unit<T>* b,
                                    int64_t width, int64_t depth, bool add, Sum<T>* c, int64_t stride) {
  if (rows == M)
    tile<T, M, N>(a, shape, b, width, depth, add, c, stride);
  else if constexpr (M > 1)
    tile_of_rows<T, N, M - 1>(rows, a, shape, b, width, depth, add, c, stride);
}

// One tile wide
template <class T, int N = kTileVectors>
SPARSEKERN_INLINE void strip(int64_t vectors, const BlockedRows& a, const Unit<T>* b, int64_t width, int64_t rows,
                             int64_t depth, bool add, Sum<T>* c, int64_t stride) {
  if (vectors >= N) {
    const Unit<T>* from = static_cast<const Unit<T>*>(a.data);
    int64_t i = 0;
    if constexpr (N == 1) {  // two blocks at once, whose sums hide each other's latency
      for (; i + 2 * kTileRows <= rows; i += 2 * kTileRows, from += 2 * a.block)
        tile<T, 2 * kTileRows, N>(from, a, b, width, depth, add, c + i * stride, stride);
    }
    for (; i < rows; i += kTileRows, from += a.block)
      tile_of_rows<T, N>(least(kTileRows, rows - i), from, a, b, width, depth, add, c + i * stride, stride);
  } else if constexpr (N > 1) {
    strip<T, N - 1>(vectors, a, b, width, rows, depth, add, c, stride);
  }
}

template <class T>
void multiply(const BlockedRows& a, const void* b, int64_t width, int64_t rows, int64_t depth, bool add, void* c,
              int64_t stride) {
  constexpr int64_t L = kLanes<Sum<T>>;
  for (int64_t j = 0; j < width; j += kTileVectors * L)
    strip<T>((width - j) / L, a, static_cast<const Unit<T>*>(b) + j, width, rows, depth, add,
             static_cast<Sum<T>*>(c) + j, stride);
}

template <class U>
void pack(const void* in, int64_t stride, int64_t rows, int64_t depth, void* out, int64_t block) {
  for (int64_t i = 0; i < rows; i += kTileRows) {
    const U* from = static_cast<const U*>(in) + i;
    U* to = static_cast<U*>(out) + i / kTileRows * block;
    for (int64_t k = 0; k < depth; ++k, from += stride, to += kTileRows) {
      if (rows - i >= kTileRows)
        __builtin_memcpy(to, from, kTileRows * sizeof(U));
      else
        for (int64_t j = 0; j < rows - i; ++j) to[j] = from[j];
    }
  }
}

template <class T>
void fill(const void* first, int64_t width, int64_t rows, void* c) {
  using A = Sum<T>;
  for (int64_t i = 0; i < rows; ++i) {
    const Vector<A> element = in_all_lanes(widen(static_cast<const T*>(first)[i]));
    for (int64_t j = 0; j < width; j += kLanes<A>) store(static_cast<A*>(c) + i * width + j, element);
  }
}

template <class T>
void transpose(const void* c, int64_t width, int64_t columns, int64_t rows, void* out, int64_t stride) {
  linear::unpack(static_cast<const Sum<T>*>(c), width, columns, rows, static_cast<T*>(out), stride);
}

template <class T>
void round(const void* sums, int64_t count, void* out) {
  using A = Sum<T>;
  const A* from = static_cast<const A*>(sums);
  T* to = static_cast<T*>(out);
  int64_t i = 0;
#if defined(SPARSEKERN_PAIRS)
  for (; i + kFactors<T> <= count; i += kFactors<T>)
    store_factors(to + i, (__m512i)_mm512_cvtne2ps_pbh((__m512)load(from + i + kLanes<A>), (__m512)load(from + i)));
#endif
  for (; i < count; i += kLanes<A>) {
    const int64_t n = least(kLanes<A>, count - i);
    store_part(to + i, load_part(from + i, n, Vector<A>{}), n);
  }
}

template <class T>
void pair([[maybe_unused]] const void* first, [[maybe_unused]] const void* second, [[maybe_unused]] int64_t count,
          [[maybe_unused]] void* out) {
#if defined(SPARSEKERN_PAIRS)
  constexpr int F = kFactors<T>;
  Words low;  // lane i of the first row, then that of the second
  for (int i = 0; i < F / 2; ++i) low[i] = i | (i + F) << 16;
  const Words high = low + (F / 2 << 16 | F / 2);
  const T *a = static_cast<const T*>(first), *b = static_cast<const T*>(second);
  T* to = static_cast<T*>(out);
  for (int64_t i = 0; i < count; i += F) {
    const int64_t n = least(F, count - i);
    const __m512i one = read_factors<T>(a + i, n), two = b ? read_factors<T>(b + i, n) : _mm512_setzero_si512();
    const __m512i pairs[2] = {_mm512_permutex2var_epi16(one, (__m512i)low, two),
                              _mm512_permutex2var_epi16(one, (__m512i)high, two)};
    if (n == F) {
      store_factors(to + 2 * i, pairs[0]);
      store_factors(to + 2 * i + F, pairs[1]);
    } else {
      __builtin_memcpy(to + 2 * i, pairs, 2 * n * sizeof(T));
    }
  }
#endif
}

template <class T>
constexpr DenseKernels kKernels{kLanes<Sum<T>>, kHalves<T>,   sizeof(Sum<T>), multiply<T>, pack<Unit<T>>,
                                fill<T>,        transpose<T>, round<T>,       pair<T>};

}  // namespace
}  // namespace dense

#if defined(SPARSEKERN_PAIRS)

const DenseKernels& dense_kernels_of_pairs() { return dense::kKernels<BFloat16>; }

#else

template <>
const DenseKernels& dense_kernels_of<Isa::SPARSEKERN_ISA>(Storage storage) {
#if defined(__x86_64__) && SPARSEKERN_VECTOR_BYTES == 64
  if (storage == Storage::bfloat16 && __builtin_cpu_supports("avx512bf16")) return dense_kernels_of_pairs();
#endif
  return storage == Storage::float64 ? dense::kKernels<double> : dense::kKernels<float>;
}

#endif

}  // namespace sparsekern
