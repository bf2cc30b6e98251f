// A CSR pattern from a mask.
#include <algorithm>
#include <atomic>
#include <functional>
#include <numeric>
#include <tuple>

#include "common.h"
#include "cpu/marked.h"
#include "cpu/parallel.h"

namespace sparsekern {

std::tuple<Tensor, Tensor> compress_mask(const Tensor& mask, int64_t capacity) {
  require(mask.scalar_type() == ScalarType::Bool && mask.dim() == 2, "mask must be a 2-D bool tensor");
  require(0 <= capacity && capacity < INT32_MAX, "capacity must be below 2**31 - 1, got ", capacity);
  const int64_t rows = mask.size(0), cols = mask.size(1);
  const Tensor flat = torch::stable::contiguous(mask);
  const auto* m = static_cast<const uint8_t*>(flat.const_data_ptr());
  Tensor row_ptr = torch::stable::new_empty(mask, {rows + 1}, ScalarType::Int);
  Tensor col = torch::stable::new_empty(mask, {capacity}, ScalarType::Int);
  int32_t* ptr = mutable_data<int32_t>(row_ptr);
  int32_t* c = mutable_data<int32_t>(col);
  std::atomic<bool> wrong{false};
  const int64_t grain = std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, cols));
  parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      ptr[r + 1] = static_cast<int32_t>(std::accumulate(m + r * cols, m + (r + 1) * cols, int64_t{0}));
      if (std::accumulate(m + r * cols, m + (r + 1) * cols, uint8_t{0}, std::bit_or<uint8_t>()) > 1) wrong = true;
    }
  });
  int64_t nnz = 0;
  ptr[0] = 0;
  require(!wrong, "mask must hold the bytes 0 and 1 only, as bool tensors do");
  for (int64_t r = 0; r < rows; ++r) {
    nnz += ptr[r + 1];
    ptr[r + 1] = static_cast<int32_t>(std::min<int64_t>(nnz, INT32_MAX));
  }
  require(nnz <= capacity, "capacity must be at least nnz = ", nnz, ", got ", capacity);
  parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int32_t* next = c + ptr[r];
      for_marked(m + r * cols, cols, [&](int64_t column) { *next++ = static_cast<int32_t>(column); });
    }
  });
  std::fill(c + nnz, c + capacity, 0);
  return {row_ptr, col};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("compress_mask", TORCH_BOX(&sparsekern::compress_mask)); }
