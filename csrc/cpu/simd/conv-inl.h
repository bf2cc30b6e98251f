// The vector kernels of cpu/simd/conv.h: one source, compiled once for each instruction set.
#pragma once

#include "cpu/simd/conv.h"
#include "cpu/simd/vector-inl.h"

namespace sparsekern {
namespace conv {
namespace {

constexpr int kVectors = SPARSEKERN_REGISTERS / 2;

// ---- packing

template <class A>
SPARSEKERN_INLINE void clear(const Grid& grid, int64_t lanes, A* plane) {
  for (int64_t i = 0; i < grid.zero_count; ++i) {
    A* cell = plane + grid.zeros[i] * lanes;
    for (int64_t j = 0; j < lanes; ++j) cell[j] = 0;
  }
}

template <class A>
SPARSEKERN_INLINE A sum_of_lanes(Vector<A> v) {
  A sum = 0;
  for (int i = 0; i < kLanes<A>; ++i) sum += v[i];
  return sum;
}

// The sum of a channel: of cells of its plane, zeros among them.
template <class A>
SPARSEKERN_INLINE A sum_of_cells(const Grid& grid, const A* plane) {
  Vector<A> sum = {};
  for (int64_t i = grid.sum_begin; i < grid.sum_end; ++i) sum += load(plane + i * kLanes<A>);
  return sum_of_lanes<A>(sum);
}

// Pixels [p, p + n) of a lane, n at most that of a vector; zeros where they do not exist.
template <class S>
SPARSEKERN_INLINE Vector<Sum<S>> load_lane(const S* in, const Lane& lane, int64_t p, int64_t n) {
  const int64_t begin = p < lane.first ? lane.first : p, end = least(p + n, lane.last);
  if (begin >= end) return Vector<Sum<S>>{};
  if (begin == p) return load_part(in + lane.at + p, end - p, Vector<Sum<S>>{});
  S part[kLanes<Sum<S>>] = {};
  for (int64_t i = begin; i < end; ++i) part[i - p] = in[lane.at + i];
  return load(part);
}

// Channels whose pixels are neighbours in memory: L pixels of L images at a time.
template <class S>
void pack_pixels(const Images& images, const Grid& grid, int64_t begin, int64_t end, Sum<S>* planes, Sum<S>* sums) {
  using A = Sum<S>;
  constexpr int64_t L = kLanes<A>;
  for (int64_t c = begin; c < end; ++c) {
    const S* in = static_cast<const S*>(images.data) + c * images.channel_stride;
    A* plane = planes + c * grid.plane * L;
    for (int64_t p = 0; p < grid.pixels; p += L) {
      const int64_t n = least(L, grid.pixels - p);
      Vector<A> rows[L];
      if (images.count == L && images.first <= p && p + L <= images.last) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) rows[i] = load(in + images.lanes[i].at + p);
      } else {
        for (int i = 0; i < L; ++i) rows[i] = i < images.count ? load_lane(in, images.lanes[i], p, n) : Vector<A>{};
      }
      transpose(rows);
      const int32_t* cell = grid.cell + p;
      if (n == L) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i)
          if (cell[i] >= 0) store(plane + cell[i] * L, rows[i]);
      } else {
        for (int i = 0; i < n; ++i)
          if (cell[i] >= 0) store(plane + cell[i] * L, rows[i]);
      }
    }
    clear(grid, L, plane);
    if (sums) sums[c] = sum_of_cells(grid, plane);
  }
}

// Pixels whose channels are neighbours in memory: L channels of L images at a time.
template <class S>
void pack_channels(const Images& images, const Grid& grid, int64_t begin, int64_t end, Sum<S>* planes, Sum<S>* sums) {
  using A = Sum<S>;
  constexpr int64_t L = kLanes<A>;
  for (int64_t c = begin; c < end; c += L) {
    const int64_t n = least(L, end - c);
    const S* in = static_cast<const S*>(images.data) + c;
    A* plane = planes + c * grid.plane * L;
    for (int64_t p = 0; p < grid.pixels; ++p) {
      if (grid.cell[p] < 0) continue;
      Vector<A> rows[L];
      for (int i = 0; i < L; ++i) {
        const Lane& lane = images.lanes[i];
        const bool there = i < images.count && lane.first <= p && p < lane.last;
        rows[i] = there ? load_part(in + lane.at + p * images.pixel_stride, n, Vector<A>{}) : Vector<A>{};
      }
      transpose(rows);
      for (int i = 0; i < n; ++i) store(plane + (i * grid.plane + grid.cell[p]) * L, rows[i]);
    }
    for (int64_t i = 0; i < n; ++i) {
      clear(grid, L, plane + i * grid.plane * L);
      if (sums) sums[c + i] = sum_of_cells(grid, plane + i * grid.plane * L);
    }
  }
}

template <class S>
void pack_block(const Images& images, const Grid& grid, int64_t begin, int64_t end, void* planes, void* sums) {
  (images.pixel_stride == 1 ? pack_pixels<S> : pack_channels<S>)(images, grid, begin, end, static_cast<Sum<S>*>(planes),
                                                                 static_cast<Sum<S>*>(sums));
}

template <class S>
void pack_flat(const Images& images, const Grid& grid, int64_t begin, int64_t end, void* planes, void* sums) {
  using A = Sum<S>;
  for (int64_t c = begin; c < end; ++c) {
    A* plane = static_cast<A*>(planes) + c * grid.plane;
    for (int64_t b = 0; b < images.count; ++b) {
      const S* in = static_cast<const S*>(images.data) + b * images.image_stride + c * images.channel_stride;
      A* image = plane + b * grid.image;
      for (int64_t row = 0; row < grid.pixels; row += grid.width) {
        const int32_t* cell = grid.cell + row;
        if (grid.joined && cell[0] >= 0) {
          for (int64_t x = 0; x < grid.width; ++x) image[cell[0] + x] = widen(in[row + x]);
        } else {
          for (int64_t x = 0; x < grid.width; ++x)
            if (cell[x] >= 0) image[cell[x]] = widen(in[row + x]);
        }
      }
      clear(grid, 1, image);
    }
    for (int64_t first = 0; first < grid.plane; first += grid.grid) {
      for (int64_t i = first + images.count * grid.image; i < first + grid.grid; ++i) plane[i] = 0;
    }
    if (!sums) continue;
    Vector<A> sum = {};
    for (int64_t i = 0; i < grid.plane; i += kLanes<A>) sum += load(plane + i);  // whole vectors: Planes
    static_cast<A*>(sums)[c] = sum_of_lanes<A>(sum);
  }
}

// ---- products

// Writes a tile, as its cells lie in `block`, to the pixels of one channel.
template <class S, class A>
void unpack_block(const A* block, const Run& run, const Images& out, S* channel) {
  constexpr int64_t L = kLanes<A>;
  for (int64_t p = 0; p < run.length; p += L) {
    const int64_t n = least(L, run.length - p);
    Vector<A> rows[L];
    const A* cells = block + (run.start + p) * L;
    if (n == L) {
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) rows[i] = load(cells + i * L);
    } else {
      for (int i = 0; i < L; ++i) rows[i] = i < n ? load(cells + i * L) : Vector<A>{};
    }
    transpose(rows);
    S* to = channel + run.target + p * out.pixel_stride;
    if (out.pixel_stride != 1) {
      for (int64_t i = 0; i < out.count; ++i) {
        S part[L];
        store(part, rows[i]);
        for (int64_t x = 0; x < n; ++x) to[out.lanes[i].at + x * out.pixel_stride] = part[x];
      }
    } else if (n == L && out.count == L && run.target + p + L <= out.last) {
      if (out.large) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) stream(to + out.lanes[i].at, rows[i]);
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store(to + out.lanes[i].at, rows[i]);
      }
    } else {
      for (int64_t i = 0; i < out.count; ++i) {
        const int64_t there = least(n, out.lanes[i].last - run.target - p);
        if (there > 0) store_part(to + out.lanes[i].at, rows[i], there);
      }
    }
  }
}

template <class S, class A>
void unpack_flat(const A* block, const Run& run, const Images& out, S* channel) {
  constexpr int64_t L = kLanes<A>;
  S* to = channel + run.target;
  for (int64_t p = 0; p < run.length; p += L) {
    const int64_t n = least(L, run.length - p);
    const Vector<A> row = load_part(block + run.start + p, n, Vector<A>{});
    if (out.pixel_stride == 1) {
      store_part(to + p, row, n);
    } else {
      S part[L];
      store(part, row);
      for (int64_t x = 0; x < n; ++x) to[(p + x) * out.pixel_stride] = part[x];
    }
  }
}

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
  alignas(64) A block[kSegmentRows * W];
  for (int64_t first = begin; first < end; first += kSegmentRows) {
    const int64_t last = least(end, first + kSegmentRows);
    for (int64_t s = 0; s < taps.segments; ++s) {
      for (int64_t row = first; row < last; ++row) {
        const int32_t* bounds = taps.bounds + row * taps.stride + s;
        A* sums_at = block + (taps.segments > 1 ? row - first : 0) * W;
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
        for (int i = 0; i < tile.run_count; ++i)
          (Flat ? unpack_flat<S, A> : unpack_block<S, A>)(sums_at, tile.runs[i], out, channel);
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
