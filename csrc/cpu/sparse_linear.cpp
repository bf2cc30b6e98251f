// Sparse linear layer: checks, packing, the split over threads. The arithmetic is in cpu/simd.
#include <algorithm>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "common.h"
#include "cpu/csr.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/shares.h"
#include "cpu/tensors.h"
#include "cpu/workspace.h"

namespace sparsekern {
namespace {

using Bias = std::optional<Tensor>;

constexpr int64_t kUndivided = 32;  // a small batch

struct Matrix {
  CsrView csr;      // by output features: the forward pass
  CsrView csc;      // by input features: the gradient of the input
  CsrView sampled;  // by output features: the gradient of the values
  int64_t nnz;
};

CsrView view_of(const Tensor& ptr, const Tensor& index, const Tensor* position, const Tensor& tiles, int64_t cols,
                int64_t nnz, const char* name) {
  const int64_t rows = ptr.numel() - 1;
  CsrView view{data<int32_t>(ptr), 1, 1, index_data(index, nnz, name), nullptr, rows, cols, nullptr, 0};
  if (position) view.position = index_data(*position, nnz, "t_pos");
  if (tiles.numel() > 0 && cols > 0) {
    view.segments = (cols + 63) / 64;
    view.stride = view.segments + 1;
    view.bounds = index_data(tiles, rows * view.stride, "tile pointers");
  }
  return view;
}

Matrix matrix_of(const std::vector<Tensor>& index, const Tensor& input, const Tensor& values, int64_t out_features) {
  require(index.size() == 8, "index must hold 8 tensors, got ", index.size());
  const int32_t* ptr = pointer_data(index[0], "row_ptr");
  const int64_t rows = index[0].numel() - 1;
  const int64_t cols = index[2].numel() - 1;
  const int32_t* t_ptr = pointer_data(index[2], "t_ptr");
  require(rows == out_features, "row_ptr describes ", rows, " rows, but out_features is ", out_features);
  require(input.dim() > 0 && input.size(input.dim() - 1) == cols, "input must have ", cols,
          " features in its last dimension, got ", input.dim() > 0 ? input.size(input.dim() - 1) : 0);
  require(values.scalar_type() == input.scalar_type(), "values must have the input's dtype ", input.scalar_type(),
          ", got ", values.scalar_type());
  require(values.dim() == 1, "values must be a vector, got ", values.dim(), " dimensions");
  const int64_t nnz = ptr[rows];
  require(values.numel() >= nnz, "values must hold the ", nnz, " nonzeros of row_ptr, got ", values.numel());
  require(t_ptr[cols] == nnz, "t_ptr must end with the ", nnz, " nonzeros of row_ptr, got ", t_ptr[cols]);
  const Tensor& tiles = index[6].numel() > 0 ? index[5] : index[6];  // without t_tile_ptr they belong to the bits
  Matrix matrix{view_of(index[0], index[1], nullptr, tiles, cols, nnz, "col"),
                view_of(index[2], index[3], &index[4], index[6], rows, nnz, "t_row"),
                {},
                nnz};
  require((matrix.csr.stride > 1) == (matrix.csc.stride > 1) || rows == 0 || cols == 0, "t_tile_ptr without tile_ptr");
  matrix.csc.value_bounds = matrix.csr.bounds;
  matrix.csc.value_stride = matrix.csr.stride;
  // A segment of fewer nonzeros than a few vectors makes inner products no faster.
  matrix.sampled = matrix.csr;
  if (3 * nnz < rows * cols) matrix.sampled.bounds = ptr, matrix.sampled.stride = matrix.sampled.segments = 1;
  return matrix;
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

// The same for the rows of a matrix, in equal shares of the nonzeros.
std::pair<int64_t, int64_t> rows_of(const CsrView& csr, int64_t part, int64_t parts) {
  return row_range(csr.rows, kRowBlock, part, parts, [&](int64_t row) -> int64_t {
    return row > 0 ? csr.bounds[(row - 1) * csr.stride + csr.segments] - csr.bounds[0] : 0;
  });
}

// How the batch is cut into panels, and these and the rows over threads. The panels do not depend on the threads, so
// that results do not depend on the number of threads. A thread keeps to its own panels where it can: what it packs and
// unpacks then stays in its own cache. Panels are taken `chunk` at a time, which bounds the workspace.
class Plan {
 public:
  int64_t panels, chunk;

  Plan(const LinearKernels& kernels, int64_t batch, const Matrix& matrix)
      : batch_(batch), lanes_(kernels.lanes), threads_(threads()) {
    const int64_t widest = std::min<int64_t>(kPanel, kernels.vectors * lanes_);
    units_ = (batch + lanes_ - 1) / lanes_;
    // A small batch is worth two panels only where little is computed with them.
    const bool undivided =
        units_ * lanes_ <= std::min(widest, kUndivided) && 12 * matrix.nnz > matrix.csr.rows * matrix.csr.cols;
    panels = undivided || units_ == 1 ? 1 : 2 * ((units_ * lanes_ + 2 * widest - 1) / (2 * widest));
    chunk = std::min(panels, std::max<int64_t>(4, threads_));
    panel_bytes_ = (units_ + panels - 1) / panels * lanes_ * kernels.sum_size;
  }

  Panel panel(int64_t i) const {
    const int64_t begin = units_ * i / panels * lanes_, end = units_ * (i + 1) / panels * lanes_;
    return {begin, std::min(end, batch_) - begin, end - begin};
  }

  int64_t packed_bytes(int64_t features) const { return aligned(panel_bytes_ * features); }
  int64_t stop(int64_t first) const { return std::min(panels, first + chunk); }

  // Into how many the rows are split while panels [first, stop(first)) are worked on: 1 if every thread has its own.
  int64_t row_parts(int64_t first) const { return threads_ / panel_parts(first); }
  int64_t panel_parts(int64_t first) const { return std::gcd(stop(first) - first, threads_); }

  // f(panel number, row part), in parallel
  template <class F>
  void each(int64_t first, const F& f) const {
    const int64_t across = panel_parts(first), count = stop(first) - first;
    parallel_for(0, threads_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        const int64_t p = part % across;
        for (int64_t i = p; i < count; i += across) f(first + i, part / across);
      }
    });
  }

  // f(part, parts), in parallel
  template <class F>
  void each_part(const F& f) const {
    parallel_for(0, threads_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) f(part, threads_);
    });
  }

 private:
  int64_t batch_, lanes_, threads_, units_, panel_bytes_;
};

// One chunk of activations, packed.
class Packed {
 public:
  Packed(const LinearKernels& kernels, const Plan& plan, const Activations& a, char* memory)
      : kernels_(kernels), plan_(plan), a_(a), memory_(memory) {}

  void pack(int64_t i, int64_t part, int64_t parts, void* sums = nullptr) const {
    const auto [begin, end] = even_range(a_.features, kRowBlock, part, parts);
    kernels_.pack(a_.tensor.const_data_ptr(), a_.stride, plan_.panel(i), begin, end, panel(i), sums);
  }

  char* panel(int64_t i) const { return memory_ + i % plan_.chunk * plan_.packed_bytes(a_.features); }

 private:
  const LinearKernels& kernels_;
  const Plan& plan_;
  const Activations& a_;
  char* memory_;
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
  Tensor output = torch::stable::new_empty(input, shape);
  if (output.numel() == 0) return output;

  const Activations x(input);
  const Plan plan(kernels, x.batch, matrix);
  const Tensor v = widened(values, matrix.nnz);
  const Packed packed(kernels, plan, x, workspace(plan.chunk * plan.packed_bytes(x.features)));
  const auto multiply = [&](int64_t i, int64_t part, int64_t parts) {
    const auto [begin, end] = rows_of(matrix.csr, part, parts);
    kernels.product(matrix.csr, plan.panel(i), packed.panel(i), v.const_data_ptr(), b ? b->const_data_ptr() : nullptr,
                    output.mutable_data_ptr(), begin, end);
  };
  for (int64_t first = 0; first < plan.panels; first += plan.chunk) {
    const int64_t parts = plan.row_parts(first);
    plan.each(first, [&](int64_t i, int64_t part) {
      packed.pack(i, part, parts);
      if (parts == 1) multiply(i, 0, 1);
    });
    if (parts > 1) plan.each(first, [&](int64_t i, int64_t part) { multiply(i, part, parts); });
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

  Tensor none = torch::stable::new_empty(values, {0});
  Tensor grad_input = need_input ? torch::stable::new_empty(input, input.sizes()) : none;
  Tensor grad_values = need_values ? torch::stable::new_empty(values, {values.numel()}) : none;
  Tensor grad_bias = need_bias ? torch::stable::new_empty(values, {out_features}) : none;
  const Activations delta(grad_output), x(input);
  if (x.batch == 0) {
    if (need_values) torch::stable::zero_(grad_values);
    if (need_bias) torch::stable::zero_(grad_bias);
    return {grad_input, grad_values, grad_bias};
  }

  const Plan plan(kernels, x.batch, matrix);
  const int64_t nnz = matrix.nnz;
  const int64_t sum_size = kernels.sum_size;
  const bool narrow = kernels.storage_size != sum_size;
  // Where the sums are smaller than the activations, even and odd panels have sums of their own, so that two threads
  // can each keep to their panels; else a thread takes its rows of all panels.
  const bool split = need_values && plan.panels > 1 && nnz <= x.batch * x.features;
  const int64_t delta_bytes = plan.chunk * plan.packed_bytes(delta.features);
  const int64_t x_bytes = need_values ? plan.chunk * plan.packed_bytes(x.features) : 0;
  const int64_t split_bytes = split ? aligned(2 * nnz * sum_size) : 0;
  const int64_t bias_bytes = need_bias ? plan.panels * out_features * sum_size : 0;
  char* memory = workspace(delta_bytes + x_bytes + split_bytes + bias_bytes);
  const Packed packed_delta(kernels, plan, delta, memory), packed_x(kernels, plan, x, memory + delta_bytes);
  char* bias_sums = memory + delta_bytes + x_bytes + split_bytes;

  const Tensor v = need_input ? widened(values, nnz) : none;
  Tensor wide_grad = need_values && narrow && !split ? bytes_like(values, nnz * sum_size) : grad_values;
  char* value_sums = split ? memory + delta_bytes + x_bytes : static_cast<char*>(wide_grad.mutable_data_ptr());
  const auto sample = [&](int64_t i, int64_t part, int64_t parts) {
    const auto [begin, end] = rows_of(matrix.sampled, part, parts);
    kernels.sample(matrix.sampled, plan.panel(i), packed_delta.panel(i), packed_x.panel(i), i > split,
                   value_sums + (split ? i % 2 * nnz * sum_size : 0), begin, end);
  };
  const auto compute = [&](int64_t i, int64_t part, int64_t parts, bool own) {
    if (need_input) {
      const auto [begin, end] = rows_of(matrix.csc, part, parts);
      kernels.product(matrix.csc, plan.panel(i), packed_delta.panel(i), v.const_data_ptr(), nullptr,
                      grad_input.mutable_data_ptr(), begin, end);
    }
    if (own) sample(i, part, parts);
  };
  for (int64_t first = 0; first < plan.panels; first += plan.chunk) {
    const int64_t row_parts = plan.row_parts(first);
    const bool own = split && plan.panel_parts(first) <= 2;
    plan.each(first, [&](int64_t i, int64_t part) {
      packed_delta.pack(i, part, row_parts, need_bias ? bias_sums + i * out_features * sum_size : nullptr);
      if (need_values) packed_x.pack(i, part, row_parts);
      if (row_parts == 1) compute(i, 0, 1, own);
    });
    if (row_parts > 1 && (need_input || own))
      plan.each(first, [&](int64_t i, int64_t part) { compute(i, part, row_parts, own); });
    if (need_values && !own) {
      plan.each_part([&](int64_t part, int64_t parts) {
        for (int64_t i = first; i < plan.stop(first); ++i) sample(i, part, parts);
      });
    }
  }
  if (need_bias) kernels.combine(bias_sums, plan.panels, out_features, 0, out_features, grad_bias.mutable_data_ptr());
  if (split || (need_values && narrow)) {
    parallel_for(0, nnz, 1 << 14, [&](int64_t begin, int64_t end) {
      kernels.combine(value_sums, split ? 2 : 1, nnz, begin, end, grad_values.mutable_data_ptr());
    });
  }
  if (need_values && values.numel() > nnz) {
    char* slack = static_cast<char*>(grad_values.mutable_data_ptr()) + nnz * kernels.storage_size;
    std::fill_n(slack, (values.numel() - nnz) * kernels.storage_size, char(0));
  }
  return {grad_input, grad_values, grad_bias};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) {
  m.impl("sparse_linear", TORCH_BOX(&sparsekern::sparse_linear));
  m.impl("sparse_linear_backward", TORCH_BOX(&sparsekern::sparse_linear_backward));
}
