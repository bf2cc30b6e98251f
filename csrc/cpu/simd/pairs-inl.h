// The kernels of the sparse linear layer for bfloat16 where the processor has VDPBF16PS, which multiplies two pairs and
// adds both products to a float. Activations and values stay bfloat16. A product takes two nonzeros of a row at a time,
// whose features are interleaved as they are read; an inner product takes two batch columns at a time.
#pragma once

#include "cpu/simd/panels-inl.h"
#include "cpu/simd/tiles-inl.h"

namespace sparsekern {
namespace linear {
namespace {

constexpr int kColumns = 32;     // batch columns of a vector
constexpr int kMostVectors = 4;  // of a panel

SPARSEKERN_INLINE Vector<float> add_pairs(Vector<float> sums, __m512i a, __m512i b) {
  return (Vector<float>)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
}

// ---- packing

// Every 16 bytes hold four columns of the first half of 32, then four of the second: interleaved with another
// feature's, the first halves of all 16 bytes are pairs of columns 0 to 15 in their order, and the second halves of 16
// to 31.
void pack_columns(const void* input, int64_t stride, const Panel& panel, int64_t begin, int64_t end, void* packed,
                  void* sums_) {
  constexpr int L = kLanes<float>;
  float* sums = static_cast<float*>(sums_);
  for (int64_t b = 0; b < panel.width; b += kColumns) {
    const BFloat16* in = static_cast<const BFloat16*>(input) + (panel.begin + b) * stride;
    BFloat16* to = static_cast<BFloat16*>(packed) + b;
    const int64_t columns = panel.columns - b;
    for (int64_t f = begin; f < end; f += L) {
      const int64_t n = least(L, end - f);
      float* sum = sums ? sums + f : nullptr;
      Vector<float> low[L], high[L] = {};
      take(in + f, stride, least(L, columns), n, sum, b == 0, low);
      if (columns > L) take(in + f + L * stride, stride, least(L, columns - L), n, sum, false, high);
      for (int64_t i = 0; i < n; ++i) {
        _mm512_storeu_si512(to + (f + i) * panel.width, _mm512_packus_epi32(_mm512_srli_epi32((__m512i)low[i], 16),
                                                                            _mm512_srli_epi32((__m512i)high[i], 16)));
      }
    }
  }
}

// ---- nonzeros, as the products take them: the i-th one of a row, or the i-th and the next

struct One {
  uint32_t value;  // and a zero above it
  int64_t feature;
};
struct Two {
  uint32_t values;
  int64_t first, second;
};

// Side by side, with indices of type I.
template <class I>
struct InOrder {
  const BFloat16* values;
  const I* index;

  SPARSEKERN_INLINE One one(int64_t i) const { return {values[i].bits, index[i]}; }
  SPARSEKERN_INLINE Two two(int64_t i) const {
    uint32_t both;
    __builtin_memcpy(&both, values + i, sizeof both);
    return {both, index[i], index[i + 1]};
  }
};

// By columns: the values lie at positions of their own.
template <class Position, class Feature>
struct Gathered {
  const BFloat16* values;
  Position position;
  Feature feature;

  SPARSEKERN_INLINE One one(int64_t i) const { return {values[position(i)].bits, feature(i)}; }
  SPARSEKERN_INLINE Two two(int64_t i) const {
    const uint32_t low = values[position(i)].bits, high = values[position(i + 1)].bits;
    return {low | high << 16, feature(i), feature(i + 1)};
  }
};
template <class Position, class Feature>
Gathered(const BFloat16*, Position, Feature) -> Gathered<Position, Feature>;

// ---- SpMM

// to[2 n], to[2 n + 1]: columns 32 n to 32 n + 31
template <int N>
using Columns = Vector<float>[2 * N];

template <int N>
SPARSEKERN_INLINE void add(Columns<N>& to, const BFloat16* x, const Two& two) {
  const __m512i values = _mm512_set1_epi32(static_cast<int>(two.values));
  const BFloat16 *a = x + two.first * (N * kColumns), *b = x + two.second * (N * kColumns);
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    const __m512i first = _mm512_loadu_si512(a + n * kColumns), second = _mm512_loadu_si512(b + n * kColumns);
    to[2 * n] = add_pairs(to[2 * n], _mm512_unpacklo_epi16(first, second), values);
    to[2 * n + 1] = add_pairs(to[2 * n + 1], _mm512_unpackhi_epi16(first, second), values);
  }
}

// The feature's neighbours are zeros, so that what is infinite is not multiplied with another feature.
template <int N>
SPARSEKERN_INLINE void add(Columns<N>& to, const BFloat16* x, const One& one) {
  const __m512i value = _mm512_set1_epi32(static_cast<int>(one.value)), none = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    const __m512i first = _mm512_loadu_si512(x + one.feature * (N * kColumns) + n * kColumns);
    to[2 * n] = add_pairs(to[2 * n], _mm512_unpacklo_epi16(first, none), value);
    to[2 * n + 1] = add_pairs(to[2 * n + 1], _mm512_unpackhi_epi16(first, none), value);
  }
}

// to += the products of `count` nonzeros, in C chains of sums
template <int N, int C, class Nonzeros>
SPARSEKERN_INLINE void add_products(Columns<N>& to, const BFloat16* x, const Nonzeros& nonzeros, int64_t count) {
  int64_t i = 0;
  if constexpr (C > 1) {
    Columns<N> more[C - 1] = {};
    for (; i + 2 * C <= count; i += 2 * C) {
      add<N>(to, x, nonzeros.two(i));
#pragma GCC unroll 4
      for (int c = 1; c < C; ++c) add<N>(more[c - 1], x, nonzeros.two(i + 2 * c));
    }
#pragma GCC unroll 4
    for (int c = 1; c < C; ++c) {
#pragma GCC unroll 8
      for (int n = 0; n < 2 * N; ++n) to[n] += more[c - 1][n];
    }
  }
  for (; i + 2 <= count; i += 2) add<N>(to, x, nonzeros.two(i));
  if (i < count) add<N>(to, x, nonzeros.one(i));
}

template <int N>
SPARSEKERN_INLINE void store_columns(float* to, const Columns<N>& sums) {
#pragma GCC unroll 8
  for (int n = 0; n < 2 * N; ++n) store(to + n * kLanes<float>, sums[n]);
}

// A row's sums in the block of a tile grow by the products of `count` nonzeros.
template <int N, class Nonzeros>
SPARSEKERN_INLINE void grow(float* row, const BFloat16* x, const Nonzeros& nonzeros, int64_t count) {
  Columns<N> sums;
#pragma GCC unroll 8
  for (int n = 0; n < 2 * N; ++n) sums[n] = load(row + n * kLanes<float>);
  add_products<N, 1>(sums, x, nonzeros, count);
  store_columns<N>(row, sums);
}

template <int N>
struct Product {
  static void run(const CsrView& csr, const BFloat16* x, const BFloat16* values, const BFloat16* bias, int64_t columns,
                  BFloat16* out, int64_t begin, int64_t end) {
    constexpr int64_t W = N * kColumns;
    constexpr int C = N >= 3 ? 1 : N == 2 ? 2 : 4;  // narrow panels need several chains to hide the latency
    alignas(64) float block[kRowBlock * W];
    for (int64_t r0 = begin; r0 < end; r0 += kRowBlock) {
      const int64_t rows = least(kRowBlock, end - r0);
      for (int64_t i = 0; i < rows; ++i) {
        Columns<N> sums;
#pragma GCC unroll 8
        for (int n = 0; n < 2 * N; ++n) sums[n] = Vector<float>{} + (bias ? widen(bias[r0 + i]) : 0.f);
        const int64_t first = csr.ptr[r0 + i], count = csr.ptr[r0 + i + 1] - first;
        const int32_t* index = csr.index + first;
        if (csr.position) {
          const int32_t* position = csr.position + first;
          const Gathered nonzeros{values, [=](int64_t k) SPARSEKERN_LAMBDA_INLINE { return position[k]; },
                                  [=](int64_t k) SPARSEKERN_LAMBDA_INLINE { return index[k]; }};
          add_products<N, C>(sums, x, nonzeros, count);
        } else {
          add_products<N, C>(sums, x, InOrder<int32_t>{values + first, index}, count);
        }
        store_columns<N>(block + i * W, sums);
      }
      unpack(block, W, columns, rows, out + r0, csr.rows);
    }
  }
};

// Rows of tiles [begin, end).
template <int N>
struct TileProduct {
  static void run(const TileView& t, const BFloat16* x, const BFloat16* values, const BFloat16* bias, int64_t columns,
                  BFloat16* out, int64_t begin, int64_t end) {
    constexpr int64_t W = N * kColumns;
    alignas(64) float block[kMostSide * W];
    int32_t at[kByte];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r0 = i * t.side, height = least(t.side, t.rows - r0);
      begin_rows(t, i, at);
      for (int64_t r = 0; r < height; ++r) {
        const float first = bias ? widen(bias[r0 + r]) : 0.f;
        for (int64_t b = 0; b < W; ++b) block[r * W + b] = first;
      }
      for (int64_t j = 0; j < t.across; ++j) {
        each_row(t, i, j, at, [&](int64_t row, int64_t k, int64_t count, int64_t ahead) SPARSEKERN_LAMBDA_INLINE {
          __builtin_prefetch(values + ahead);
          __builtin_prefetch(t.col + ahead);
          grow<N>(block + row * W, x + j * t.side * W, InOrder<uint8_t>{values + k, t.col + k}, count);
        });
      }
      unpack(block, W, columns, height, out + r0, t.rows);
    }
  }
};

// Columns of tiles [begin, end) of the transposed product; `positions` are those from column `begin` on.
template <int N>
struct TileTransposed {
  static void run(const TileView& t, const BFloat16* x, const BFloat16* values, int32_t* positions, int64_t columns,
                  BFloat16* out, int64_t begin, int64_t end) {
    constexpr int64_t W = N * kColumns;
    alignas(64) float block[kMostSide * W];
    for (int64_t j = begin; j < end; ++j) {
      const int64_t c0 = j * t.side, width = least(t.side, t.cols - c0);
      for (int64_t b = 0; b < width * W; ++b) block[b] = 0;
      for (int64_t i = 0; i < t.down; ++i) {
        int32_t* at = positions + i * t.side;
        each_column(
            t, i, j, values, at, [&](int64_t column, const uint16_t* entry, int64_t count) SPARSEKERN_LAMBDA_INLINE {
              const Gathered nonzeros{
                  values, [=](int64_t k) SPARSEKERN_LAMBDA_INLINE { return at[entry[k] & 0xff] + (entry[k] >> 8); },
                  [=](int64_t k) SPARSEKERN_LAMBDA_INLINE { return entry[k] & 0xff; }};
              grow<N>(block + column * W, x + i * t.side * W, nonzeros, count);
            });
      }
      unpack(block, W, columns, width, out + c0, t.cols);
    }
  }
};

// ---- SDDMM

// A row of the panel's columns, with which others are multiplied.
template <int N>
struct Row {
  __m512i columns[N];

  SPARSEKERN_INLINE explicit Row(const BFloat16* x) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) columns[n] = _mm512_loadu_si512(x + n * kColumns);
  }

  SPARSEKERN_INLINE Vector<float> times(const BFloat16* x) const {
    Vector<float> product{};
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) product = add_pairs(product, columns[n], _mm512_loadu_si512(x + n * kColumns));
    return product;
  }
};

template <int N>
struct Sample {
  static void run(const CsrView& csr, const BFloat16* left, const BFloat16* right, bool add, float* out, int64_t begin,
                  int64_t end) {
    constexpr int64_t W = N * kColumns;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t first = csr.ptr[r];
      const Row<N> row(left + r * W);
      inner_products(out + first, csr.ptr[r + 1] - first, add,
                     [&](int64_t i) SPARSEKERN_LAMBDA_INLINE { return row.times(right + csr.index[first + i] * W); });
    }
  }
};

template <int N>
struct TileSample {
  static void run(const TileView& t, const BFloat16* left, const BFloat16* right, bool add, float* out, int64_t begin,
                  int64_t end) {
    constexpr int64_t W = N * kColumns;
    int32_t at[kByte];
    for (int64_t i = begin; i < end; ++i) {
      begin_rows(t, i, at);
      for (int64_t j = 0; j < t.across; ++j) {
        each_row(t, i, j, at, [&](int64_t r, int64_t k, int64_t count, int64_t ahead) SPARSEKERN_LAMBDA_INLINE {
          __builtin_prefetch(out + ahead);
          __builtin_prefetch(t.col + ahead);
          const Row<N> row(left + (i * t.side + r) * W);
          inner_products(out + k, count, add, [&](int64_t n) SPARSEKERN_LAMBDA_INLINE {
            return row.times(right + (j * t.side + t.col[k + n]) * W);
          });
        });
      }
    }
  }
};

// ---- the functions of the table: the width of a panel becomes a constant

template <template <int> class Kernel, int N = kMostVectors, class... Args>
SPARSEKERN_INLINE void with_width(int64_t width, const Args&... args) {
  if (width == N * kColumns)
    Kernel<N>::run(args...);
  else if constexpr (N > 1)
    with_width<Kernel, N - 1>(width, args...);
}

const BFloat16* narrow(const void* p) { return static_cast<const BFloat16*>(p); }

template <template <int> class Kernel, class View>
void multiply(const View& view, const Panel& panel, const void* packed, const void* values, const void* bias, void* out,
              int64_t begin, int64_t end) {
  with_width<Kernel>(panel.width, view, narrow(packed), narrow(values), narrow(bias), panel.columns,
                     static_cast<BFloat16*>(out) + panel.begin * view.rows, begin, end);
}

void multiply_transposed(const TileView& t, const Panel& panel, const void* packed, const void* values,
                         int32_t* positions, void* out, int64_t begin, int64_t end) {
  with_width<TileTransposed>(panel.width, t, narrow(packed), narrow(values), positions, panel.columns,
                             static_cast<BFloat16*>(out) + panel.begin * t.cols, begin, end);
}

template <template <int> class Kernel, class View>
void sample_pairs(const View& view, const Panel& panel, const void* left, const void* right, bool add, void* sums,
                  int64_t begin, int64_t end) {
  with_width<Kernel>(panel.width, view, narrow(left), narrow(right), add, static_cast<float*>(sums), begin, end);
}

constexpr LinearKernels kPairKernels{kColumns,
                                     kMostVectors,
                                     sizeof(BFloat16),
                                     sizeof(float),
                                     sizeof(BFloat16),
                                     pack_columns,
                                     widen_values<BFloat16>,
                                     multiply<Product, CsrView>,
                                     sample_pairs<Sample, CsrView>,
                                     multiply<TileProduct, TileView>,
                                     multiply_transposed,
                                     sample_pairs<TileSample, TileView>,
                                     tile_columns,
                                     combine<BFloat16>};

}  // namespace
}  // namespace linear

const LinearKernels& linear_kernels_of_pairs() { return linear::kPairKernels; }

}  // namespace sparsekern
