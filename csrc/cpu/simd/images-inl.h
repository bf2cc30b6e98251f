// Images for the kernels of cpu/simd/conv.h: inputs are packed into planes, results unpacked from tiles.
#pragma once

#include "cpu/simd/conv.h"
#include "cpu/simd/vector-inl.h"

namespace sparsekern {
namespace conv {
namespace {

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
