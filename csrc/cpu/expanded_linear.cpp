// The linear layer by dense products with panels of the weight: a thread expands a panel in memory that it keeps and
// that stays in its cache, and multiplies alone. How the work is cut depends on shapes only. Where no weight is absent,
// or all are one panel, a product is the library's own on all threads.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <tuple>
#include <vector>

#include "common.h"
#include "cpu/bitmask.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/products.h"
#include "cpu/workspace.h"
#include "dtypes.h"

namespace sparsekern {

using Bias = std::optional<Tensor>;

Tensor bit_index(const Tensor& row_ptr, const Tensor& col, int64_t cols);

namespace {

// Below these extents the library's products are slow (sgemm of MKL); beyond so many bytes panels leave the caches.
constexpr int64_t kPanelRows = 256, kPanelColumns = 128, kPanelBytes = 4 << 20;
constexpr int64_t kRowUnit = 32;
constexpr int64_t kLine = 64;  // bytes; rows of a panel lie one more apart, lest they fall on the same sets of a cache

enum Part { kRowPtr, kCol, kBits = 7, kParts };  // of an index, by ops/index.py

// A weight as its values and its bitmask.
struct Weight {
  Tensor bits, values;
  Bitmask mask;
  int64_t cols, size, capacity;
  const BitKernels& kernels;

  int64_t nnz() const { return mask.start(mask.rows); }
  bool full() const { return nnz() == mask.rows * cols; }  // the values are the matrix
  const char* at(int64_t position) const { return static_cast<const char*>(values.const_data_ptr()) + position * size; }
  int64_t stride(int64_t columns) const { return ceil_div(columns, kWord) * kWord + kLine / size; }

  // Expands words [word, word + count) of row r, whose values start at `position`; returns how many they are.
  int64_t expand(int64_t r, int64_t word, int64_t count, int64_t position, char* out) const {
    position = std::min(position, capacity);
    return kernels.expand(mask.row(r) + word, count, at(position), capacity - position, out);
  }
};

Weight weight_of(const std::vector<Tensor>& index, const Tensor& values, int64_t rows, int64_t cols) {
  require(index.size() == +kParts, "index must hold ", +kParts, " tensors, got ", index.size());
  const Tensor& row_ptr = index[kRowPtr];
  const Tensor bits = index[kBits].numel() > 0 ? index[kBits] : bit_index(row_ptr, index[kCol], cols);
  const Bitmask mask = bitmask_of(row_ptr, bits, cols);
  require(mask.rows == rows, "index describes ", mask.rows, " rows, expected ", rows);
  const int64_t size = size_of(values.scalar_type(), "values"), nnz = mask.start(rows);
  require(values.dim() == 1 && values.numel() >= nnz, "values must be 1-D with at least ", nnz, " elements, got ",
          values.numel());
  return {bits, torch::stable::contiguous(values), mask, cols, size, values.numel(), bit_kernels(size)};
}

// [*, features], a contiguous matrix.
struct Batch {
  Tensor tensor;
  ScalarType dtype;
  int64_t size, features, rows = 1;

  Batch(const Tensor& t, const Weight& w)
      : tensor(torch::stable::contiguous(t)), dtype(t.scalar_type()), size(w.size), features(t.size(t.dim() - 1)) {
    require(dtype == w.values.scalar_type(), "operands must have one dtype, got ", dtype, " and ",
            w.values.scalar_type());
    for (int64_t d = 0; d + 1 < t.dim(); ++d) rows *= t.size(d);
  }

  char* at(int64_t row, int64_t column) const {
    return static_cast<char*>(const_cast<void*>(tensor.const_data_ptr())) + (row * features + column) * size;
  }
  Tensor all() const { return matrix(at(0, 0), dtype, rows, features, features); }
  Tensor block(int64_t row, int64_t height, int64_t column, int64_t width) const {
    return matrix(at(row, column), dtype, height, width, features);
  }
};

// [0, extent) in parts of whole units; the last is longer by what remains, for the library is slow on few lines.
struct Parts {
  int64_t extent, step, count;

  Parts(int64_t extent, int64_t parts, int64_t unit)
      : extent(extent),
        step(std::max(unit, extent / parts / unit * unit)),
        count(std::max<int64_t>(1, extent / step)) {}
  int64_t begin(int64_t i) const { return i * step; }
  int64_t length(int64_t i) const { return i + 1 < count ? step : extent - i * step; }
  int64_t longest() const { return length(count - 1); }
};

// Panels of about `wanted` lines of `bytes` each; two at least, where there are enough lines.
Parts panels_of(int64_t extent, int64_t unit, int64_t wanted, int64_t bytes) {
  const int64_t lines = std::max(unit, std::min(wanted, kPanelBytes / bytes));
  return Parts(extent, std::max<int64_t>(extent / lines, 2), unit);
}

// Parts of the batch, where there are few panels.
Parts batches_of(int64_t batch, int64_t panels) {
  constexpr int64_t kEnough = 8, kLeast = 256;
  return Parts(batch, std::clamp<int64_t>(kEnough / panels, 1, std::max<int64_t>(1, batch / kLeast)), 1);
}

// In parallel, in workspace of `bytes`: `expand(panel, first)` for every panel that a thread takes up, the first of
// them or a following one, and `multiply(panel, part of the batch)`.
template <class Expand, class Multiply>
void each_panel(const Parts& panels, const Parts& batches, int64_t bytes, const Expand& expand,
                const Multiply& multiply) {
  parallel_for(0, panels.count * batches.count, 1, [&](int64_t begin, int64_t end) {
    char* memory = workspace(bytes);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t panel = i / batches.count, part = i % batches.count;
      if (i == begin || part == 0) expand(memory, panel, i == begin);
      multiply(memory, panel, part);
    }
  });
}

void forward(const Weight& w, const Batch& x, const Bias& bias, const Batch& y) {
  const auto product = [&](const Tensor& out, const Tensor& in, const Tensor& weight, int64_t row) {
    if (!bias) return multiply(out, in, weight);
    const char* from = static_cast<const char*>(bias->const_data_ptr()) + row * w.size;
    multiply_add(out, in, weight, matrix(from, y.dtype, out.size(0), out.size(1), 0));
  };
  if (w.full()) return product(y.all(), x.all(), matrix(w.at(0), x.dtype, w.cols, w.mask.rows, 1, w.cols), 0);
  const int64_t stride = w.stride(w.cols);
  const Parts panels = panels_of(w.mask.rows, kRowUnit, kPanelRows, stride * w.size),
              batches = batches_of(x.rows, panels.count);
  std::atomic<bool> wrong{false};
  const auto expand = [&](char* memory, int64_t p, bool) {
    const int64_t begin = panels.begin(p);
    for (int64_t i = 0; i < panels.length(p); ++i) {
      const int64_t start = w.mask.start(begin + i), end = w.mask.start(begin + i + 1);
      if (w.expand(begin + i, 0, w.mask.tiles, start, memory + i * stride * w.size) != end - start) wrong = true;
    }
  };
  each_panel(panels, batches, panels.longest() * stride * w.size, expand, [&](char* memory, int64_t p, int64_t b) {
    const int64_t begin = panels.begin(p), height = panels.length(p), row = batches.begin(b), rows = batches.length(b);
    product(y.block(row, rows, begin, height), x.block(row, rows, 0, w.cols),
            matrix(memory, x.dtype, w.cols, height, 1, stride), begin);
  });
  require(!wrong, "bits must have as many in each row as row_ptr says");
}

// Panels of columns, so that no sum goes beyond one of them.
void input_gradient(const Weight& w, const Batch& delta, const Batch& out) {
  const int64_t rows = w.mask.rows;
  if (w.full()) return multiply(out.all(), delta.all(), matrix(w.at(0), delta.dtype, rows, w.cols, w.cols));
  const Parts panels = panels_of(w.cols, kWord, kPanelColumns, rows * w.size),
              batches = batches_of(out.rows, panels.count);
  const int64_t stride = w.stride(panels.longest()), starts_bytes = aligned(rows * sizeof(int32_t));
  const auto expand = [&](char* memory, int64_t p, bool first) {
    int32_t* starts = reinterpret_cast<int32_t*>(memory);  // of each row within the panel
    const int64_t word = panels.begin(p) / kWord, count = ceil_div(panels.length(p), kWord);
    for (int64_t r = 0; r < rows; ++r) {
      if (first) starts[r] = w.mask.start(r) + w.mask.count(r, 0, word);
      starts[r] += w.expand(r, word, count, starts[r], memory + starts_bytes + r * stride * w.size);
    }
  };
  each_panel(panels, batches, starts_bytes + rows * stride * w.size, expand, [&](char* memory, int64_t p, int64_t b) {
    const int64_t height = batches.length(b), width = panels.length(p);
    multiply(out.block(batches.begin(b), height, panels.begin(p), width),
             delta.block(batches.begin(b), height, 0, rows),
             matrix(memory + starts_bytes, delta.dtype, rows, width, stride));
  });
}

// Dense, panel by panel, and compressed on the way out.
void weight_gradient(const Weight& w, const Batch& delta, const Batch& x, char* out) {
  const int64_t rows = w.mask.rows, batch = x.rows;
  if (w.full()) {
    const Tensor transposed = matrix(delta.at(0, 0), x.dtype, rows, batch, 1, rows);
    return multiply(matrix(out, x.dtype, rows, w.cols, w.cols), transposed, x.all());
  }
  const int64_t stride = w.stride(w.cols);
  const Parts panels = panels_of(rows, kRowUnit, kPanelRows, stride * w.size);
  const bool narrow = w.size == 2;  // the library's products of 16-bit types want operands without gaps
  const int64_t copy_bytes = narrow ? aligned(batch * panels.longest() * w.size) : 0;
  parallel_for(0, panels.count, 1, [&](int64_t first, int64_t last) {
    char* memory = workspace(copy_bytes + panels.longest() * stride * w.size);
    char* dense = memory + copy_bytes;
    for (int64_t p = first; p < last; ++p) {
      const int64_t begin = panels.begin(p), height = panels.length(p), end = w.mask.start(begin + height);
      for (int64_t b = 0; narrow && b < batch; ++b)
        std::memcpy(memory + b * height * w.size, delta.at(b, begin), height * w.size);
      const Tensor left = narrow ? matrix(memory, x.dtype, height, batch, 1, height)
                                 : matrix(delta.at(0, begin), x.dtype, height, batch, 1, rows);
      multiply(matrix(dense, x.dtype, height, w.cols, stride), left, x.all());
      for (int64_t i = 0; i < height; ++i) {
        const int64_t start = w.mask.start(begin + i);
        w.kernels.compress(w.mask.row(begin + i), w.mask.tiles, dense + i * stride * w.size, out + start * w.size,
                           end - start);
      }
    }
  });
}

}  // namespace

Tensor expanded_linear(const Tensor& input, const Tensor& values, const std::vector<Tensor>& index, const Bias& bias,
                       int64_t out_features) {
  require(input.dim() > 0, "input must have a dimension of features");
  const Weight w = weight_of(index, values, out_features, input.size(input.dim() - 1));
  require(!bias || (bias->dim() == 1 && bias->numel() == out_features && bias->scalar_type() == input.scalar_type()),
          "bias must be a vector of ", out_features, " elements of the input's dtype");
  std::vector<int64_t> shape(input.sizes().begin(), input.sizes().end());
  shape.back() = out_features;
  const Tensor output = torch::stable::new_empty(input, shape);
  if (output.numel() > 0)
    forward(w, Batch(input, w), bias ? Bias(torch::stable::contiguous(*bias)) : bias, Batch(output, w));
  return output;
}

std::tuple<Tensor, Tensor, Tensor> expanded_linear_backward(const Tensor& grad_output, const Tensor& input,
                                                            const Tensor& values, const std::vector<Tensor>& index,
                                                            bool need_input, bool need_values, bool need_bias) {
  require(input.dim() > 0 && grad_output.dim() == input.dim() &&
              std::equal(input.sizes().begin(), input.sizes().end() - 1, grad_output.sizes().begin()),
          "grad_output must have the input's leading dimensions");
  const int64_t rows = grad_output.size(grad_output.dim() - 1), cols = input.size(input.dim() - 1);
  const Weight w = weight_of(index, values, rows, cols);
  const Batch x(input, w), delta(grad_output, w);
  const Tensor none = torch::stable::new_empty(values, {0});
  const Tensor grad_input = need_input ? torch::stable::new_empty(input, input.sizes()) : none;
  Tensor grad_values = need_values ? torch::stable::new_empty(values, {values.numel()}) : none;
  if (need_input && grad_input.numel() > 0) input_gradient(w, delta, Batch(grad_input, w));
  if (need_values) {
    char* out = static_cast<char*>(grad_values.mutable_data_ptr());
    const int64_t nnz = w.nnz(), used = x.rows > 0 ? nnz : 0;
    if (used > 0) weight_gradient(w, delta, x, out);
    std::memset(out + used * w.size, 0, (values.numel() - used) * w.size);
  }
  const int64_t batch[] = {0}, all[] = {x.rows, rows};
  const Tensor grad_bias =
      need_bias ? torch::stable::sum(torch::stable::reshape(delta.tensor, {all, 2}), {{batch, 1}}) : none;
  return {grad_input, grad_values, grad_bias};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) {
  m.impl("expanded_linear", TORCH_BOX(&sparsekern::expanded_linear));
  m.impl("expanded_linear_backward", TORCH_BOX(&sparsekern::expanded_linear_backward));
}
