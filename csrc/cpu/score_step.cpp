// A step of the scores of all weights, after which the gradient is zero off the pattern: one pass over the rows.
#include <algorithm>

#include "common.h"
#include "cpu/csr.h"
#include "cpu/parallel.h"
#include "dtypes.h"

namespace sparsekern {
namespace {

template <class W, class T>
void step_row(W* score, W* buffer, T* gradient, const T* weight, const int32_t* begin, const int32_t* end, int64_t cols,
              W lr, W momentum) {
  for (int64_t c = 0; c < cols; ++c) {
    buffer[c] = momentum * buffer[c] + static_cast<W>(gradient[c]) * static_cast<W>(weight[c]);
    score[c] -= lr * buffer[c];
  }
  int64_t next = 0;  // the first column that is not dealt with
  for (; begin < end; ++begin) {
    std::fill(gradient + next, gradient + std::max<int64_t>(next, *begin), T(0));
    next = *begin + 1;
  }
  std::fill(gradient + next, gradient + cols, T(0));
}

}  // namespace

void score_step(Tensor score, Tensor momentum_buffer, Tensor gradient, const Tensor& weight, const Tensor& row_ptr,
                const Tensor& col, double lr, double momentum) {
  const Csr csr = pointers_of(row_ptr, col);
  const int32_t *ptr = csr.ptr, *c = csr.col;
  const int64_t rows = csr.rows, cols = rows > 0 ? weight.numel() / rows : 0;
  require_range(csr.col, csr.nnz, cols);
  require(weight.numel() == rows * cols && weight.scalar_type() == gradient.scalar_type(), "weight must have ", rows,
          " equal rows and the dtype of gradient");
  require(momentum_buffer.scalar_type() == score.scalar_type(), "momentum_buffer must have the dtype of score");
  for (const Tensor& t : {score, momentum_buffer, gradient, weight})
    require(t.numel() == weight.numel() && t.is_contiguous(),
            "score, momentum_buffer, gradient and weight must be contiguous and of one shape");
  const auto run = [&](auto wide) {
    using W = decltype(wide);
    with_floating_type(weight.scalar_type(), "weight", [&](auto zero) {
      using T = decltype(zero);
      W *s = mutable_data<W>(score), *b = mutable_data<W>(momentum_buffer);
      T* g = mutable_data<T>(gradient);
      const T* w = data<T>(weight);
      parallel_for(0, rows, 1 + (1 << 14) / (1 + cols), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r)
          step_row<W, T>(s + r * cols, b + r * cols, g + r * cols, w + r * cols, c + ptr[r], c + ptr[r + 1], cols,
                         static_cast<W>(lr), static_cast<W>(momentum));
      });
    });
  };
  if (score.scalar_type() == ScalarType::Double) return run(double{});
  require(score.scalar_type() == ScalarType::Float, "score must be float32 or float64, got ", score.scalar_type());
  run(float{});
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("score_step", TORCH_BOX(&sparsekern::score_step)); }
