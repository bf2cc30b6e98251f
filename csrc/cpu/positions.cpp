// Where entries of a matrix stand in a pattern.
#include <algorithm>
#include <atomic>

#include "common.h"
#include "cpu/bitmask.h"
#include "cpu/parallel.h"

namespace sparsekern {
namespace {

int32_t found(const Csr& csr, int64_t r, int32_t c) {
  const int32_t *first = csr.col + csr.ptr[r], *last = csr.col + csr.ptr[r + 1];
  const int32_t* place = std::lower_bound(first, last, c);
  return place < last && *place == c ? static_cast<int32_t>(place - csr.col) : -1;
}

int32_t found(const Bitmask& mask, int64_t r, int32_t c) {
  const uint64_t word = mask.row(r)[c / kWord], bit = uint64_t{1} << c % kWord;
  if (!(word & bit)) return -1;
  return static_cast<int32_t>(mask.start(r) + mask.count(r, 0, c / kWord) + __builtin_popcountll(word & (bit - 1)));
}

}  // namespace

Tensor positions(const Tensor& row_ptr, const Tensor& columns, const Tensor& coordinates, int64_t cols) {
  require(coordinates.scalar_type() == ScalarType::Long && coordinates.dim() == 1,
          "coordinates must be a 1-D int64 tensor");
  const Tensor flat = torch::stable::contiguous(coordinates);
  const int64_t* x = data<int64_t>(flat);
  const int64_t n = flat.numel();
  Tensor result = torch::stable::new_empty(row_ptr, {n});
  int32_t* out = mutable_data<int32_t>(result);
  std::atomic<bool> wrong{false};
  const auto find = [&](const auto& pattern) {
    parallel_for(0, n, 1 << 12, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (0 <= x[i] && x[i] < pattern.rows * cols)
          out[i] = found(pattern, x[i] / cols, static_cast<int32_t>(x[i] % cols));
        else
          wrong = true;
      }
    });
    require(!wrong, "coordinates must lie in [0, ", pattern.rows * cols, ")");
  };
  if (columns.scalar_type() == ScalarType::Long)
    find(bitmask_of(row_ptr, columns, cols));
  else
    find(pattern_of(row_ptr, columns, cols));
  return result;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("positions", TORCH_BOX(&sparsekern::positions)); }
