// The vector kernels of the gradient with its per-sample second moment, as one table per instruction set and storage
// type.
//
// A sample's share of the gradient is the product, over output positions, of rows (channels of `grad_output`) with
// columns (channels of the input under one tap of the kernel). Both are packed so that a position's rows of a tile, and
// its columns, lie together: rows as [panel][sample][position][kMomentRows], columns as
// [chunk][sample][padded pixel][lanes of 1 or 2 vectors]. A tile of the share is summed in registers and added, with
// its square, to the sums of all samples; it is never stored. Sums are kept in `A`: double for double, float for
// the rest.
#pragma once

#include <cstdint>

#include "cpu/simd/kinds.h"

namespace sparsekern {

constexpr int64_t kMomentRows = 4;  // rows of a tile; 1 where a group has one row only

// Channels of an image in memory, strides in elements.
struct ChannelView {
  const void* data;
  int64_t channel_stride, y_stride, x_stride;
  int64_t height, width;  // pixels outside are zero
};

struct PixelRange {
  int64_t y, x, height, width;
};

// What a tap of a kernel is to the output position (0, 0).
struct Taps2d {
  int64_t kernel_height, kernel_width;
  int64_t stride_y, stride_x;
  int64_t dilation_y, dilation_x;
  int64_t top, left;  // padding
};

struct MomentTile {
  const void* rows;                                 // packed, of the first sample
  const void* columns;                              // packed, of the first sample and position
  int64_t sample_stride, row_stride, pixel_stride;  // of `columns`, from output position to position, in elements
  int64_t samples, height, width;                   // output positions
  int64_t tile_rows;                                // 1 or kMomentRows
  int64_t vectors;                                  // 1 or 2
  void* gradient;                                   // sums over samples, in `A`
  void* moment;                                     // sums of squares, or null
  int64_t stride;                                   // from row to row of both
  int64_t row_count, column_count;                  // what of the tile exists
  bool add;                                         // to what `gradient` and `moment` hold
  // Of a sample that is packed in several parts: what was summed so far, unless null.
  void* carry;
  bool first, last;
};

struct MomentKernels {
  int lanes;         // elements of a vector of `A`
  int storage_size;  // bytes of an element in memory
  int sum_size;      // bytes of `A`

  // Packs rows of one sample into panels that lie `panel` elements apart.
  void (*pack_rows)(const ChannelView& image, int64_t rows, const PixelRange& range, int64_t tile_rows, int64_t panel,
                    void* packed);

  // Packs one chunk of up to `vectors` vectors of channels of one sample.
  void (*pack_channels)(const ChannelView& image, int64_t channels, const PixelRange& range, int64_t vectors,
                        void* packed);

  // The same of columns [begin, end) where every channel under every tap is a column, for few channels. The range is
  // one of output positions.
  void (*pack_columns)(const ChannelView& image, const Taps2d& taps, int64_t begin, int64_t end,
                       const PixelRange& range, int64_t vectors, void* packed);

  // Squares what was packed, whole vectors of it.
  void (*square)(void* packed, int64_t begin, int64_t end);

  void (*tile)(const MomentTile& tile);
};

// The table of one instruction set; `moment_kernels` of cpu/dispatch.h chooses.
template <Isa isa>
const MomentKernels& moment_kernels_of(Storage storage);
template <>
const MomentKernels& moment_kernels_of<Isa::generic>(Storage storage);
template <>
const MomentKernels& moment_kernels_of<Isa::avx2>(Storage storage);
template <>
const MomentKernels& moment_kernels_of<Isa::avx512>(Storage storage);
template <>
const MomentKernels& moment_kernels_of<Isa::neon>(Storage storage);

}  // namespace sparsekern
