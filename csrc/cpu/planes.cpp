#include "cpu/planes.h"

#if defined(__linux__)
#include <unistd.h>
#endif

#include <algorithm>

#include "checks.h"

namespace sparsekern {
namespace {

constexpr int64_t kL2 = 640 << 10;   // bytes of the L2 cache that a tile may fill
constexpr double kFlatCell = 1.5;    // what a cell costs where cells are single numbers, relative to one of a block
constexpr double kPackedCell = 0.3;  // what it costs to pack
constexpr double kWorthSegment = 9;  // nonzeros of a row in it, or pairs, that make up for its sums' way to memory

// Bytes of the L1 cache that a segment may fill: all but what sums, offsets and values pass through.
int64_t segment_bytes() {
  static const int64_t bytes = [] {
    int64_t cache = 0;
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    cache = sysconf(_SC_LEVEL1_DCACHE_SIZE);
#endif
    return std::max<int64_t>(cache, 32 << 10) * 7 / 8;
  }();
  return bytes;
}

}  // namespace

Planes::Planes(const Window& w, const ImageSize& in_, const ImageSize& out_, const ConvKernels& kernels, double density)
    : window(w),
      in(in_),
      out(out_),
      flat(false),
      strips(1),
      above(0),
      vectors_(kernels.vectors),
      held_(kernels.held),
      vector_lanes_(kernels.lanes),
      top_(w.top),
      owned_(in_.height),
      y_(w.kernel_height, w.dilation_y, w.stride_y, in_.height + w.top + w.bottom, out_.height),
      x_(w.kernel_width, w.dilation_x, w.stride_x, in_.width + w.left + w.right, out_.width) {
  choose_layout();
  const int64_t out_pixels = out.height * out.width, in_pixels = in.height * in.width;
  packed_output = written_output = {out_pixels, 0, out_pixels, out_pixels};
  packed_input = written_input = {in_pixels, 0, in_pixels, in_pixels};
  if (strips > 1) {
    const int64_t rows = ceil_div(out.height, strips), reach = y_.reach();
    above = reach - window.top;
    packed_output = {(rows + reach) * out.width, above * out.width, rows * out.width, out_pixels};
    written_output = {rows * out.width, 0, rows * out.width, out_pixels};
    packed_input = {(rows + reach) * in.width, window.top * in.width, rows * in.width, in_pixels};
    written_input = {rows * in.width, 0, rows * in.width, in_pixels};
    in.height = rows + reach, out.height = owned_ = rows;
    window.top = window.bottom = 0;
    y_ = Axis(w.kernel_height, w.dilation_y, 1, in.height, rows);
  }
  if (taps() == 1 && w.stride_y * w.stride_x == 1 && w.top + w.bottom + w.left + w.right == 0) {
    in.width *= in.height, out.width *= out.height;
    in.height = out.height = owned_ = 1;
    y_ = Axis(1, 1, 1, 1, 1), x_ = Axis(1, 1, 1, in.width, in.width);
  }
  height = y_.cells, width = x_.cells;
  grids = y_.grids() * x_.grids();
  require(static_cast<double>(height) * static_cast<double>(width) * static_cast<double>(grids) < INT32_MAX,
          "an image of ", height, " x ", width, " x ", grids, " padded numbers is too large");
  lanes = flat ? 1 : vector_lanes_;
  images = flat ? in.batch : vector_lanes_ / strips;
  grid_ = flat ? (ceil_div(in.batch * height * width, vector_lanes_) + 1) * vector_lanes_ : height * width;
  blocks = flat ? 1 : ceil_div(in.batch, images);
  reach = y_.reach() * width + x_.reach();
  tail = flat ? held_ * vector_lanes_ + reach : 0;
  set_segments(kernels, density);
}

// A block costs the same however many lanes it holds, so that few images are cut into strips of rows to fill them: two
// strips read the rows where they meet. Flat, the cells between the pixels are computed, too, and vectors are read
// across cache lines.
void Planes::choose_layout() {
  double least = kFlatCell * static_cast<double>(in.batch * y_.cells * x_.cells);
  flat = true;
  const bool cuts = window.stride_y * window.stride_x == 1 && out.height >= in.height && window.top <= y_.reach();
  for (int64_t n = 1; n <= (cuts ? vector_lanes_ : 1); n *= 2) {
    const int64_t rows = ceil_div(out.height, n);
    if (n > 1 && (rows * (n - 1) >= out.height || rows <= window.dilation_y)) break;
    const double packed = n > 1 ? kPackedCell * static_cast<double>(y_.reach()) : 0;
    const auto lines = static_cast<double>(ceil_div(in.batch * n, vector_lanes_) * vector_lanes_ * out.width);
    const double cost = lines * (static_cast<double>(rows) + packed);
    if (cost < least) least = cost, strips = n, flat = false;
  }
}

Images Planes::lanes_of(int64_t block, void* data, int64_t image_stride, int64_t channel_stride, int64_t pixel_stride,
                        const Frame& frame) const {
  Images found{data, 0, image_stride, channel_stride, pixel_stride, 1, false, 0, frame.pixels, {}};
  found.count = std::min(images, in.batch - block * images) * strips;
  for (int64_t i = 0; !flat && i < found.count; ++i) {
    const int64_t start = i % strips * frame.step - frame.above, first = std::max<int64_t>(0, -start);
    const int64_t last = std::max(first, std::min(frame.pixels, frame.whole - start));
    found.lanes[i] = {i / strips * image_stride + start * pixel_stride, first, last};
    found.first = std::max(found.first, first), found.last = std::min(found.last, last);
  }
  return found;
}

// The largest tile, in vectors, for which what it sees of all channels of a group stays in the L2 cache.
int64_t Planes::largest_tile(int64_t channels, int size) const {
  const int64_t least = std::max(held_, vector_lanes_);
  for (int64_t vectors = vectors_; vectors > least; vectors /= 2) {
    const int64_t columns = tile_columns(out.width, vectors), rows = tile_rows(columns, out.height, vectors);
    const int64_t cells = (rows + y_.reach()) * (columns + x_.reach());
    if (cells * grids * channels * lanes * size <= kL2) return vectors;
  }
  return least;
}

// Columns of a tile of at most so many vectors, one of several that are as wide: two rows of them, but whole cache
// lines of pixels.
int64_t Planes::tile_columns(int64_t columns, int64_t vectors) const {
  return ceil_div(columns, ceil_div(columns, std::max(vectors / 2, vector_lanes_)));
}

// Its rows, where `left` rows are left.
int64_t Planes::tile_rows(int64_t columns, int64_t left, int64_t vectors) const {
  int64_t rows = 8;
  while (rows > 1 && (rows * columns > vectors || rows > left)) rows /= 2;
  return rows;
}

// A tile that has no place yet, in as few parts as possible, and those as near to squares as possible: they see the
// least of the planes.
Tile Planes::tile(int64_t rows, int64_t cols) const {
  Tile best{};
  auto least = std::pair{INT64_MAX, INT64_MAX};
  for (int64_t r = 1; r <= std::min(rows, held_); r *= 2) {
    const int64_t pieces = ceil_div(cols, held_ / r), c = ceil_div(cols, pieces);
    const std::pair cost{rows / r * pieces, (r + y_.reach()) * (c + x_.reach())};
    if (cost < least) least = cost, best.part_rows = static_cast<int32_t>(r), best.part_cols = static_cast<int32_t>(c);
  }
  best.pitch = width, best.rows = static_cast<int32_t>(rows), best.cols = static_cast<int32_t>(cols);
  return best;
}

void Planes::set_segments(const ConvKernels& kernels, double density) {
  largest_ = largest_tile(std::max(in.channels, out.channels) / window.groups, kernels.factor_size);
  const int64_t columns = tile_columns(out.width, largest_);
  const Tile some = tile(tile_rows(columns, out.height, largest_), columns);
  const int64_t seen =
      flat ? held_ * vector_lanes_ + reach : (some.part_rows + y_.reach()) * (some.part_cols + x_.reach());
  const int64_t few = std::max<int64_t>(1, segment_bytes() / (seen * grids * lanes * kernels.factor_size));
  const bool worth =
      density * static_cast<double>(few * taps() * kernels.factor_size) >= kWorthSegment * kernels.sum_size;
  const auto even = [&](int64_t channels) {
    const int64_t segments = worth ? ceil_div(channels, few) : 1;
    return std::max<int64_t>(1, ceil_div(channels, std::max<int64_t>(1, segments)));
  };
  segment_in = even(in.channels / window.groups);
  segment_out = even(out.channels / window.groups);
}

int64_t Planes::grid(int64_t tap) const {
  return y_.grid[tap / window.kernel_width] * x_.grids() + x_.grid[tap % window.kernel_width];
}

int64_t Planes::shift(int64_t tap) const {
  return y_.shift[tap / window.kernel_width] * width + x_.shift[tap % window.kernel_width];
}

Grid Planes::grid_over(std::vector<int32_t>& cells, std::vector<int32_t>& zeros, int64_t count, int64_t row_pixels,
                       bool joined) const {
  const int64_t grid = height * width;
  std::vector<char> taken(count * grid);
  for (const int32_t cell : cells)
    if (cell >= 0) taken[cell / output_plane() * grid + cell % output_plane()] = 1;
  for (int64_t i = 0; i < count * grid; ++i)
    if (!taken[i]) zeros.push_back(static_cast<int32_t>(i / grid * output_plane() + i % grid));
  return {cells.data(),
          static_cast<int64_t>(cells.size()),
          row_pixels,
          joined,
          zeros.data(),
          static_cast<int64_t>(zeros.size()),
          count * output_plane(),
          output_plane(),
          grid,
          above * width,
          (above + out.height) * width};
}

Grid Planes::input_grid(std::vector<int32_t>& cells, std::vector<int32_t>& zeros) const {
  std::vector<std::pair<int64_t, int64_t>> columns;
  for (int64_t x = 0; x < in.width; ++x) columns.push_back(x_.place(window.left + x));
  for (int64_t y = 0; y < in.height; ++y) {
    const auto [grid_y, cell_y] = y_.place(window.top + y);
    for (const auto& [grid_x, cell_x] : columns) {
      const int64_t cell = (grid_y * x_.grids() + grid_x) * output_plane() + cell_y * width + cell_x;
      cells.push_back(static_cast<int32_t>(grid_y < 0 || grid_x < 0 ? -1 : cell));
    }
  }
  return grid_over(cells, zeros, grids, in.width, x_.grids() == 1 && x_.complete);
}

Grid Planes::output_grid(std::vector<int32_t>& cells, std::vector<int32_t>& zeros) const {
  for (int64_t y = 0; y < packed_output.pixels / out.width; ++y) {
    for (int64_t x = 0; x < out.width; ++x) cells.push_back(static_cast<int32_t>(y * width + x));
  }
  return grid_over(cells, zeros, 1, out.width, true);
}

Tiling Planes::output_tiles(int64_t pixel_stride) const {
  const int64_t image = out.channels * out.height * out.width / pixel_stride;
  return tiles({0, out.height, 0, out.width, 0, out.width, 1, image});
}

Tiling Planes::input_tiles(int64_t grid, int64_t pixel_stride) const {
  const int64_t gy = grid / x_.grids(), gx = grid % x_.grids();
  const auto [y0, y1] = y_.range(gy, top_, top_ + owned_);
  const auto [x0, x1] = x_.range(gx, window.left, window.left + in.width);
  const int64_t y = y_.first[gy] + y0 * y_.step - top_, x = x_.first[gx] + x0 * x_.step - window.left;
  const int64_t image = in.channels * in.height * in.width / pixel_stride;
  return tiles({y0, y1, x0, x1, y * in.width + x, y_.step * in.width, x_.step, image});
}

Tiling Planes::block_tiles(const Region& r) const {
  Tiling tiling;
  const int64_t columns = r.x1 - r.x0;
  if (columns <= 0) return tiling;
  const int64_t widest = tile_columns(columns, largest_), pieces = ceil_div(columns, widest);
  int64_t rows = 1;
  for (int64_t y = r.y0; y < r.y1; y += rows) {
    rows = tile_rows(widest, r.y1 - y, largest_);
    for (int64_t i = 0; i < pieces; ++i) {
      const int64_t x = columns * i / pieces, n = columns * (i + 1) / pieces - x;
      const bool joined = r.row_stride == n * r.step;
      const int64_t target = r.origin + (y - r.y0) * r.row_stride + x * r.step;
      Tile next = tile(rows, n);
      next.base = y * width + r.x0 + x;
      next.run_count = static_cast<int32_t>(joined ? 1 : rows);
      tiling.tiles.push_back(next);
      for (int64_t row = 0; row < next.run_count; ++row)
        tiling.runs.push_back(
            {static_cast<int32_t>(row * n), static_cast<int32_t>(joined ? rows * n : n), target + row * r.row_stride});
    }
  }
  const Run* run = tiling.runs.data();
  for (Tile& tile : tiling.tiles) tile.runs = run, run += tile.run_count;
  return tiling;
}

Tiling Planes::flat_tiles(const Region& r) const {
  Tiling tiling;
  if (r.x1 <= r.x0 || r.y1 <= r.y0) return tiling;
  const int64_t grid = height * width, first = r.y0 * width + r.x0;
  const int64_t length = (in.batch - 1) * grid + (r.y1 - 1) * width + r.x1 - first;
  const int64_t vectors = ceil_div(length, vector_lanes_), count = ceil_div(vectors, held_);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = vectors * i / count, n = vectors * (i + 1) / count - begin;
    const auto cols = static_cast<int32_t>(n);
    tiling.tiles.push_back({first + begin * vector_lanes_, 0, 1, cols, 1, cols, nullptr, 0});
  }
  size_t at = 0;
  for (int64_t b = 0; b < in.batch; ++b) {
    for (int64_t y = r.y0; y < r.y1; ++y) {
      const int64_t end = b * grid + y * width + r.x1;
      int64_t cell = end - r.x1 + r.x0, target = r.origin + b * r.image_stride + (y - r.y0) * r.row_stride;
      while (cell < end) {
        while (at + 1 < tiling.tiles.size() && tiling.tiles[at + 1].base <= cell) ++at;
        Tile& tile = tiling.tiles[at];
        const int64_t stop = std::min(end, tile.base + tile.cols * vector_lanes_);
        tiling.runs.push_back({static_cast<int32_t>(cell - tile.base), static_cast<int32_t>(stop - cell), target});
        ++tile.run_count;
        target += (stop - cell) * r.step;
        cell = stop;
      }
    }
  }
  const Run* run = tiling.runs.data();
  for (Tile& tile : tiling.tiles) tile.runs = run, run += tile.run_count;
  return tiling;
}

}  // namespace sparsekern
