// A pattern with some slots dropped and some coordinates grown. Each of the two lists is ascending, so that an entry's
// new slot is its rank in its own list and what it finds of the other before itself.
#include <algorithm>
#include <array>
#include <tuple>

#include "cuda/launch.cuh"
#include "cuda/search.cuh"

namespace sparsekern {

std::tuple<Tensor, Tensor, Tensor> rewire(const Tensor& row_ptr, const Tensor& col, const Tensor& keep,
                                          const Tensor& grow, int64_t capacity, int64_t cols) {
  const int64_t rows = row_ptr.numel() - 1, held = keep.numel(), grown = grow.numel();
  const Device device(col);
  device.require_here(row_ptr, "row_ptr");
  device.require_here(keep, "keep");
  device.require_here(grow, "grow");
  const Pattern pattern{index_data(row_ptr, 1, "row_ptr"), index_data(col, 0, "col"), rows, cols};
  require(keep.scalar_type() == ScalarType::Bool, "keep must be a bool tensor, got ", keep.scalar_type());
  require(grow.scalar_type() == ScalarType::Long && grow.dim() == 1, "grow must be a 1-D int64 tensor");
  const Tensor kept = torch::stable::contiguous(keep), sorted = torch::stable::contiguous(grow);
  const bool* stays = data<bool>(kept);
  const int64_t* g = data<int64_t>(sorted);

  const Workspace<int32_t> ranks(col, held + 1);  // kept slots before each slot, and all of them
  int32_t* rank = ranks.data();
  each(device, held + 1, [=] __device__(int64_t k) { rank[k] = k > 0 && stays[k - 1]; });
  inclusive_sum(device, col, rank, held + 1);

  const Workspace<int64_t> facts(col, 5);
  int64_t* fact = facts.data();
  fill(device, fact, 3, kNowhere);
  const int64_t room = col.numel();
  each(device, std::max<int64_t>(grown, 1), [=] __device__(int64_t i) {
    const int64_t nnz = pattern.ptr[rows];
    if (i == 0) fact[3] = nnz, fact[4] = rank[held];
    if (i == grown) return;
    const bool inside = 0 <= g[i] && g[i] < rows * cols;
    if (!inside) atomic_min(fact, i);
    if (i > 0 && g[i - 1] >= g[i]) atomic_min(fact + 1, i);
    if (!inside || nnz != held || nnz > room) return;
    const int64_t k = pattern.slot(g[i] / cols, g[i] % cols);
    if (k < nnz && stays[k] && pattern.coordinate(k) == g[i]) atomic_min(fact + 2, i);
  });
  std::array<int64_t, 5> found;
  device.read(found.data(), fact, 5);
  const auto [outside, falling, active, nnz, remaining] = found;
  const auto number = [&](int64_t i) {
    int64_t value;
    device.read(&value, g + i, 1);
    return value;
  };
  require(nnz <= room, "col must have at least ", nnz, " elements, got ", room);
  require(held == nnz, "keep must be a bool tensor [", nnz, "], got ", keep.scalar_type(), " with ", held, " elements");
  if (outside < kNowhere && outside <= falling) fail("grow must lie in [0, ", rows * cols, "), got ", number(outside));
  if (falling < kNowhere) fail("grow must be ascending and distinct, got ", number(falling), " at position ", falling);
  const int64_t total = remaining + grown;
  require(total <= capacity && capacity < INT32_MAX, total, " nonzeros do not fit the capacity ", capacity);
  if (active < kNowhere) fail("grow must not hold active coordinates, got ", number(active));

  Tensor new_ptr = torch::stable::new_empty(row_ptr, {rows + 1});
  Tensor new_col = torch::stable::new_empty(col, {capacity});
  Tensor index_map = torch::stable::new_empty(col, {capacity});
  int32_t* np = mutable_data<int32_t>(new_ptr);
  int32_t* nc = mutable_data<int32_t>(new_col);
  int32_t* map = mutable_data<int32_t>(index_map);
  each(device, rows + 1, [=] __device__(int64_t r) {
    np[r] = rank[pattern.ptr[r]] + static_cast<int32_t>(count_below(g, grown, r * cols));
  });
  each(device, held, [=] __device__(int64_t k) {
    if (!stays[k]) return;
    const int64_t slot = rank[k] + count_below(g, grown, pattern.coordinate(k));
    nc[slot] = pattern.col[k], map[slot] = static_cast<int32_t>(k);
  });
  each(device, grown, [=] __device__(int64_t i) {
    const int64_t r = g[i] / cols, c = g[i] % cols, slot = i + rank[pattern.slot(r, c)];
    nc[slot] = static_cast<int32_t>(c), map[slot] = -1;
  });
  each(device, capacity - total, [=] __device__(int64_t i) { nc[total + i] = 0, map[total + i] = -1; });
  return {new_ptr, new_col, index_map};
}

}  // namespace sparsekern

SPARSEKERN_REGISTER(rewire)
