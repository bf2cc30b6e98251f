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

constexpr int64_t kByte = 256;  // values of the byte that names a row of a tile

// f(row in the tile, position of its first nonzero, how many it has, where a later row's begin) for the rows of a tile
// with nonzeros, the most first. `at`, of kByte elements, holds the next position of each row, and moves on.
template <class F>
SPARSEKERN_INLINE void each_row(const TileView& t, int64_t i, int64_t j, int32_t* at, const F& f) {
  constexpr int64_t kAhead = 8;  // rows whose nonzeros are asked for before they are used; past the last: any
  const uint8_t* order = t.row_order + (i * t.across + j) * t.side;
  const uint8_t* counts = t.row_count + (i * t.across + j) * t.side;
  const int64_t height = least(t.side, t.rows - i * t.side);
  for (int64_t r = 0; r < height && counts[r]; ++r) {
    const int64_t first = at[order[r]];
    at[order[r]] += counts[r];
    f(order[r], first, counts[r], at[order[r + kAhead]]);
  }
}

// f(column in the tile, its entries, how many it has) for the columns of a tile with nonzeros, the most first. `at`
// holds the positions of the nonzeros of the tile's rows, which f reads, and moves on.
template <class V, class F>
SPARSEKERN_INLINE void each_column(const TileView& t, int64_t i, int64_t j, const V* values, int32_t* at, const F& f) {
  if (i + 1 < t.down) fetch_values(values, at + t.side, t.side);
  const uint16_t* entry = t.entry + t.start[j * t.down + i];
  const uint8_t* order = t.col_order + (j * t.down + i) * t.side;
  const uint8_t* counts = t.col_count + (j * t.down + i) * t.side;
  const int64_t width = least(t.side, t.cols - j * t.side);
  for (int64_t c = 0; c < width && counts[c]; entry += counts[c++]) f(order[c], entry, counts[c]);
  const uint8_t* rows = t.row_order + (i * t.across + j) * t.side;
  const uint8_t* passed = t.row_count + (i * t.across + j) * t.side;
  for (int64_t r = 0; r < t.side && passed[r]; ++r) at[rows[r]] += passed[r];
}

// The first positions of the i-th row of tiles.
SPARSEKERN_INLINE void begin_rows(const TileView& t, int64_t i, int32_t (&at)[kByte]) {
  const int64_t height = least(t.side, t.rows - i * t.side);
  for (int64_t r = 0; r < kByte; ++r) at[r] = t.row_ptr[i * t.side + least(r, height)];
}

// Rows of tiles [begin, end) of the product with x.
template <class S, int N>
void tile_product_panel(const TileView& t, const Sum<S>* x, const Sum<S>* values, const S* bias, int64_t columns,
                        S* out, int64_t begin, int64_t end) {
  using A = Sum<S>;
  constexpr int64_t W = N * kLanes<A>;
  alignas(64) A block[kMostSide * W];
  int32_t at[kByte];
  for (int64_t i = begin; i < end; ++i) {
    const int64_t r0 = i * t.side, height = least(t.side, t.rows - r0);
    begin_rows(t, i, at);
    for (int64_t r = 0; r < height; ++r) {
      const A first = bias ? widen(bias[r0 + r]) : A(0);
      for (int64_t b = 0; b < W; ++b) block[r * W + b] = first;
    }
    for (int64_t j = 0; j < t.across; ++j) {
      each_row(t, i, j, at, [&](int64_t row, int64_t k, int64_t count, int64_t ahead) SPARSEKERN_LAMBDA_INLINE {
        __builtin_prefetch(values + ahead);
        __builtin_prefetch(t.col + ahead);
        const A* value = values + k;
        const uint8_t* col = t.col + k;
        add_products<A, N>(block + row * W, x + j * t.side * W, count,
                           [&]() SPARSEKERN_LAMBDA_INLINE { return Weighted<A>{*value++, *col++}; });
      });
    }
    unpack(block, W, columns, height, out + r0, t.rows);
  }
}

// Writes or adds the sums over lanes of product(0), product(1), ... to `count` elements.
template <class A, class Product>
SPARSEKERN_INLINE void inner_products(A* out, int64_t count, bool add, const Product& product) {
  constexpr int64_t L = kLanes<A>;
  int64_t k = 0;
  for (; k + L <= count; k += L) {
    const Vector<A> sums = sum_lanes<A>([&](int i) SPARSEKERN_LAMBDA_INLINE { return product(k + i); });
    store(out + k, add ? load(out + k) + sums : sums);
  }
  if (const int64_t left = count - k; left > 0) {  // neighbouring rows have about as many: the branches are foreseen
    const Vector<A> sums =
        sum_lanes<A>([&](int i) SPARSEKERN_LAMBDA_INLINE { return i < left ? product(k + i) : Vector<A>{}; });
    store_part(out + k, add ? load_part(out + k, left, sums) + sums : sums, left);
  }
}

// Inner products over the panel's columns at the nonzeros of rows of tiles [begin, end), written or added to `out`.
template <class A, int N>
void tile_sample_panel(const TileView& t, const A* left, const A* right, bool add, A* out, int64_t begin, int64_t end) {
  constexpr int64_t L = kLanes<A>, W = N * L;
  int32_t at[kByte];
  for (int64_t i = begin; i < end; ++i) {
    begin_rows(t, i, at);
    for (int64_t j = 0; j < t.across; ++j) {
      each_row(t, i, j, at, [&](int64_t row, int64_t k, int64_t count, int64_t ahead) SPARSEKERN_LAMBDA_INLINE {
        __builtin_prefetch(out + ahead);
        __builtin_prefetch(t.col + ahead);
        Vector<A> weights[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) weights[n] = load(left + (i * t.side + row) * W + n * L);
        inner_products(out + k, count, add, [&](int64_t i) SPARSEKERN_LAMBDA_INLINE {
          const A* x = right + (j * t.side + t.col[k + i]) * W;
          Vector<A> product = weights[0] * load(x);
#pragma GCC unroll 8
          for (int n = 1; n < N; ++n) product += weights[n] * load(x + n * L);
          return product;
        });
      });
    }
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
      each_column(t, i, j, values, at,
                  [&](int64_t column, const uint16_t* entry, int64_t count) SPARSEKERN_LAMBDA_INLINE {
                    add_products<A, N>(block + column * W, x + i * t.side * W, count, [&]() SPARSEKERN_LAMBDA_INLINE {
                      const int64_t row = *entry & 0xff, place = *entry >> 8;
                      ++entry;
                      return Weighted<A>{values[at[row] + place], row};
                    });
                  });
    }
    unpack(block, W, columns, width, out + c0, t.cols);
  }
}

// Columns of the nonzeros of the i-th row of tiles, in the order of the CSR index.
void tile_columns(const TileView& t, int64_t i, int32_t* columns) {
  constexpr int64_t kGroup = 16;
  int32_t at[kByte];
  begin_rows(t, i, at);
  for (int64_t j = 0; j < t.across; ++j) {
    each_row(t, i, j, at, [&](int64_t, int64_t k, int64_t left, int64_t) SPARSEKERN_LAMBDA_INLINE {
      const uint8_t* from = t.col + k;
      int32_t* to = columns + k - t.row_ptr[i * t.side];
      int32_t group[kGroup];
      for (; left > 0; left -= kGroup, from += kGroup, to += kGroup) {  // reads on into the next part of the tiles
        for (int64_t k = 0; k < kGroup; ++k) group[k] = static_cast<int32_t>(j * t.side + from[k]);
        if (left >= kGroup)
          __builtin_memcpy(to, group, sizeof group);
        else
          copy_few<kGroup>(to, group, left);
      }
    });
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

template <class A, int N = kPanelVectors<A>>
SPARSEKERN_INLINE void tile_sample_width(int64_t vectors, const TileView& t, const A* left, const A* right, bool add,
                                         A* out, int64_t begin, int64_t end) {
  if (vectors == N)
    tile_sample_panel<A, N>(t, left, right, add, out, begin, end);
  else if constexpr (N > 1)
    tile_sample_width<A, N - 1>(vectors, t, left, right, add, out, begin, end);
}

template <class S>
void tile_sample(const TileView& t, const Panel& panel, const void* left, const void* right, bool add, void* sums,
                 int64_t begin, int64_t end) {
  using A = Sum<S>;
  tile_sample_width<A>(panel.width / kLanes<A>, t, static_cast<const A*>(left), static_cast<const A*>(right), add,
                       static_cast<A*>(sums), begin, end);
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
