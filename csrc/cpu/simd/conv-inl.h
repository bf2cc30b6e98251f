// The vector kernels of cpu/simd/conv.h: one source, compiled once for each instruction set.
#pragma once

#include "cpu/simd/conv.h"
#include "cpu/simd/images-inl.h"

namespace sparsekern {
namespace conv {
namespace {

// Vectors of factors whose sums are held in registers, and those of the largest tile: enough for whole cache lines of
// pixels to be written, from two rows of an image.
template <class T>
constexpr int kHeld = SPARSEKERN_REGISTERS / 2 / kHalves<T>;
constexpr int kVectors = 2 * SPARSEKERN_REGISTERS;

// Vectors of sums that wait for their other segments: rows of a tile share what a segment holds in a cache.
constexpr int64_t kWaiting = 64 * SPARSEKERN_REGISTERS;

// Chains of sums: small tiles need several to hide the latency of the multiply-add.
constexpr int chains_of(int vectors) { return vectors >= 6 ? 1 : vectors >= 3 ? 2 : 4; }

// Asks for the next segment of a row, which is due when the other rows are done: too many short streams for the
// hardware to follow.
template <class T>
SPARSEKERN_INLINE void prefetch_taps(const Taps& taps, int64_t slot) {
  for (int64_t i = 0; i < 32; i += 16) __builtin_prefetch(taps.offset + slot + i);
  if (!taps.values) return;
  for (int64_t i = 0; i < 32; i += 64 / sizeof(T)) __builtin_prefetch(static_cast<const T*>(taps.values) + slot + i);
}

// f(part of a tile whose sums are held in registers, its first vector in the tile) for all parts
template <class F>
SPARSEKERN_INLINE void each_part(const Tile& tile, int64_t lanes, const F& f) {
  const int32_t rows = tile.part_rows, pieces = (tile.cols + tile.part_cols - 1) / tile.part_cols;
  for (int32_t r = 0; r < tile.rows; r += rows) {
    for (int32_t i = 0; i < pieces; ++i) {
      const int32_t c = tile.cols * i / pieces, cols = tile.cols * (i + 1) / pieces - c;
      f(Tile{tile.base + r * tile.pitch + c * lanes, tile.pitch, rows, cols, rows, cols, nullptr, 0},
        r * tile.cols + c);
    }
  }
}

// make<R, N>() for a part of R rows of N vectors.
template <class T, bool Flat, int R = 1, int N = 1, class Make>
SPARSEKERN_INLINE auto instance(const Tile& part, const Make& make) {
  if constexpr (!Flat && N == 1 && R < 8) {
    if (part.rows > R) return instance<T, Flat, 2 * R>(part, make);
  }
  if constexpr (R * (N + 1) <= kHeld<T>) {
    if (part.cols > N) return instance<T, Flat, R, N + 1>(part, make);
  }
  return make.template operator()<R, N>();
}

// Where a part of a tile has its sums: R rows of N vectors of factors, `pitch` apart. Those of blocks lie in two parts,
// the second half of a cell's lanes `half` behind the first; flat ones in the order of their cells.
template <class A>
struct Place {
  A* sums;
  int64_t pitch, half;
};

// Adds what slots [k, stop) contribute to the part of a tile at `origin`, to sums that begin by `start` unless that is
// null. `last`: they are complete.
template <class T, bool Flat, int R, int N>
void sum_part(const Taps& taps, int64_t k, int64_t stop, const T* origin, int64_t pitch, const Place<Sum<T>>& place,
              const Sum<T>* start, [[maybe_unused]] bool last) {
  using A = Sum<T>;
  constexpr int64_t L = kLanes<A>, H = kHalves<T>, V = R * N * H, Step = Flat ? H * L : L;
  const InOrder<T, int32_t> nonzeros{static_cast<const T*>(taps.values) + k, taps.offset + k, origin,
                                     Flat ? 1 : kFactors<T>};
  const auto at = [&](int64_t v) SPARSEKERN_LAMBDA_INLINE {
    return place.sums + v / H / N * place.pitch + v / H % N * Step + v % H * place.half;
  };
  Vector<A> sums[V];
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) sums[v] = start ? Vector<A>{} + *start : load(at(v));
  accumulate<T, R, N, chains_of(V)>(sums, nonzeros, stop - k, pitch);
#if defined(SPARSEKERN_PAIRS)
  if (Flat && last) {
#pragma GCC unroll 8
    for (int v = 0; v < V; v += 2) put_in_order(sums[v], sums[v + 1]);
  }
#endif
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) store(at(v), sums[v]);
}

// The lanes of images that the h-th vector of a cell's sums belongs to: none, where there are few images.
template <class A>
SPARSEKERN_INLINE Images lanes_of_half(const Images& images, int64_t h) {
  Images half = images;
  half.count = least(kLanes<A>, images.count - h * kLanes<A>);
  for (int64_t i = 0; i < half.count; ++i) half.lanes[i] = images.lanes[h * kLanes<A> + i];
  return half;
}

template <class S, class T, bool Flat>
void product_tile(const Taps& taps, const Tile& tile, const T* planes, const S* bias, const Images& out, int64_t begin,
                  int64_t end) {
  using A = Sum<S>;
  constexpr int64_t L = kLanes<A>, H = kHalves<T>, Cell = Flat ? 1 : kFactors<T>;
  constexpr int64_t Parts = Flat ? 1 : H;
  const int64_t vectors = int64_t{tile.rows} * tile.cols * H, width = vectors / Parts * L;  // sums of a row in one part
  struct Part {
    decltype(&sum_part<T, Flat, 1, 1>) run;
    const T* origin;
    int64_t at;
  };
  Part parts[kVectors];
  int count = 0;
  each_part(tile, Flat ? kFactors<T> : 1, [&](const Tile& part, int64_t first) SPARSEKERN_LAMBDA_INLINE {
    const auto run = instance<T, Flat>(part, []<int R, int N> { return &sum_part<T, Flat, R, N>; });
    parts[count++] = {run, planes + part.base * Cell, first * (Flat ? H * L : L)};
  });
  const int64_t pitch = tile.pitch * Cell;
  const bool channels_last = out.pixel_stride != 1;
  const int64_t together = taps.segments > 1 ? kWaiting / vectors / L * L : channels_last ? L : 1;  // rows
  alignas(64) A block[kWaiting * L];
  Images halves[Parts];
  for (int64_t h = 0; Parts > 1 && channels_last && h < Parts; ++h) halves[h] = lanes_of_half<A>(out, h);
  for (int64_t first = begin; first < end; first += together) {
    const int64_t last = least(end, first + together);
    for (int i = 0; i < count; ++i) {
      for (int64_t s = 0; s < taps.segments; ++s) {
        const bool done = s + 1 == taps.segments;
        for (int64_t row = first; row < last; ++row) {
          const int32_t* bounds = taps.bounds + row * taps.stride + s;
          const A start = bias ? widen(bias[row]) : A(0);
          if (!done) prefetch_taps<T>(taps, bounds[1]);
          parts[i].run(taps, bounds[0], bounds[1], parts[i].origin, pitch,
                       {block + (row - first) * width + parts[i].at, tile.cols * L, Flat ? L : together * width},
                       s == 0 ? &start : nullptr, done);
        }
      }
    }
    for (int64_t row = first, n; row < last; row += n) {
      n = channels_last ? least(L, last - row) : 1;
      S* channel = static_cast<S*>(out.data) + row * out.channel_stride;
      const A* sums = block + (row - first) * width;
      for (int64_t h = 0; h < Parts; ++h, sums += together * width) {
        if (Parts > 1 && channels_last && halves[h].count <= 0) break;
        for (int i = 0; i < tile.run_count; ++i) {
          if (channels_last)
            unpack_channels<S, Flat>(sums, width, n, tile.runs[i], Parts > 1 ? halves[h] : out, channel);
          else if (Flat)
            unpack_flat<S, A>(sums, tile.runs[i], out, channel);
#if defined(SPARSEKERN_PAIRS)
          else if (h == 0)
            unpack_pairs(sums, sums + together * width, tile.runs[i], out, channel);
#else
          else
            unpack_block<S, A>(sums, tile.runs[i], out, channel);
#endif
        }
      }
    }
  }
}

template <class T, bool Flat, int R, int N>
void sample_part(const Taps& taps, const Tile& tile, const T* left, int64_t plane, const T* right, Sum<T>* sums,
                 int64_t begin, int64_t end) {
  using A = Sum<T>;
  constexpr int64_t L = kLanes<A>, F = kFactors<T>, Cell = Flat ? 1 : F;
  const T* origin = right + tile.base * Cell;
  const int64_t pitch = tile.pitch * Cell;
  Pending<A> pending;
  for (int64_t s = 0; s < taps.segments; ++s) {
    for (int64_t row = begin; row < end; ++row) {
      int64_t k = taps.bounds[row * taps.stride + s];
      const int64_t stop = taps.bounds[row * taps.stride + s + 1];
      if (s + 1 < taps.segments) prefetch_taps<T>(taps, stop);
      if (k == stop) continue;
      Factors<T> fixed[R * N];
      const T* from = left + (row * plane + tile.base) * Cell;
      const auto cell = [=](const T* x, int i)
                            SPARSEKERN_LAMBDA_INLINE { return load_factors(x + i / N * pitch + i % N * F); };
#pragma GCC unroll 16
      for (int i = 0; i < R * N; ++i) fixed[i] = cell(from, i);
      const auto product = [&](int64_t slot) SPARSEKERN_LAMBDA_INLINE {
        const T* x = origin + int64_t(taps.offset[slot]) * Cell;
        constexpr int Half = R * N > 1 ? R * N / 2 : 1;  // two chains
        Vector<A> one = times(fixed[0], cell(x, 0)), two = {};
#pragma GCC unroll 16
        for (int i = 1; i < Half; ++i) one = add_times(one, fixed[i], cell(x, i));
#pragma GCC unroll 16
        for (int i = Half; i < R * N; ++i) two = add_times(two, fixed[i], cell(x, i));
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

template <class S, class T>
void product(const Taps& taps, bool flat, const Tile& tile, const void* planes, const void* bias, const Images& out,
             int64_t begin, int64_t end) {
  (flat ? product_tile<S, T, true> : product_tile<S, T, false>)(taps, tile, static_cast<const T*>(planes),
                                                                static_cast<const S*>(bias), out, begin, end);
}

template <class T, bool Flat>
void sample_parts(const Taps& taps, const Tile& tile, const T* left, int64_t plane, const T* right, Sum<T>* sums,
                  int64_t begin, int64_t end) {
  each_part(tile, Flat ? kFactors<T> : 1, [&](const Tile& part, int64_t) SPARSEKERN_LAMBDA_INLINE {
    const auto run = instance<T, Flat>(part, []<int R, int N> { return &sample_part<T, Flat, R, N>; });
    run(taps, part, left, plane, right, sums, begin, end);
  });
}

template <class T>
void sample(const Taps& taps, bool flat, const Tile& tile, const void* left, int64_t plane, const void* right,
            void* sums, int64_t begin, int64_t end) {
  (flat ? sample_parts<T, true> : sample_parts<T, false>)(taps, tile, static_cast<const T*>(left), plane,
                                                          static_cast<const T*>(right), static_cast<Sum<T>*>(sums),
                                                          begin, end);
}

// Elements of type S, factors of type T.
template <class S, class T = Sum<S>>
constexpr ConvKernels kKernels{kFactors<T>, kVectors,         kHeld<T>,        sizeof(S),     sizeof(Sum<S>),
                               sizeof(T),   pack_block<S, T>, pack_flat<S, T>, product<S, T>, sample<T>};

}  // namespace
}  // namespace conv

#if defined(SPARSEKERN_PAIRS)

const ConvKernels& conv_kernels_of_pairs() { return conv::kKernels<BFloat16, BFloat16>; }

#else

template <>
const ConvKernels& conv_kernels_of<Isa::SPARSEKERN_ISA>(Storage storage) {
  switch (storage) {
    case Storage::float64:
      return conv::kKernels<double>;
    case Storage::bfloat16:
#if defined(__x86_64__) && SPARSEKERN_VECTOR_BYTES == 64
      if (__builtin_cpu_supports("avx512bf16")) return conv_kernels_of_pairs();
#endif
      return conv::kKernels<BFloat16>;
    case Storage::float16:
      return conv::kKernels<Float16>;
    default:
      return conv::kKernels<float>;
  }
}

#endif

}  // namespace sparsekern
