// The kernels of sparse convolution against plain loops.
#include "cpu/simd/conv.h"

#include "cpu/planes.h"
#include "cpu/window.h"
#include "families.h"
#include "plain.h"

namespace plain {
namespace {

using sparsekern::ConvKernels;
using sparsekern::Frame;
using sparsekern::Grid;
using sparsekern::Images;
using sparsekern::ImageSize;
using sparsekern::Planes;
using sparsekern::Taps;
using sparsekern::Tile;
using sparsekern::Tiling;
using sparsekern::Window;

// A random weight [rows, cols] by rows, with empty rows and full ones.
struct Weight {
  std::vector<int32_t> ptr{0}, col;

  Weight(int64_t rows, int64_t cols, Random& random) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c)
        if (r % 4 != 1 && (r % 4 == 2 || random.below(10) < 4)) col.push_back(static_cast<int32_t>(c));
      ptr.push_back(static_cast<int32_t>(col.size()));
    }
  }
  int64_t rows() const { return static_cast<int64_t>(ptr.size()) - 1; }
  int64_t nnz() const { return static_cast<int64_t>(col.size()); }
};

// Images [batch, channels, pixels], or [batch, pixels, channels] where the channels are `last`.
template <class S>
struct Batch {
  int64_t channels, pixels;
  bool last;
  std::vector<S> data;

  Batch(const ImageSize& size, bool last_, std::vector<S> data_)
      : channels(size.channels), pixels(size.height * size.width), last(last_), data(std::move(data_)) {}

  int64_t index(int64_t image, int64_t channel, int64_t pixel) const {
    return image * channels * pixels + (last ? pixel * channels + channel : channel * pixels + pixel);
  }
  double at(int64_t image, int64_t channel, int64_t pixel) const {
    return static_cast<double>(data[index(image, channel, pixel)]);
  }
  int64_t pixel_stride() const { return last ? channels : 1; }
  Images block(const Planes& planes, int64_t block, const Frame& frame, int64_t step, bool large = false) {
    void* first = data.data() + index(block * planes.images, 0, 0);
    Images images = planes.lanes_of(block, first, channels * pixels, last ? 1 : pixels, pixel_stride(), frame);
    images.step = step;
    images.large = large;
    return images;
  }
};

// A block of images as a kernel packs it, which is compared with the images.
template <class S>
struct Packed {
  using A = Sum<S>;
  std::vector<int32_t> cells, zeros;
  Grid grid;
  int64_t lead;
  Factors<S> memory;

  Packed(const ConvKernels& kernels, const Planes& p, Batch<S>& batch, int64_t block, bool input)
      : grid(input ? p.input_grid(cells, zeros) : p.output_grid(cells, zeros)),
        lead(input ? 0 : p.reach * p.lanes),
        memory(lead + (batch.channels * grid.plane + p.tail) * p.lanes, kernels.factor_size) {
    const int64_t channels = batch.channels;
    std::fill(memory.data(), planes(), 0);
    std::fill(planes(channels * grid.plane * p.lanes), memory.data() + memory.memory.size(), 0);
    std::vector<A> sums = unwritten<A>(channels);
    const Frame& frame = input ? p.packed_input : p.packed_output;
    const Images images = batch.block(p, block, frame, 1);
    const auto pack = p.flat ? kernels.pack_flat : kernels.pack_block;
    for (const bool upper : {false, true})
      pack(images, grid, upper ? channels / 2 : 0, upper ? channels : channels / 2, planes(), sums.data());
    for (int64_t c = 0; c < channels; ++c) {
      double all = 0;
      for (int64_t b = 0; b < p.images * p.strips; ++b) {
        const auto cell = [&](int32_t i) { return memory[lead + at(p, b) + (c * grid.plane + i) * p.lanes]; };
        const int64_t start = b % p.strips * frame.step - frame.above;
        for (int64_t i = 0; i < grid.pixels; ++i) {
          const bool there = b < images.count && 0 <= start + i && start + i < frame.whole;
          const double pixel = there ? batch.at(block * p.images + b / p.strips, c, start + i) : 0;
          if (frame.above <= i && i < frame.above + frame.step) all += pixel;
          if (cells[i] >= 0) expect(cell(cells[i]), pixel, "pack, lane ", b, ", channel ", c, ", pixel ", i);
        }
        for (const int32_t zero : zeros) expect(cell(zero), 0, "pack, lane ", b, ", channel ", c, ", cell ", zero);
      }
      if (!input) expect(sums[c], all, "pack, sum of channel ", c);
    }
  }

  unsigned char* planes(int64_t i = 0) { return memory.data(lead + i); }
  const unsigned char* planes(int64_t i = 0) const { return memory.data(lead + i); }
  int64_t at(const Planes& p, int64_t image) const { return p.flat ? image * grid.image : memory.place(image); }
};

// The nonzeros in the order in which a product takes them: lists of offsets and values, `segments` for each row.
template <class S>
struct Order {
  int64_t segments;
  std::vector<std::vector<std::pair<int32_t, double>>> lists;
  std::vector<int32_t> bounds{0}, offset;
  Factors<S> values;

  Order(const ConvKernels& kernels, int64_t nnz, int64_t rows, int64_t segments_)
      : segments(segments_), lists(rows * segments_), values(nnz, kernels.factor_size) {}

  void close() {
    for (const auto& list : lists) {
      for (const auto& [place, value] : list) {
        values.set(static_cast<int64_t>(offset.size()), value);
        offset.push_back(place);
      }
      bounds.push_back(static_cast<int32_t>(offset.size()));
    }
  }
};

template <class S>
class Convolution {
  using A = Sum<S>;

 public:
  Convolution(const ConvKernels& kernels, const Window& window, const ImageSize& in, int64_t rows, Random& random)
      : kernels_(kernels),
        w_(window),
        in_(in),
        out_(sparsekern::output_of(window, in, rows)),
        planes_(window, in, out_, kernels, .5),
        taps_(window.kernel_height * window.kernel_width),
        weight_(rows, in.channels / window.groups * taps_, random),
        values_(random.numbers<A>(weight_.nnz(), 2, 4)),
        bias_(random.numbers<S>(rows, 2, 4)),
        random_(random) {}

  void check(bool channels_last) {
    const bool last = channels_last && !planes_.flat;
    Batch<S> x(in_, last, random_.numbers<S>(count(in_), 2, 4)),
        delta(out_, last, random_.numbers<S>(count(out_), 2, 4));
    Batch<S> output(out_, channels_last, unwritten<S>(count(out_)));
    Batch<S> grad_input(in_, channels_last, std::vector<S>(count(in_), static_cast<S>(0)));
    std::vector<A> grad_values(weight_.nnz());
    const Order<S> forward = forward_order(), backward = backward_order();
    const Tiling tiling = planes_.output_tiles(output.pixel_stride());
    for (int64_t b = 0; b < planes_.blocks; ++b) {
      const Packed<S> px(kernels_, planes_, x, b, true), pd(kernels_, planes_, delta, b, false);
      const void* d = pd.planes(planes_.above * planes_.width * planes_.lanes);
      multiply(view(forward, 0, 1), tiling, px.planes(), bias_.data(),
               output.block(planes_, b, planes_.written_output, 1, b % 2 == 0), out_.channels);
      for (int64_t g = 0; g < planes_.grids; ++g)
        multiply(view(backward, g, planes_.grids), planes_.input_tiles(g, grad_input.pixel_stride()), d, nullptr,
                 grad_input.block(planes_, b, planes_.written_input, w_.stride_x), in_.channels);
      for (const Tile& tile : tiling.tiles)
        kernels_.sample(view(forward, 0, 1), planes_.flat, tile, d, pd.grid.plane, px.planes(), grad_values.data(), 0,
                        out_.channels);
    }
    compare(x, delta, output, grad_input, grad_values);
  }

 private:
  static int64_t count(const ImageSize& size) { return size.batch * size.channels * size.height * size.width; }

  // f(nonzero, output channel, input channel, tap)
  template <class F>
  void each(const F& f) const {
    const int64_t in_group = in_.channels / w_.groups, out_group = out_.channels / w_.groups;
    for (int64_t r = 0; r < weight_.rows(); ++r) {
      for (int32_t k = weight_.ptr[r]; k < weight_.ptr[r + 1]; ++k)
        f(k, r, r / out_group * in_group + weight_.col[k] / taps_, weight_.col[k] % taps_);
    }
  }

  Order<S> forward_order() const {
    const int64_t in_group = in_.channels / w_.groups, segments = (in_group - 1) / planes_.segment_in + 1;
    Order<S> order(kernels_, weight_.nnz(), out_.channels, segments);
    each([&](int64_t k, int64_t r, int64_t c, int64_t tap) {
      const int64_t place = c * planes_.input_plane() + planes_.input_offset(tap);
      order.lists[r * segments + c % in_group / planes_.segment_in].push_back({place, values_[k]});
    });
    order.close();
    return order;
  }

  Order<S> backward_order() const {
    const int64_t out_group = out_.channels / w_.groups, segments = (out_group - 1) / planes_.segment_out + 1;
    Order<S> order(kernels_, weight_.nnz(), in_.channels * planes_.grids, segments);
    each([&](int64_t k, int64_t r, int64_t c, int64_t tap) {
      const int64_t row = c * planes_.grids + planes_.grid(tap);
      const int64_t place = r * planes_.output_plane() - planes_.shift(tap);
      order.lists[row * segments + r % out_group / planes_.segment_out].push_back({place, values_[k]});
    });
    order.close();
    return order;
  }

  static Taps view(const Order<S>& order, int64_t grid, int64_t grids) {
    return {order.bounds.data() + grid * order.segments, grids * order.segments, order.segments, order.offset.data(),
            order.values.data()};
  }

  void multiply(const Taps& taps, const Tiling& tiling, const void* packed, const S* bias, const Images& out,
                int64_t rows) const {
    for (const Tile& tile : tiling.tiles) {
      for (const bool upper : {false, true})
        kernels_.product(taps, planes_.flat, tile, packed, bias, out, upper ? rows / 2 : 0, upper ? rows : rows / 2);
    }
  }

  void compare(const Batch<S>& x, const Batch<S>& delta, const Batch<S>& output, const Batch<S>& grad_input,
               const std::vector<A>& grad_values) const {
    std::vector<double> y(count(out_)), dx(count(in_)), dw(weight_.nnz());
    each([&](int64_t k, int64_t r, int64_t c, int64_t tap) {
      for (int64_t b = 0; b < in_.batch; ++b) {
        for (int64_t i = 0; i < out_.height * out_.width; ++i) {
          const int64_t row = i / out_.width * w_.stride_y + tap / w_.kernel_width * w_.dilation_y - w_.top;
          const int64_t column = i % out_.width * w_.stride_x + tap % w_.kernel_width * w_.dilation_x - w_.left;
          if (row < 0 || row >= in_.height || column < 0 || column >= in_.width) continue;
          const int64_t pixel = row * in_.width + column;
          y[output.index(b, r, i)] += values_[k] * x.at(b, c, pixel);
          dx[grad_input.index(b, c, pixel)] += values_[k] * delta.at(b, r, i);
          dw[k] += x.at(b, c, pixel) * delta.at(b, r, i);
        }
      }
    });
    const auto images = [&](const char* name, const Batch<S>& got, const std::vector<double>& want,
                            const ImageSize& size, const S* bias) {
      for (int64_t b = 0; b < size.batch; ++b) {
        for (int64_t c = 0; c < size.channels; ++c) {
          for (int64_t p = 0; p < got.pixels; ++p) {
            const int64_t i = got.index(b, c, p);
            expect(got.data[i], stored<S>(want[i] + (bias ? static_cast<double>(bias[c]) : 0)), describe(), name,
                   ", image ", b, ", channel ", c, ", pixel ", p);
          }
        }
      }
    };
    images("output", output, y, out_, bias_.data());
    images("gradient of the input", grad_input, dx, in_, nullptr);
    for (int64_t k = 0; k < weight_.nnz(); ++k) expect(grad_values[k], dw[k], describe(), "gradient of value ", k);
  }

  std::string describe() const {
    std::ostringstream text;
    text << w_.kernel_height << " x " << w_.kernel_width << " over " << in_.batch << " x " << in_.channels << " x "
         << in_.height << " x " << in_.width << (planes_.flat ? ", flat: " : ", blocks: ") << planes_.strips
         << " strips: ";
    return text.str();
  }

  const ConvKernels& kernels_;
  const Window w_;
  const ImageSize in_, out_;
  const Planes planes_;
  const int64_t taps_;
  const Weight weight_;
  const std::vector<A> values_;
  const std::vector<S> bias_;
  Random& random_;
};

}  // namespace

template <class S>
void check_conv(const ConvKernels& kernels) {
  Random random;
  const int64_t lanes = kernels.lanes;
  const auto check = [&](const Window& window, const ImageSize& in, int64_t rows) {
    Convolution<S> convolution(kernels, window, in, rows, random);
    for (const bool channels_last : {false, true}) convolution.check(channels_last);
  };
  constexpr Window kWindows[] = {
      // kernel, stride, padding (top, bottom, left, right), dilation, groups
      {3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1}, {3, 2, 2, 1, 1, 0, 0, 1, 1, 2, 1},
      {2, 2, 3, 3, 0, 1, 2, 0, 1, 1, 2}, {2, 2, 1, 1, 0, 0, 0, 0, 6, 8, 1}, {1, 3, 2, 2, 0, 0, 1, 1, 1, 1, 4},
  };
  for (const Window& window : kWindows) {
    for (const int64_t batch : {int64_t{1}, int64_t{2}, lanes, lanes + 1}) check(window, {batch, 4, 8, 9}, 8);
  }
  // Tiles of every height and width, and segments of more than one channel.
  for (int64_t width = 1; width <= kernels.vectors / 2 + 1; ++width) {
    check(kWindows[0], {lanes, 2, 8, width}, 3);
    check(kWindows[0], {1, 2, 2, width * lanes / 2 + 1}, 3);
  }
  check(kWindows[0], {lanes, 40, 3, 3}, 5);
  // Whole vectors of channels, more rows than share a segment, lanes that are not filled, tiles of few rows at the end.
  check(kWindows[0], {lanes, 40, 3, 3}, 70);
  check(kWindows[0], {lanes * 3 / 4, 4, 7, 5}, 33);
  check(kWindows[0], {lanes, 24, 5, 18}, 70);  // tiles of several parts, whose sums wait for other segments
}

template void check_conv<float>(const ConvKernels&);
template void check_conv<double>(const ConvKernels&);
template void check_conv<BFloat16>(const ConvKernels&);
template void check_conv<Float16>(const ConvKernels&);

}  // namespace plain
