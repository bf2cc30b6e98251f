// A CSR pattern from flat coordinates, and back.
#include <algorithm>
#include <memory>
#include <tuple>

#include "common.h"
#include "cpu/csr.h"
#include "cpu/parallel.h"
#include "cpu/sorting.h"

namespace sparsekern {

std::tuple<Tensor, Tensor> compress(const Tensor& coordinates, int64_t rows, int64_t cols, int64_t capacity) {
  require(coordinates.scalar_type() == ScalarType::Long && coordinates.dim() == 1,
          "coordinates must be a 1-D int64 tensor");
  require(0 <= rows && rows <= INT32_MAX && 0 <= cols && cols <= INT32_MAX,
          "rows and columns must be below 2**31, got ", rows, " x ", cols);
  const int64_t nnz = coordinates.numel(), size = rows * cols;
  require(nnz <= capacity && capacity < INT32_MAX, "capacity must be at least nnz = ", nnz,
          " and below 2**31 - 1, got ", capacity);
  const Tensor flat = torch::stable::contiguous(coordinates);
  const int64_t* x = data<int64_t>(flat);
  bool ascending = true;
  for (int64_t i = 0; i < nnz; ++i) {
    require(0 <= x[i] && x[i] < size, "coordinates must lie in [0, ", size, "), got ", x[i]);
    ascending &= i == 0 || x[i - 1] <= x[i];
  }
  std::unique_ptr<int64_t[]> sorted;
  if (!ascending) {
    sorted.reset(new int64_t[nnz]);
    std::copy(x, x + nnz, sorted.get());
    sort_keys(sorted.get(), nnz, size);
    x = sorted.get();
  }

  Tensor row_ptr = torch::stable::new_empty(coordinates, {rows + 1}, ScalarType::Int);
  Tensor col = torch::stable::new_empty(coordinates, {capacity}, ScalarType::Int);
  int32_t* ptr = mutable_data<int32_t>(row_ptr);
  int32_t* c = mutable_data<int32_t>(col);
  int64_t i = 0;
  for (int64_t r = 0; r < rows; ++r) {
    ptr[r] = static_cast<int32_t>(i);
    for (const int64_t base = r * cols; i < nnz && x[i] < base + cols; ++i) {
      require(i == 0 || x[i - 1] != x[i], "coordinates must be distinct, got ", x[i], " twice");
      c[i] = static_cast<int32_t>(x[i] - base);
    }
  }
  ptr[rows] = static_cast<int32_t>(nnz);
  std::fill(c + nnz, c + capacity, 0);
  return {row_ptr, col};
}

Tensor coordinates(const Tensor& row_ptr, const Tensor& col, int64_t cols, int64_t nnz) {
  const Csr csr = pointers_of(row_ptr, col);
  require(nnz == csr.nnz, "nnz must be the last of row_ptr, got ", nnz);
  Tensor flat = torch::stable::new_empty(row_ptr, {nnz}, ScalarType::Long);
  int64_t* x = mutable_data<int64_t>(flat);
  const int64_t grain = std::max<int64_t>(1, (1 << 15) * csr.rows / (1 + nnz));
  parallel_for(0, csr.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int32_t k = csr.ptr[r]; k < csr.ptr[r + 1]; ++k) x[k] = r * cols + csr.col[k];
  });
  return flat;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) {
  m.impl("compress", TORCH_BOX(&sparsekern::compress));
  m.impl("coordinates", TORCH_BOX(&sparsekern::coordinates));
}
