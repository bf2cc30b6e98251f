// The kernels of the sparse linear layer that walk tiles (cpu/tiles.h). What a tile reads and writes stays in the L1
// cache while its nonzeros go by.
#pragma once

#include "cpu/simd/panels-inl.h"

namespace sparsekern {
namespace linear {
namespace {

// out[i] += sum of value * x[feature] over the next `count` nonzeros. The sums of neighbouring rows do not depend on
// each other, so that one chain of them is enough.
template <class A, int N, class Next>
SPARSEKERN_INLINE void add_products(A* out, const A* x, int64_t count, const Next& next) {
  constexpr int L = kLanes<A>;
  Vector<A> sums[N];
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) sums[n] = load(out + n * L);
  do {
    const auto [value, feature] = next();
    const A* row = x + feature * (N * L);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sums[n] += value * load(row + n * L);
  } while (--count);
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) store(out + n * L, sums[n]);
}

// Asks for the values of a tile before it is walked: those of each row lie a whole row of the weight away from the
// last one's, so that the processor does not foresee them. Ten or so in a row take one or two cache lines.
template <class A>
SPARSEKERN_INLINE void fetch_values(const A* values, const int32_t* at, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    __builtin_prefetch(values + at[r]);
    __builtin_prefetch(values + at[r] + 64 / sizeof(A) - 1);
  }
}

template <class A>
struct Weighted {
  A value;
  int64_t feature;
};

// Rows of tiles [begin, end) of the product with x.
template <class S, int N>
void tile_product_panel(const TileView& t, const Sum<S>* x, const Sum<S>* values, const S* bias, int64_t columns,
                        S* out, int64_t begin, int64_t end) {
  using A = Sum<S>;
  constexpr int64_t W = N * kLanes<A>;
  alignas(64) A block[kMostSide * W];
  int32_t at[kMostSide];
  for (int64_t i = begin; i < end; ++i) {
    const int64_t r0 = i * t.side, height = least(t.side, t.rows - r0);
    for (int64_t r = 0; r < height; ++r) {
      at[r] = t.row_ptr[r0 + r];
      const A first = bias ? widen(bias[r0 + r]) : A(0);
      for (int64_t b = 0; b < W; ++b) block[r * W + b] = first;
    }
    for (int64_t j = 0; j < t.across; ++j) {
      const uint8_t* order = t.row_order + (i * t.across + j) * t.side;
      const uint8_t* counts = t.row_count + (i * t.across + j) * t.side;
      for (int64_t r = 0; r < height && counts[r]; ++r) {
        const A* value = values + at[order[r]];
        const uint8_t* col = t.col + at[order[r]];
        at[order[r]] += counts[r];
        add_products<A, N>(block + order[r] * W, x + j * t.side * W, counts[r],
                           [&]() SPARSEKERN_LAMBDA_INLINE { return Weighted<A>{*value++, *col++}; });
      }
    }
    unpack(block, W, columns, height, out + r0, t.rows);
  }
}

// Columns of tiles [begin, end) of the transposed product with x. `positions` are those from column `begin` on.
template <class S, int N>
void tile_transposed_panel(const TileView& t, const Sum<S>* x, const Sum<S>* values, int32_t* positions,
                           int64_t columns, S* out, int64_t begin, int64_t end) {
  using A = Sum<S>;
  constexpr int64_t W = N * kLanes<A>;
  alignas(64) A block[kMostSide * W];
  for (int64_t j = begin; j < end; ++j) {
    const int64_t c0 = j * t.side, width = least(t.side, t.cols - c0);
    for (int64_t b = 0; b < width * W; ++b) block[b] = 0;
    for (int64_t i = 0; i < t.down; ++i) {
      int32_t* at = positions + i * t.side;
      const uint16_t* entry = t.entry + t.start[j * t.down + i];
      const uint8_t* order = t.col_order + (j * t.down + i) * t.side;
      const uint8_t* counts = t.col_count + (j * t.down + i) * t.side;
      if (i + 1 < t.down) fetch_values(values, at + t.side, t.side);
      for (int64_t c = 0; c < width && counts[c]; ++c) {
        add_products<A, N>(block + order[c] * W, x + i * t.side * W, counts[c], [&]() SPARSEKERN_LAMBDA_INLINE {
          const int64_t row = *entry & 0xff, place = *entry >> 8;
          ++entry;
          return Weighted<A>{values[at[row] + place], row};
        });
      }
      const uint8_t* rows = t.row_order + (i * t.across + j) * t.side;
      const uint8_t* passed = t.row_count + (i * t.across + j) * t.side;
      for (int64_t r = 0; r < t.side && passed[r]; ++r) at[rows[r]] += passed[r];
    }
    unpack(block, W, columns, width, out + c0, t.cols);
  }
}

// Columns of the nonzeros of the i-th row of tiles, in the order of the CSR index.
void tile_columns(const TileView& t, int64_t i, int32_t* columns) {
  constexpr int64_t kGroup = 16;
  const int64_t r0 = i * t.side, height = least(t.side, t.rows - r0);
  int32_t at[kMostSide];
  for (int64_t r = 0; r < height; ++r) at[r] = t.row_ptr[r0 + r];
  for (int64_t j = 0; j < t.across; ++j) {
    const uint8_t* order = t.row_order + (i * t.across + j) * t.side;
    const uint8_t* counts = t.row_count + (i * t.across + j) * t.side;
    for (int64_t r = 0; r < height && counts[r]; ++r) {
      const uint8_t* from = t.col + at[order[r]];
      int32_t* to = columns + at[order[r]] - t.row_ptr[r0];
      at[order[r]] += counts[r];
      int64_t left = counts[r];
      int32_t group[kGroup];
      for (; left > 0; left -= kGroup, from += kGroup, to += kGroup) {  // reads on into the next part of the tiles
        for (int64_t k = 0; k < kGroup; ++k) group[k] = static_cast<int32_t>(j * t.side + from[k]);
        if (left >= kGroup)
          __builtin_memcpy(to, group, sizeof group);
        else
          copy_few<kGroup>(to, group, left);
      }
    }
  }
}

// ---- the functions of the table: the width of a panel becomes a constant

template <class S, int N = kPanelVectors<Sum<S>>>
void tile_product(const TileView& t, const Panel& panel, const void* packed, const void* values, const void* bias,
                  void* out, int64_t begin, int64_t end) {
  using A = Sum<S>;
  if (panel.width == N * kLanes<A>) {
    tile_product_panel<S, N>(t, static_cast<const A*>(packed), static_cast<const A*>(values),
                             static_cast<const S*>(bias), panel.columns, static_cast<S*>(out) + panel.begin * t.rows,
                             begin, end);
  } else if constexpr (N > 1) {
    tile_product<S, N - 1>(t, panel, packed, values, bias, out, begin, end);
  }
}

template <class S, int N = kPanelVectors<Sum<S>>>
void tile_transposed(const TileView& t, const Panel& panel, const void* packed, const void* values, int32_t* positions,
                     void* out, int64_t begin, int64_t end) {
  using A = Sum<S>;
  if (panel.width == N * kLanes<A>) {
    tile_transposed_panel<S, N>(t, static_cast<const A*>(packed), static_cast<const A*>(values), positions,
                                panel.columns, static_cast<S*>(out) + panel.begin * t.cols, begin, end);
  } else if constexpr (N > 1) {
    tile_transposed<S, N - 1>(t, panel, packed, values, positions, out, begin, end);
  }
}

}  // namespace
}  // namespace linear
}  // namespace sparsekern
