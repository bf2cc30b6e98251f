// The linear layer for few inputs: values are expanded in registers and multiplied at once. That reads the values and
// the bitmask once, where a dense product reads the whole weight. How the work is cut depends on shapes only.
#include <algorithm>
#include <atomic>

#include "cpu/expanded_linear.h"
#include "cpu/parallel.h"
#include "cpu/tensors.h"
#include "cpu/workspace.h"

namespace sparsekern {
namespace {

constexpr int64_t kUnit = 16;        // rows that stay together
constexpr int64_t kWords = 1 << 11;  // a thread's least share of the bitmask
constexpr int64_t kMostParts = 16;

BitWeight view(const PackedWeight& w) {
  return {w.mask.words, w.mask.segments, w.mask.ptr, w.mask.stride, w.at(0), w.capacity};
}

const FewKernels& kernels_for(const Batch& batch) { return few_kernels(storage_of(batch.dtype)); }

int64_t packed_bytes(const FewKernels& kernels, const PackedWeight& w, int64_t batch) {
  return aligned(inputs_for(batch) * w.mask.segments * kWord * kernels.sum_size);
}

// The least number of units that a thread is worth.
int64_t grain(const PackedWeight& w) { return std::max<int64_t>(1, kWords / (kUnit * w.mask.segments)); }

// f(begin, end) for ranges of rows, in parallel
template <class F>
void each_rows(const PackedWeight& w, const F& f) {
  parallel_for(0, ceil_div(w.rows(), kUnit), grain(w),
               [&](int64_t begin, int64_t end) { f(begin * kUnit, std::min(w.rows(), end * kUnit)); });
}

char* packed(const FewKernels& kernels, const PackedWeight& w, const Batch& x) {
  char* memory = workspace(packed_bytes(kernels, w, x.rows));
  kernels.pack(x.at(0, 0), x.rows, x.features, w.mask.segments, memory);
  return memory;
}

}  // namespace

void few_forward(const PackedWeight& w, const Batch& x, const Bias& bias, const Batch& y) {
  const FewKernels& kernels = kernels_for(x);
  const char* inputs = packed(kernels, w, x);
  std::atomic<bool> fits{true};
  each_rows(w, [&](int64_t begin, int64_t end) {
    if (!kernels.product(view(w), inputs, x.rows, bias ? bias->const_data_ptr() : nullptr, y.at(0, 0), w.rows(), begin,
                         end))
      fits = false;
  });
  require(fits, "each row of bits must have as many set bits as row_ptr gives it nonzeros");
}

// In parts of the rows, each with sums of its own.
void few_input_gradient(const PackedWeight& w, const Batch& delta, const Batch& out) {
  const FewKernels& kernels = kernels_for(delta);
  const int64_t units = ceil_div(w.rows(), kUnit), step = std::max(grain(w), ceil_div(units, kMostParts)),
                parts = ceil_div(units, step), bytes = packed_bytes(kernels, w, delta.rows);
  char* sums = workspace(parts * bytes);
  parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      kernels.transposed(view(w), delta.at(0, 0), delta.rows, w.rows(), sums + i * bytes, i * step * kUnit,
                         std::min(w.rows(), (i + 1) * step * kUnit));
  });
  parallel_for(0, w.mask.segments, std::max<int64_t>(1, kWords / parts), [&](int64_t begin, int64_t end) {
    kernels.unpack(sums, parts, delta.rows, w.cols, w.mask.segments, out.at(0, 0), begin, end);
  });
}

void few_weight_gradient(const PackedWeight& w, const Batch& delta, const Batch& x, char* out) {
  const FewKernels& kernels = kernels_for(x);
  const char* inputs = packed(kernels, w, x);
  each_rows(w, [&](int64_t begin, int64_t end) {
    kernels.outer(view(w), delta.at(0, 0), inputs, x.rows, w.rows(), out, begin, end);
  });
}

}  // namespace sparsekern
