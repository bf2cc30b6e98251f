// The columns of a pattern that is a bitmask.
#include <algorithm>
#include <atomic>

#include "common.h"
#include "cpu/bitmask.h"
#include "cpu/parallel.h"

namespace sparsekern {

Tensor bit_columns(const Tensor& row_ptr, const Tensor& bits, int64_t cols, int64_t capacity) {
  const Bitmask mask = bitmask_of(row_ptr, bits, cols);
  const int64_t rows = mask.rows, nnz = mask.start(rows);
  require(nnz <= capacity, "capacity must be at least ", nnz, ", got ", capacity);
  Tensor col = torch::stable::new_empty(row_ptr, {capacity});
  int32_t* out = mutable_data<int32_t>(col);
  std::fill(out + nnz, out + capacity, 0);
  std::atomic<bool> wrong{false};
  const int64_t grain = std::max<int64_t>(1, (1 << 14) * rows / (1 + nnz + rows * mask.tiles));
  parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (mask.count(r, 0, mask.tiles) != mask.start(r + 1) - mask.start(r)) {
        wrong = true;
        continue;
      }
      int32_t* next = out + mask.start(r);
      for (int64_t t = 0; t < mask.tiles; ++t)
        for (uint64_t word = mask.row(r)[t]; word; word &= word - 1) *next++ = t * kWord + __builtin_ctzll(word);
    }
  });
  require(!wrong, "bits must have as many in each row as row_ptr says");
  return col;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("bit_columns", TORCH_BOX(&sparsekern::bit_columns)); }
