// The weight gradient of a linear layer together with the sum over samples of the squares of their shares of it.
#include <tuple>

#include "common.h"
#include "cpu/moment_products.h"
#include "cpu/tensors.h"

namespace sparsekern {
std::tuple<Tensor, Tensor> gradient_moment(const Tensor& grad_output, const Tensor& input) {
  const MomentKernels& kernels = moment_kernels(storage_of(input.scalar_type()));
  check_dtypes(grad_output, input);
  require(input.dim() >= 2 && grad_output.dim() == input.dim(), "grad_output and input must be [B, *, features]");
  int64_t positions = 1;
  for (int64_t i = 0; i + 1 < input.dim(); ++i) {
    require(grad_output.size(i) == input.size(i), "grad_output and input must have the same leading dimensions");
    positions *= i > 0 ? input.size(i) : 1;
  }
  const int64_t batch = input.size(0), rows = grad_output.size(-1), cols = input.size(-1);
  auto [gradient, moment] = sums_like(input, {rows, cols});
  if (batch * positions == 0 || gradient.numel() == 0) {
    torch::stable::zero_(gradient), torch::stable::zero_(moment);
    return {gradient, moment};
  }
  const Tensor delta = torch::stable::reshape(grad_output, {batch, positions, rows});
  const Tensor h = torch::stable::reshape(input, {batch, positions, cols});
  const bool plain = positions == 1;  // the samples are positions of one
  const auto source = [&](const Tensor& t) {
    const int64_t x_stride = t.stride(plain ? 0 : 1), width = plain ? batch : positions;
    return MomentSource{
        static_cast<const char*>(t.const_data_ptr()), t.stride(0), {nullptr, t.stride(2), 0, x_stride, 1, width}};
  };
  const Window window{1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1};
  const ImageSize out{batch, rows, 1, plain ? batch : positions};
  const MomentProducts products(kernels, source(delta), source(h), batch, rows, cols, out, window);
  if (plain) {
    products.sum_squares(gradient.mutable_data_ptr(), moment.mutable_data_ptr());
  } else {
    products.sum_samples(gradient.mutable_data_ptr(), moment.mutable_data_ptr());
  }
  return {gradient, moment};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("gradient_moment", TORCH_BOX(&sparsekern::gradient_moment)); }
