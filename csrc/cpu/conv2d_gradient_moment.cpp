// The weight gradient of a convolution together with the sum over images of the squares of their shares of it.
#include <tuple>

#include "common.h"
#include "cpu/moment_products.h"
#include "cpu/tensors.h"

namespace sparsekern {
namespace {

// Rows [tap][channel] as [channel][tap].
template <class A>
void channels_first(void* matrix, int64_t rows, int64_t channels, int64_t taps) {
  parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    A* copy = reinterpret_cast<A*>(workspace(channels * taps * sizeof(A)));
    for (int64_t r = begin; r < end; ++r) {
      A* row = static_cast<A*>(matrix) + r * channels * taps;
      std::copy_n(row, channels * taps, copy);
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t c = 0; c < channels; ++c) row[c * taps + tap] = copy[tap * channels + c];
    }
  });
}

MomentSource source_of(const Tensor& t, bool flat) {
  const int64_t height = flat ? 1 : t.size(2), width = flat ? t.size(2) * t.size(3) : t.size(3);
  const int64_t x_stride = t.size(3) > 1 ? t.stride(3) : flat ? t.stride(2) : 1;
  return {static_cast<const char*>(t.const_data_ptr()),
          t.stride(0),
          {nullptr, t.stride(1), t.stride(2), x_stride, height, width}};
}

// Whether the pixels of an image lie evenly.
bool even(const Tensor& t) { return t.size(2) == 1 || t.size(3) == 1 || t.stride(2) == t.size(3) * t.stride(3); }

}  // namespace

std::tuple<Tensor, Tensor> conv2d_gradient_moment(const Tensor& grad_output, const Tensor& input,
                                                  const Ints& kernel_size, const Ints& stride, const Ints& padding,
                                                  const Ints& dilation, int64_t groups) {
  const MomentKernels& kernels = moment_kernels(storage_of(input.scalar_type()));
  check_dtypes(grad_output, input);
  require(input.dim() == 4 && grad_output.dim() == 4, "grad_output and input must be [batch, channels, height, width]");
  Window window = window_of(kernel_size, stride, padding, dilation, groups);
  const int64_t rows = grad_output.size(1), channels = input.size(1);
  require(rows % groups == 0 && channels % groups == 0, "groups must divide ", channels, " input and ", rows,
          " output channels, got ", groups);
  const ImageSize in{input.size(0), channels, input.size(2), input.size(3)};
  ImageSize out = output_of(window, in, rows);
  require(grad_output.size(0) == out.batch && grad_output.size(2) == out.height && grad_output.size(3) == out.width,
          "grad_output must be [", out.batch, ", ", out.channels, ", ", out.height, ", ", out.width, "]");
  auto [gradient, moment] = sums_like(input, {rows, channels / groups, window.kernel_height, window.kernel_width});
  if (input.numel() == 0 || grad_output.numel() == 0 || gradient.numel() == 0) {
    torch::stable::zero_(gradient), torch::stable::zero_(moment);
    return {gradient, moment};
  }
  const bool one_tap = window.kernel_height * window.kernel_width == 1;
  const bool unpadded = window.top + window.bottom + window.left + window.right == 0;
  MomentSource h = source_of(input, false), delta = source_of(grad_output, false);
  if (one_tap && unpadded && window.stride_y * window.stride_x == 1 && even(input) && even(grad_output)) {
    h = source_of(input, true), delta = source_of(grad_output, true);
    out.width *= out.height, out.height = 1;
  } else if (one_tap && unpadded) {  // only what is read is packed
    h.view.y_stride *= window.stride_y, h.view.x_stride *= window.stride_x;
    h.view.height = out.height, h.view.width = out.width;
    window.stride_y = window.stride_x = 1;
  }
  const MomentProducts products(kernels, delta, h, in.batch, rows, channels, out, window);
  products.sum_samples(gradient.mutable_data_ptr(), moment.mutable_data_ptr());
  if (products.by_tap()) {
    const int64_t taps = window.kernel_height * window.kernel_width;
    for (Tensor* sums : {&gradient, &moment}) {
      if (gradient.scalar_type() == ScalarType::Double)
        channels_first<double>(sums->mutable_data_ptr(), rows, channels / groups, taps);
      else
        channels_first<float>(sums->mutable_data_ptr(), rows, channels / groups, taps);
    }
  }
  return {gradient, moment};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) {
  m.impl("conv2d_gradient_moment", TORCH_BOX(&sparsekern::conv2d_gradient_moment));
}
