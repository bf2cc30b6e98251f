// Sparse linear layer: checks, packing, the split over threads. The arithmetic is in cpu/simd.
#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "common.h"
#include "cpu/csr.h"
#include "cpu/dispatch.h"
#include "cpu/panels.h"
#include "cpu/parallel.h"
#include "cpu/shares.h"
#include "cpu/sparse_one.h"
#include "cpu/tensors.h"
#include "cpu/tile_pattern.h"
#include "cpu/workspace.h"

namespace sparsekern {
namespace {

using Bias = std::optional<Tensor>;

constexpr int64_t kResident = 1 << 19;  // bytes that stay in the L2 cache beside others

struct Matrix {
  CsrView csr;  // by output features
  CsrView csc;  // by input features
  bool tiled;   // or both by tiles
  TileView tiles;
  int64_t nnz;

  // Whether kernels walk over the nonzeros for one input.
  bool walked(int64_t batch) const { return batch == 1 && !tiled; }

  double density(int64_t rows, int64_t cols) const {
    return static_cast<double>(nnz) / std::max<int64_t>(1, rows * cols);
  }
};

Matrix matrix_of(const std::vector<Tensor>& index, const Tensor& input, const Tensor& values, int64_t out_features) {
  require(index.size() == 8, "index must hold 8 tensors, got ", index.size());
  const int32_t* ptr = pointer_data(index[0], "row_ptr");
  const int64_t rows = index[0].numel() - 1;
  const int64_t cols = index[2].size(0) - 1;  // it may be empty
  require(rows == out_features, "row_ptr describes ", rows, " rows, but out_features is ", out_features);
  require(input.dim() > 0 && input.size(input.dim() - 1) == cols, "input must have ", cols,
          " features in its last dimension, got ", input.dim() > 0 ? input.size(input.dim() - 1) : 0);
  require(values.scalar_type() == input.scalar_type(), "values must have the input's dtype ", input.scalar_type(),
          ", got ", values.scalar_type());
  require(values.dim() == 1, "values must be a vector, got ", values.dim(), " dimensions");
  const int64_t nnz = ptr[rows];
  require(values.numel() >= nnz, "values must hold the ", nnz, " nonzeros of row_ptr, got ", values.numel());
  if (index[6].numel() > 0) return {{}, {}, true, tiles_of(index[6], ptr, rows, cols), nnz};
  const int32_t* t_ptr = pointer_data(index[2], "t_ptr");
  require(t_ptr[cols] == nnz, "t_ptr must end with the ", nnz, " nonzeros of row_ptr, got ", t_ptr[cols]);
  return {{ptr, index_data(index[1], nnz, "col"), nullptr, rows, cols},
          {t_ptr, index_data(index[3], nnz, "t_row"), index_data(index[4], nnz, "t_pos"), cols, rows},
          false,
          {},
          nnz};
}

// The rows of a matrix, in equal shares of the nonzeros.
std::pair<int64_t, int64_t> rows_of(const CsrView& csr, int64_t part, int64_t parts) {
  return row_range(csr.rows, kRowBlock, part, parts, [&](int64_t row) -> int64_t { return csr.ptr[row]; });
}

// The same for rows of tiles.
std::pair<int64_t, int64_t> rows_of(const TileView& t, int64_t part, int64_t parts) {
  return row_range(t.down, 1, part, parts,
                   [&](int64_t i) -> int64_t { return t.row_ptr[std::min(t.rows, i * t.side)]; });
}

// The same for columns of tiles.
std::pair<int64_t, int64_t> columns_of(const TileView& t, int64_t part, int64_t parts) {
  return row_range(t.across, 1, part, parts, [&](int64_t j) -> int64_t { return t.start[j * t.down]; });
}

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

  Tensor none = uninitialized(values, {0});
  Tensor grad_input = need_input ? uninitialized(input, input.sizes()) : none;
  Tensor grad_values = need_values ? uninitialized(values, {values.numel()}) : none;
  Tensor grad_bias = need_bias ? uninitialized(values, {out_features}) : none;
  const Activations delta(grad_output), x(input);
  if (x.batch == 0) {
    if (need_values) torch::stable::zero_(grad_values);
    if (need_bias) torch::stable::zero_(grad_bias);
    return {grad_input, grad_values, grad_bias};
  }

  const int64_t nnz = matrix.nnz;
  const int64_t sum_size = kernels.sum_size;
  const bool narrow = kernels.storage_size != sum_size;
  // From sums to the gradients of the values; those of the slack are zero.
  const auto store_values = [&](const char* sums, int64_t count) {
    if (count > 1 || narrow)
      parallel_for(0, nnz, 1 << 14, [&](int64_t begin, int64_t end) {
        kernels.combine(sums, count, nnz, begin, end, grad_values.mutable_data_ptr());
      });
    char* slack = static_cast<char*>(grad_values.mutable_data_ptr()) + nnz * kernels.storage_size;
    std::fill_n(slack, (values.numel() - nnz) * kernels.storage_size, char(0));
  };
  const Tensor v = !need_input              ? none
                   : matrix.walked(x.batch) ? widened(values, nnz)
                                            : factors(values, nnz, kernels.factor_size);
  if (matrix.walked(x.batch)) {
    Tensor wide = need_values && narrow ? bytes_like(values, nnz * sum_size) : grad_values;
    const auto wanted = [](bool need, Tensor& t) { return need ? t.mutable_data_ptr() : nullptr; };
    one_gradients(kernels, matrix.csr, delta.tensor.const_data_ptr(), x.tensor.const_data_ptr(), v.const_data_ptr(),
                  wanted(need_input, grad_input), wanted(need_values, wide), wanted(need_bias, grad_bias));
    if (need_values) store_values(static_cast<char*>(wide.mutable_data_ptr()), 1);
    return {grad_input, grad_values, grad_bias};
  }

  const Plan plan(kernels, x.batch, matrix.density(out_features, x.features), nnz + out_features + x.features);
  // Where the sums are smaller than the activations, even and odd panels have sums of their own, so that two threads
  // can each keep to their panels; else, and in tiles, a thread takes its rows of all panels.
  const bool split = need_values && !matrix.tiled && plan.panels > 1 && nnz <= x.batch * x.features;
  const int64_t delta_bytes = plan.chunk * plan.packed_bytes(delta.features);
  const int64_t x_bytes = need_values ? plan.chunk * plan.packed_bytes(x.features) : 0;
  const int64_t split_bytes = split ? aligned(2 * nnz * sum_size) : 0;
  const int64_t bias_bytes = need_bias ? plan.panels * out_features * sum_size : 0;
  // positions of the rows of tiles
  const int64_t worker_bytes = matrix.tiled ? aligned(matrix.tiles.down * matrix.tiles.side * sizeof(int32_t)) : 0;
  char* memory = workspace(delta_bytes + x_bytes + split_bytes + aligned(bias_bytes) + plan.workers() * worker_bytes);
  const Packed packed_delta(kernels, plan, delta, memory), packed_x(kernels, plan, x, memory + delta_bytes);
  char* bias_sums = memory + delta_bytes + x_bytes + split_bytes;
  char* tile_memory = bias_sums + aligned(bias_bytes);

  Tensor wide_grad = need_values && narrow && !split ? bytes_like(values, nnz * sum_size) : grad_values;
  char* value_sums = split ? memory + delta_bytes + x_bytes : static_cast<char*>(wide_grad.mutable_data_ptr());
  // The nonzeros of panels [i, stop)
  const auto sample = [&](int64_t i, int64_t stop, int64_t part, int64_t parts) {
    if (matrix.tiled) {
      // Panel by panel while the input stays in the L2 cache meanwhile, else while the sums do.
      const auto [begin, end] = rows_of(matrix.tiles, part, parts);
      const int64_t step = plan.packed_bytes(x.features) <= kResident ? end - begin : 1;
      for (int64_t t = begin; t < end; t += step)
        for (int64_t panel = i; panel < stop; ++panel)
          kernels.tile_sample(matrix.tiles, plan.panel(panel), packed_delta.panel(panel), packed_x.panel(panel),
                              panel > 0, value_sums, t, t + step);
    } else {
      const auto [begin, end] = rows_of(matrix.csr, part, parts);
      for (; i < stop; ++i)
        kernels.sample(matrix.csr, plan.panel(i), packed_delta.panel(i), packed_x.panel(i), i > split,
                       value_sums + (split ? i % 2 * nnz * sum_size : 0), begin, end);
    }
  };
  const auto multiply = [&](int64_t i, int64_t part, int64_t parts, int64_t worker) {
    if (matrix.tiled) {
      const auto [begin, end] = columns_of(matrix.tiles, part, parts);
      auto* from = reinterpret_cast<int32_t*>(tile_memory + worker * worker_bytes);
      positions_from(matrix.tiles, begin, from);
      kernels.tile_transposed(matrix.tiles, plan.panel(i), packed_delta.panel(i), v.const_data_ptr(), from,
                              grad_input.mutable_data_ptr(), begin, end);
    } else {
      const auto [begin, end] = rows_of(matrix.csc, part, parts);
      kernels.product(matrix.csc, plan.panel(i), packed_delta.panel(i), v.const_data_ptr(), nullptr,
                      grad_input.mutable_data_ptr(), begin, end);
    }
  };
  const auto compute = [&](int64_t i, int64_t part, int64_t parts, int64_t worker, bool own) {
    if (need_input) multiply(i, part, parts, worker);
    if (own) sample(i, i + 1, part, parts);
  };
  for (int64_t first = 0; first < plan.panels; first += plan.chunk) {
    const int64_t row_parts = plan.row_parts(first);
    const bool own = split && plan.panel_parts(first) <= 2;
    plan.each(first, [&](int64_t i, int64_t part, int64_t worker) {
      packed_delta.pack(i, part, row_parts, need_bias ? bias_sums + i * out_features * sum_size : nullptr);
      if (need_values) packed_x.pack(i, part, row_parts);
      if (row_parts == 1) compute(i, 0, 1, worker, own);
    });
    if (row_parts > 1 && (need_input || own)) {
      plan.each(first, [&](int64_t i, int64_t part, int64_t worker) { compute(i, part, row_parts, worker, own); });
    }
    if (need_values && !own) {
      plan.each_part([&](int64_t part, int64_t parts) { sample(first, plan.stop(first), part, parts); });
    }
  }
  if (need_bias) kernels.combine(bias_sums, plan.panels, out_features, 0, out_features, grad_bias.mutable_data_ptr());
  if (need_values) store_values(value_sums, split ? 2 : 1);
  return {grad_input, grad_values, grad_bias};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) {
  m.impl("sparse_linear", TORCH_BOX(&sparsekern::sparse_linear));
  m.impl("sparse_linear_backward", TORCH_BOX(&sparsekern::sparse_linear_backward));
}
