// Rows of a sparse matrix whose pattern is a bitmask, dense.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "common.h"
#include "cpu/bitmask.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/workspace.h"
#include "dtypes.h"

namespace sparsekern {

Tensor expand_bits(const Tensor& values, const Tensor& pointers, const Tensor& bits, int64_t start, int64_t stop,
                   int64_t cols) {
  const Bitmask mask = bitmask_of(pointers, bits, cols);
  require_rows(start, stop, mask.rows);
  const int64_t size = size_of(values.scalar_type(), "values"), capacity = values.numel();
  const BitKernels& kernels = bit_kernels(size);
  const Tensor flat = torch::stable::contiguous(values);
  Tensor dense = torch::stable::new_empty(values, {stop - start, cols});
  const char* v = static_cast<const char*>(flat.const_data_ptr());
  char* out = static_cast<char*>(dense.mutable_data_ptr());
  const int64_t whole = cols / kWord, rest = cols % kWord;
  const int64_t grain = std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, cols));
  std::atomic<bool> wrong{false};
  parallel_for(start, stop, grain, [&](int64_t begin, int64_t end) {
    alignas(kAlign) char last[kWord * sizeof(double)];  // a row may end within a word
    for (int64_t r = begin; r < end; ++r) {
      const int64_t first = mask.start(r), room = capacity - first;
      if (first < 0 || room < 0) {
        wrong = true;
        continue;
      }
      char* row = out + (r - start) * cols * size;
      const int64_t read = kernels.expand(mask.row(r), whole, v + first * size, room, row);
      if (rest == 0 || read > room) continue;
      kernels.expand(mask.row(r) + whole, 1, v + (first + read) * size, room - read, last);
      std::memcpy(row + whole * kWord * size, last, rest * size);
    }
  });
  require(!wrong, "pointers must lie in [0, ", capacity, "]");
  return dense;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("expand_bits", TORCH_BOX(&sparsekern::expand_bits)); }
