// The walk by columns of a CSR matrix: a counting sort, O(nnz + cols).
#include <algorithm>
#include <tuple>

#include "common.h"

namespace sparsekern {

constexpr int32_t kAhead = 16;

std::tuple<Tensor, Tensor, Tensor> transpose_index(const Tensor& row_ptr, const Tensor& col, int64_t cols) {
  const int64_t rows = row_ptr.numel() - 1;
  const int32_t* ptr = index_data(row_ptr, 1, "row_ptr");
  const int32_t* c = index_data(col, ptr[rows], "col");
  Tensor t_ptr = torch::stable::new_zeros(col, {cols + 1});
  Tensor t_row = torch::stable::new_empty(col, {col.numel()});
  Tensor t_pos = torch::stable::new_empty(col, {col.numel()});
  int32_t* tp = mutable_data<int32_t>(t_ptr);
  int32_t* tr = mutable_data<int32_t>(t_row);
  int32_t* ts = mutable_data<int32_t>(t_pos);
  const int32_t nnz = ptr[rows];
  for (int32_t k = 0; k < nnz; ++k) ++tp[c[k] + 1];
  for (int64_t j = 0; j < cols; ++j) tp[j + 1] += tp[j];
  for (int64_t r = 0; r < rows; ++r) {
    for (int32_t k = ptr[r]; k < ptr[r + 1]; ++k) {
      const int32_t slot = tp[c[k]]++;
      tr[slot] = static_cast<int32_t>(r);
      ts[slot] = k;
      // Every column writes to lines of its own, too many to be followed by the hardware.
      __builtin_prefetch(tr + slot + kAhead, 1);
      __builtin_prefetch(ts + slot + kAhead, 1);
    }
  }
  std::fill(tr + nnz, tr + col.numel(), 0);
  std::fill(ts + nnz, ts + col.numel(), 0);
  // Each entry now holds the end of its column, which is the start of the next.
  std::copy_backward(tp, tp + cols, tp + cols + 1);
  tp[0] = 0;
  return {t_ptr, t_row, t_pos};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("transpose_index", TORCH_BOX(&sparsekern::transpose_index)); }
