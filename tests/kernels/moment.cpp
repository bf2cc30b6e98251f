// The kernels of the gradient with its second moment against plain loops.
#include "cpu/simd/moment.h"

#include "families.h"
#include "plain.h"

namespace plain {
namespace {

using sparsekern::ChannelView;
using sparsekern::kMomentRows;
using sparsekern::MomentKernels;
using sparsekern::MomentTile;
using sparsekern::PixelRange;
using sparsekern::Taps2d;

// Channels of an image, channel by channel or pixel by pixel.
template <class S>
struct Image {
  ChannelView view;
  std::vector<S> data;

  Image(int64_t channels, int64_t height, int64_t width, bool last, Random& random)
      : view{nullptr, last ? 1 : height * width, width * (last ? channels : 1), last ? channels : 1, height, width},
        data(random.numbers<S>(channels * height * width, 4, 16)) {
    view.data = data.data();
  }

  double at(int64_t channel, int64_t y, int64_t x) const {
    if (y < 0 || y >= view.height || x < 0 || x >= view.width) return 0;
    return static_cast<double>(data[channel * view.channel_stride + y * view.y_stride + x * view.x_stride]);
  }
};

template <class S>
void check_rows(const MomentKernels& kernels, bool last, Random& random) {
  const PixelRange range{1, 2, 3, 2 * kernels.lanes + 1};
  const int64_t pixels = range.height * range.width;
  for (int64_t rows = 1; rows <= 2 * std::max<int64_t>(kernels.lanes, kMomentRows); ++rows) {
    const Image<S> image(rows, 5, range.width + 3, last, random);
    const int64_t tile_rows = rows == 1 ? 1 : kMomentRows, padded = (rows + tile_rows - 1) / tile_rows * tile_rows;
    const int64_t panel = pixels * tile_rows + 16;
    auto packed = unwritten<Sum<S>>(padded / tile_rows * panel);
    kernels.pack_rows(image.view, rows, range, tile_rows, panel, packed.data());
    for (int64_t r = 0; r < padded; ++r) {
      for (int64_t p = 0; p < pixels; ++p) {
        const double want = r < rows ? image.at(r, range.y + p / range.width, range.x + p % range.width) : 0;
        expect(packed[r / tile_rows * panel + p * tile_rows + r % tile_rows], want, "pack_rows, ", rows, ", row ", r,
               ", position ", p);
      }
    }
  }
}

template <class S>
void check_channels(const MomentKernels& kernels, bool last, Random& random) {
  const PixelRange range{-1, -2, 7, 2 * kernels.lanes + 6};  // the image, and more on every side
  for (int64_t channels = 1; channels <= 2 * kernels.lanes; ++channels) {
    const Image<S> image(channels, 5, range.width - 3, last, random);
    const int64_t vectors = (channels - 1) / kernels.lanes + 1, cell = vectors * kernels.lanes;
    auto packed = unwritten<Sum<S>>(range.height * range.width * cell);
    kernels.pack_channels(image.view, channels, range, vectors, packed.data());
    for (int64_t p = 0; p < range.height * range.width; ++p) {
      for (int64_t c = 0; c < cell; ++c)
        expect(packed[p * cell + c],
               c < channels ? image.at(c, range.y + p / range.width, range.x + p % range.width) : 0,
               "pack_channels, channel ", c, " of ", channels, ", pixel ", p);
    }
  }
}

template <class S>
void check_columns(const MomentKernels& kernels, bool last, Random& random) {
  constexpr Taps2d kWindows[] = {{3, 3, 1, 1, 1, 1, 1, 1}, {2, 3, 2, 3, 2, 1, 0, 2}};
  for (const Taps2d& taps : kWindows) {
    const Image<S> image(3, 8, 3 * kernels.lanes + 1, last, random);
    const PixelRange range{1, 0, 2, kernels.lanes + 1};
    const int64_t area = taps.kernel_height * taps.kernel_width;
    for (int64_t begin = 0; begin < 3 * area; begin += 2 * kernels.lanes) {
      const int64_t end = std::min<int64_t>(begin + 2 * kernels.lanes, 3 * area);
      const int64_t vectors = (end - begin - 1) / kernels.lanes + 1, cell = vectors * kernels.lanes;
      auto packed = unwritten<Sum<S>>(range.height * range.width * cell);
      kernels.pack_columns(image.view, taps, begin, end, range, vectors, packed.data());
      for (int64_t p = 0; p < range.height * range.width; ++p) {
        for (int64_t i = 0; i < cell; ++i) {
          const int64_t tap = (begin + i) % area;
          const int64_t y = (range.y + p / range.width) * taps.stride_y + tap / taps.kernel_width * taps.dilation_y;
          const int64_t x = (range.x + p % range.width) * taps.stride_x + tap % taps.kernel_width * taps.dilation_x;
          const double want = begin + i < end ? image.at((begin + i) / area, y - taps.top, x - taps.left) : 0;
          expect(packed[p * cell + i], want, "pack_columns, column ", begin + i, ", position ", p);
        }
      }
    }
  }
}

// A tile over some samples of 3 x 5 output positions, whole or, for one sample, in two parts.
template <class A>
struct Tiles {
  const MomentKernels& kernels;
  int64_t tile_rows, vectors, samples;
  int64_t cell = vectors * kernels.lanes, width = 5, stride = cell + 3;
  std::vector<A> rows, columns, gradient, moment;

  Tiles(const MomentKernels& k, int64_t tile_rows_, int64_t vectors_, int64_t samples_, Random& random)
      : kernels(k),
        tile_rows(tile_rows_),
        vectors(vectors_),
        samples(samples_),
        rows(random.numbers<A>(samples * 15 * tile_rows, 2, 1)),
        columns(random.numbers<A>(samples * 4 * 11 * cell, 2, 1)),
        gradient(tile_rows * stride, 3),
        moment(tile_rows * stride, 5) {}

  void check(int64_t row_count, int64_t column_count, bool add, bool squares, bool parts) {
    std::vector<A> carry = unwritten<A>(tile_rows * cell), sums = gradient, square_sums = moment;
    MomentTile tile{};
    tile.rows = rows.data(), tile.columns = columns.data();
    tile.sample_stride = 4 * 11 * cell, tile.row_stride = 11 * cell, tile.pixel_stride = 2 * cell;
    tile.samples = samples, tile.height = 3, tile.width = width, tile.tile_rows = tile_rows, tile.vectors = vectors;
    tile.gradient = sums.data(), tile.moment = squares ? square_sums.data() : nullptr, tile.stride = stride;
    tile.row_count = row_count, tile.column_count = column_count, tile.add = add;
    tile.first = tile.last = true;
    if (parts) {
      tile.carry = carry.data(), tile.height = 1, tile.last = false;
      kernels.tile(tile);
      tile.rows = rows.data() + width * tile_rows, tile.columns = columns.data() + tile.row_stride;
      tile.height = 2, tile.first = false, tile.last = true;
    }
    kernels.tile(tile);
    for (int64_t r = 0; r < tile_rows; ++r) {
      for (int64_t c = 0; c < stride; ++c) {
        const bool inside = r < row_count && c < column_count;
        double sum = inside && !add ? 0 : 3, square_sum = squares && inside && !add ? 0 : 5;
        for (int64_t n = 0; inside && n < samples; ++n) {
          double share = 0;
          for (int64_t p = 0; p < 15; ++p)
            share += static_cast<double>(rows[(n * 15 + p) * tile_rows + r]) *
                     static_cast<double>(columns[((n * 4 + p / width) * 11 + p % width * 2) * cell + c]);
          sum += share, square_sum += squares ? share * share : 0;
        }
        expect(sums[r * stride + c], sum, "tile of ", row_count, " x ", column_count, ", row ", r, ", column ", c);
        expect(square_sums[r * stride + c], square_sum, "squares of a tile of ", row_count, " x ", column_count,
               ", row ", r, ", column ", c);
      }
    }
  }
};

template <class A>
void check_tiles(const MomentKernels& kernels, Random& random) {
  for (const int64_t tile_rows : {int64_t{1}, kMomentRows}) {
    for (const int64_t vectors : {1, 2}) {
      for (const int64_t samples : {1, 3}) {
        Tiles<A> tiles(kernels, tile_rows, vectors, samples, random);
        for (int64_t rows = 1; rows <= tile_rows; ++rows) {
          for (int64_t columns = 1; columns <= vectors * kernels.lanes; ++columns) {
            for (int flags = 0; flags < (samples == 1 ? 8 : 4); ++flags)
              tiles.check(rows, columns, flags & 1, flags & 2, flags & 4);
          }
        }
      }
    }
  }
}

template <class A>
void check_square(const MomentKernels& kernels, Random& random) {
  const int64_t lanes = kernels.lanes;
  const auto numbers = random.numbers<A>(7 * lanes, 4, 16);
  auto squares = numbers;
  kernels.square(squares.data(), lanes, 6 * lanes);
  for (int64_t i = 0; i < 7 * lanes; ++i) {
    const double x = numbers[i];
    expect(squares[i], i < lanes || i >= 6 * lanes ? x : x * x, "square, element ", i);
  }
}

}  // namespace

template <class S>
void check_moment(const MomentKernels& kernels) {
  Random random;
  for (const bool last : {false, true}) {
    check_rows<S>(kernels, last, random);
    check_channels<S>(kernels, last, random);
    check_columns<S>(kernels, last, random);
  }
  check_square<Sum<S>>(kernels, random);
  check_tiles<Sum<S>>(kernels, random);
}

template void check_moment<float>(const MomentKernels&);
template void check_moment<double>(const MomentKernels&);
template void check_moment<BFloat16>(const MomentKernels&);
template void check_moment<Float16>(const MomentKernels&);

}  // namespace plain
