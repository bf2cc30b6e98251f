// The vector kernels of cpu/simd/conv.h: one source, compiled once for each instruction set.
#pragma once

#include "cpu/simd/conv.h"
#include "cpu/simd/images-inl.h"
#include "cpu/simd/vector-inl.h"

namespace sparsekern {
namespace conv {
namespace {

constexpr int kVectors = SPARSEKERN_REGISTERS / 2;

// Chains of sums: small tiles need several to hide the latency of the multiply-add.
constexpr int chains_of(int vectors) { return vectors >= 6 ? 1 : vectors >= 3 ? 2 : 4; }

constexpr int64_t kSegmentRows = 64;  // rows that share what a segment holds in a cache

// Asks for the next segment of a row, which is due when the other rows are done: too many short streams for the
// hardware to follow.
template <class A>
SPARSEKERN_INLINE void prefetch_taps(const Taps& taps, int64_t slot) {
  for (int64_t i = 0; i < 32; i += 16) __builtin_prefetch(taps.offset + slot + i);
  if (!taps.values) return;
  for (int64_t i = 0; i < 32; i += 64 / sizeof(A)) __builtin_prefetch(static_cast<const A*>(taps.values) + slot + i);
}

// sums += what slots [k, stop) contribute to the tile at `origin`
template <class A, bool Flat, int R, int N>
SPARSEKERN_INLINE void accumulate(Vector<A> (&sums)[R * N], const Taps& taps, const A* origin, int64_t pitch, int64_t k,
                                  int64_t stop) {
  constexpr int64_t L = kLanes<A>, Cell = Flat ? 1 : L;
  constexpr int C = chains_of(R * N);
  const auto step = [&](Vector<A>(&to)[R* N], int64_t slot) SPARSEKERN_LAMBDA_INLINE {
    const A value = static_cast<const A*>(taps.values)[slot];
    const A* x = origin + int64_t(taps.offset[slot]) * Cell;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) to[r * N + n] += value * load(x + r * pitch + n * L);
    }
  };
  if constexpr (C > 1) {
    Vector<A> more[C - 1][R * N] = {};
    for (; k + C <= stop; k += C) {
      step(sums, k);
#pragma GCC unroll 4
      for (int c = 1; c < C; ++c) step(more[c - 1], k + c);
    }
#pragma GCC unroll 4
    for (int c = 1; c < C; ++c) {
#pragma GCC unroll 16
      for (int i = 0; i < R * N; ++i) sums[i] += more[c - 1][i];
    }
  }
  for (; k < stop; ++k) step(sums, k);
}

template <class S, bool Flat, int R, int N>
void product_tile(const Taps& taps, const Tile& tile, const Sum<S>* planes, const S* bias, const Images& out,
                  int64_t begin, int64_t end) {
  using A = Sum<S>;
  constexpr int64_t L = kLanes<A>, Cell = Flat ? 1 : L, W = R * N * L;
  const A* origin = planes + tile.base * Cell;
  const int64_t pitch = tile.pitch * Cell;
  const bool together = out.pixel_stride != 1;
  alignas(64) A block[kSegmentRows * W];
  for (int64_t first = begin; first < end; first += kSegmentRows) {
    const int64_t last = least(end, first + kSegmentRows);
    for (int64_t s = 0; s < taps.segments; ++s) {
      for (int64_t row = first; row < last; ++row) {
        const int32_t* bounds = taps.bounds + row * taps.stride + s;
        const int64_t slot = taps.segments > 1 ? row - first : together ? (row - first) % L : 0;
        A* sums_at = block + slot * W;
        Vector<A> sums[R * N];
        const A start = s == 0 && bias ? widen(bias[row]) : A(0);
#pragma GCC unroll 16
        for (int i = 0; i < R * N; ++i) sums[i] = s == 0 ? Vector<A>{} + start : load(sums_at + i * L);
        if (s + 1 < taps.segments) prefetch_taps<A>(taps, bounds[1]);
        accumulate<A, Flat, R, N>(sums, taps, origin, pitch, bounds[0], bounds[1]);
#pragma GCC unroll 16
        for (int i = 0; i < R * N; ++i) store(sums_at + i * L, sums[i]);
        if (s + 1 < taps.segments) continue;
        S* channel = static_cast<S*>(out.data) + row * out.channel_stride;
        const int64_t before = slot % L;  // channels that wait to be written with this one
        if (together && before + 1 < L && row + 1 < last) continue;
        for (int i = 0; i < tile.run_count; ++i) {
          if (together)
            unpack_channels<S, Flat>(sums_at - before * W, W, before + 1, tile.runs[i], out, channel - before);
          else
            (Flat ? unpack_flat<S, A> : unpack_block<S, A>)(sums_at, tile.runs[i], out, channel);
        }
      }
    }
  }
}

template <class A, bool Flat, int R, int N>
void sample_tile(const Taps& taps, const Tile& tile, const A* left, int64_t plane, const A* right, A* sums,
                 int64_t begin, int64_t end) {
  constexpr int64_t L = kLanes<A>, Cell = Flat ? 1 : L;
  const A* origin = right + tile.base * Cell;
  const int64_t pitch = tile.pitch * Cell;
  Pending<A> pending;
  for (int64_t s = 0; s < taps.segments; ++s) {
    for (int64_t row = begin; row < end; ++row) {
      int64_t k = taps.bounds[row * taps.stride + s];
      const int64_t stop = taps.bounds[row * taps.stride + s + 1];
      if (s + 1 < taps.segments) prefetch_taps<A>(taps, stop);
      if (k == stop) continue;
      Vector<A> fixed[R * N];
      const A* from = left + (row * plane + tile.base) * Cell;
#pragma GCC unroll 16
      for (int i = 0; i < R * N; ++i) fixed[i] = load(from + i / N * pitch + i % N * L);
      const auto product = [&](int64_t slot) SPARSEKERN_LAMBDA_INLINE {
        const A* x = origin + int64_t(taps.offset[slot]) * Cell;
        constexpr int Half = R * N > 1 ? R * N / 2 : 1;  // two chains
        Vector<A> one = fixed[0] * load(x), two = {};
#pragma GCC unroll 16
        for (int i = 1; i < Half; ++i) one += fixed[i] * load(x + i / N * pitch + i % N * L);
#pragma GCC unroll 16
        for (int i = Half; i < R * N; ++i) two += fixed[i] * load(x + i / N * pitch + i % N * L);
        return one + two;
      };
      for (; k + L <= stop; k += L) {
        const Vector<A> sum = sum_lanes<A>([&](int i) SPARSEKERN_LAMBDA_INLINE { return product(k + i); });
        store(sums + k, load(sums + k) + sum);
      }
      for (; k < stop; ++k) pending.push(k, product(k), sums, true);
    }
  }
  if (pending.count) pending.flush(sums, true);
}

// The instance for tiles of `cols` vectors in each of R rows.
template <class S, bool Flat, int R, int N = 1>
SPARSEKERN_INLINE auto product_of(int cols) {
  if constexpr (R * (N + 1) <= kVectors)
    return cols == N ? product_tile<S, Flat, R, N> : product_of<S, Flat, R, N + 1>(cols);
  else
    return product_tile<S, Flat, R, N>;
}

template <class A, bool Flat, int R, int N = 1>
SPARSEKERN_INLINE auto sample_of(int cols) {
  if constexpr (R * (N + 1) <= kVectors)
    return cols == N ? sample_tile<A, Flat, R, N> : sample_of<A, Flat, R, N + 1>(cols);
  else
    return sample_tile<A, Flat, R, N>;
}

template <class S>
void product(const Taps& taps, bool flat, const Tile& tile, const void* planes, const void* bias, const Images& out,
             int64_t begin, int64_t end) {
  using A = Sum<S>;
  const auto run = flat             ? product_of<S, true, 1>(tile.cols)
                   : tile.rows == 1 ? product_of<S, false, 1>(tile.cols)
                   : tile.rows == 2 ? product_of<S, false, 2>(tile.cols)
                   : tile.rows == 4 ? product_of<S, false, 4>(tile.cols)
                                    : product_of<S, false, 8>(tile.cols);
  run(taps, tile, static_cast<const A*>(planes), static_cast<const S*>(bias), out, begin, end);
}

template <class A>
void sample(const Taps& taps, bool flat, const Tile& tile, const void* left, int64_t plane, const void* right,
            void* sums, int64_t begin, int64_t end) {
  const auto run = flat             ? sample_of<A, true, 1>(tile.cols)
                   : tile.rows == 1 ? sample_of<A, false, 1>(tile.cols)
                   : tile.rows == 2 ? sample_of<A, false, 2>(tile.cols)
                   : tile.rows == 4 ? sample_of<A, false, 4>(tile.cols)
                                    : sample_of<A, false, 8>(tile.cols);
  run(taps, tile, static_cast<const A*>(left), plane, static_cast<const A*>(right), static_cast<A*>(sums), begin, end);
}

template <class S>
constexpr ConvKernels kKernels{kLanes<Sum<S>>, kVectors,     sizeof(S),  sizeof(Sum<S>),
                               pack_block<S>,  pack_flat<S>, product<S>, sample<Sum<S>>};

}  // namespace
}  // namespace conv

template <>
const ConvKernels& conv_kernels_of<Isa::SPARSEKERN_ISA>(Storage storage) {
  switch (storage) {
    case Storage::float64:
      return conv::kKernels<double>;
    case Storage::bfloat16:
      return conv::kKernels<BFloat16>;
    case Storage::float16:
      return conv::kKernels<Float16>;
    default:
      return conv::kKernels<float>;
  }
}

}  // namespace sparsekern
