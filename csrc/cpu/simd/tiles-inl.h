// The kernels of the sparse linear layer that walk tiles (cpu/tiles.h). What a tile reads and writes stays in the L1
// cache while its nonzeros go by; where pairs fill wider panels, what it writes in the L2 cache.
#pragma once

#include "cpu/simd/panels-inl.h"

namespace sparsekern {
namespace linear {
namespace {

// A row of sums += the products of `count` nonzeros. Those of neighbouring rows do not depend on each other, so that
// one chain of them is enough.
template <class T, int N, class Nonzeros>
SPARSEKERN_INLINE void grow(Sum<T>* row, const Nonzeros& nonzeros, int64_t count) {
  using A = Sum<T>;
  constexpr int L = kLanes<A>, V = N * kHalves<T>;
  Vector<A> sums[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) sums[v] = load(row + v * L);
  accumulate<T, 1, N, 1>(sums, nonzeros, count);
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) store(row + v * L, sums[v]);
}

// Asks for the values of a tile before it is walked: those of each row lie a whole row of the weight away from the
// last one's, so that the processor does not foresee them. Ten or so in a row take one or two cache lines.
template <class T>
SPARSEKERN_INLINE void fetch_values(const T* values, const int32_t* at, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    __builtin_prefetch(values + at[r]);
    __builtin_prefetch(values + at[r] + 64 / sizeof(T) - 1);
  }
}

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
template <class T, class F>
SPARSEKERN_INLINE void each_column(const TileView& t, int64_t i, int64_t j, const T* values, int32_t* at, const F& f) {
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
template <class S, class T, int N>
void tile_product_panel(const TileView& t, const T* x, const T* values, const S* bias, int64_t columns, S* out,
                        int64_t begin, int64_t end) {
  using A = Sum<S>;
  constexpr int64_t W = N * kFactors<T>;
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
        grow<T, N>(block + row * W, InOrder<T, uint8_t>{values + k, t.col + k, x + j * t.side * W, W}, count);
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

// A row of the panel, with which others are multiplied.
template <class T, int N>
struct Row {
  Factors<T> factors[N];

  SPARSEKERN_INLINE explicit Row(const T* row) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) factors[n] = load_factors(row + n * kFactors<T>);
  }

  SPARSEKERN_INLINE Vector<Sum<T>> multiply(const T* row) const {
    Vector<Sum<T>> products = times(factors[0], load_factors(row));
#pragma GCC unroll 8
    for (int n = 1; n < N; ++n) products = add_times(products, factors[n], load_factors(row + n * kFactors<T>));
    return products;
  }
};

// Inner products over the panel's columns at the nonzeros of rows of tiles [begin, end), written or added to `out`.
template <class T, int N>
void tile_sample_panel(const TileView& t, const T* left, const T* right, bool add, Sum<T>* out, int64_t begin,
                       int64_t end) {
  constexpr int64_t W = N * kFactors<T>;
  int32_t at[kByte];
  for (int64_t i = begin; i < end; ++i) {
    begin_rows(t, i, at);
    for (int64_t j = 0; j < t.across; ++j) {
      each_row(t, i, j, at, [&](int64_t r, int64_t k, int64_t count, int64_t ahead) SPARSEKERN_LAMBDA_INLINE {
        __builtin_prefetch(out + ahead);
        __builtin_prefetch(t.col + ahead);
        const Row<T, N> row(left + (i * t.side + r) * W);
        inner_products(out + k, count, add, [&](int64_t n) SPARSEKERN_LAMBDA_INLINE {
          return row.multiply(right + (j * t.side + t.col[k + n]) * W);
        });
      });
    }
  }
}

// Columns of tiles [begin, end) of the transposed product with x. `positions` are those from column `begin` on.
template <class S, class T, int N>
void tile_transposed_panel(const TileView& t, const T* x, const T* values, int32_t* positions, int64_t columns, S* out,
                           int64_t begin, int64_t end) {
  using A = Sum<S>;
  constexpr int64_t W = N * kFactors<T>;
  alignas(64) A block[kMostSide * W];
  for (int64_t j = begin; j < end; ++j) {
    const int64_t c0 = j * t.side, width = least(t.side, t.cols - c0);
    for (int64_t b = 0; b < width * W; ++b) block[b] = 0;
    for (int64_t i = 0; i < t.down; ++i) {
      int32_t* at = positions + i * t.side;
      each_column(
          t, i, j, values, at, [&](int64_t column, const uint16_t* entry, int64_t count) SPARSEKERN_LAMBDA_INLINE {
            const auto value = [=](int64_t k)
                                   SPARSEKERN_LAMBDA_INLINE { return values[at[entry[k] & 0xff] + (entry[k] >> 8)]; };
            const auto from = [=](int64_t k)
                                  SPARSEKERN_LAMBDA_INLINE { return x + (i * t.side + (entry[k] & 0xff)) * W; };
            grow<T, N>(block + column * W, gathered(value, from), count);
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

// f.operator()<N>() for panels of N vectors of factors
template <class T, int N = kPanelVectors<T>, class F>
SPARSEKERN_INLINE void with_width(const Panel& panel, const F& f) {
  if (panel.width == N * kFactors<T>)
    f.template operator()<N>();
  else if constexpr (N > 1)
    with_width<T, N - 1>(panel, f);
}

template <class S, class T>
void tile_product(const TileView& t, const Panel& panel, const void* packed, const void* values, const void* bias,
                  void* out, int64_t begin, int64_t end) {
  with_width<T>(panel, [&]<int N>() SPARSEKERN_LAMBDA_INLINE {
    tile_product_panel<S, T, N>(t, static_cast<const T*>(packed), static_cast<const T*>(values),
                                static_cast<const S*>(bias), panel.columns, static_cast<S*>(out) + panel.begin * t.rows,
                                begin, end);
  });
}

template <class T>
void tile_sample(const TileView& t, const Panel& panel, const void* left, const void* right, bool add, void* sums,
                 int64_t begin, int64_t end) {
  with_width<T>(panel, [&]<int N>() SPARSEKERN_LAMBDA_INLINE {
    tile_sample_panel<T, N>(t, static_cast<const T*>(left), static_cast<const T*>(right), add,
                            static_cast<Sum<T>*>(sums), begin, end);
  });
}

template <class S, class T>
void tile_transposed(const TileView& t, const Panel& panel, const void* packed, const void* values, int32_t* positions,
                     void* out, int64_t begin, int64_t end) {
  with_width<T>(panel, [&]<int N>() SPARSEKERN_LAMBDA_INLINE {
    tile_transposed_panel<S, T, N>(t, static_cast<const T*>(packed), static_cast<const T*>(values), positions,
                                   panel.columns, static_cast<S*>(out) + panel.begin * t.cols, begin, end);
  });
}

}  // namespace
}  // namespace linear
}  // namespace sparsekern
