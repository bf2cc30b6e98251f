// A pattern with some slots dropped and some coordinates grown: per row, a merge of two sorted lists.
#include <algorithm>
#include <tuple>

#include "common.h"
#include "cpu/csr.h"

namespace sparsekern {

std::tuple<Tensor, Tensor, Tensor> rewire(const Tensor& row_ptr, const Tensor& col, const Tensor& keep,
                                          const Tensor& grow, int64_t capacity, int64_t cols) {
  const auto [ptr, c, rows, nnz] = pattern_of(row_ptr, col, cols);
  const int64_t grown = grow.numel();
  require(keep.scalar_type() == ScalarType::Bool && keep.numel() == nnz, "keep must be a bool tensor [", nnz, "], got ",
          keep.scalar_type(), " with ", keep.numel(), " elements");
  require(grow.scalar_type() == ScalarType::Long && grow.dim() == 1, "grow must be a 1-D int64 tensor");
  const Tensor kept = torch::stable::contiguous(keep), sorted = torch::stable::contiguous(grow);
  const auto* stays = static_cast<const uint8_t*>(kept.const_data_ptr());
  const int64_t* g = data<int64_t>(sorted);
  for (int64_t i = 0; i < grown; ++i) {
    require(0 <= g[i] && g[i] < rows * cols, "grow must lie in [0, ", rows * cols, "), got ", g[i]);
    require(i == 0 || g[i - 1] < g[i], "grow must be ascending and distinct, got ", g[i], " at position ", i);
  }
  const int64_t total = nnz - std::count(stays, stays + nnz, 0) + grown;
  require(total <= capacity && capacity < INT32_MAX, total, " nonzeros do not fit the capacity ", capacity);

  Tensor new_ptr = torch::stable::new_empty(row_ptr, {rows + 1});
  Tensor new_col = torch::stable::new_empty(col, {capacity});
  Tensor index_map = torch::stable::new_empty(col, {capacity});
  int32_t* np = mutable_data<int32_t>(new_ptr);
  int32_t* nc = mutable_data<int32_t>(new_col);
  int32_t* map = mutable_data<int32_t>(index_map);
  int32_t slot = 0;
  int64_t i = 0;
  for (int64_t r = 0; r < rows; ++r) {
    np[r] = slot;
    const int64_t base = r * cols;
    for (int32_t k = ptr[r]; k < ptr[r + 1]; ++k) {
      if (!stays[k]) continue;
      for (; i < grown && g[i] < base + c[k]; ++i, ++slot) {
        nc[slot] = static_cast<int32_t>(g[i] - base);
        map[slot] = -1;
      }
      require(i == grown || g[i] != base + c[k], "grow must not hold active coordinates, got ", base + c[k]);
      nc[slot] = c[k];
      map[slot++] = k;
    }
    for (; i < grown && g[i] < base + cols; ++i, ++slot) {
      nc[slot] = static_cast<int32_t>(g[i] - base);
      map[slot] = -1;
    }
  }
  np[rows] = slot;
  std::fill(nc + slot, nc + capacity, 0);
  std::fill(map + slot, map + capacity, -1);
  return {new_ptr, new_col, index_map};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("rewire", TORCH_BOX(&sparsekern::rewire)); }
