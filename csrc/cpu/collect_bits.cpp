// The active entries of dense rows under a bitmask, into their slots.
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

void collect_bits(const Tensor& dense, const Tensor& row_ptr, const Tensor& bits, int64_t start, int64_t stop,
                  Tensor out) {
  const int64_t cols = dense.dim() == 2 ? dense.size(1) : 0;
  const Bitmask mask = bitmask_of(row_ptr, bits, cols);
  require(mask.stride == 1, "row_ptr must be 1-D");
  require_rows(start, stop, mask.rows);
  require(dense.dim() == 2 && dense.size(0) == stop - start, "dense must have ", stop - start, " rows");
  require(out.dim() == 1 && out.is_contiguous() && out.numel() >= mask.start(mask.rows),
          "out must be contiguous and 1-D with at least ", mask.start(mask.rows), " elements, got ", out.numel());
  require(dense.scalar_type() == out.scalar_type(), "dense must have the dtype ", out.scalar_type(), " of out, got ",
          dense.scalar_type());
  const int64_t size = size_of(out.scalar_type(), "out");
  const BitKernels& kernels = bit_kernels(size);
  const Tensor whole = torch::stable::contiguous(dense);
  const char* in = static_cast<const char*>(whole.const_data_ptr());
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const int64_t words = cols / kWord, rest = cols % kWord;
  const int64_t grain = std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, cols));
  parallel_for(start, stop, grain, [&](int64_t begin, int64_t end) {
    alignas(kAlign) char last[kWord * sizeof(double)] = {};  // a row may end within a word
    for (int64_t r = begin; r < end; ++r) {
      // What is written behind a row is the next one's, which this thread writes later.
      const int64_t first = mask.start(r), room = mask.start(end) - first;
      const char* row = in + (r - start) * cols * size;
      const int64_t written = kernels.compress(mask.row(r), words, row, to + first * size, room);
      if (rest == 0 || written > room) continue;
      std::memcpy(last, row + words * kWord * size, rest * size);
      kernels.compress(mask.row(r) + words, 1, last, to + (first + written) * size, room - written);
    }
  });
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("collect_bits", TORCH_BOX(&sparsekern::collect_bits)); }
