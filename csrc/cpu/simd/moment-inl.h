// The vector kernels of cpu/simd/moment.h: one source, compiled once for each instruction set.
#pragma once

#include "cpu/simd/moment.h"
#include "cpu/simd/vector-inl.h"

namespace sparsekern {
namespace moment {
namespace {

// ---- packing

constexpr int64_t kAhead = 16;  // pixels that are asked for ahead: too far apart for the hardware to follow

// n elements that lie `stride` apart, then zeros
template <class S>
SPARSEKERN_INLINE Vector<Sum<S>> gather(const S* p, int64_t stride, int64_t n) {
  constexpr int64_t L = kLanes<Sum<S>>;
  if (stride == 1) return load_part(p, n, Vector<Sum<S>>{});
  S part[L] = {};
  for (int64_t i = 0; i < least(L, n); ++i) part[i] = p[i * stride];
  return load(part);
}

template <class A>
SPARSEKERN_INLINE void clear(A* to, int64_t n) {
  __builtin_memset(to, 0, n * sizeof(A));
}

// Pixel range x pixels [x, x + L) of the first n channels as L vectors of channels.
template <class S, int L = kLanes<Sum<S>>>
SPARSEKERN_INLINE void load_pixels(const S* p, int64_t channel_stride, int64_t x_stride, int64_t n, int64_t pixels,
                                   Vector<Sum<S>> (&rows)[L]) {
  if (n == L && pixels >= L && x_stride == 1) {
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) rows[i] = load(p + i * channel_stride);
  } else {
    for (int i = 0; i < L; ++i) rows[i] = i < n ? gather(p + i * channel_stride, x_stride, pixels) : Vector<Sum<S>>{};
  }
  transpose(rows);
}

template <int First, class V, int... I>
SPARSEKERN_INLINE auto slice(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, First + I...);
}

// Lanes of `v` are rows [First, L) of one position, which go to panels of kMomentRows.
template <class A, int First = 0>
SPARSEKERN_INLINE void store_rows(Vector<A> v, int64_t rows, int64_t panel, A* to) {
  constexpr int L = kLanes<A>, Q = least(L, kMomentRows);
  if (First >= rows) return;
  const auto part = slice<First>(v, std::make_integer_sequence<int, Q>());
  __builtin_memcpy(to, &part, sizeof part);
  if constexpr (First + Q < L) store_rows<A, First + Q>(v, rows, panel, to + panel);
}

template <class S>
void pack_rows(const ChannelView& image, int64_t rows, const PixelRange& range, int64_t tile_rows, int64_t panel,
               void* packed) {
  using A = Sum<S>;
  constexpr int64_t L = kLanes<A>;
  A* to = static_cast<A*>(packed);
  const int64_t padded = (rows + kMomentRows - 1) / kMomentRows * kMomentRows;
  const auto place = [&](int64_t r) SPARSEKERN_LAMBDA_INLINE { return r / kMomentRows * panel + r % kMomentRows; };
  for (int64_t y = 0; y < range.height; ++y) {
    const S* from = static_cast<const S*>(image.data) + (range.y + y) * image.y_stride + range.x * image.x_stride;
    A* line = to + y * range.width * tile_rows;
    if (tile_rows == 1) {
      for (int64_t x = 0; x < range.width; x += L) {
        const int64_t n = least(L, range.width - x);
        store_part(line + x, gather(from + x * image.x_stride, image.x_stride, n), n);
      }
    } else if (image.channel_stride == 1 && image.x_stride != 1) {
      for (int64_t x = 0; x < range.width; ++x) {
        for (int64_t r = 0; r < padded; r += L) {
          __builtin_prefetch(from + (x + kAhead) * image.x_stride + r);
          const int64_t n = r < rows ? rows - r : 0;
          store_rows(load_part(from + x * image.x_stride + r, n, Vector<A>{}), padded - r, panel,
                     line + place(r) + x * kMomentRows);
        }
      }
    } else {
      for (int64_t r = 0; r < padded; r += L) {
        for (int64_t x = 0; x < range.width; x += L) {
          const int64_t n = least(L, range.width - x);
          Vector<A> pixels[L];
          load_pixels(from + r * image.channel_stride + x * image.x_stride, image.channel_stride, image.x_stride,
                      least(L, rows - r), n, pixels);
          for (int64_t i = 0; i < n; ++i)
            store_rows(pixels[i], padded - r, panel, line + place(r) + (x + i) * kMomentRows);
        }
      }
    }
  }
}

template <class S>
void pack_channels(const ChannelView& image, int64_t channels, const PixelRange& range, int64_t vectors, void* packed) {
  using A = Sum<S>;
  constexpr int64_t L = kLanes<A>;
  const int64_t cell = vectors * L;
  const int64_t begin = range.x < 0 ? least(-range.x, range.width) : 0;
  const int64_t inside = least(image.width - range.x, range.width), end = inside > begin ? inside : begin;
  for (int64_t row = 0; row < range.height; ++row) {
    A* to = static_cast<A*>(packed) + row * range.width * cell;
    const int64_t y = range.y + row;
    if (y < 0 || y >= image.height) {
      clear(to, range.width * cell);
      continue;
    }
    clear(to, begin * cell), clear(to + end * cell, (range.width - end) * cell);
    const S* from = static_cast<const S*>(image.data) + y * image.y_stride + range.x * image.x_stride;
    for (int64_t c = 0; c < cell; c += L) {
      const S* channel = from + c * image.channel_stride;
      const int64_t n = least(L, channels - c);
      if (image.channel_stride == 1 && image.x_stride != 1) {
        for (int64_t x = begin; x < end; ++x) {
          __builtin_prefetch(channel + (x + kAhead) * image.x_stride);
          store(to + x * cell + c, load_part(channel + x * image.x_stride, n, Vector<A>{}));
        }
        continue;
      }
      for (int64_t x = begin; x < end; x += L) {
        const int64_t m = least(L, end - x);
        Vector<A> pixels[L];
        load_pixels(channel + x * image.x_stride, image.channel_stride, image.x_stride, n, m, pixels);
        for (int64_t i = 0; i < m; ++i) store(to + (x + i) * cell + c, pixels[i]);
      }
    }
  }
}

template <class S>
void pack_columns(const ChannelView& image, const Taps2d& taps, int64_t begin, int64_t end, const PixelRange& range,
                  int64_t vectors, void* packed) {
  using A = Sum<S>;
  constexpr int64_t L = kLanes<A>;
  const int64_t cell = vectors * L, area = taps.kernel_height * taps.kernel_width,
                step = taps.stride_x * image.x_stride;
  for (int64_t block = 0; block < cell; block += L) {
    const S* channel[L];
    int64_t tap_y[L], tap_x[L];
    const int64_t n = least(L, end - begin - block);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t column = begin + block + i, tap = column % area;
      channel[i] = static_cast<const S*>(image.data) + column / area * image.channel_stride;
      tap_y[i] = tap / taps.kernel_width * taps.dilation_y - taps.top;
      tap_x[i] = tap % taps.kernel_width * taps.dilation_x - taps.left;
    }
    for (int64_t row = 0; row < range.height; ++row) {
      A* to = static_cast<A*>(packed) + row * range.width * cell + block;
      for (int64_t at = 0; at < range.width; at += L) {
        const int64_t m = least(L, range.width - at);
        Vector<A> pixels[L] = {};
        for (int64_t i = 0; i < n; ++i) {
          const int64_t y = (range.y + row) * taps.stride_y + tap_y[i];
          const int64_t x = (range.x + at) * taps.stride_x + tap_x[i];
          if (y < 0 || y >= image.height) continue;
          const S* from = channel[i] + y * image.y_stride + x * image.x_stride;
          if (x >= 0 && x + (m - 1) * taps.stride_x < image.width) {
            pixels[i] = gather(from, step, m);
            continue;
          }
          S part[L] = {};
          for (int64_t k = 0; k < m; ++k) {
            const int64_t pixel = x + k * taps.stride_x;
            if (pixel >= 0 && pixel < image.width) part[k] = from[k * step];
          }
          pixels[i] = load(part);
        }
        transpose(pixels);
        for (int64_t i = 0; i < m; ++i) store(to + (at + i) * cell, pixels[i]);
      }
    }
  }
}

template <class A>
void square(void* packed, int64_t begin, int64_t end) {
  A* numbers = static_cast<A*>(packed);
  for (int64_t i = begin; i < end; i += kLanes<A>) {
    const Vector<A> v = load(numbers + i);
    store(numbers + i, v * v);
  }
}

// ---- products

template <class A, int R, int N, bool Moment>
void tile_of(const MomentTile& t) {
  constexpr int64_t L = kLanes<A>;
  Vector<A> gradient[R * N] = {}, moment[R * N] = {};
  A* const to = static_cast<A*>(t.gradient);
  A* const squares = static_cast<A*>(t.moment);
  if (t.add) {
#pragma GCC unroll 16
    for (int i = 0; i < R * N; ++i) {
      const int64_t r = i / N, c = i % N * L, at = r * t.stride + c, count = t.column_count - c;
      if (r >= t.row_count || count <= 0) continue;
      gradient[i] = load_part(to + at, count, Vector<A>{});
      if constexpr (Moment) moment[i] = load_part(squares + at, count, Vector<A>{});
    }
  }
  const A* rows = static_cast<const A*>(t.rows);
  const A* columns = static_cast<const A*>(t.columns);
  A* const carry = static_cast<A*>(t.carry);
  for (int64_t sample = 0; sample < t.samples; ++sample) {
    Vector<A> share[R * N] = {};
    if (!t.first) {
#pragma GCC unroll 16
      for (int i = 0; i < R * N; ++i) share[i] = load(carry + i * L);
    }
    for (int64_t y = 0; y < t.height; ++y) {
      const A* h = columns + sample * t.sample_stride + y * t.row_stride;
      for (int64_t x = 0; x < t.width; ++x) {
        Vector<A> column[N];
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) column[n] = load(h + n * L);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) share[r * N + n] += rows[r] * column[n];
        }
        rows += R, h += t.pixel_stride;
      }
    }
    if (!t.last) {
#pragma GCC unroll 16
      for (int i = 0; i < R * N; ++i) store(carry + i * L, share[i]);
      return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < R * N; ++i) {
      gradient[i] += share[i];
      if constexpr (Moment) moment[i] += share[i] * share[i];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R * N; ++i) {
    const int64_t r = i / N, c = i % N * L, at = r * t.stride + c, count = t.column_count - c;
    if (r >= t.row_count || count <= 0) continue;
    store_part(to + at, gradient[i], count);
    if constexpr (Moment) store_part(squares + at, moment[i], count);
  }
}

template <class A, int R, int N>
SPARSEKERN_INLINE auto tile_of(bool moment) {
  return moment ? tile_of<A, R, N, true> : tile_of<A, R, N, false>;
}

template <class A>
void tile(const MomentTile& t) {
  const bool moment = t.moment != nullptr;
  const auto run = t.tile_rows == 1 ? (t.vectors == 1 ? tile_of<A, 1, 1>(moment) : tile_of<A, 1, 2>(moment))
                                    : (t.vectors == 1 ? tile_of<A, 4, 1>(moment) : tile_of<A, 4, 2>(moment));
  run(t);
}

template <class S>
constexpr MomentKernels kKernels{kLanes<Sum<S>>,   sizeof(S),       sizeof(Sum<S>), pack_rows<S>,
                                 pack_channels<S>, pack_columns<S>, square<Sum<S>>, tile<Sum<S>>};

}  // namespace
}  // namespace moment

template <>
const MomentKernels& moment_kernels_of<Isa::SPARSEKERN_ISA>(Storage storage) {
  switch (storage) {
    case Storage::float64:
      return moment::kKernels<double>;
    case Storage::bfloat16:
      return moment::kKernels<BFloat16>;
    case Storage::float16:
      return moment::kKernels<Float16>;
    default:
      return moment::kKernels<float>;
  }
}

}  // namespace sparsekern
