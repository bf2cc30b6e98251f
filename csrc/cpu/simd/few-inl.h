// The vector kernels of cpu/simd/few.h: one source, compiled once for each instruction set.
//
// A word has groups of as many columns as a vector has lanes. Several rows at once share what is loaded of the inputs,
// and hide the latency of the multiply-add.
#pragma once

#include "cpu/simd/bits-inl.h"
#include "cpu/simd/few.h"
#include "cpu/simd/vector-inl.h"

namespace sparsekern {
namespace few {
namespace {

constexpr int kWord = 64;

// Rows at once, such that their sums, or as many broadcast numbers, stay in registers.
constexpr int rows_for(int inputs) {
  return 4 * inputs + 6 <= SPARSEKERN_REGISTERS ? 4 : 2 * inputs + 4 <= SPARSEKERN_REGISTERS ? 2 : 1;
}

// What is used several times is loaded once: compilers would make it an operand in memory each time.
template <class V>
SPARSEKERN_INLINE V pinned(V v) {
#if SPARSEKERN_VECTOR_BYTES == 64
  __asm__("" : "+v"(v));
#elif defined(__x86_64__)
  __asm__("" : "+x"(v));
#endif
  return v;
}

// ---- groups

#if SPARSEKERN_VECTOR_BYTES >= 32

template <class A>
using Lanes = bits::Group<std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>>;

// The next values in the lanes that the mask names, zero in the others.
template <class S>
SPARSEKERN_INLINE Vector<Sum<S>> expanded(uint64_t mask, const S* values) {
  using G = Lanes<Sum<S>>;
  return (Vector<Sum<S>>)G::expanded(mask, (typename G::Register)load(values));
}

// Writes the lanes that the mask names, one after another, and something behind them.
template <class S>
SPARSEKERN_INLINE void compress(uint64_t mask, const Vector<Sum<S>> (&lanes)[1], S* values) {
  using G = Lanes<Sum<S>>;
  store(values, (Vector<Sum<S>>)G::compressed(mask, (typename G::Register)lanes[0]));
}

#else

// All ones in the lanes that the mask names.
template <class A>
SPARSEKERN_INLINE auto lanes_of(uint64_t mask) {
  using Bits = decltype(Vector<A>{} == Vector<A>{});
  Bits lane{};
  for (int i = 0; i < kLanes<A>; ++i) lane[i] = 1 << i;
  return ((Bits{} + static_cast<int>(mask)) & lane) != 0;
}

template <class S>
SPARSEKERN_INLINE Vector<Sum<S>> expanded(uint64_t mask, const S* values) {
  Vector<Sum<S>> lanes{};
  for (int i = 0; i < kLanes<Sum<S>>; values += mask >> i++ & 1) lanes[i] = widen(*values);
  const auto kept = lanes_of<Sum<S>>(mask);
  return (Vector<Sum<S>>)((decltype(kept))lanes & kept);
}

template <class S>
SPARSEKERN_INLINE void compress(uint64_t mask, const Vector<Sum<S>> (&lanes)[1], S* values) {
  S numbers[kLanes<Sum<S>>];
  store(numbers, lanes[0]);
  for (int i = 0; i < kLanes<Sum<S>>; values += mask >> i++ & 1) *values = numbers[i];
}

#endif

// Vectors that are compressed at once.
#if defined(SPARSEKERN_VBMI2)

template <class S>
constexpr int kTogether = 2;

template <class S>
SPARSEKERN_INLINE void compress(uint64_t mask, const Vector<float> (&lanes)[2], S* values) {
  typedef uint16_t Group __attribute__((vector_size(64)));
  const Group group =
      __builtin_shufflevector(narrowed(lanes[0], S{}), narrowed(lanes[1], S{}), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
                              12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
  _mm512_storeu_si512(values, bits::Group<uint16_t>::compressed(mask, (__m512i)group));
}

#else

template <class S>
constexpr int kTogether = 1;

#endif

template <class S>
constexpr uint64_t kAll = (uint64_t(1) << kLanes<Sum<S>>)-1;

template <class S>
__attribute__((noinline)) void copy_last(const S* values, int64_t position, int64_t capacity, S* copy) {
  for (int i = 0; i < kWord; ++i) copy[i] = position + i < capacity ? values[position + i] : S{};
}

// The values from `position` on: a copy of them where a word could reach beyond the last.
template <class S>
SPARSEKERN_INLINE const S* values_at(const BitWeight& w, int64_t position, S (&copy)[kWord]) {
  const S* values = static_cast<const S*>(w.values);
  if (__builtin_expect(position + kWord <= w.capacity, 1)) return values + position;
  copy_last(values, position, w.capacity, copy);
  return copy;
}

// f(first column, expanded values of rows [row, row + R)) for every group of columns. Returns whether the rows have as
// many bits as values.
template <class S, int R, class F>
SPARSEKERN_INLINE bool each_group(const BitWeight& w, int64_t row, const F& f) {
  constexpr int L = kLanes<Sum<S>>;
  int64_t positions[R];
  S copies[R][kWord];
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) positions[i] = w.ptr[(row + i) * w.stride];
  const int64_t ahead = w.ptr[(row + R) * w.stride] - positions[0];  // where these columns of the next rows are, about
  for (int64_t t = 0; t < w.segments; ++t) {
    uint64_t words[R], any = 0;
    const S* values[R];
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      words[i] = w.words[(row + i) * w.segments + t];
      values[i] = values_at(w, positions[i], copies[i]);
      positions[i] += __builtin_popcountll(words[i]);
      any |= words[i];
    }
    if (any == 0) continue;
#pragma GCC unroll 4
    for (int g = 0; g < kWord; g += L) {
      Vector<Sum<S>> groups[R];
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) {
        const uint64_t mask = words[i] >> g & kAll<S>;
        groups[i] = expanded(mask, values[i]);
        __builtin_prefetch(values[i] + ahead);
        values[i] += __builtin_popcountll(mask);
      }
      f(t * kWord + g, groups);
    }
  }
  bool fits = true;
  for (int i = 0; i < R; ++i) fits &= positions[i] == w.ptr[(row + i + 1) * w.stride];
  return fits;
}

// ---- the products

template <class S, int B, int R>
SPARSEKERN_INLINE bool product_rows(const BitWeight& w, const Sum<S>* x, int64_t batch, const S* bias, S* out,
                                    int64_t rows, int64_t row) {
  using A = Sum<S>;
  constexpr int L = kLanes<A>;
  Vector<A> sums[B * R] = {};
  const bool fits = each_group<S, R>(w, row, [&](int64_t c, const Vector<A>(&groups)[R]) SPARSEKERN_LAMBDA_INLINE {
#pragma GCC unroll 12
    for (int b = 0; b < B; ++b) {
      const Vector<A> in = pinned(load(x + c * B + b * L));
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) sums[b * R + i] += groups[i] * in;
    }
  });
  constexpr int kVectors = (B * R + L - 1) / L;
  A first[kVectors * L] = {};
  for (int k = 0; bias && k < B * R; ++k) first[k] = widen(bias[row + k % R]);
  S results[kVectors * L];
#pragma GCC unroll 6
  for (int v = 0; v < kVectors; ++v)
    store(results + v * L, load(first + v * L) + sum_lanes<A>([&](int i) SPARSEKERN_LAMBDA_INLINE {
                             return v * L + i < B * R ? sums[v * L + i] : Vector<A>{};
                           }));
  for (int64_t b = 0; b < batch; ++b) __builtin_memcpy(out + b * rows + row, results + b * R, R * sizeof(S));
  return fits;
}

// An element of row b in all lanes; zero behind the last row.
template <class S>
SPARSEKERN_INLINE Vector<Sum<S>> factor(const S* column, int64_t b, int64_t batch, int64_t stride) {
  return pinned(Vector<Sum<S>>{} + (b < batch ? widen(column[b * stride]) : Sum<S>(0)));
}

template <class S, int B, int R>
SPARSEKERN_INLINE void transposed_rows(const BitWeight& w, const S* delta, int64_t batch, int64_t rows, Sum<S>* sums,
                                       int64_t row) {
  using A = Sum<S>;
  constexpr int L = kLanes<A>;
  Vector<A> factors[B * R];
#pragma GCC unroll 24
  for (int k = 0; k < B * R; ++k) factors[k] = factor<S>(delta + row + k % R, k / R, batch, rows);
  each_group<S, R>(w, row, [&](int64_t c, const Vector<A>(&groups)[R]) SPARSEKERN_LAMBDA_INLINE {
#pragma GCC unroll 12
    for (int b = 0; b < B; ++b) {
      Vector<A> sum = load(sums + c * B + b * L);
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) sum += factors[b * R + i] * groups[i];
      store(sums + c * B + b * L, sum);
    }
  });
}

template <class S, int B>
SPARSEKERN_INLINE void outer_row(const BitWeight& w, const S* delta, const Sum<S>* x, int64_t batch, int64_t rows,
                                 S* out, int64_t limit, int64_t row) {
  using A = Sum<S>;
  constexpr int L = kLanes<A>, N = kTogether<S>;
  constexpr uint64_t Columns = (uint64_t(1) << N * L) - 1;
  Vector<A> factors[B];
#pragma GCC unroll 12
  for (int b = 0; b < B; ++b) factors[b] = factor<S>(delta + row, b, batch, rows);
  int64_t position = w.ptr[row * w.stride];
  for (int64_t t = 0; t < w.segments; ++t) {
    const uint64_t word = w.words[row * w.segments + t];
    if (!word) continue;
    const int64_t count = __builtin_popcountll(word);
    S copy[kWord + N * L];
    const bool whole = position + kWord <= limit;
    S* to = whole ? out + position : copy;
#pragma GCC unroll 4
    for (int g = 0; g < kWord; g += N * L) {
      Vector<A> sums[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        const A* in = x + (t * kWord + g + n * L) * B;
        sums[n] = factors[0] * load(in);
#pragma GCC unroll 12
        for (int b = 1; b < B; ++b) sums[n] += factors[b] * load(in + b * L);
      }
      const uint64_t mask = word >> g & Columns;
      compress(mask, sums, to);
      to += __builtin_popcountll(mask);
    }
    if (!whole && position < limit) __builtin_memcpy(out + position, copy, least(count, limit - position) * sizeof(S));
    position += count;
  }
}

// ---- by the number of inputs

// f.operator()<B>()
template <class F>
SPARSEKERN_INLINE auto with_inputs(int64_t batch, const F& f) {
  switch (inputs_for(batch)) {
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 4:
      return f.template operator()<4>();
    case 8:
      return f.template operator()<8>();
    default:
      return f.template operator()<kFewInputs>();
  }
}

template <class S, int B>
bool product_of(const BitWeight& w, const Sum<S>* x, int64_t batch, const S* bias, S* out, int64_t rows, int64_t begin,
                int64_t end) {
  constexpr int R = rows_for(B);
  bool fits = true;
  int64_t r = begin;
  for (; r + R <= end; r += R) fits &= product_rows<S, B, R>(w, x, batch, bias, out, rows, r);
  for (; R > 1 && r < end; ++r) fits &= product_rows<S, B, 1>(w, x, batch, bias, out, rows, r);
  return fits;
}

template <class S>
bool product(const BitWeight& w, const void* x, int64_t batch, const void* bias, void* out, int64_t rows, int64_t begin,
             int64_t end) {
  return with_inputs(batch, [&]<int B>() {
    return product_of<S, B>(w, static_cast<const Sum<S>*>(x), batch, static_cast<const S*>(bias), static_cast<S*>(out),
                            rows, begin, end);
  });
}

template <class S, int B>
void transposed_of(const BitWeight& w, const S* delta, int64_t batch, int64_t rows, Sum<S>* sums, int64_t begin,
                   int64_t end) {
  constexpr int R = rows_for(B);
  for (int64_t k = 0; k < w.segments * kWord * B; ++k) sums[k] = 0;
  int64_t r = begin;
  for (; r + R <= end; r += R) transposed_rows<S, B, R>(w, delta, batch, rows, sums, r);
  for (; R > 1 && r < end; ++r) transposed_rows<S, B, 1>(w, delta, batch, rows, sums, r);
}

template <class S>
void transposed(const BitWeight& w, const void* delta, int64_t batch, int64_t rows, void* sums, int64_t begin,
                int64_t end) {
  with_inputs(batch, [&]<int B>() {
    transposed_of<S, B>(w, static_cast<const S*>(delta), batch, rows, static_cast<Sum<S>*>(sums), begin, end);
  });
}

template <class S, int B>
void outer_of(const BitWeight& w, const S* delta, const Sum<S>* x, int64_t batch, int64_t rows, S* gradients,
              int64_t begin, int64_t end) {
  const int64_t limit = w.ptr[end * w.stride];  // what is behind it belongs to others
  for (int64_t r = begin; r < end; ++r) outer_row<S, B>(w, delta, x, batch, rows, gradients, limit, r);
}

template <class S>
void outer(const BitWeight& w, const void* delta, const void* x, int64_t batch, int64_t rows, void* gradients,
           int64_t begin, int64_t end) {
  with_inputs(batch, [&]<int B>() {
    outer_of<S, B>(w, static_cast<const S*>(delta), static_cast<const Sum<S>*>(x), batch, rows,
                   static_cast<S*>(gradients), begin, end);
  });
}

// ---- inputs

template <class S>
void pack(const void* input, int64_t batch, int64_t features, int64_t segments, void* packed) {
  using A = Sum<S>;
  constexpr int64_t L = kLanes<A>;
  const int64_t inputs = inputs_for(batch);
  const S* from = static_cast<const S*>(input);
  A* to = static_cast<A*>(packed);
  for (int64_t c = 0; c < segments * kWord; c += L)
    for (int64_t b = 0; b < inputs; ++b, to += L)
      store(to,
            b < batch && c < features ? load_part(from + b * features + c, features - c, Vector<A>{}) : Vector<A>{});
}

template <class S>
void unpack(const void* sums, int64_t count, int64_t batch, int64_t features, int64_t segments, void* out,
            int64_t begin, int64_t end) {
  using A = Sum<S>;
  constexpr int64_t L = kLanes<A>;
  const int64_t inputs = inputs_for(batch);
  for (int64_t c = begin * kWord; c < end * kWord && c < features; c += L) {
    for (int64_t b = 0; b < batch; ++b) {
      const A* from = static_cast<const A*>(sums) + c * inputs + b * L;
      Vector<A> sum = load(from);
      for (int64_t i = 1; i < count; ++i) sum += load(from + i * segments * kWord * inputs);
      store_part(static_cast<S*>(out) + b * features + c, sum, features - c);
    }
  }
}

template <class S>
void sum_rows(const void* rows, int64_t batch, int64_t features, void* out) {
  using A = Sum<S>;
  const S* from = static_cast<const S*>(rows);
  for (int64_t c = 0; c < features; c += kLanes<A>) {
    Vector<A> sum{};
    for (int64_t b = 0; b < batch; ++b) sum += load_part(from + b * features + c, features - c, Vector<A>{});
    store_part(static_cast<S*>(out) + c, sum, features - c);
  }
}

template <class S>
constexpr FewKernels kKernels{sizeof(Sum<S>), pack<S>, product<S>, transposed<S>, unpack<S>, outer<S>, sum_rows<S>};

}  // namespace
}  // namespace few

#if defined(SPARSEKERN_VBMI2)

const FewKernels& few_kernels_of_vbmi2(Storage storage) {
  return storage == Storage::bfloat16 ? few::kKernels<BFloat16> : few::kKernels<Float16>;
}

#else

template <>
const FewKernels& few_kernels_of<Isa::SPARSEKERN_ISA>(Storage storage) {
#if SPARSEKERN_VECTOR_BYTES == 64
  const bool half = storage == Storage::bfloat16 || storage == Storage::float16;
  if (half && __builtin_cpu_supports("avx512vbmi2")) return few_kernels_of_vbmi2(storage);
#endif
  switch (storage) {
    case Storage::float64:
      return few::kKernels<double>;
    case Storage::bfloat16:
      return few::kKernels<BFloat16>;
    case Storage::float16:
      return few::kKernels<Float16>;
    default:
      return few::kKernels<float>;
  }
}

#endif

}  // namespace sparsekern
