// The vector kernels of cpu/simd/linear.h: one source, compiled once for each instruction set.
#pragma once

#include "cpu/simd/panels-inl.h"
#include "cpu/simd/tiles-inl.h"

namespace sparsekern {
namespace linear {
namespace {

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

template <class S, int N, bool Indirect>
void product_panel(const CsrView& csr, const Sum<S>* x, const Sum<S>* values, const S* bias, int64_t columns, S* out,
                   int64_t begin, int64_t end) {
  using A = Sum<S>;
  constexpr int64_t L = kLanes<A>, W = N * L;
  alignas(64) A block[kRowBlock * W];
  for (int64_t r0 = begin; r0 < end; r0 += kRowBlock) {
    const int64_t rows = least(kRowBlock, end - r0);
    for (int64_t i = 0; i < rows; ++i) {
      Vector<A> sums[N];
      const A first = bias ? widen(bias[r0 + i]) : A(0);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sums[n] = Vector<A>{} + first;
      accumulate<A, N, Indirect>(sums, x, values, csr, csr.ptr[r0 + i], csr.ptr[r0 + i + 1]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) store(block + i * W + n * L, sums[n]);
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
  for (int64_t r = begin; r < end; ++r) {
    int64_t k = csr.ptr[r];
    const int64_t stop = csr.ptr[r + 1];
    if (k == stop) continue;
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
    for (; k + L <= stop; k += L) {
      const Vector<A> sums = sum_lanes<A>([&](int i) SPARSEKERN_LAMBDA_INLINE { return product(k + i); });
      store(out + k, add ? load(out + k) + sums : sums);
    }
    for (; k < stop; ++k) pending.push(k, product(k), out, add);
  }
  if (pending.count) pending.flush(out, add);
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
constexpr LinearKernels kKernels{kLanes<Sum<S>>,     kPanelVectors<Sum<S>>,
                                 sizeof(S),          sizeof(Sum<S>),
                                 sizeof(Sum<S>),     pack<S>,
                                 widen_values<S>,    product<S>,
                                 sample<S>,          tile_product<S>,
                                 tile_transposed<S>, tile_sample<S>,
                                 tile_columns,       combine<S>};

}  // namespace
}  // namespace linear

template <>
const LinearKernels& linear_kernels_of<Isa::SPARSEKERN_ISA>(Storage storage) {
  switch (storage) {
    case Storage::float64:
      return linear::kKernels<double>;
    case Storage::bfloat16:
#if defined(__x86_64__) && SPARSEKERN_VECTOR_BYTES == 64
      if (__builtin_cpu_supports("avx512bf16")) return linear_kernels_of_pairs();
#endif
      return linear::kKernels<BFloat16>;
    case Storage::float16:
      return linear::kKernels<Float16>;
    default:
      return linear::kKernels<float>;
  }
}

}  // namespace sparsekern
