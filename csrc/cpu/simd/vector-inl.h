// Fixed-size vectors on compiler extensions. Included once per instruction set, after SPARSEKERN_VECTOR_BYTES and
// SPARSEKERN_REGISTERS are set; everything has internal linkage so that no instruction set's code can stand in for
// another's.
#pragma once

#include <cstdint>
#include <utility>

namespace {

template <class A>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(SPARSEKERN_VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(SPARSEKERN_VECTOR_BYTES)));
};
template <class A>
using Vector = typename VectorOf<A>::type;

template <class A>
constexpr int kLanes = SPARSEKERN_VECTOR_BYTES / sizeof(A);

#define SPARSEKERN_INLINE inline __attribute__((always_inline))
#define SPARSEKERN_LAMBDA_INLINE __attribute__((always_inline))

template <class A>
SPARSEKERN_INLINE Vector<A> load(const A* p) {
  Vector<A> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class A>
SPARSEKERN_INLINE void store(A* p, Vector<A> v) {
  __builtin_memcpy(p, &v, sizeof v);
}

SPARSEKERN_INLINE float widen(float x) { return x; }
SPARSEKERN_INLINE double widen(double x) { return x; }

// The type in which sums over `S` are kept.
template <class S>
struct SumOf {
  using type = S;
};
template <class S>
using Sum = typename SumOf<S>::type;

}  // namespace

#include "cpu/simd/narrow-inl.h"

namespace {
// Whole cache lines that nobody reads soon go past the caches: a line that is not there need not be fetched to be
// written.
template <class S, class V>
SPARSEKERN_INLINE void stream(S* p, V v) {
#if defined(__x86_64__) && SPARSEKERN_VECTOR_BYTES == 64
  if constexpr (sizeof(S) == sizeof(v[0]))
    if (reinterpret_cast<uintptr_t>(p) % 64 == 0) return _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#endif
  store(p, v);
}

// n < Limit elements; Limit is a power of two.
template <int Limit, class T>
SPARSEKERN_INLINE void copy_few(T* to, const T* from, int64_t n) {
  if constexpr (Limit > 1) {
    constexpr int half = Limit / 2;
    if (n & half) {
      __builtin_memcpy(to, from, half * sizeof(T));
      to += half, from += half;
    }
    copy_few<half>(to, from, n);
  }
}

#if defined(__x86_64__) && SPARSEKERN_VECTOR_BYTES == 64
// The first n elements of a vector of floats or doubles, by a mask: what lies behind them is not touched.
template <class S>
SPARSEKERN_INLINE Vector<S> load_first(const S* p, int64_t n) {
  if constexpr (sizeof(S) == 4)
    return (Vector<S>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
  else
    return (Vector<S>)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
}

template <class S>
SPARSEKERN_INLINE void store_first(S* p, Vector<S> v, int64_t n) {
  if constexpr (sizeof(S) == 4)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
  else
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), (__m512d)v);
}
#endif

// Part of a vector, for the edges of a matrix.
template <class S, class V>
SPARSEKERN_INLINE V load_part(const S* p, int64_t n, V) {
  constexpr int64_t lanes = sizeof(V) / sizeof(V{}[0]);
  if (n >= lanes) return load(p);
#if defined(__x86_64__) && SPARSEKERN_VECTOR_BYTES == 64
  if constexpr (sizeof(S) == sizeof(V{}[0])) return load_first(p, n);
#endif
  S part[lanes] = {};
  copy_few<lanes>(part, p, n);
  return load(part);
}

template <class S, class V>
SPARSEKERN_INLINE void store_part(S* p, V v, int64_t n) {
  constexpr int64_t lanes = sizeof(V) / sizeof(V{}[0]);
  if (n >= lanes) return store(p, v);
#if defined(__x86_64__) && SPARSEKERN_VECTOR_BYTES == 64
  if constexpr (sizeof(S) == sizeof(V{}[0])) return store_first(p, v, n);
#endif
  S part[lanes];
  store(part, v);
  copy_few<lanes>(p, part, n);
}

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <class Lane, class V, int... I>
SPARSEKERN_INLINE V shuffle(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, Lane::of(I)...);
}

template <class Lane, class V>
SPARSEKERN_INLINE V shuffle(V a, V b) {
  return shuffle<Lane>(a, b, std::make_integer_sequence<int, sizeof(V) / sizeof(V{}[0])>());
}

// Swaps the off-diagonal quarters of a 2D x 2D block.
template <int L, int D, bool High>
struct Exchange {
  static constexpr int of(int i) { return (i & D) ? L + i - (High ? 0 : D) : i + (High ? D : 0); }
};

template <int D, int L, class V>
SPARSEKERN_INLINE void transpose_step(V (&r)[L]) {
  if constexpr (D > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      if (i & D) continue;
      const V a = r[i], b = r[i + D];
      r[i] = shuffle<Exchange<L, D, false>>(a, b);
      r[i + D] = shuffle<Exchange<L, D, true>>(a, b);
    }
    transpose_step<D / 2>(r);
  }
}

template <int L, class V>
SPARSEKERN_INLINE void transpose(V (&r)[L]) {
  transpose_step<L / 2>(r);
}

// Sums over lanes of L vectors at once, as a binary tree. A merge takes vectors whose sums occupy G lanes each to one
// whose sums occupy G / 2; below 16 bytes it stays within 16-byte lanes, where shuffles are cheap, and the tree reads
// its leaves in the order that undoes the resulting permutation.
template <class A, int G, bool High>
struct Fold {
  static constexpr int of(int i) {
    constexpr int L = kLanes<A>, E = G * sizeof(A) > 16 ? L : 16 / sizeof(A);
    const int lane = i / E * E, within = i % E, sum = within / (G / 2);
    const int from = lane + sum % (E / G) * G + within % (G / 2) + (High ? G / 2 : 0);
    return sum < E / G ? from : L + from;
  }
};

constexpr int log2_of(int n) { return n <= 1 ? 0 : 1 + log2_of(n / 2); }

template <class A, int First, int Count, class Leaf>
SPARSEKERN_INLINE Vector<A> sum_tree(const Leaf& leaf) {
  if constexpr (Count == 1) {
    constexpr int E = 16 / sizeof(A), crossing = log2_of(kLanes<A> / E);
    return leaf((First & ((1 << crossing) - 1)) * E + (First >> crossing));
  } else {
    const Vector<A> a = sum_tree<A, First, Count / 2>(leaf), b = sum_tree<A, First + Count / 2, Count / 2>(leaf);
    constexpr int G = 2 * kLanes<A> / Count;
    return shuffle<Fold<A, G, false>>(a, b) + shuffle<Fold<A, G, true>>(a, b);
  }
}

// Lane i of the result is the sum over the lanes of leaf(i).
template <class A, class Leaf>
SPARSEKERN_INLINE Vector<A> sum_lanes(const Leaf& leaf) {
  return sum_tree<A, 0, kLanes<A>>(leaf);
}

// Inner products gathered until a vector of them can be summed over lanes at once.
template <class A>
struct Pending {
  static constexpr int L = kLanes<A>;
  alignas(64) A products[L * L];
  int64_t slots[L];
  int count = 0;

  SPARSEKERN_INLINE void push(int64_t slot, Vector<A> product, A* out, bool add) {
    slots[count] = slot;
    store(products + count * L, product);
    if (++count == L) flush(out, add);
  }

  SPARSEKERN_INLINE void flush(A* out, bool add) {
    const Vector<A> sums = sum_lanes<A>([&](int i) SPARSEKERN_LAMBDA_INLINE { return load(products + i * L); });
    if (count == L && slots[L - 1] - slots[0] == L - 1) {
      A* to = out + slots[0];
      store(to, add ? load(to) + sums : sums);
    } else {
      A part[L];
      store(part, sums);
      for (int i = 0; i < count; ++i) out[slots[i]] = add ? out[slots[i]] + part[i] : part[i];
    }
    count = 0;
  }
};

}  // namespace
