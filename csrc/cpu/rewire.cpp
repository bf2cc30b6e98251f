// A pattern with some slots dropped and some coordinates grown: per row, a merge of two sorted lists.
#include <algorithm>
#include <atomic>
#include <tuple>

#include "common.h"
#include "cpu/csr.h"
#include "cpu/parallel.h"

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
  Tensor new_ptr = torch::stable::new_empty(row_ptr, {rows + 1});
  int32_t* np = mutable_data<int32_t>(new_ptr);
  const int64_t grain = std::max<int64_t>(1, (1 << 14) * rows / (1 + nnz + rows));
  parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    const int64_t* next = std::lower_bound(g, g + grown, begin * cols);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t* first = next;
      while (next < g + grown && *next < (r + 1) * cols) ++next;
      const int64_t dropped = std::count(stays + ptr[r], stays + ptr[r + 1], 0);
      np[r + 1] = static_cast<int32_t>(ptr[r + 1] - ptr[r] - dropped + (next - first));
    }
  });
  int64_t total = 0;
  np[0] = 0;
  for (int64_t r = 0; r < rows; ++r) np[r + 1] = static_cast<int32_t>(std::min<int64_t>(total += np[r + 1], INT32_MAX));
  require(total <= capacity && capacity < INT32_MAX, total, " nonzeros do not fit the capacity ", capacity);

  Tensor new_col = torch::stable::new_empty(col, {capacity});
  Tensor index_map = torch::stable::new_empty(col, {capacity});
  int32_t* nc = mutable_data<int32_t>(new_col);
  int32_t* map = mutable_data<int32_t>(index_map);
  std::atomic<int64_t> twice{-1};
  parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    const int64_t* next = std::lower_bound(g, g + grown, begin * cols);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t base = r * cols;
      const int64_t* last = next;
      while (last < g + grown && *last < base + cols) ++last;
      int32_t slot = np[r];
      const auto grow = [&](int64_t limit) {
        for (; next < last && *next < limit; ++next, ++slot) {
          nc[slot] = static_cast<int32_t>(*next - base);
          map[slot] = -1;
        }
      };
      for (int32_t k = ptr[r]; k < ptr[r + 1]; ++k) {
        if (!stays[k]) continue;
        grow(base + c[k]);
        if (next < last && *next == base + c[k]) twice = base + c[k];
        nc[slot] = c[k];
        map[slot++] = k;
      }
      grow(base + cols);
    }
  });
  require(twice < 0, "grow must not hold active coordinates, got ", twice.load());
  std::fill(nc + total, nc + capacity, 0);
  std::fill(map + total, map + capacity, -1);
  return {new_ptr, new_col, index_map};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("rewire", TORCH_BOX(&sparsekern::rewire)); }
