// Sparse linear layer: checks, packing, the split over threads. The arithmetic is in cpu/simd.
#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "common.h"
#include "cpu/dispatch.h"
#include "cpu/linear_matrix.h"
#include "cpu/panels.h"
#include "cpu/parallel.h"
#include "cpu/sparse_one.h"
#include "cpu/tensors.h"
#include "cpu/workspace.h"

namespace sparsekern {
namespace {

using Bias = std::optional<Tensor>;

constexpr int64_t kResident = 1 << 19;  // bytes that stay in the L2 cache beside others

// What a backward pass writes; a gradient that nobody wants has no elements.
struct Gradients {
  Tensor input, values, bias;
  bool of_input, of_values, of_bias;
};

// Rounds `count` sums for each nonzero to the gradients of the values; those of the slack are zero.
void store_values(const LinearKernels& kernels, const char* sums, int64_t count, int64_t nnz, Tensor& gradient) {
  const int64_t size = kernels.storage_size;
  char* out = static_cast<char*>(gradient.mutable_data_ptr());
  if (out != sums)
    parallel_for(0, nnz, 1 << 14,
                 [&](int64_t begin, int64_t end) { kernels.combine(sums, count, nnz, begin, end, out); });
  std::fill_n(out + nnz * size, (gradient.numel() - nnz) * size, char(0));
}

// Sums for each nonzero: the gradients themselves where they are as wide.
Tensor sums_for(const LinearKernels& kernels, const Tensor& values, const Gradients& gradients, int64_t nnz) {
  const bool wide = gradients.of_values && kernels.storage_size != kernels.sum_size;
  return wide ? bytes_like(values, nnz * kernels.sum_size) : gradients.values;
}

void backward_of_one(const LinearKernels& kernels, const Matrix& matrix, const Activations& delta, const Activations& x,
                     const Tensor& values, Gradients& gradients) {
  const auto wanted = [](bool need, Tensor& t) { return need ? t.mutable_data_ptr() : nullptr; };
  const Tensor v = gradients.of_input ? widened(values, matrix.nnz) : values;
  Tensor sums = sums_for(kernels, values, gradients, matrix.nnz);
  one_gradients(kernels, matrix.csr, delta.tensor.const_data_ptr(), x.tensor.const_data_ptr(), v.const_data_ptr(),
                wanted(gradients.of_input, gradients.input), wanted(gradients.of_values, sums),
                wanted(gradients.of_bias, gradients.bias));
  if (gradients.of_values)
    store_values(kernels, static_cast<char*>(sums.mutable_data_ptr()), 1, matrix.nnz, gradients.values);
}

// The gradients of a batch, a panel of it after the other.
class Backward {
 public:
  Backward(const LinearKernels& kernels, const Matrix& matrix, const Activations& delta, const Activations& x,
           const Tensor& values, Gradients& gradients)
      : kernels_(kernels),
        matrix_(matrix),
        gradients_(gradients),
        nnz_(matrix.nnz),
        plan_(kernels, x.batch, matrix.density(delta.features, x.features), nnz_ + delta.features + x.features),
        split_(gradients.of_values && !matrix.tiled && plan_.panels > 1 && nnz_ <= x.batch * x.features),
        x_resident_(plan_.packed_bytes(x.features) <= kResident),
        bias_stride_(delta.features * kernels.sum_size),
        worker_bytes_(aligned(positions_of(matrix) * sizeof(int32_t))),
        values_(gradients.of_input ? factors(values, nnz_, kernels.factor_size) : values),
        wide_(split_ ? gradients.values : sums_for(kernels, values, gradients, nnz_)) {
    const int64_t delta_bytes = plan_.chunk * plan_.packed_bytes(delta.features);
    const int64_t x_bytes = gradients.of_values ? plan_.chunk * plan_.packed_bytes(x.features) : 0;
    const int64_t split_bytes = split_ ? aligned(2 * nnz_ * kernels.sum_size) : 0;
    const int64_t bias_bytes = gradients.of_bias ? aligned(plan_.panels * bias_stride_) : 0;
    char* memory = workspace(delta_bytes + x_bytes + split_bytes + bias_bytes + plan_.workers() * worker_bytes_);
    delta_.emplace(kernels, plan_, delta, memory);
    x_.emplace(kernels, plan_, x, memory + delta_bytes);
    value_sums_ = split_ ? memory + delta_bytes + x_bytes : static_cast<char*>(wide_.mutable_data_ptr());
    bias_sums_ = memory + delta_bytes + x_bytes + split_bytes;
    positions_ = bias_sums_ + bias_bytes;
  }

  void run() {
    for (int64_t first = 0; first < plan_.panels; first += plan_.chunk) {
      const int64_t parts = plan_.row_parts(first);
      const bool own = split_ && plan_.panel_parts(first) <= 2;
      const auto compute = [&](int64_t i, int64_t part, int64_t worker) {
        if (gradients_.of_input) multiply(i, part, parts, worker);
        if (own) sample(i, i + 1, part, parts);
      };
      plan_.each(first, [&](int64_t i, int64_t part, int64_t worker) {
        delta_->pack(i, part, parts, gradients_.of_bias ? bias_sums_ + i * bias_stride_ : nullptr);
        if (gradients_.of_values) x_->pack(i, part, parts);
        if (parts == 1) compute(i, part, worker);
      });
      if (parts > 1 && (gradients_.of_input || own)) plan_.each(first, compute);
      if (gradients_.of_values && !own)
        plan_.each_part([&](int64_t part, int64_t parts) { sample(first, plan_.stop(first), part, parts); });
    }
    if (gradients_.of_bias) {
      const int64_t features = gradients_.bias.numel();
      kernels_.combine(bias_sums_, plan_.panels, features, 0, features, gradients_.bias.mutable_data_ptr());
    }
    if (gradients_.of_values) store_values(kernels_, value_sums_, split_ ? 2 : 1, nnz_, gradients_.values);
  }

 private:
  // The gradients of the values, of panels [i, stop)
  void sample(int64_t i, int64_t stop, int64_t part, int64_t parts) {
    if (matrix_.tiled) {
      // Panel by panel while the input stays in the L2 cache meanwhile, else while the sums do.
      const auto [begin, end] = rows_of(matrix_.tiles, part, parts);
      const int64_t step = x_resident_ ? end - begin : 1;
      for (int64_t t = begin; t < end; t += step)
        for (int64_t panel = i; panel < stop; ++panel)
          kernels_.tile_sample(matrix_.tiles, plan_.panel(panel), delta_->panel(panel), x_->panel(panel), panel > 0,
                               value_sums_, t, t + step);
    } else {
      const auto [begin, end] = rows_of(matrix_.csr, part, parts);
      for (; i < stop; ++i)
        kernels_.sample(matrix_.csr, plan_.panel(i), delta_->panel(i), x_->panel(i), i > split_,
                        value_sums_ + (split_ ? i % 2 * nnz_ * kernels_.sum_size : 0), begin, end);
    }
  }

  // The gradient of panel i of the input
  void multiply(int64_t i, int64_t part, int64_t parts, int64_t worker) {
    void* out = gradients_.input.mutable_data_ptr();
    auto* from = reinterpret_cast<int32_t*>(positions_ + worker * worker_bytes_);
    if (matrix_.tiled) {
      const auto [begin, end] = columns_of(matrix_.tiles, part, parts);
      positions_from(matrix_.tiles, begin, from);
      kernels_.tile_transposed(matrix_.tiles, plan_.panel(i), delta_->panel(i), values_.const_data_ptr(), from, out,
                               begin, end);
    } else if (matrix_.narrow) {
      const auto [begin, end] = rows_of(matrix_.csc, part, parts);
      positions_from(matrix_.by_strips, begin / kStrip, from);
      kernels_.narrow_transposed(matrix_.by_strips, plan_.panel(i), delta_->panel(i), values_.const_data_ptr(), from,
                                 out, begin, end);
    } else {
      const auto [begin, end] = rows_of(matrix_.csc, part, parts);
      kernels_.product(matrix_.csc, plan_.panel(i), delta_->panel(i), values_.const_data_ptr(), nullptr, out, begin,
                       end);
    }
  }

  const LinearKernels& kernels_;
  const Matrix& matrix_;
  Gradients& gradients_;
  const int64_t nnz_;
  const Plan plan_;
  // Where the sums are smaller than the activations, even and odd panels have sums of their own, so that two threads
  // can each keep to their panels; else, and in tiles, a thread takes its rows of all panels.
  const bool split_;
  const bool x_resident_;       // a packed panel of the input stays in the L2 cache
  const int64_t bias_stride_;   // bytes of the sums of a panel
  const int64_t worker_bytes_;  // of positions of rows
  const Tensor values_;
  Tensor wide_;
  std::optional<Packed> delta_, x_;
  char *value_sums_, *bias_sums_, *positions_;
};

}  // namespace

Tensor sparse_linear(const Tensor& input, const Tensor& values, const std::vector<Tensor>& index, const Bias& bias,
                     int64_t out_features) {
  const LinearKernels& kernels = linear_kernels(storage_of(input.scalar_type()));
  const Matrix matrix = matrix_of(index, input, values, out_features);
  if (bias) {
    require(bias->scalar_type() == input.scalar_type(), "bias must have the input's dtype ", input.scalar_type(),
            ", got ", bias->scalar_type());
    require(bias->dim() == 1 && bias->numel() == out_features, "bias must be a vector of ", out_features, " elements");
  }
  const Bias b = bias ? Bias(dense_vector(*bias)) : bias;
  std::vector<int64_t> shape(input.sizes().begin(), input.sizes().end());
  shape.back() = out_features;
  Tensor output = uninitialized(input, shape);
  if (output.numel() == 0) return output;

  const Activations x(input);
  const Tensor v =
      matrix.walked(x.batch) ? widened(values, matrix.nnz) : factors(values, matrix.nnz, kernels.factor_size);
  if (matrix.walked(x.batch)) {
    one_product(kernels, matrix.csr, x.tensor.const_data_ptr(), v.const_data_ptr(), b ? b->const_data_ptr() : nullptr,
                output.mutable_data_ptr());
    return output;
  }
  const Plan plan(kernels, x.batch, matrix.density(out_features, x.features), matrix.nnz + out_features + x.features);
  const Packed packed(kernels, plan, x, workspace(plan.chunk * plan.packed_bytes(x.features)));
  const auto multiply = [&](int64_t i, int64_t part, int64_t parts) {
    const void* bias_data = b ? b->const_data_ptr() : nullptr;
    if (matrix.tiled) {
      const auto [begin, end] = rows_of(matrix.tiles, part, parts);
      kernels.tile_product(matrix.tiles, plan.panel(i), packed.panel(i), v.const_data_ptr(), bias_data,
                           output.mutable_data_ptr(), begin, end);
    } else {
      const auto [begin, end] = rows_of(matrix.csr, part, parts);
      kernels.product(matrix.csr, plan.panel(i), packed.panel(i), v.const_data_ptr(), bias_data,
                      output.mutable_data_ptr(), begin, end);
    }
  };
  for (int64_t first = 0; first < plan.panels; first += plan.chunk) {
    const int64_t parts = plan.row_parts(first);
    plan.each(first, [&](int64_t i, int64_t part, int64_t) {
      packed.pack(i, part, parts);
      if (parts == 1) multiply(i, 0, 1);
    });
    if (parts > 1) plan.each(first, [&](int64_t i, int64_t part, int64_t) { multiply(i, part, parts); });
  }
  return output;
}

std::tuple<Tensor, Tensor, Tensor> sparse_linear_backward(const Tensor& grad_output, const Tensor& input,
                                                          const Tensor& values, const std::vector<Tensor>& index,
                                                          bool need_input, bool need_values, bool need_bias) {
  const LinearKernels& kernels = linear_kernels(storage_of(input.scalar_type()));
  const int64_t out_features = grad_output.dim() > 0 ? grad_output.size(grad_output.dim() - 1) : 0;
  const Matrix matrix = matrix_of(index, input, values, out_features);
  require(grad_output.scalar_type() == input.scalar_type(), "grad_output must have the input's dtype ",
          input.scalar_type(), ", got ", grad_output.scalar_type());
  require(grad_output.dim() == input.dim() &&
              std::equal(input.sizes().begin(), input.sizes().end() - 1, grad_output.sizes().begin()),
          "grad_output must have the input's leading dimensions");

  const Tensor none = uninitialized(values, {0});
  Gradients gradients{need_input ? uninitialized(input, input.sizes()) : none,
                      need_values ? uninitialized(values, {values.numel()}) : none,
                      need_bias ? uninitialized(values, {out_features}) : none,
                      need_input,
                      need_values,
                      need_bias};
  const Activations delta(grad_output), x(input);
  if (x.batch == 0) {
    if (need_values) torch::stable::zero_(gradients.values);
    if (need_bias) torch::stable::zero_(gradients.bias);
  } else if (matrix.walked(x.batch)) {
    backward_of_one(kernels, matrix, delta, x, values, gradients);
  } else {
    Backward(kernels, matrix, delta, x, values, gradients).run();
  }
  return {gradients.input, gradients.values, gradients.bias};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) {
  m.impl("sparse_linear", TORCH_BOX(&sparsekern::sparse_linear));
  m.impl("sparse_linear_backward", TORCH_BOX(&sparsekern::sparse_linear_backward));
}
