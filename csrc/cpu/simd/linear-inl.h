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

// Rows [begin, end) of a product: row(sums, number) adds to sums that begin with the bias.
template <class S, int V, class Row>
SPARSEKERN_INLINE void each_row_of_product(int64_t all, int64_t columns, const S* bias, S* out, int64_t begin,
                                           int64_t end, const Row& row) {
  using A = Sum<S>;
  constexpr int64_t L = kLanes<A>, W = V * L;
  alignas(64) A block[kRowBlock * W];
  for (int64_t r0 = begin; r0 < end; r0 += kRowBlock) {
    const int64_t rows = least(kRowBlock, end - r0);
    for (int64_t i = 0; i < rows; ++i) {
      Vector<A> sums[V];
      const A bias_here = bias ? widen(bias[r0 + i]) : A(0);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[v] = Vector<A>{} + bias_here;
      row(sums, r0 + i);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) store(block + i * W + v * L, sums[v]);
    }
    unpack(block, W, columns, rows, out + r0, all);
  }
}

template <class S, class T, int N>
void product_panel(const CsrView& csr, const T* x, const T* values, const S* bias, int64_t columns, S* out,
                   int64_t begin, int64_t end) {
  constexpr int V = N * kHalves<T>;
  constexpr int64_t W = N * kFactors<T>;
  const auto multiply = [&](const auto& row) SPARSEKERN_LAMBDA_INLINE {
    each_row_of_product<S, V>(csr.rows, columns, bias, out, begin, end, row);
  };
  if (csr.position) {
    multiply([&](Vector<Sum<S>>(&sums)[V], int64_t r) SPARSEKERN_LAMBDA_INLINE {
      const int64_t first = csr.ptr[r];
      const int32_t *index = csr.index + first, *position = csr.position + first;
      const auto value = [=](int64_t k) SPARSEKERN_LAMBDA_INLINE { return values[position[k]]; };
      const auto from = [=](int64_t k) SPARSEKERN_LAMBDA_INLINE { return x + index[k] * W; };
      accumulate<T, 1, N, chains(V)>(sums, gathered(value, from), csr.ptr[r + 1] - first);
    });
    return;
  }
  with_columns(csr, [&]<class Index>(const Index* index) SPARSEKERN_LAMBDA_INLINE {
    multiply([&](Vector<Sum<S>>(&sums)[V], int64_t r) SPARSEKERN_LAMBDA_INLINE {
      const int64_t first = csr.ptr[r];
      accumulate<T, 1, N, chains(V)>(sums, InOrder<T, Index>{values + first, index + first, x, W},
                                     csr.ptr[r + 1] - first);
    });
  });
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

template <class S, class T, int N>
void narrow_transposed_panel(const NarrowView& t, const T* x, const T* values, int32_t* positions, int64_t columns,
                             S* out, int64_t begin, int64_t end) {
  constexpr int V = N * kHalves<T>;
  constexpr int64_t W = N * kFactors<T>;
  for (int64_t c0 = begin, stop; c0 < end; c0 = stop) {
    const int64_t strip = c0 / kStrip;
    stop = least(end, (strip + 1) * kStrip);
    const auto row = [&](Vector<Sum<S>>(&sums)[V], int64_t c) SPARSEKERN_LAMBDA_INLINE {
      const int64_t first = t.col_ptr[c];
      const uint16_t* rows = t.row + first;
      const uint8_t* place = t.place + first;
      const auto value = [=](int64_t k) SPARSEKERN_LAMBDA_INLINE { return values[positions[rows[k]] + place[k]]; };
      const auto from = [=](int64_t k) SPARSEKERN_LAMBDA_INLINE { return x + rows[k] * W; };
      accumulate<T, 1, N, chains(V)>(sums, gathered(value, from), t.col_ptr[c + 1] - first);
    };
    each_row_of_product<S, V>(t.cols, columns, static_cast<const S*>(nullptr), out, c0, stop, row);
    const uint8_t* passed = t.count + strip * t.rows;
    if (stop < end)
      for (int64_t r = 0; r < t.rows; ++r) positions[r] += passed[r];
  }
}

template <class S, class T>
void narrow_transposed(const NarrowView& t, const Panel& panel, const void* packed, const void* values,
                       int32_t* positions, void* out, int64_t begin, int64_t end) {
  with_width<T>(panel, [&]<int N>() SPARSEKERN_LAMBDA_INLINE {
    narrow_transposed_panel<S, T, N>(t, static_cast<const T*>(packed), static_cast<const T*>(values), positions,
                                     panel.columns, static_cast<S*>(out) + panel.begin * t.cols, begin, end);
  });
}

// ---- SDDMM

template <class T, int N, class Index>
SPARSEKERN_INLINE void sample_rows(const int32_t* ptr, const Index* index, const T* left, const T* right, Sum<T>* out,
                                   bool add, int64_t begin, int64_t end) {
  using A = Sum<T>;
  constexpr int64_t L = kLanes<A>, W = N * kFactors<T>;
  Pending<A> pending;
  for (int64_t r = begin; r < end; ++r) {
    int64_t k = ptr[r];
    const int64_t stop = ptr[r + 1];
    if (k == stop) continue;
    const Row<T, N> row(left + r * W);
    const auto product = [&](int64_t k)
                             SPARSEKERN_LAMBDA_INLINE { return row.multiply(right + int64_t(index[k]) * W); };
    for (; k + L <= stop; k += L) {
      const Vector<A> sums = sum_lanes<A>([&](int i) SPARSEKERN_LAMBDA_INLINE { return product(k + i); });
      store(out + k, add ? load(out + k) + sums : sums);
    }
    for (; k < stop; ++k) pending.push(k, product(k), out, add);
  }
  if (pending.count) pending.flush(out, add);
}

template <class T, int N>
void sample_panel(const CsrView& csr, const T* left, const T* right, Sum<T>* out, bool add, int64_t begin,
                  int64_t end) {
  with_columns(csr, [&](const auto* index) SPARSEKERN_LAMBDA_INLINE {
    sample_rows<T, N>(csr.ptr, index, left, right, out, add, begin, end);
  });
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
constexpr LinearKernels kKernels{
    kFactors<T>,        kPanelVectors<T>,      sizeof(S),      sizeof(Sum<S>), sizeof(T),
    pack<S, T>,         widen_values<S>,       product<S, T>,  sample<T>,      narrow_transposed<S, T>,
    tile_product<S, T>, tile_transposed<S, T>, tile_sample<T>, tile_columns,   combine<S>};

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
