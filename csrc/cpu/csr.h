// CSR patterns that came from outside: a wrong one is refused before a kernel follows its pointers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common.h"
#include "cpu/dispatch.h"
#include "index.h"

namespace sparsekern {

struct Csr {
  const int32_t* ptr;
  const int32_t* col;
  int64_t rows, nnz;
};

inline void require_parts(const std::vector<Tensor>& index) {
  require(index.size() == +kIndexParts, "index must hold ", +kIndexParts, " tensors, got ", index.size());
}

// Whether `n + 1` pointers ascend from 0.
inline bool ascend(const int32_t* pointers, int64_t n) {
  return vectorized(
      [](const int32_t* p, int64_t n) SPARSEKERN_VECTORIZED {
        int32_t bad = p[0] != 0;
        for (int64_t i = 0; i < n; ++i) bad |= p[i + 1] < p[i];
        return bad == 0;
      },
      pointers, n);
}

// Pointers that ascend from 0. O(rows).
inline const int32_t* pointer_data(const Tensor& ptr, const char* name) {
  const int32_t* p = index_data(ptr, 1, name);
  require(ascend(p, ptr.numel() - 1), name, " must ascend from 0");
  return p;
}

// Whether `n` columns, of 32 or 16 bits, lie in [0, cols).
template <class Index>
inline bool in_range(const Index* col, int64_t n, int64_t cols) {
  const auto limit = static_cast<uint32_t>(std::min<int64_t>(cols, INT32_MAX));
  uint32_t bad = 0;
  for (int64_t k = 0; k < n; ++k) bad |= static_cast<uint32_t>(col[k]) >= limit;
  return !bad;
}

// Pointers, and as many columns as they end with. O(rows): what the columns are is for the caller to see.
inline Csr pointers_of(const Tensor& row_ptr, const Tensor& col) {
  const int32_t* ptr = pointer_data(row_ptr, "row_ptr");
  const int64_t rows = row_ptr.numel() - 1;
  return {ptr, index_data(col, ptr[rows], "col"), rows, ptr[rows]};
}

template <class Index>
inline void require_range(const Index* col, int64_t nnz, int64_t cols, const char* name = "col") {
  const bool fine =
      vectorized([](const Index* c, int64_t n, int64_t cols) SPARSEKERN_VECTORIZED { return in_range(c, n, cols); },
                 col, nnz, cols);
  require(fine, name, " must lie in [0, ", cols, ")");
}

inline void require_rows(int64_t start, int64_t stop, int64_t rows) {
  require(0 <= start && start <= stop && stop <= rows, "expected 0 <= start <= stop <= ", rows, ", got ", start,
          " and ", stop);
}

// All of it: pointers, and columns that ascend in [0, cols) within each row. O(nnz + rows).
inline Csr pattern_of(const Tensor& row_ptr, const Tensor& col, int64_t cols, const char* name = "col") {
  const Csr csr = pointers_of(row_ptr, col);
  require_range(csr.col, csr.nnz, cols, name);
  int64_t falls = vectorized(
      [](const int32_t* c, int64_t n) SPARSEKERN_VECTORIZED {
        int64_t falls = 0;
        for (int64_t k = 1; k < n; ++k) falls += c[k] <= c[k - 1];
        return falls;
      },
      csr.col, csr.nnz);
  for (int64_t r = 1; r < csr.rows; ++r) {  // those from row to row are none
    const int32_t k = csr.ptr[r];
    falls -= k > 0 && k < csr.ptr[r + 1] && csr.col[k] <= csr.col[k - 1];
  }
  require(falls == 0, name, " must ascend within each row");
  return csr;
}

}  // namespace sparsekern
