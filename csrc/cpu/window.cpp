#include "cpu/window.h"

#include "checks.h"

namespace sparsekern {

Window window_of(const Ints& kernel, const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups) {
  require(kernel.size() == 2 && stride.size() == 2 && padding.size() == 4 && dilation.size() == 2,
          "a window has 2 kernel sizes, 2 strides, 4 paddings and 2 dilations, got ", kernel.size(), ", ",
          stride.size(), ", ", padding.size(), " and ", dilation.size());
  const auto least = [](const Ints& numbers, int64_t bound, const char* name) {
    for (const int64_t n : numbers)
      require(bound <= n && n < INT32_MAX, name, " must be at least ", bound, " and below 2**31 - 1, got ", n);
  };
  least(kernel, 1, "kernel_size"), least(stride, 1, "stride"), least(padding, 0, "padding");
  least(dilation, 1, "dilation"), least({groups}, 1, "groups");
  return {kernel[0],  kernel[1],  stride[0],   stride[1],   padding[0], padding[1],
          padding[2], padding[3], dilation[0], dilation[1], groups};
}

ImageSize output_of(const Window& w, const ImageSize& in, int64_t channels) {
  const auto size = [](int64_t n, int64_t pads, int64_t dilation, int64_t kernel, int64_t stride) {
    const int64_t room = n + pads - dilation * (kernel - 1) - 1;
    require(room >= 0, "a kernel of ", dilation * (kernel - 1) + 1, " does not fit ", n + pads, " padded pixels");
    return room / stride + 1;
  };
  return {in.batch, channels, size(in.height, w.top + w.bottom, w.dilation_y, w.kernel_height, w.stride_y),
          size(in.width, w.left + w.right, w.dilation_x, w.kernel_width, w.stride_x)};
}

}  // namespace sparsekern
