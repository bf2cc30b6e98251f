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

template <class S, class T, int N>
void product_panel(const CsrView& csr, const T* x, const T* values, const S* bias, int64_t columns, S* out,
                   int64_t begin, int64_t end) {
  using A = Sum<S>;
  constexpr int64_t L = kLanes<A>, V = N * kHalves<T>, W = V * L;
  alignas(64) A block[kRowBlock * W];
  for (int64_t r0 = begin; r0 < end; r0 += kRowBlock) {
    const int64_t rows = least(kRowBlock, end - r0);
    for (int64_t i = 0; i < rows; ++i) {
      Vector<A> sums[V];
      const A bias_here = bias ? widen(bias[r0 + i]) : A(0);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[v] = Vector<A>{} + bias_here;
      const int64_t first = csr.ptr[r0 + i], count = csr.ptr[r0 + i + 1] - first;
      const int32_t* index = csr.index + first;
      if (csr.position) {
        const int32_t* position = csr.position + first;
        const auto value = [=](int64_t k) SPARSEKERN_LAMBDA_INLINE { return values[position[k]]; };
        const auto from = [=](int64_t k) SPARSEKERN_LAMBDA_INLINE { return x + index[k] * W; };
        accumulate<T, 1, N, chains(V)>(sums, gathered(value, from), count);
      } else {
        accumulate<T, 1, N, chains(V)>(sums, InOrder<T, int32_t>{values + first, index, x, W}, count);
      }
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) store(block + i * W + v * L, sums[v]);
    }
    unpack(block, W, columns, rows, out + r0, csr.rows);
  }
}

template <class S, class T>
void product(const CsrView& csr, const Panel& panel, const void* packed, const void* values, const void* bias,
             void* out, int64_t begin, int64_t end) {
  with_width<T>(panel, [&]<int N>() SPARSEKERN_LAMBDA_INLINE {
    product_panel<S, T, N>(csr, static_cast<const T*>(packed), static_cast<const T*>(values),
                           static_cast<const S*>(bias), panel.columns, static_cast<S*>(out) + panel.begin * csr.rows,
                           begin, end);
  });
}

// ---- SDDMM

template <class T, int N>
void sample_panel(const CsrView& csr, const T* left, const T* right, Sum<T>* out, bool add, int64_t begin,
                  int64_t end) {
  using A = Sum<T>;
  constexpr int64_t L = kLanes<A>, W = N * kFactors<T>;
  Pending<A> pending;
  for (int64_t r = begin; r < end; ++r) {
    int64_t k = csr.ptr[r];
    const int64_t stop = csr.ptr[r + 1];
    if (k == stop) continue;
    const Row<T, N> row(left + r * W);
    const auto product = [&](int64_t k)
                             SPARSEKERN_LAMBDA_INLINE { return row.multiply(right + int64_t(csr.index[k]) * W); };
    for (; k + L <= stop; k += L) {
      const Vector<A> sums = sum_lanes<A>([&](int i) SPARSEKERN_LAMBDA_INLINE { return product(k + i); });
      store(out + k, add ? load(out + k) + sums : sums);
    }
    for (; k < stop; ++k) pending.push(k, product(k), out, add);
  }
  if (pending.count) pending.flush(out, add);
}

template <class T>
void sample(const CsrView& csr, const Panel& panel, const void* left, const void* right, bool add, void* sums,
            int64_t begin, int64_t end) {
  with_width<T>(panel, [&]<int N>() SPARSEKERN_LAMBDA_INLINE {
    sample_panel<T, N>(csr, static_cast<const T*>(left), static_cast<const T*>(right), static_cast<Sum<T>*>(sums), add,
                       begin, end);
  });
}

// Elements of type S, factors of type T.
template <class S, class T = Sum<S>>
constexpr LinearKernels kKernels{kFactors<T>,
                                 kPanelVectors<T>,
                                 sizeof(S),
                                 sizeof(Sum<S>),
                                 sizeof(T),
                                 pack<S, T>,
                                 widen_values<S>,
                                 product<S, T>,
                                 sample<T>,
                                 tile_product<S, T>,
                                 tile_transposed<S, T>,
                                 tile_sample<T>,
                                 tile_columns,
                                 combine<S>};

}  // namespace
}  // namespace linear

#if defined(SPARSEKERN_PAIRS)

const LinearKernels& linear_kernels_of_pairs() { return linear::kKernels<BFloat16, BFloat16>; }

#else

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

#endif

}  // namespace sparsekern
