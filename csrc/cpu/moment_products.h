// The products that a gradient and its per-sample second moment are made of: blocks of samples, the split over threads.
// The arithmetic is in cpu/simd.
#pragma once

#include <algorithm>
#include <utility>

#include "common.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/window.h"
#include "cpu/workspace.h"

namespace sparsekern {

// A tensor of images `[batch, channels, height, width]` as it lies in memory.
struct MomentSource {
  const char* data;
  int64_t batch_stride;
  ChannelView view;

  ChannelView channels(int64_t sample, int64_t first, int64_t size) const {
    ChannelView part = view;
    part.data = data + (sample * batch_stride + first * view.channel_stride) * size;
    return part;
  }
};

// Output positions of some samples: all positions, unless there is one sample only.
struct MomentBlock {
  int64_t begin, samples;
  PixelRange range;
  bool first, last;  // of the parts of a sample
};

class MomentProducts {
  static constexpr int64_t kPositions = 1024;  // output positions of a block: what a tile reads then fits the caches
  static constexpr int64_t kBlockBytes = 8 << 20;    // packed, of a block of several samples or of parts of one
  static constexpr int64_t kSampleBytes = 24 << 20;  // packed, of a single sample; what takes more is cut
  static constexpr int64_t kCarryBytes = 16 << 20;   // shares of a sample that is cut

 public:
  MomentProducts(const MomentKernels& kernels, const MomentSource& delta, const MomentSource& h, int64_t batch,
                 int64_t rows, int64_t channels, const ImageSize& out, const Window& w)
      : kernels_(kernels),
        delta_(delta),
        h_(h),
        batch_(batch),
        groups_(w.groups),
        rows_(rows / w.groups),
        channels_(channels / w.groups),
        height_(out.height),
        width_(out.width),
        taps_{w.kernel_height, w.kernel_width, w.stride_y, w.stride_x, w.dilation_y, w.dilation_x, w.top, w.left} {
    const int64_t lanes = kernels.lanes, padded = ceil_div(channels_, lanes) * lanes;
    area_ = w.kernel_height * w.kernel_width;
    const PixelRange whole{0, 0, height_, width_};
    by_column_ = area_ > 1 && (4 * padded > 5 * channels_ || pixels(seen(whole)) > area_ * pixels(whole));
    tile_rows_ = rows_ == 1 ? 1 : kMomentRows;
    panels_ = ceil_div(rows_, tile_rows_);
    packed_ = by_column_ ? channels_ * area_ : channels_;  // columns of a group that are packed
    chunks_ = ceil_div(packed_, 2 * lanes);
    last_vectors_ = ceil_div(packed_ - (chunks_ - 1) * 2 * lanes, lanes);
    tiles_ = groups_ * panels_ * chunks_ * (by_column_ ? 1 : area_);
  }

  int64_t columns() const { return channels_ * area_; }

  // Whether columns lie as [tap][channel] in the results.
  bool by_tap() const { return !by_column_ && area_ > 1; }

  // Where the samples are the positions of one: plain products, of the numbers and of their squares.
  void sum_squares(void* gradient, void* moment) const {
    const int64_t step = std::clamp<int64_t>(kBlockBytes / bytes(1, {0, 0, 1, 1}), 1, kPositions);
    char* memory = workspace(bytes(1, {0, 0, 1, std::min(step, width_)}));
    for (int64_t x = 0; x < width_; x += step) {
      const MomentBlock block{0, 1, {0, x, 1, std::min(step, width_ - x)}, true, true};
      pack(block, memory);
      multiply(block, 0, tiles_, x > 0, memory, nullptr, gradient, nullptr);
      const int64_t vectors = bytes(1, block.range) / (kernels_.lanes * kernels_.sum_size);
      parallel_for(0, vectors, 1 << 8, [&](int64_t begin, int64_t end) {
        kernels_.square(memory, begin * kernels_.lanes, end * kernels_.lanes);
      });
      multiply(block, 0, tiles_, x > 0, memory, nullptr, moment, nullptr);
    }
  }

  void sum_samples(void* gradient, void* moment) const {
    const PixelRange whole{0, 0, height_, width_};
    const int64_t size = bytes(1, whole);
    if (size <= kSampleBytes) {
      const int64_t most = std::min(kBlockBytes / size, ceil_div(kPositions, height_ * width_));
      const int64_t step = std::clamp<int64_t>(most, 1, batch_);
      char* memory = workspace(bytes(step, whole));
      for (int64_t n = 0; n < batch_; n += step) {
        const MomentBlock block{n, std::min(step, batch_ - n), whole, true, true};
        pack(block, memory);
        multiply(block, 0, tiles_, n > 0, memory, nullptr, gradient, moment);
      }
      return;
    }
    const int64_t line = bytes(1, {0, 0, 1, width_});
    const int64_t width = line <= kSampleBytes ? width_ : std::max<int64_t>(1, width_ * kBlockBytes / line);
    const int64_t height = line <= kSampleBytes ? std::max<int64_t>(1, kBlockBytes / line) : 1;
    const int64_t share = tile_rows_ * 2 * kernels_.lanes * kernels_.sum_size;
    const int64_t step = std::min(tiles_, kCarryBytes / share), packed = bytes(1, {0, 0, height, width});
    char* memory = workspace(packed + step * share);
    for (int64_t tile = 0; tile < tiles_; tile += step) {
      for (int64_t n = 0; n < batch_; ++n) {
        for (int64_t y = 0; y < height_; y += height) {
          for (int64_t x = 0; x < width_; x += width) {
            const PixelRange range{y, x, std::min(height, height_ - y), std::min(width, width_ - x)};
            const MomentBlock block{n, 1, range, x + y == 0, y + height >= height_ && x + width >= width_};
            pack(block, memory);
            multiply(block, tile, std::min(tile + step, tiles_), n > 0, memory, memory + packed, gradient, moment);
          }
        }
      }
    }
  }

 private:
  // Pixels, or output positions where taps are columns, that are packed for a range of output positions.
  PixelRange packed_range(const PixelRange& range) const { return by_column_ ? range : seen(range); }

  // Pixels from the first to the last that the taps see from a range of output positions.
  PixelRange seen(const PixelRange& range) const {
    return {range.y * taps_.stride_y - taps_.top, range.x * taps_.stride_x - taps_.left,
            (range.height - 1) * taps_.stride_y + (taps_.kernel_height - 1) * taps_.dilation_y + 1,
            (range.width - 1) * taps_.stride_x + (taps_.kernel_width - 1) * taps_.dilation_x + 1};
  }

  int64_t vectors(int64_t chunk) const { return chunk + 1 == chunks_ ? last_vectors_ : 2; }

  static int64_t pixels(const PixelRange& range) { return range.height * range.width; }

  // Elements from panel to panel of rows. Without the gap, panels that are written to at once would fall into the same
  // few lines of the cache.
  int64_t panel(int64_t samples, const PixelRange& range) const {
    return samples * pixels(range) * tile_rows_ + kAlign / kernels_.sum_size;
  }
  int64_t rows_size(int64_t samples, const PixelRange& range) const {
    return aligned(groups_ * panels_ * panel(samples, range) * kernels_.sum_size);
  }
  int64_t group_columns() const { return ((chunks_ - 1) * 2 + last_vectors_) * kernels_.lanes; }
  int64_t bytes(int64_t samples, const PixelRange& range) const {
    const int64_t columns = groups_ * group_columns() * samples * pixels(packed_range(range));
    return rows_size(samples, range) + aligned(columns * kernels_.sum_size);
  }

  void pack(const MomentBlock& block, char* memory) const {
    const int64_t rows_at_once = tile_rows_ == 1 ? 1 : std::max<int64_t>(kMomentRows, 2 * kernels_.lanes);
    const int64_t row_tasks = ceil_div(rows_, rows_at_once), tasks = groups_ * (row_tasks + chunks_);
    const int64_t stretch = panel(block.samples, block.range), one = pixels(block.range) * tile_rows_;
    const PixelRange range = packed_range(block.range);
    const int64_t plane = pixels(range), lanes = kernels_.lanes, size = kernels_.sum_size;
    char* columns = memory + rows_size(block.samples, block.range);
    parallel_for(0, block.samples * tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t sample = i / tasks, group = i % tasks / (row_tasks + chunks_), task = i % (row_tasks + chunks_);
        if (task < row_tasks) {
          const int64_t row = task * rows_at_once, count = std::min(rows_at_once, rows_ - row);
          char* to = memory + ((group * panels_ + row / tile_rows_) * stretch + sample * one) * size;
          kernels_.pack_rows(delta_.channels(block.begin + sample, group * rows_ + row, kernels_.storage_size), count,
                             block.range, tile_rows_, stretch, to);
          continue;
        }
        const int64_t chunk = task - row_tasks, first = chunk * 2 * lanes, count = vectors(chunk);
        const int64_t before = (group * group_columns() + first) * block.samples + sample * count * lanes;
        char* to = columns + before * plane * size;
        const int64_t channel = group * channels_ + (by_column_ ? 0 : first);
        const ChannelView image = h_.channels(block.begin + sample, channel, kernels_.storage_size);
        if (by_column_)
          kernels_.pack_columns(image, taps_, first, std::min(first + 2 * lanes, packed_), range, count, to);
        else
          kernels_.pack_channels(image, channels_ - first, range, count, to);
      }
    });
  }

  void multiply(const MomentBlock& block, int64_t first, int64_t last, bool add, const char* memory, char* carry,
                void* gradient, void* moment) const {
    const PixelRange range = packed_range(block.range);
    const int64_t plane = pixels(range), lanes = kernels_.lanes, size = kernels_.sum_size;
    const int64_t share = tile_rows_ * 2 * lanes * size;
    const char* packed = memory + rows_size(block.samples, block.range);
    parallel_for(first, last, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end;) {
        int64_t row_panel = i % panels_;
        const int64_t stop = std::min(end, i - row_panel + panels_);  // all that share their columns
        const int64_t chunk = i / panels_ % chunks_;
        const int64_t tap = i / panels_ / chunks_ % (tiles_ / (groups_ * panels_ * chunks_));
        const int64_t group = i / (tiles_ / groups_);
        const int64_t cell = vectors(chunk) * lanes, column = chunk * 2 * lanes;
        const int64_t step_y = by_column_ ? 1 : taps_.stride_y, step_x = by_column_ ? 1 : taps_.stride_x;
        const int64_t at =
            tap / taps_.kernel_width * taps_.dilation_y * range.width + tap % taps_.kernel_width * taps_.dilation_x;
        const int64_t from = (group * group_columns() + column) * block.samples * plane + at * cell;
        MomentTile tile;
        tile.columns = packed + from * size;
        tile.sample_stride = plane * cell;
        tile.row_stride = range.width * step_y * cell;
        tile.pixel_stride = step_x * cell;
        tile.samples = block.samples, tile.height = block.range.height, tile.width = block.range.width;
        tile.tile_rows = tile_rows_, tile.vectors = vectors(chunk);
        tile.stride = columns();
        tile.column_count = std::min(2 * lanes, packed_ - column);
        tile.add = add;
        tile.first = block.first, tile.last = block.last;
        const int64_t stretch = panel(block.samples, block.range);
        for (; i < stop; ++i, ++row_panel) {
          const int64_t row = row_panel * tile_rows_, to = (group * rows_ + row) * columns() + tap * channels_ + column;
          tile.rows = memory + (group * panels_ + row_panel) * stretch * size;
          tile.gradient = static_cast<char*>(gradient) + to * size;
          tile.moment = moment ? static_cast<char*>(moment) + to * size : nullptr;
          tile.row_count = std::min(tile_rows_, rows_ - row);
          tile.carry = carry ? carry + (i - first) * share : nullptr;
          kernels_.tile(tile);
        }
      }
    });
  }

  const MomentKernels& kernels_;
  const MomentSource delta_, h_;
  int64_t batch_, groups_, rows_, channels_, height_, width_;
  Taps2d taps_;
  int64_t area_, tile_rows_, panels_, packed_, chunks_, last_vectors_, tiles_;
  bool by_column_;
};

// Uninitialised gradient and moment, in the dtype of sums.
inline std::pair<Tensor, Tensor> sums_like(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef shape) {
  const ScalarType dtype = like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  return {torch::stable::new_empty(like, shape, dtype), torch::stable::new_empty(like, shape, dtype)};
}

inline void check_dtypes(const Tensor& grad_output, const Tensor& input) {
  require(grad_output.scalar_type() == input.scalar_type(), "grad_output and input must have one dtype, got ",
          grad_output.scalar_type(), " and ", input.scalar_type());
}

}  // namespace sparsekern
