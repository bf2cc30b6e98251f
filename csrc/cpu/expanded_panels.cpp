// The linear layer by the library's dense products with panels of the weight: a thread expands a panel in memory that
// it keeps and that stays in its cache, and multiplies alone. How the work is cut depends on shapes only.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "cpu/expanded_linear.h"
#include "cpu/parallel.h"
#include "cpu/products.h"
#include "cpu/workspace.h"

namespace sparsekern {
namespace {

// Below these extents the library's products are slow (sgemm of MKL); beyond so many bytes panels leave the caches.
constexpr int64_t kPanelRows = 256, kPanelColumns = 128, kPanelBytes = 4 << 20;
constexpr int64_t kRowUnit = 32;
constexpr int64_t kLine = 64;  // bytes; rows of a panel lie one more apart, lest they fall on the same sets of a cache

int64_t stride_of(const PackedWeight& w, int64_t columns) { return ceil_div(columns, kWord) * kWord + kLine / w.size; }

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

}  // namespace

void panels_forward(const PackedWeight& w, const Batch& x, const Bias& bias, const Batch& y) {
  const auto product = [&](const Tensor& out, const Tensor& in, const Tensor& weight, int64_t row) {
    if (!bias) return multiply(out, in, weight);
    const char* from = static_cast<const char*>(bias->const_data_ptr()) + row * w.size;
    multiply_add(out, in, weight, matrix(from, y.dtype, out.size(0), out.size(1), 0));
  };
  const int64_t stride = stride_of(w, w.cols);
  const Parts panels = panels_of(w.mask.rows, kRowUnit, kPanelRows, stride * w.size),
              batches = batches_of(x.rows, panels.count);
  std::atomic<bool> wrong{false};
  const auto expand = [&](char* memory, int64_t p, bool) {
    const int64_t begin = panels.begin(p);
    for (int64_t i = 0; i < panels.length(p); ++i) {
      const int64_t start = w.mask.start(begin + i), end = w.mask.start(begin + i + 1);
      if (w.expand(begin + i, 0, w.mask.segments, start, memory + i * stride * w.size) != end - start) wrong = true;
    }
  };
  each_panel(panels, batches, panels.longest() * stride * w.size, expand, [&](char* memory, int64_t p, int64_t b) {
    const int64_t begin = panels.begin(p), height = panels.length(p), row = batches.begin(b), rows = batches.length(b);
    product(y.block(row, rows, begin, height), x.block(row, rows, 0, w.cols),
            matrix(memory, x.dtype, w.cols, height, 1, stride), begin);
  });
  require(!wrong, "each row of bits must have as many set bits as row_ptr gives it nonzeros");
}

// Panels of columns, so that no sum goes beyond one of them.
void panels_input_gradient(const PackedWeight& w, const Batch& delta, const Batch& out) {
  const int64_t rows = w.mask.rows;
  const Parts panels = panels_of(w.cols, kWord, kPanelColumns, rows * w.size),
              batches = batches_of(out.rows, panels.count);
  const int64_t stride = stride_of(w, panels.longest()), starts_bytes = aligned(rows * sizeof(int32_t));
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
void panels_weight_gradient(const PackedWeight& w, const Batch& delta, const Batch& x, char* out) {
  const int64_t rows = w.mask.rows, batch = x.rows;
  const int64_t stride = stride_of(w, w.cols);
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
        w.kernels.compress(w.mask.row(begin + i), w.mask.segments, dense + i * stride * w.size, out + start * w.size,
                           end - start);
      }
    }
  });
}

}  // namespace sparsekern
