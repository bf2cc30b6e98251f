// The transposed (CSC) index of a CSR matrix: a counting sort, O(nnz + cols).
#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "common.h"
#include "cpu/csr.h"
#include "cpu/parallel.h"

namespace sparsekern {

constexpr int64_t kParts = 16, kPart = 1 << 14;  // how many at most, and slots of one at least
constexpr int32_t kAhead = 16;

std::tuple<Tensor, Tensor, Tensor> transpose_index(const Tensor& row_ptr, const Tensor& col, int64_t cols) {
  require(cols >= 0, "cols must not be negative, got ", cols);
  const Csr csr = pattern_of(row_ptr, col, cols);
  const int32_t *ptr = csr.ptr, *c = csr.col;
  const int64_t rows = csr.rows, nnz = csr.nnz;
  Tensor t_ptr = torch::stable::new_empty(col, {cols + 1});
  Tensor t_row = torch::stable::new_empty(col, {col.numel()});
  Tensor t_pos = torch::stable::new_empty(col, {col.numel()});
  int32_t* tp = mutable_data<int32_t>(t_ptr);
  int32_t* tr = mutable_data<int32_t>(t_row);
  int32_t* ts = mutable_data<int32_t>(t_pos);

  // Each part of the slots counts its columns, and so learns where in every column its own begin.
  const int64_t parts = std::clamp<int64_t>(nnz / std::max(cols, kPart), 1, kParts);
  const auto start = [&](int64_t part) { return static_cast<int32_t>(nnz * part / parts); };
  std::vector<int32_t> slots(parts * cols);
  parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      int32_t* count = slots.data() + part * cols;
      const int32_t stop = start(part + 1);
      for (int32_t k = start(part); k < stop; ++k) ++count[c[k]];
    }
  });
  int32_t slot = 0;
  for (int64_t j = 0; j < cols; ++j) {
    tp[j] = slot;
    for (int64_t part = 0; part < parts; ++part) slot += std::exchange(slots[part * cols + j], slot);
  }
  tp[cols] = slot;
  parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      int32_t* next = slots.data() + part * cols;
      const int32_t stop = start(part + 1);
      int32_t k = start(part);
      for (int64_t r = std::upper_bound(ptr, ptr + rows + 1, k) - ptr - 1; k < stop; ++r) {
        const int32_t end_of_row = std::min(ptr[r + 1], stop);
        for (; k < end_of_row; ++k) {
          const int32_t to = next[c[k]]++;
          tr[to] = static_cast<int32_t>(r);
          ts[to] = k;
          // Every column writes to lines of its own, too many to be followed by the hardware.
          __builtin_prefetch(tr + to + kAhead, 1);
          __builtin_prefetch(ts + to + kAhead, 1);
        }
      }
    }
  });
  std::fill(tr + nnz, tr + col.numel(), 0);
  std::fill(ts + nnz, ts + col.numel(), 0);
  return {t_ptr, t_row, t_pos};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("transpose_index", TORCH_BOX(&sparsekern::transpose_index)); }
