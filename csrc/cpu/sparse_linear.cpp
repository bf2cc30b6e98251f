// Sparse linear layer: checks, packing, the split over threads. The arithmetic is in cpu/simd.
#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "common.h"
#include "cpu/isa.h"
#include "cpu/linear_kernels.h"

namespace sparsekern {
namespace {

using Bias = std::optional<Tensor>;

constexpr int64_t kBlock = 64;  // rows given to a thread come in whole blocks: whole cache lines of output, whole tiles
constexpr int64_t kRowCost = 4;  // what a row costs beyond its nonzeros, in nonzeros

const LinearKernels& kernels_of(ScalarType dtype) {
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16,
                  "sparse_linear on the CPU takes float32, float64 or bfloat16, got ", dtype);
  const Storage storage = dtype == ScalarType::Float    ? Storage::float32
                          : dtype == ScalarType::Double ? Storage::float64
                                                        : Storage::bfloat16;
  switch (active_isa()) {
#if defined(__x86_64__)
    case Isa::avx512:
      return linear_kernels_avx512(storage);
    case Isa::avx2:
      return linear_kernels_avx2(storage);
#endif
    default:
      return linear_kernels_generic(storage);
  }
}

struct Matrix {
  Walk rows;     // output features
  Walk columns;  // input features
  int64_t nnz;
};

Walk walk_of(const Tensor& ptr, const Tensor& index, const Tensor* position, const Tensor& tiles, int64_t cols,
             int64_t nnz, const char* name) {
  const int64_t rows = ptr.numel() - 1;
  Walk walk{data<int32_t>(ptr), 1, 1, index_data(index, nnz, name), nullptr, rows, cols};
  if (position) walk.position = index_data(*position, nnz, "t_pos");
  if (tiles.numel() > 0) {
    walk.segments = (cols + 63) / 64;
    walk.stride = walk.segments + 1;
    walk.bounds = index_data(tiles, rows * walk.stride, "tile pointers");
  }
  return walk;
}

Matrix matrix_of(const std::vector<Tensor>& index, const Tensor& input, const Tensor& values, int64_t out_features) {
  STD_TORCH_CHECK(index.size() == 7, "index must hold 7 tensors, got ", index.size());
  const int32_t* ptr = index_data(index[0], 1, "row_ptr");
  const int64_t rows = index[0].numel() - 1;
  const int64_t cols = index[2].numel() - 1;
  index_data(index[2], 1, "t_ptr");
  STD_TORCH_CHECK(rows == out_features, "row_ptr describes ", rows, " rows, but out_features is ", out_features);
  STD_TORCH_CHECK(input.dim() > 0 && input.size(input.dim() - 1) == cols, "input must have ", cols,
                  " features in its last dimension, got ", input.dim() > 0 ? input.size(input.dim() - 1) : 0);
  STD_TORCH_CHECK(values.scalar_type() == input.scalar_type(), "values must have the input's dtype ",
                  input.scalar_type(), ", got ", values.scalar_type());
  STD_TORCH_CHECK(values.dim() == 1 && values.is_contiguous(), "values must be a contiguous vector");
  const int64_t nnz = ptr[rows];
  STD_TORCH_CHECK(values.numel() >= nnz, "values must hold the ", nnz, " nonzeros of row_ptr, got ", values.numel());
  return {walk_of(index[0], index[1], nullptr, index[5], cols, nnz, "col"),
          walk_of(index[2], index[3], &index[4], index[6], rows, nnz, "t_row"), nnz};
}

// A tensor seen as [batch, features] with contiguous rows.
struct Activations {
  Tensor tensor;
  int64_t batch = 1, features, stride;

  explicit Activations(const Tensor& t) : tensor(t) {
    const int64_t last = t.dim() - 1;
    features = t.size(last);
    stride = features;
    int64_t expected = -1;
    bool regular = features <= 1 || t.stride(last) == 1;
    for (int64_t d = last - 1; d >= 0; --d) {
      batch *= t.size(d);
      if (t.size(d) == 1) continue;
      if (expected < 0)
        stride = t.stride(d);
      else
        regular = regular && t.stride(d) == expected;
      expected = t.stride(d) * t.size(d);
    }
    if (regular) return;
    tensor = torch::stable::contiguous(t);
    stride = features;
  }
};

// Splits [0, n) into `parts` ranges of whole blocks.
std::pair<int64_t, int64_t> even_range(int64_t n, int64_t block, int64_t part, int64_t parts) {
  const int64_t blocks = (n + block - 1) / block;
  return {std::min(n, blocks * part / parts * block), std::min(n, blocks * (part + 1) / parts * block)};
}

// The same for the rows of a walk, with equal shares of its nonzeros.
std::pair<int64_t, int64_t> row_range(const Walk& walk, int64_t part, int64_t parts) {
  const auto cost = [&](int64_t row) {
    return (row > 0 ? walk.bounds[(row - 1) * walk.stride + walk.segments] - walk.bounds[0] : 0) + kRowCost * row;
  };
  const int64_t blocks = (walk.rows + kBlock - 1) / kBlock;
  const auto bound = [&](int64_t p) {
    const int64_t target = cost(walk.rows) * p / parts;
    int64_t low = 0, high = blocks;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (cost(std::min(walk.rows, middle * kBlock)) < target)
        low = middle + 1;
      else
        high = middle;
    }
    return std::min(walk.rows, low * kBlock);
  };
  return {part == 0 ? 0 : bound(part), part + 1 == parts ? walk.rows : bound(part + 1)};
}

template <class F>
void parallel_parts(const F& f) {
  const int64_t parts = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) f(part, parts);
  });
}

Tensor scratch(const Tensor& like, int64_t bytes) { return torch::stable::new_empty(like, {bytes}, ScalarType::Byte); }

Tensor packed_scratch(const LinearKernels& kernels, const Activations& a) {
  const int64_t columns = (a.batch + kernels.lanes - 1) / kernels.lanes * kernels.lanes;
  return scratch(a.tensor, columns * a.features * kernels.sum_size);
}

void pack(const LinearKernels& kernels, const Activations& a, Tensor& to, void* sums, int64_t part, int64_t parts) {
  const auto [begin, end] = even_range(a.features, kBlock, part, parts);
  if (begin < end)
    kernels.pack(a.tensor.const_data_ptr(), a.stride, a.batch, a.features, begin, end, to.mutable_data_ptr(), sums);
}

// Where the sums of `values` are taken in a wider type: room for a copy of them.
std::optional<Tensor> wide_scratch(const LinearKernels& kernels, const Tensor& values, int64_t nnz) {
  if (kernels.storage_size == kernels.sum_size) return std::nullopt;
  return scratch(values, nnz * kernels.sum_size);
}

const void* widen(const LinearKernels& kernels, const Tensor& values, int64_t nnz, std::optional<Tensor>& wide,
                  int64_t part, int64_t parts) {
  if (!wide) return values.const_data_ptr();
  const auto [begin, end] = even_range(nnz, 4096, part, parts);
  kernels.widen(values.const_data_ptr(), begin, end, wide->mutable_data_ptr());
  return wide->const_data_ptr();
}

}  // namespace

Tensor sparse_linear(const Tensor& input, const Tensor& values, const std::vector<Tensor>& index, const Bias& bias,
                     int64_t out_features) {
  const LinearKernels& kernels = kernels_of(input.scalar_type());
  const Matrix matrix = matrix_of(index, input, values, out_features);
  if (bias) {
    STD_TORCH_CHECK(bias->scalar_type() == input.scalar_type(), "bias must have the input's dtype ",
                    input.scalar_type(), ", got ", bias->scalar_type());
    STD_TORCH_CHECK(bias->dim() == 1 && bias->numel() == out_features && bias->is_contiguous(),
                    "bias must be a contiguous vector of ", out_features, " elements");
  }
  std::vector<int64_t> shape(input.sizes().begin(), input.sizes().end());
  shape.back() = out_features;
  Tensor output = torch::stable::new_empty(input, shape);
  if (output.numel() == 0) return output;

  const Activations x(input);
  Tensor packed = packed_scratch(kernels, x);
  std::optional<Tensor> wide = wide_scratch(kernels, values, matrix.nnz);
  const void* v = wide ? wide->const_data_ptr() : values.const_data_ptr();
  parallel_parts([&](int64_t part, int64_t parts) {
    pack(kernels, x, packed, nullptr, part, parts);
    widen(kernels, values, matrix.nnz, wide, part, parts);
  });
  parallel_parts([&](int64_t part, int64_t parts) {
    const auto [begin, end] = row_range(matrix.rows, part, parts);
    kernels.product(matrix.rows, packed.const_data_ptr(), v, bias ? bias->const_data_ptr() : nullptr, x.batch,
                    output.mutable_data_ptr(), begin, end);
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> sparse_linear_backward(const Tensor& grad_output, const Tensor& input,
                                                          const Tensor& values, const std::vector<Tensor>& index,
                                                          bool need_input, bool need_values, bool need_bias) {
  const LinearKernels& kernels = kernels_of(input.scalar_type());
  const int64_t out_features = grad_output.dim() > 0 ? grad_output.size(grad_output.dim() - 1) : 0;
  const Matrix matrix = matrix_of(index, input, values, out_features);
  STD_TORCH_CHECK(grad_output.scalar_type() == input.scalar_type(), "grad_output must have the input's dtype ",
                  input.scalar_type(), ", got ", grad_output.scalar_type());
  STD_TORCH_CHECK(grad_output.dim() == input.dim() &&
                      std::equal(input.sizes().begin(), input.sizes().end() - 1, grad_output.sizes().begin()),
                  "grad_output must have the input's leading dimensions");

  Tensor none = torch::stable::new_empty(values, {0});
  Tensor grad_input = need_input ? torch::stable::new_empty(input, input.sizes()) : none;
  Tensor grad_values = need_values ? torch::stable::new_empty(values, {values.numel()}) : none;
  Tensor grad_bias = need_bias ? torch::stable::new_empty(values, {out_features}) : none;
  const Activations delta(grad_output), x(input);
  const int64_t batch = x.batch;
  if (batch == 0) {
    if (need_values) torch::stable::zero_(grad_values);
    if (need_bias) torch::stable::zero_(grad_bias);
    return {grad_input, grad_values, grad_bias};
  }

  Tensor packed_delta = packed_scratch(kernels, delta);
  Tensor packed_x = need_values ? packed_scratch(kernels, x) : none;
  std::optional<Tensor> wide;
  if (need_input || need_values) wide = wide_scratch(kernels, values, matrix.nnz);
  std::optional<Tensor> wide_grad;
  if (need_values) wide_grad = wide_scratch(kernels, values, matrix.nnz);
  const void* v = wide ? wide->const_data_ptr() : values.const_data_ptr();
  parallel_parts([&](int64_t part, int64_t parts) {
    pack(kernels, delta, packed_delta, need_bias ? grad_bias.mutable_data_ptr() : nullptr, part, parts);
    if (need_values) pack(kernels, x, packed_x, nullptr, part, parts);
    if (need_input) widen(kernels, values, matrix.nnz, wide, part, parts);
  });
  if (!need_input && !need_values) return {grad_input, grad_values, grad_bias};
  parallel_parts([&](int64_t part, int64_t parts) {
    if (need_input) {
      const auto [begin, end] = row_range(matrix.columns, part, parts);
      kernels.product(matrix.columns, packed_delta.const_data_ptr(), v, nullptr, batch, grad_input.mutable_data_ptr(),
                      begin, end);
    }
    if (need_values) {
      const auto [begin, end] = row_range(matrix.rows, part, parts);
      kernels.sample(matrix.rows, packed_delta.const_data_ptr(), packed_x.const_data_ptr(), batch,
                     grad_values.mutable_data_ptr(), wide_grad ? wide_grad->mutable_data_ptr() : nullptr, begin, end);
    }
  });
  if (need_values && values.numel() > matrix.nnz) {
    char* slack = static_cast<char*>(grad_values.mutable_data_ptr()) + matrix.nnz * kernels.storage_size;
    std::fill_n(slack, (values.numel() - matrix.nnz) * kernels.storage_size, char(0));
  }
  return {grad_input, grad_values, grad_bias};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) {
  m.impl("sparse_linear", TORCH_BOX(&sparsekern::sparse_linear));
  m.impl("sparse_linear_backward", TORCH_BOX(&sparsekern::sparse_linear_backward));
}
