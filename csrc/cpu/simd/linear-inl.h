// The vector kernels of cpu/simd/linear.h: one source, compiled once for each instruction set.
#pragma once

#include "cpu/simd/linear.h"
#include "cpu/simd/vector-inl.h"

namespace sparsekern {
namespace linear {
namespace {

template <class A>
constexpr int kPanelVectors = kPanel / kLanes<A> < 8 ? kPanel / kLanes<A> : 8;

// ---- packing

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
    const int64_t m = least(L, panel.columns - b);
    for (int64_t f = begin; f < end; f += L) {
      const int64_t n = least(L, end - f);
      Vector<A> rows[L];
      if (n == L && m == L) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) rows[i] = load(in + i * stride + f);
      } else {
        for (int i = 0; i < L; ++i) rows[i] = i < m ? load_part(in + i * stride + f, n, Vector<A>{}) : Vector<A>{};
      }
      if (sums) {
        Vector<A> sum = b > 0 ? load_part(sums + f, n, rows[0]) : Vector<A>{};
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) sum += rows[i];
        store_part(sums + f, sum, n);
      }
      transpose(rows);
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

// ---- SpMM

// Chains of sums per row: narrow panels need several to hide the latency of the multiply-add.
constexpr int chains(int vectors) { return vectors >= 5 ? 1 : vectors >= 3 ? 2 : 4; }

// sums += sum over positions [k, end) of value * x[index]
template <class A, int N, bool Indirect>
SPARSEKERN_INLINE void accumulate(Vector<A> (&sums)[N], const A* x, const A* values, const CsrView& csr, int64_t k,
                                  int64_t end) {
  constexpr int L = kLanes<A>, C = chains(N);
  const auto step = [&](Vector<A>(&to)[N], int64_t slot) SPARSEKERN_LAMBDA_INLINE {
    const A value = values[Indirect ? csr.position[slot] : slot];
    const A* row = x + int64_t(csr.index[slot]) * (N * L);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) to[n] += value * load(row + n * L);
  };
  if constexpr (C > 1) {
    Vector<A> more[C - 1][N] = {};
    for (; k + C <= end; k += C) {
      step(sums, k);
#pragma GCC unroll 4
      for (int c = 1; c < C; ++c) step(more[c - 1], k + c);
    }
#pragma GCC unroll 4
    for (int c = 1; c < C; ++c) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sums[n] += more[c - 1][n];
    }
  }
  for (; k < end; ++k) step(sums, k);
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

constexpr int64_t kTile = 64;  // columns of a segment

// Asks for what is due when the other rows of the block are done: the next segment of row `r`, or after the last one
// the first segment of its counterpart in the next block. Dozens of short streams are more than the hardware follows.
template <class A>
SPARSEKERN_INLINE void prefetch_segment(const CsrView& csr, const A* values, int64_t r, int64_t s) {
  int64_t slot = csr.bounds[r * csr.stride + s + 1] + 16;
  if (s + 1 == csr.segments && r + kRowBlock < csr.rows) slot = csr.bounds[(r + kRowBlock) * csr.stride];
  __builtin_prefetch(csr.index + slot);
  __builtin_prefetch(csr.index + slot + 16);
  const char* more = reinterpret_cast<const char*>(csr.position ? reinterpret_cast<const A*>(csr.position) : values);
  more += slot * int64_t(csr.position ? sizeof(int32_t) : sizeof(A));
  __builtin_prefetch(more);
  __builtin_prefetch(more + 64);
}

// The same for the values where they lie in rows of their own: those of the next tile's i-th row.
template <class A>
SPARSEKERN_INLINE void prefetch_values(const CsrView& csr, const A* values, int64_t r0, int64_t s, int64_t i) {
  const bool last = s + 1 == csr.segments;
  const int64_t row = last ? i : (s + 1) * kTile + i, column = last ? r0 + kRowBlock : r0;
  if (row >= csr.cols || column >= csr.rows) return;
  const int32_t* bounds = csr.value_bounds + row * csr.value_stride + column / kTile;
  for (const A* p = values + bounds[0]; p < values + bounds[1]; p += 64 / sizeof(A)) __builtin_prefetch(p);
}

template <class S, int N, bool Indirect>
void product_panel(const CsrView& csr, const Sum<S>* x, const Sum<S>* values, const S* bias, int64_t columns, S* out,
                   int64_t begin, int64_t end) {
  using A = Sum<S>;
  constexpr int64_t L = kLanes<A>, W = N * L;
  alignas(64) A block[kRowBlock * W];
  for (int64_t r0 = begin; r0 < end; r0 += kRowBlock) {
    const int64_t rows = least(kRowBlock, end - r0);
    for (int64_t s = 0; s < csr.segments; ++s) {
      for (int64_t i = 0; i < rows; ++i) {
        const int32_t* bounds = csr.bounds + (r0 + i) * csr.stride + s;
        Vector<A> sums[N];
        const A first = s == 0 && bias ? widen(bias[r0 + i]) : A(0);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sums[n] = s == 0 ? Vector<A>{} + first : load(block + i * W + n * L);
        if (csr.stride > 1) {
          prefetch_segment(csr, values, r0 + i, s);
          if (Indirect) prefetch_values(csr, values, r0, s, i);
        }
        accumulate<A, N, Indirect>(sums, x, values, csr, bounds[0], bounds[1]);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) store(block + i * W + n * L, sums[n]);
      }
    }
    unpack(block, W, columns, rows, out + r0, csr.rows);
  }
}

template <class S, int N = kPanelVectors<Sum<S>>>
SPARSEKERN_INLINE void product_width(int64_t vectors, const CsrView& csr, const Sum<S>* x, const Sum<S>* values,
                                     const S* bias, int64_t columns, S* out, int64_t begin, int64_t end) {
  if (vectors == N) {
    (csr.position ? product_panel<S, N, true> : product_panel<S, N, false>)(csr, x, values, bias, columns, out, begin,
                                                                            end);
  } else if constexpr (N > 1) {
    product_width<S, N - 1>(vectors, csr, x, values, bias, columns, out, begin, end);
  }
}

template <class S>
void product(const CsrView& csr, const Panel& panel, const void* packed, const void* values, const void* bias,
             void* out, int64_t begin, int64_t end) {
  using A = Sum<S>;
  product_width<S>(panel.width / kLanes<A>, csr, static_cast<const A*>(packed), static_cast<const A*>(values),
                   static_cast<const S*>(bias), panel.columns, static_cast<S*>(out) + panel.begin * csr.rows, begin,
                   end);
}

// ---- SDDMM

template <class A, int N>
void sample_panel(const CsrView& csr, const A* left, const A* right, A* out, bool add, int64_t begin, int64_t end) {
  constexpr int64_t L = kLanes<A>, W = N * L;
  Pending<A> pending;
  const int64_t height = csr.stride > 1 ? kRowBlock : end - begin;
  for (int64_t r0 = begin; r0 < end; r0 += height) {
    const int64_t stop = least(end, r0 + height);
    for (int64_t s = 0; s < csr.segments; ++s) {
      for (int64_t r = r0; r < stop; ++r) {
        const int32_t* bounds = csr.bounds + r * csr.stride + s;
        if (csr.stride > 1) prefetch_segment(csr, out, r, s);
        if (bounds[0] == bounds[1]) continue;
        Vector<A> row[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) row[n] = load(left + r * W + n * L);
        const auto product = [&](int64_t k) SPARSEKERN_LAMBDA_INLINE {
          const A* x = right + int64_t(csr.index[k]) * W;
          Vector<A> product = row[0] * load(x);
#pragma GCC unroll 8
          for (int n = 1; n < N; ++n) product += row[n] * load(x + n * L);
          return product;
        };
        int64_t k = bounds[0];
        for (; k + L <= bounds[1]; k += L) {
          const Vector<A> sums = sum_lanes<A>([&](int i) SPARSEKERN_LAMBDA_INLINE { return product(k + i); });
          store(out + k, add ? load(out + k) + sums : sums);
        }
        for (; k < bounds[1]; ++k) pending.push(k, product(k), out, add);
      }
      if (pending.count) pending.flush(out, add);
    }
  }
}

template <class A, int N = kPanelVectors<A>>
SPARSEKERN_INLINE void sample_width(int64_t vectors, const CsrView& csr, const A* left, const A* right, A* out,
                                    bool add, int64_t begin, int64_t end) {
  if (vectors == N)
    sample_panel<A, N>(csr, left, right, out, add, begin, end);
  else if constexpr (N > 1)
    sample_width<A, N - 1>(vectors, csr, left, right, out, add, begin, end);
}

template <class S>
void sample(const CsrView& csr, const Panel& panel, const void* left, const void* right, bool add, void* sums,
            int64_t begin, int64_t end) {
  using A = Sum<S>;
  sample_width<A>(panel.width / kLanes<A>, csr, static_cast<const A*>(left), static_cast<const A*>(right),
                  static_cast<A*>(sums), add, begin, end);
}

template <class S>
constexpr LinearKernels kKernels{kLanes<Sum<S>>, kPanelVectors<Sum<S>>, sizeof(S),  sizeof(Sum<S>),
                                 pack<S>,        widen_values<S>,       product<S>, sample<S>,
                                 combine<S>};

}  // namespace
}  // namespace linear

template <>
const LinearKernels& linear_kernels_of<Isa::SPARSEKERN_ISA>(Storage storage) {
  switch (storage) {
    case Storage::float64:
      return linear::kKernels<double>;
    case Storage::bfloat16:
      return linear::kKernels<BFloat16>;
    case Storage::float16:
      return linear::kKernels<Float16>;
    default:
      return linear::kKernels<float>;
  }
}

}  // namespace sparsekern
