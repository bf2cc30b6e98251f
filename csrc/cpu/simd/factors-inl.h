// What the walks over nonzeros multiply: numbers of the type of their sums or, where the processor has VDPBF16PS, pairs
// of bfloat16, whose two products it adds to a float. A vector of bfloat16 has the factors of two vectors of sums; a
// product takes two nonzeros at once, whose factors are interleaved as they are read.
#pragma once

#include "cpu/simd/vector-inl.h"

namespace {

template <class T>
constexpr int kHalves = sizeof(T) == 2 ? 2 : 1;  // vectors of sums that a vector of factors belongs to

template <class T>
constexpr int kFactors = SPARSEKERN_VECTOR_BYTES / sizeof(T);  // of a vector

// ---- numbers of the type of the sums

template <class T>
struct FactorsOf {
  using type = Vector<T>;
};
template <class T>
using Factors = typename FactorsOf<T>::type;

SPARSEKERN_INLINE Vector<float> load_factors(const float* p) { return load(p); }
SPARSEKERN_INLINE Vector<double> load_factors(const double* p) { return load(p); }
template <class A>
SPARSEKERN_INLINE void store_factors(A* p, Vector<A> v) {
  store(p, v);
}

// The first n elements that are stored as S, as factors of type T; all of them by `n = kFactors<T>`.
template <class T, class S>
SPARSEKERN_INLINE Factors<T> read_factors(const S* p, int64_t n = kFactors<T>) {
  return load_part(p, n, Vector<Sum<T>>{});
}

template <class V, int L>
SPARSEKERN_INLINE void transpose_factors(V (&rows)[L]) {
  transpose(rows);
}

// The sums of rows of a matrix, `begun` before and written to `to`.
template <class T>
class RowSums {
 public:
  SPARSEKERN_INLINE RowSums(Sum<T>* to, int64_t n, bool begun)
      : to_(to), n_(n), sum_(begun ? load_part(to, n, Vector<T>{}) : Vector<T>{}) {}
  SPARSEKERN_INLINE void add(Vector<T> row) { sum_ += row; }
  SPARSEKERN_INLINE void write() const { store_part(to_, sum_, n_); }

 private:
  Sum<T>* to_;
  int64_t n_;
  Vector<T> sum_;
};

template <class V>
SPARSEKERN_INLINE V times(V a, V b) {
  return a * b;
}

template <class V>
SPARSEKERN_INLINE V add_times(V sums, V a, V b) {
  return sums + a * b;
}

// sums += value * factors: R rows of N vectors from x on, `pitch` apart.
template <int R, int N, class A>
SPARSEKERN_INLINE void add_product(Vector<A> (&sums)[R * N], A value, const A* x, int64_t pitch) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) sums[r * N + n] += value * load(x + r * pitch + n * kLanes<A>);
  }
}

// ---- pairs of bfloat16

#if defined(SPARSEKERN_PAIRS)

template <>
struct FactorsOf<BFloat16> {
  typedef __m512i type;
};

SPARSEKERN_INLINE __m512i load_factors(const BFloat16* p) { return _mm512_loadu_si512(p); }

SPARSEKERN_INLINE Vector<float> add_times(Vector<float> sums, __m512i a, __m512i b) {
  return (Vector<float>)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
}

SPARSEKERN_INLINE Vector<float> times(__m512i a, __m512i b) { return add_times(Vector<float>{}, a, b); }

SPARSEKERN_INLINE void store_factors(BFloat16* p, __m512i v) { _mm512_storeu_si512(p, v); }

template <class T>
SPARSEKERN_INLINE __m512i read_factors(const BFloat16* p, int64_t n = 32) {
  return n >= 32 ? load_factors(p) : _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << n) - 1), p);
}

// Every 16 bytes of a column get four factors of the first 16 rows, then four of the others. Interleaved with other
// factors, the first halves of all 16 bytes are the pairs of the first rows in their order, and the second halves those
// of the others.
SPARSEKERN_INLINE void transpose_factors(__m512i (&rows)[32]) {
  Vector<float> halves[2][16];
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) halves[h][i] = (Vector<float>)rows[16 * h + i];
    transpose(halves[h]);  // of two factors at a time
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    const Words a = (Words)halves[0][i], b = (Words)halves[1][i];
    rows[2 * i] = _mm512_packus_epi32((__m512i)(a & 0xffff), (__m512i)(b & 0xffff));
    rows[2 * i + 1] = _mm512_packus_epi32((__m512i)(a >> 16), (__m512i)(b >> 16));
  }
}

template <>
class RowSums<BFloat16> {
 public:
  SPARSEKERN_INLINE RowSums(float* to, int64_t n, bool begun) : to_(to), n_(n), begun_(begun) {}
  SPARSEKERN_INLINE void add(__m512i row) {
    even_ += (Vector<float>)((Words)row << 16);
    odd_ += (Vector<float>)((Words)row & 0xffff0000);
  }
  SPARSEKERN_INLINE void write() const {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = (__m512i)((Words)low + 8);
    put(to_, n_, (Vector<float>)_mm512_permutex2var_ps((__m512)even_, low, (__m512)odd_));
    if (n_ > 16) put(to_ + 16, n_ - 16, (Vector<float>)_mm512_permutex2var_ps((__m512)even_, high, (__m512)odd_));
  }

 private:
  SPARSEKERN_INLINE void put(float* to, int64_t n, Vector<float> sum) const {
    store_part(to, begun_ ? load_part(to, n, sum) + sum : sum, n);
  }

  float* to_;
  int64_t n_;
  bool begun_;
  Vector<float> even_{}, odd_{};
};

// The sums of factors that lie in their own order, put in order.
SPARSEKERN_INLINE void put_in_order(Vector<float>& first, Vector<float>& second) {
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  const __m512 a = (__m512)first, b = (__m512)second;
  first = (Vector<float>)_mm512_permutex2var_ps(a, low, b);
  second = (Vector<float>)_mm512_permutex2var_ps(a, high, b);
}

template <int R, int N>
SPARSEKERN_INLINE void add_products(Vector<float> (&sums)[2 * R * N], uint32_t two, const BFloat16* x,
                                    const BFloat16* y, int64_t pitch) {
  const __m512i values = _mm512_set1_epi32(static_cast<int>(two));
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const int64_t at = r * pitch + n * kFactors<BFloat16>;
      const __m512i a = load_factors(x + at), b = load_factors(y + at);
      Vector<float>* to = sums + 2 * (r * N + n);
      to[0] = add_times(to[0], _mm512_unpacklo_epi16(a, b), values);
      to[1] = add_times(to[1], _mm512_unpackhi_epi16(a, b), values);
    }
  }
}

// Its neighbours are zeros, so that what is infinite meets no other factors.
template <int R, int N>
SPARSEKERN_INLINE void add_product(Vector<float> (&sums)[2 * R * N], BFloat16 value, const BFloat16* x, int64_t pitch) {
  const __m512i values = _mm512_set1_epi32(value.bits), zero = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const __m512i a = load_factors(x + r * pitch + n * kFactors<BFloat16>);
      Vector<float>* to = sums + 2 * (r * N + n);
      to[0] = add_times(to[0], _mm512_unpacklo_epi16(a, zero), values);
      to[1] = add_times(to[1], _mm512_unpackhi_epi16(a, zero), values);
    }
  }
}

#endif

// ---- nonzeros: the value of the i-th, and where its factors are

template <class T, class Index>
struct InOrder {
  const T* values;
  const Index* index;
  const T* x;
  int64_t scale;

  SPARSEKERN_INLINE T value(int64_t i) const { return values[i]; }
  SPARSEKERN_INLINE const T* at(int64_t i) const { return x + int64_t(index[i]) * scale; }
  SPARSEKERN_INLINE uint32_t two(int64_t i) const {
    uint32_t both;
    __builtin_memcpy(&both, values + i, sizeof both);
    return both;
  }
};

template <class Value, class At>
struct Gathered {
  const Value& value;
  const At& at;

  SPARSEKERN_INLINE uint32_t two(int64_t i) const { return value(i).bits | uint32_t(value(i + 1).bits) << 16; }
};

template <class Value, class At>
SPARSEKERN_INLINE Gathered<Value, At> gathered(const Value& value, const At& at) {
  return {value, at};
}

// sums += the products of nonzeros [0, count), in C chains.
template <class T, int R, int N, int C, class Nonzeros>
SPARSEKERN_INLINE void accumulate(Vector<Sum<T>> (&sums)[R * N * kHalves<T>], const Nonzeros& nonzeros, int64_t count,
                                  int64_t pitch = 0) {
  using A = Sum<T>;
  constexpr int V = R * N * kHalves<T>, Step = kHalves<T>;
  const auto step = [&](Vector<A>(&to)[V], int64_t i) SPARSEKERN_LAMBDA_INLINE {
    if constexpr (Step == 1) {
      add_product<R, N>(to, nonzeros.value(i), nonzeros.at(i), pitch);
    } else {
#if defined(SPARSEKERN_PAIRS)
      add_products<R, N>(to, nonzeros.two(i), nonzeros.at(i), nonzeros.at(i + 1), pitch);
#endif
    }
  };
  int64_t i = 0;
  if constexpr (C > 1) {
    Vector<A> more[C - 1][V] = {};
    for (; i + C * Step <= count; i += C * Step) {
      step(sums, i);
#pragma GCC unroll 4
      for (int c = 1; c < C; ++c) step(more[c - 1], i + c * Step);
    }
#pragma GCC unroll 4
    for (int c = 1; c < C; ++c) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sums[v] += more[c - 1][v];
    }
  }
  for (; i + Step <= count; i += Step) step(sums, i);
  if constexpr (Step == 2) {
    if (i < count) add_product<R, N>(sums, nonzeros.value(i), nonzeros.at(i), pitch);
  }
}

}  // namespace
