// The window of a convolution: its receptive field, and how it moves over the input.
#pragma once

#include <cstdint>
#include <vector>

namespace sparsekern {

struct Window {
  int64_t kernel_height, kernel_width;
  int64_t stride_y, stride_x;
  int64_t top, bottom, left, right;  // padding
  int64_t dilation_y, dilation_x;
  int64_t groups;
};

struct ImageSize {
  int64_t batch, channels, height, width;
};

using Ints = std::vector<int64_t>;

// The window that an operator is given; fails where no convolution is meant.
Window window_of(const Ints& kernel, const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups);

// The size of the output, with so many channels.
ImageSize output_of(const Window& window, const ImageSize& in, int64_t channels);

}  // namespace sparsekern
