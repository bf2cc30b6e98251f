// The vector kernels of sparse convolution, as one table per instruction set and storage type.
//
// Images are packed into planes, one a channel: the image with its padding of zeros, cut by the stride into grids of
// equal size (cpu/planes.h), so that a weight of the kernel is a fixed distance between the cell of an output pixel and
// that of its input pixel, whatever the stride and the dilation. A cell is a vector of `lanes` images, or of strips of
// rows of images where these are few ("blocks"); where neither fills it, a cell is one number, the images follow each
// other, and a vector is `lanes` neighbouring cells ("flat"). Either way a nonzero weight is one broadcast multiply-add
// for every vector of an output tile, or of a part of it, held in registers. Sums are kept in `A`: double for double,
// float for the rest. Planes and values are multiplied in `A`, too, or as pairs of bfloat16 (cpu/simd/linear.h).
#pragma once

#include <cstdint>

#include "cpu/simd/kinds.h"

namespace sparsekern {

// Segment s of row r has the nonzeros [bounds[r * stride + s], bounds[r * stride + s + 1]), each so many cells away
// from its tile. What a part of a tile sees of the planes of one segment stays in the L1 cache.
struct Taps {
  const int32_t* bounds;
  int64_t stride;
  int64_t segments;
  const int32_t* offset;
  const void* values;  // factors
};

// `length` cells from cell `start` of a tile on, which are pixels of an image: `target` and every `step`-th from there.
struct Run {
  int32_t start;
  int32_t length;
  int64_t target;
};

// `rows` times `cols` vectors, the first at cell `base` of a plane, the rows `pitch` cells apart. The sums of a part of
// at most `part_rows`, which divides `rows`, times `part_cols` vectors are held in registers.
struct Tile {
  int64_t base;
  int64_t pitch;
  int32_t rows;
  int32_t cols;
  int32_t part_rows;
  int32_t part_cols;
  const Run* runs;
  int32_t run_count;
};

// What a lane of a block holds: an image, or a strip of its rows. Of the pixels that it might have exist those in
// [first, last).
struct Lane {
  int64_t at;  // element of pixel 0, before the image where that does not exist
  int64_t first, last;
};

// Images in memory; strides in elements. Flat ones lie `image_stride` apart, the others as `lanes` says. Either the
// pixels of a channel are neighbours, `pixel_stride` 1, or the channels of a pixel are, `channel_stride` 1.
struct Images {
  void* data;
  int64_t count;  // of images, or of lanes
  int64_t image_stride;
  int64_t channel_stride;
  int64_t pixel_stride;
  int64_t step;         // pixels from one that is written to the next
  bool large;           // too large for a cache
  int64_t first, last;  // the pixels that all lanes have
  Lane lanes[32];
};

// The cells of a plane: where each of `pixels` goes (negative: nowhere), and which hold zeros. Flat images follow each
// other `image` cells apart, and zeros follow them, so that a tile may end past them.
struct Grid {
  const int32_t* cell;
  int64_t pixels;
  int64_t width;  // pixels in a row
  bool joined;    // whose cells follow each other
  const int32_t* zeros;
  int64_t zero_count;
  int64_t plane;  // cells of a plane
  int64_t grid;   // cells of one of its grids
  int64_t image;
  int64_t sum_begin, sum_end;  // cells that the sum of a channel is made of
};

struct ConvKernels {
  int lanes;         // numbers of a vector of factors
  int vectors;       // of the largest tile
  int held;          // of the largest part of a tile
  int storage_size;  // bytes of an element in memory
  int sum_size;      // bytes of `A`
  int factor_size;   // bytes of a number in a plane and of a value

  // Packs channels [begin, end): at most `lanes` images into blocks, or any number into flat planes. Writes the sum of
  // each over images and pixels to sums[channel], in `A`, unless that is null.
  void (*pack_block)(const Images& images, const Grid& grid, int64_t begin, int64_t end, void* planes, void* sums);
  void (*pack_flat)(const Images& images, const Grid& grid, int64_t begin, int64_t end, void* planes, void* sums);

  // SpMM: rows [begin, end) of the matrix times what a tile sees of the planes, written to the images.
  void (*product)(const Taps& taps, bool flat, const Tile& tile, const void* planes, const void* bias,
                  const Images& out, int64_t begin, int64_t end);

  // SDDMM: adds the inner products of a tile of plane r of `left` with what each nonzero of row r sees of `right` to
  // `sums`, in `A`, for rows [begin, end).
  void (*sample)(const Taps& taps, bool flat, const Tile& tile, const void* left, int64_t plane, const void* right,
                 void* sums, int64_t begin, int64_t end);
};

// The table of one instruction set; `conv_kernels` of cpu/dispatch.h chooses.
template <Isa isa>
const ConvKernels& conv_kernels_of(Storage storage);
template <>
const ConvKernels& conv_kernels_of<Isa::generic>(Storage storage);
template <>
const ConvKernels& conv_kernels_of<Isa::avx2>(Storage storage);
template <>
const ConvKernels& conv_kernels_of<Isa::avx512>(Storage storage);
template <>
const ConvKernels& conv_kernels_of<Isa::neon>(Storage storage);

const ConvKernels& conv_kernels_of_pairs();  // of bfloat16, for AVX-512 with VDPBF16PS

}  // namespace sparsekern
