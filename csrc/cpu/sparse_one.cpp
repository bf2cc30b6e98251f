#include "cpu/sparse_one.h"

#include <algorithm>

#include "cpu/csr.h"
#include "cpu/parallel.h"
#include "cpu/shares.h"
#include "cpu/workspace.h"

namespace sparsekern {
namespace {

constexpr int64_t kSerial = 1 << 14;  // nonzeros that take no longer than a second thread takes to start

// Walks write to columns.
void require_columns(const CsrView& csr) {
  with_columns(csr, [&](const auto* index) { require_range(index, csr.ptr[csr.rows], csr.cols); });
}

// How many parts the rows are cut into, by the pattern alone.
int64_t parts_of(const CsrView& csr) { return csr.ptr[csr.rows] < kSerial ? 1 : 8; }

// f(part, first row, end) in parallel
template <class F>
void each_part(const CsrView& csr, int64_t parts, const F& f) {
  parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const auto [begin, end] = row_range(csr.rows, 1, i, parts, [&](int64_t row) -> int64_t { return csr.ptr[row]; });
      f(i, begin, end);
    }
  });
}

template <class A, class Index>
void product_rows(const CsrView& csr, const Index* index, const A* x, const A* values, A* out, int64_t begin,
                  int64_t end) {
  constexpr int kChains = 4;  // which hide the latency of the addition
  for (int64_t r = begin; r < end; ++r) {
    A sums[kChains] = {out[r]};
    int64_t k = csr.ptr[r];
    for (; k + kChains <= csr.ptr[r + 1]; k += kChains)
      for (int i = 0; i < kChains; ++i) sums[i] += values[k + i] * x[index[k + i]];
    for (; k < csr.ptr[r + 1]; ++k) sums[0] += values[k] * x[index[k]];
    out[r] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
}

// Adds to `sums` [cols] and writes `gradients` at the positions of the rows, unless they are null.
template <class A, class Index>
void gradient_rows(const CsrView& csr, const Index* index, const A* delta, const A* x, const A* values, A* sums,
                   A* gradients, int64_t begin, int64_t end) {
  const auto walk = [&](const auto& at) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t k = csr.ptr[r]; k < csr.ptr[r + 1]; ++k) at(delta[r], k, index[k]);
  };
  if (sums && gradients) {
    walk([=](A d, int64_t k, Index c) { sums[c] += d * values[k], gradients[k] = d * x[c]; });
  } else if (sums) {
    walk([=](A d, int64_t k, Index c) { sums[c] += d * values[k]; });
  } else if (gradients) {
    walk([=](A d, int64_t k, Index c) { gradients[k] = d * x[c]; });
  }
}

// f(a null pointer to the type of the sums)
template <class F>
void with_sums(const LinearKernels& kernels, const F& f) {
  kernels.sum_size == sizeof(double) ? f(static_cast<double*>(nullptr)) : f(static_cast<float*>(nullptr));
}

}  // namespace

void one_product(const LinearKernels& kernels, const CsrView& csr, const void* x, const void* values, const void* bias,
                 void* out) {
  require_columns(csr);
  const int64_t x_bytes = aligned(csr.cols * kernels.sum_size);
  char* memory = workspace(x_bytes + aligned(csr.rows * kernels.sum_size));
  kernels.widen(x, 0, csr.cols, memory);
  char* sums = memory + x_bytes;
  if (bias)
    kernels.widen(bias, 0, csr.rows, sums);
  else
    std::fill_n(sums, csr.rows * kernels.sum_size, char(0));
  with_sums(kernels, [&]<class A>(A*) {
    each_part(csr, parts_of(csr), [&](int64_t, int64_t begin, int64_t end) {
      with_columns(csr, [&](const auto* index) {
        product_rows(csr, index, reinterpret_cast<const A*>(memory), static_cast<const A*>(values),
                     reinterpret_cast<A*>(sums), begin, end);
      });
    });
  });
  kernels.combine(sums, 1, 0, 0, csr.rows, out);
}

void one_gradients(const LinearKernels& kernels, const CsrView& csr, const void* delta, const void* x,
                   const void* values, void* grad_input, void* grad_values, void* grad_bias) {
  require_columns(csr);
  const int64_t parts = parts_of(csr), delta_bytes = aligned(csr.rows * kernels.sum_size),
                x_bytes = aligned(csr.cols * kernels.sum_size);
  char* memory = workspace(delta_bytes + (1 + parts) * x_bytes);
  char *inputs = memory + delta_bytes, *sums = inputs + x_bytes;
  kernels.widen(delta, 0, csr.rows, memory);
  if (grad_values) kernels.widen(x, 0, csr.cols, inputs);
  with_sums(kernels, [&]<class A>(A*) {
    each_part(csr, parts, [&](int64_t i, int64_t begin, int64_t end) {
      char* own = sums + i * x_bytes;
      if (grad_input) std::fill_n(own, x_bytes, char(0));
      with_columns(csr, [&](const auto* index) {
        gradient_rows(csr, index, reinterpret_cast<const A*>(memory), reinterpret_cast<const A*>(inputs),
                      static_cast<const A*>(values), grad_input ? reinterpret_cast<A*>(own) : nullptr,
                      static_cast<A*>(grad_values), begin, end);
      });
    });
  });
  if (grad_input) kernels.combine(sums, parts, x_bytes / kernels.sum_size, 0, csr.cols, grad_input);
  if (grad_bias) kernels.combine(memory, 1, 0, 0, csr.rows, grad_bias);
}

}  // namespace sparsekern
