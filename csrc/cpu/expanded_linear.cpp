// The linear layer by dense products with its expanded weight: checks, and the choice of how to multiply. Where no
// weight is absent, a product is the library's own on all threads.
#include "cpu/expanded_linear.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <vector>

#include "common.h"

namespace sparsekern {
namespace {

// What a layer without inputs computes: the bias.
void spread(const Bias& bias, const Batch& y) {
  const int64_t bytes = y.features * y.size;
  for (int64_t b = 0; b < y.rows; ++b) {
    if (bias)
      std::memcpy(y.at(b, 0), bias->const_data_ptr(), bytes);
    else
      std::memset(y.at(b, 0), 0, bytes);
  }
}

// Whether dense products are our own. Of bfloat16 those of pairs are, which need even extents, up to so many rows of
// the batch: of more, the library's are as fast.
constexpr int64_t kMostPaired = 512;

bool paired(const PackedWeight& w, const Batch& x) {
  return dense_kernels(storage_of(x.dtype)).paired == 2 && w.rows() % 2 == 0 && w.cols % 2 == 0;
}

bool own_products(const PackedWeight& w, const Batch& x) {
  return w.size != 2 || (paired(w, x) && x.rows <= kMostPaired);
}

// Whether inputs are so few that values are expanded in registers.
bool few(const PackedWeight& w, const Batch& x) { return x.rows <= (paired(w, x) ? kFewPaired : kFewInputs); }

void forward(const PackedWeight& w, const Batch& x, const Bias& bias, const Batch& y) {
  if (w.cols == 0) return spread(bias, y);
  if (few(w, x)) return few_forward(w, x, bias, y);
  if (!w.full()) return own_products(w, x) ? blocks_forward(w, x, bias, y) : panels_forward(w, x, bias, y);
  const Tensor weight = matrix(w.at(0), x.dtype, w.cols, w.rows(), 1, w.cols);
  if (!bias) return multiply(y.all(), x.all(), weight);
  multiply_add(y.all(), x.all(), weight, matrix(bias->const_data_ptr(), y.dtype, y.rows, w.rows(), 0));
}

void input_gradient(const PackedWeight& w, const Batch& delta, const Batch& out) {
  if (w.rows() == 0) return spread({}, out);
  if (few(w, delta)) return few_input_gradient(w, delta, out);
  if (!w.full())
    return own_products(w, delta) ? blocks_input_gradient(w, delta, out) : panels_input_gradient(w, delta, out);
  multiply(out.all(), delta.all(), matrix(w.at(0), delta.dtype, w.rows(), w.cols, w.cols));
}

void weight_gradient(const PackedWeight& w, const Batch& delta, const Batch& x, char* out) {
  if (few(w, x)) return few_weight_gradient(w, delta, x, out);
  if (!w.full())
    return own_products(w, x) ? blocks_weight_gradient(w, delta, x, out) : panels_weight_gradient(w, delta, x, out);
  const Tensor transposed = matrix(delta.at(0, 0), x.dtype, w.rows(), x.rows, 1, w.rows());
  multiply(matrix(out, x.dtype, w.rows(), w.cols, w.cols), transposed, x.all());
}

Tensor bias_gradient(const Batch& delta) {
  if (delta.rows == 0 || delta.rows > kFewInputs) {
    const int64_t batch[] = {0}, all[] = {delta.rows, delta.features};
    return torch::stable::sum(torch::stable::reshape(delta.tensor, {all, 2}), {{batch, 1}});
  }
  Tensor sums = uninitialized(delta.tensor, {delta.features});
  few_kernels(storage_of(delta.dtype)).sum_rows(delta.at(0, 0), delta.rows, delta.features, sums.mutable_data_ptr());
  return sums;
}

}  // namespace

Tensor expanded_linear(const Tensor& input, const Tensor& values, const std::vector<Tensor>& index, const Bias& bias,
                       int64_t out_features) {
  require(input.dim() > 0, "input must have a dimension of features");
  const PackedWeight w = packed_weight(index, values, out_features, input.size(input.dim() - 1));
  require(!bias || (bias->dim() == 1 && bias->numel() == out_features && bias->scalar_type() == input.scalar_type()),
          "bias must be a vector of ", out_features, " elements of the input's dtype");
  std::vector<int64_t> shape(input.sizes().begin(), input.sizes().end());
  shape.back() = out_features;
  const Tensor output = uninitialized(input, shape);
  if (output.numel() > 0) forward(w, Batch(input, w), bias ? Bias(dense_vector(*bias)) : bias, Batch(output, w));
  return output;
}

std::tuple<Tensor, Tensor, Tensor> expanded_linear_backward(const Tensor& grad_output, const Tensor& input,
                                                            const Tensor& values, const std::vector<Tensor>& index,
                                                            bool need_input, bool need_values, bool need_bias) {
  require(input.dim() > 0 && grad_output.dim() == input.dim() &&
              std::equal(input.sizes().begin(), input.sizes().end() - 1, grad_output.sizes().begin()),
          "grad_output must have the input's leading dimensions");
  const int64_t rows = grad_output.size(grad_output.dim() - 1), cols = input.size(input.dim() - 1);
  const PackedWeight w = packed_weight(index, values, rows, cols);
  const Batch x(input, w), delta(grad_output, w);
  const Tensor none = uninitialized(values, {0});
  const Tensor grad_input = need_input ? uninitialized(input, input.sizes()) : none;
  Tensor grad_values = need_values ? uninitialized(values, {values.numel()}) : none;
  if (need_input && grad_input.numel() > 0) input_gradient(w, delta, Batch(grad_input, w));
  if (need_values) {
    char* out = static_cast<char*>(grad_values.mutable_data_ptr());
    const int64_t nnz = w.nnz(), used = x.rows > 0 ? nnz : 0;
    if (used > 0) weight_gradient(w, delta, x, out);
    std::fill_n(out + used * w.size, (values.numel() - used) * w.size, char(0));
  }
  return {grad_input, grad_values, need_bias ? bias_gradient(delta) : none};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) {
  m.impl("expanded_linear", TORCH_BOX(&sparsekern::expanded_linear));
  m.impl("expanded_linear_backward", TORCH_BOX(&sparsekern::expanded_linear_backward));
}
