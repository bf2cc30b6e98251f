// A CSR pattern as a bitmask.
#include <algorithm>
#include <atomic>

#include "common.h"
#include "cpu/bitmask.h"
#include "cpu/parallel.h"

namespace sparsekern {

Tensor bit_index(const Tensor& row_ptr, const Tensor& col, int64_t cols) {
  const Csr csr = pointers_of(row_ptr, col);
  const int64_t segments = ceil_div(cols, kWord);
  Tensor bits = torch::stable::new_empty(col, {csr.rows, segments}, ScalarType::Long);
  uint64_t* words = mutable_data<uint64_t>(bits);
  std::atomic<bool> wrong{false};
  const int64_t grain = std::max<int64_t>(1, (1 << 14) * csr.rows / (1 + csr.nnz + csr.rows * segments));
  parallel_for(0, csr.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      uint64_t* row = words + r * segments;
      std::fill_n(row, segments, 0);
      int32_t before = -1;
      for (int32_t k = csr.ptr[r]; k < csr.ptr[r + 1]; ++k) {
        const int32_t c = csr.col[k];
        if (c <= before || c >= cols) {
          wrong = true;
          break;
        }
        row[c / kWord] |= uint64_t(1) << c % kWord;
        before = c;
      }
    }
  });
  if (wrong) pattern_of(row_ptr, col, cols);  // says what is wrong
  return bits;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("bit_index", TORCH_BOX(&sparsekern::bit_index)); }
