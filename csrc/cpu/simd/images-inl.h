// Images for the kernels of cpu/simd/conv.h: inputs are packed into planes, results unpacked from tiles.
#pragma once

#include "cpu/simd/conv.h"
#include "cpu/simd/factors-inl.h"

namespace sparsekern {
namespace conv {
namespace {

// ---- packing

template <class T>
SPARSEKERN_INLINE void clear(const Grid& grid, int64_t lanes, T* plane) {
  for (int64_t i = 0; i < grid.zero_count; ++i) {
    T* cell = plane + grid.zeros[i] * lanes;
    for (int64_t j = 0; j < lanes; ++j) cell[j] = T{};
  }
}

template <class A>
SPARSEKERN_INLINE A sum_of_lanes(Vector<A> v) {
  A sum = 0;
  for (int i = 0; i < kLanes<A>; ++i) sum += v[i];
  return sum;
}

// The sum of factors [begin, end), a whole number of vectors.
template <class T>
SPARSEKERN_INLINE Sum<T> sum_of_factors(const T* factors, int64_t begin, int64_t end) {
  using A = Sum<T>;
  Vector<A> sum = {};
  for (int64_t i = begin; i < end; i += kLanes<A>) sum += load(factors + i);
  return sum_of_lanes<A>(sum);
}

// The sum of a channel: of cells of its plane, zeros among them.
template <class T>
SPARSEKERN_INLINE Sum<T> sum_of_cells(const Grid& grid, const T* plane) {
  return sum_of_factors(plane, grid.sum_begin * kFactors<T>, grid.sum_end * kFactors<T>);
}

// Pixels [p, p + n) of a lane, n at most that of a vector; zeros where they do not exist.
template <class T, class S>
SPARSEKERN_INLINE Factors<T> load_lane(const S* in, const Lane& lane, int64_t p, int64_t n) {
  const int64_t begin = p < lane.first ? lane.first : p, end = least(p + n, lane.last);
  if (begin >= end) return Factors<T>{};
  if (begin == p) return read_factors<T>(in + lane.at + p, end - p);
  S part[kFactors<T>] = {};
  for (int64_t i = begin; i < end; ++i) part[i - p] = in[lane.at + i];
  return read_factors<T>(part);
}

// Channels whose pixels are neighbours in memory: as many pixels as lanes at a time.
template <class S, class T>
void pack_pixels(const Images& images, const Grid& grid, int64_t begin, int64_t end, T* planes, Sum<S>* sums) {
  constexpr int64_t F = kFactors<T>;
  for (int64_t c = begin; c < end; ++c) {
    const S* in = static_cast<const S*>(images.data) + c * images.channel_stride;
    T* plane = planes + c * grid.plane * F;
    for (int64_t p = 0; p < grid.pixels; p += F) {
      const int64_t n = least(F, grid.pixels - p);
      Factors<T> rows[F];
      if (images.count == F && images.first <= p && p + F <= images.last) {
#pragma GCC unroll 32
        for (int i = 0; i < F; ++i) rows[i] = read_factors<T>(in + images.lanes[i].at + p);
      } else {
        for (int i = 0; i < F; ++i) rows[i] = i < images.count ? load_lane<T>(in, images.lanes[i], p, n) : Factors<T>{};
      }
      transpose_factors(rows);
      const int32_t* cell = grid.cell + p;
      if (n == F) {
#pragma GCC unroll 32
        for (int i = 0; i < F; ++i)
          if (cell[i] >= 0) store_factors(plane + cell[i] * F, rows[i]);
      } else {
        for (int i = 0; i < n; ++i)
          if (cell[i] >= 0) store_factors(plane + cell[i] * F, rows[i]);
      }
    }
    clear(grid, F, plane);
    if (sums) sums[c] = sum_of_cells(grid, plane);
  }
}

// Pixels whose channels are neighbours in memory: as many channels as lanes at a time.
template <class S, class T>
void pack_channels(const Images& images, const Grid& grid, int64_t begin, int64_t end, T* planes, Sum<S>* sums) {
  constexpr int64_t F = kFactors<T>;
  for (int64_t c = begin; c < end; c += F) {
    const int64_t n = least(F, end - c);
    const S* in = static_cast<const S*>(images.data) + c;
    T* plane = planes + c * grid.plane * F;
    for (int64_t p = 0; p < grid.pixels; ++p) {
      if (grid.cell[p] < 0) continue;
      Factors<T> rows[F];
      for (int i = 0; i < F; ++i) {
        const Lane& lane = images.lanes[i];
        const bool there = i < images.count && lane.first <= p && p < lane.last;
        rows[i] = there ? read_factors<T>(in + lane.at + p * images.pixel_stride, n) : Factors<T>{};
      }
      transpose_factors(rows);
      for (int i = 0; i < n; ++i) store_factors(plane + (i * grid.plane + grid.cell[p]) * F, rows[i]);
    }
    for (int64_t i = 0; i < n; ++i) {
      clear(grid, F, plane + i * grid.plane * F);
      if (sums) sums[c + i] = sum_of_cells(grid, plane + i * grid.plane * F);
    }
  }
}

template <class S, class T>
void pack_block(const Images& images, const Grid& grid, int64_t begin, int64_t end, void* planes, void* sums) {
  (images.pixel_stride == 1 ? pack_pixels<S, T> : pack_channels<S, T>)(images, grid, begin, end,
                                                                       static_cast<T*>(planes),
                                                                       static_cast<Sum<S>*>(sums));
}

template <class S, class T>
void pack_flat(const Images& images, const Grid& grid, int64_t begin, int64_t end, void* planes, void* sums) {
  const auto factor = [](S x) SPARSEKERN_LAMBDA_INLINE {
    if constexpr (kHalves<T> == 1)
      return widen(x);
    else
      return x;
  };
  for (int64_t c = begin; c < end; ++c) {
    T* plane = static_cast<T*>(planes) + c * grid.plane;
    for (int64_t b = 0; b < images.count; ++b) {
      const S* in = static_cast<const S*>(images.data) + b * images.image_stride + c * images.channel_stride;
      T* image = plane + b * grid.image;
      for (int64_t row = 0; row < grid.pixels; row += grid.width) {
        const int32_t* cell = grid.cell + row;
        if (grid.joined && cell[0] >= 0) {
          for (int64_t x = 0; x < grid.width; ++x) image[cell[0] + x] = factor(in[row + x]);
        } else {
          for (int64_t x = 0; x < grid.width; ++x)
            if (cell[x] >= 0) image[cell[x]] = factor(in[row + x]);
        }
      }
      clear(grid, 1, image);
    }
    for (int64_t first = 0; first < grid.plane; first += grid.grid) {
      for (int64_t i = first + images.count * grid.image; i < first + grid.grid; ++i) plane[i] = T{};
    }
    if (sums) static_cast<Sum<S>*>(sums)[c] = sum_of_factors(plane, 0, grid.plane);  // whole vectors: Planes
  }
}

// ---- unpacking

// Writes a tile, as its cells lie in `block`, to the pixels of one channel, which are neighbours in memory.
template <class S, class A>
void unpack_block(const A* block, const Run& run, const Images& out, S* channel) {
  constexpr int64_t L = kLanes<A>;
  for (int64_t p = 0; p < run.length; p += L) {
    const int64_t n = least(L, run.length - p), first = run.target + p * out.step;
    Vector<A> rows[L];
    const A* cells = block + (run.start + p) * L;
    if (n == L) {
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) rows[i] = load(cells + i * L);
    } else {
      for (int i = 0; i < L; ++i) rows[i] = i < n ? load(cells + i * L) : Vector<A>{};
    }
    transpose(rows);
    S* to = channel + first;
    if (out.step != 1) {
      for (int64_t i = 0; i < out.count; ++i) {
        S part[L];
        store(part, rows[i]);
        for (int64_t x = 0; x < n; ++x) to[out.lanes[i].at + x * out.step] = part[x];
      }
    } else if (n == L && out.count == L && first + L <= out.last) {
      if (out.large) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) stream(to + out.lanes[i].at, rows[i]);
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store(to + out.lanes[i].at, rows[i]);
      }
    } else {
      for (int64_t i = 0; i < out.count; ++i) {
        const int64_t there = least(n, out.lanes[i].last - first);
        if (there > 0) store_part(to + out.lanes[i].at, rows[i], there);
      }
    }
  }
}

#if defined(SPARSEKERN_PAIRS)

// 8 x 8 numbers of 16 bits in each 16 bytes of eight vectors, transposed.
SPARSEKERN_INLINE void transpose_eights(__m512i (&v)[8]) {
  constexpr __mmask16 all = 0xffff;  // GCC 12 warns of the functions without a mask
  __m512i words[8], doubles[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    words[i] = _mm512_unpacklo_epi16(v[i], v[i + 1]);
    words[i + 1] = _mm512_unpackhi_epi16(v[i], v[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {  // of the first four rows, and of the others
      const __m512i a = words[4 * h + i], b = words[4 * h + i + 2];
      doubles[4 * h + 2 * i] = _mm512_maskz_unpacklo_epi32(all, a, b);
      doubles[4 * h + 2 * i + 1] = _mm512_maskz_unpackhi_epi32(all, a, b);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = _mm512_maskz_unpacklo_epi64(static_cast<__mmask8>(all), doubles[i], doubles[i + 4]);
    v[2 * i + 1] = _mm512_maskz_unpackhi_epi64(static_cast<__mmask8>(all), doubles[i], doubles[i + 4]);
  }
}

// The sums of cell `at`, rounded: of the first half of the lanes, then of the second.
SPARSEKERN_INLINE __m512i rounded_cell(const float* first, const float* second, int64_t at) {
  return (__m512i)_mm512_cvtne2ps_pbh((__m512)load(second + at * 16), (__m512)load(first + at * 16));
}

// Writes 32 pixels of 32 images: a cache line of each.
SPARSEKERN_INLINE void unpack_lines(const float* first, const float* second, const Images& out, BFloat16* to) {
  __m512i rows[32];
#pragma GCC unroll 32
  for (int i = 0; i < 32; ++i)  // in the order that a transposed row has them in
    rows[i] = rounded_cell(first, second, i % 16 / 4 * 8 + i / 16 * 4 + i % 4);
  transpose_factors(rows);
#pragma GCC unroll 32
  for (int i = 0; i < 32; ++i) {
    BFloat16* line = to + out.lanes[i].at;
    if (out.large && reinterpret_cast<uintptr_t>(line) % 64 == 0)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(line), rows[i]);
    else
      store_factors(line, rows[i]);
  }
}

// The same as `unpack_block` of both halves of the lanes of bfloat16.
SPARSEKERN_INLINE void unpack_pairs(const float* first, const float* second, const Run& run, const Images& out,
                                    BFloat16* channel) {
  int64_t p = 0;
  if (out.step == 1 && out.count == 32) {
    for (; p + 32 <= run.length && run.target + p + 32 <= out.last; p += 32)
      unpack_lines(first + (run.start + p) * 16, second + (run.start + p) * 16, out, channel + run.target + p);
  }
  for (; p < run.length; p += 8) {
    const int64_t n = least(8, run.length - p), target = run.target + p * out.step;
    __m512i cells[8] = {};
#pragma GCC unroll 8
    for (int64_t i = 0; i < 8; ++i)
      if (i < n) cells[i] = rounded_cell(first, second, run.start + p + i);
    transpose_eights(cells);
    BFloat16* to = channel + target;
    BFloat16 pixels[8][4][8];  // of image i + 8 j: [i][j]
    __builtin_memcpy(pixels, cells, sizeof pixels);
    for (int64_t image = 0; image < out.count; ++image) {
      const Lane& lane = out.lanes[image];
      const BFloat16* from = pixels[image % 8][image / 8];
      if (n == 8 && out.step == 1 && target + 8 <= lane.last) {
        __builtin_memcpy(to + lane.at, from, 16);
        continue;
      }
      for (int64_t x = 0; x < n && target + x * out.step < lane.last; ++x) to[lane.at + x * out.step] = from[x];
    }
  }
}

#endif

template <class S, class A>
void unpack_flat(const A* block, const Run& run, const Images& out, S* channel) {
  constexpr int64_t L = kLanes<A>;
  S* to = channel + run.target;
  for (int64_t p = 0; p < run.length; p += L) {
    const int64_t n = least(L, run.length - p);
    const Vector<A> row = load_part(block + run.start + p, n, Vector<A>{});
    if (out.step == 1) {
      store_part(to + p, row, n);
    } else {
      S part[L];
      store(part, row);
      for (int64_t x = 0; x < n; ++x) to[(p + x) * out.step] = part[x];
    }
  }
}

// Writes n channels of a tile, which are neighbours in memory; that of channel i lies in block + i * pitch.
template <class S, bool Flat, class A>
void unpack_channels(const A* block, int64_t pitch, int64_t n, const Run& run, const Images& out, S* first) {
  constexpr int64_t L = kLanes<A>, Cells = Flat ? L : 1;
  const auto write = [&](int64_t element, Vector<A> channels) SPARSEKERN_LAMBDA_INLINE {
    S* to = first + element;
    if (n < L)
      store_part(to, channels, n);
    else if (out.large)
      stream(to, channels);
    else
      store(to, channels);
  };
  for (int64_t p = 0; p < run.length; p += Cells) {
    const A* cell = block + (run.start + p) * (L / Cells);
    const int64_t cells = least(Cells, run.length - p), pixel = run.target + p * out.step;
    Vector<A> rows[L];
    for (int64_t i = 0; i < L; ++i) {
      if (i >= n)
        rows[i] = Vector<A>{};
      else
        rows[i] = Flat ? load_part(cell + i * pitch, cells, Vector<A>{}) : load(cell + i * pitch);
    }
    transpose(rows);
    if constexpr (Flat) {
      for (int64_t x = 0; x < cells; ++x) write((pixel + x * out.step) * out.pixel_stride, rows[x]);
    } else {
      for (int64_t i = 0; i < out.count; ++i)
        if (pixel < out.lanes[i].last) write(out.lanes[i].at + pixel * out.pixel_stride, rows[i]);
    }
  }
}

}  // namespace
}  // namespace conv
}  // namespace sparsekern
