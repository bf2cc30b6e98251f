// The planes that the images of a convolution are packed into (cpu/simd/conv.h).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "cpu/axis.h"
#include "cpu/simd/conv.h"
#include "cpu/window.h"

namespace sparsekern {

// What a lane sees of an image, in pixels: a strip of `pixels`, the first of which lies `above` pixels before the one
// where the strip's own begin; the strips of an image, of `whole` pixels, follow each other `step` apart.
struct Frame {
  int64_t pixels, above, step, whole;
};

// Tiles of a part of a grid, and the runs they write.
struct Tiling {
  std::vector<Tile> tiles;
  std::vector<Run> runs;
};

class Planes {
 public:
  // `in` and `out` as the convolution has them; a 1 x 1 kernel that visits every pixel sees an image as one row.
  Planes(const Window& window, const ImageSize& in, const ImageSize& out, const ConvKernels& kernels, double density);

  // What lanes see of inputs and outputs when they are packed, and own when they are written.
  Frame packed_input, packed_output, written_input, written_output;
  // The images of a block, which begins at `data`.
  Images lanes_of(int64_t block, void* data, int64_t image_stride, int64_t channel_stride, int64_t pixel_stride,
                  const Frame& frame) const;

  Window window;
  ImageSize in, out;
  bool flat;
  int64_t lanes;          // numbers of a cell
  int64_t strips;         // that an image is cut into, a lane each; `in`, `out` and `window` are those of a strip
  int64_t above;          // rows of outputs that a plane holds before those of its strip
  int64_t images;         // of a block
  int64_t blocks;         // of the batch
  int64_t height, width;  // of a grid, in cells
  int64_t grids;          // of a plane of inputs
  int64_t reach;          // cells between an output pixel's and the farthest of its inputs within a grid
  int64_t tail;           // cells that a tile may read past the last plane
  int64_t segment_in;     // channels of a segment of inputs
  int64_t segment_out;    // of outputs

  int64_t input_plane() const { return grids * grid_; }
  int64_t output_plane() const { return grid_; }
  int64_t taps() const { return window.kernel_height * window.kernel_width; }
  bool complete() const { return y_.complete && x_.complete; }  // every pixel of the input is in a grid

  // What a tap is: the grid of its input pixels, and the cells to them from the output's.
  int64_t grid(int64_t tap) const;
  int64_t shift(int64_t tap) const;
  int64_t input_offset(int64_t tap) const { return grid(tap) * output_plane() + shift(tap); }

  Grid input_grid(std::vector<int32_t>& cells, std::vector<int32_t>& zeros) const;
  Grid output_grid(std::vector<int32_t>& cells, std::vector<int32_t>& zeros) const;

  // The tiles of outputs, and of a grid of inputs, for images whose pixels lie `pixel_stride` elements apart.
  Tiling output_tiles(int64_t pixel_stride) const;
  Tiling input_tiles(int64_t grid, int64_t pixel_stride) const;

 private:
  struct Region {
    int64_t y0, y1, x0, x1;
    int64_t origin, row_stride, step, image_stride;  // of the image that it is written to, in pixels
  };

  void choose_layout();
  int64_t largest_tile(int64_t channels, int factor_size) const;
  int64_t tile_columns(int64_t columns, int64_t vectors) const;
  int64_t tile_rows(int64_t columns, int64_t left, int64_t vectors) const;
  Tile tile(int64_t rows, int64_t cols) const;
  void set_segments(const ConvKernels& kernels, double density);
  Grid grid_over(std::vector<int32_t>& cells, std::vector<int32_t>& zeros, int64_t grids, int64_t row_pixels,
                 bool joined) const;
  Tiling block_tiles(const Region& region) const;
  Tiling flat_tiles(const Region& region) const;
  Tiling tiles(const Region& region) const { return flat ? flat_tiles(region) : block_tiles(region); }

  int64_t vectors_, held_, vector_lanes_, largest_;
  int64_t grid_;         // cells of a grid
  int64_t top_, owned_;  // rows of a padded input before those that a strip owns, and these
  Axis y_, x_;
};

}  // namespace sparsekern
