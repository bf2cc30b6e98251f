// A CSR pattern or a mask as a bitmask.
#include <algorithm>
#include <atomic>

#include "common.h"
#include "cpu/bitmask.h"
#include "cpu/marked.h"
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

Tensor mask_bits(const Tensor& mask) {
  require(mask.scalar_type() == ScalarType::Bool && mask.dim() == 2, "mask must be a 2-D bool tensor");
  const int64_t rows = mask.size(0), cols = mask.size(1);
  const Tensor flat = torch::stable::contiguous(mask);
  const auto* m = static_cast<const uint8_t*>(flat.const_data_ptr());
  Tensor bits = torch::stable::new_zeros(mask, {rows, ceil_div(cols, kWord)}, ScalarType::Long);
  uint64_t* words = mutable_data<uint64_t>(bits);
  std::atomic<bool> wrong{false};
  parallel_for(0, rows * cols, 1 << 15, [&](int64_t begin, int64_t end) {
    if (std::any_of(m + begin, m + end, [](uint8_t mark) { return mark > 1; }))
      wrong = true;
    else
      set_bits(words, cols, begin, m + begin, end - begin);
  });
  require(!wrong, "mask must hold the bytes 0 and 1 only, as bool tensors do");
  return bits;
}

Tensor bit_pointers(const Tensor& bits) {
  require(bits.dim() == 2, "bits must be an int64 tensor [rows, segments]");
  const int64_t rows = bits.size(0), segments = bits.size(1);
  const uint64_t* words = words_of(bits, rows, segments * kWord);
  Tensor row_ptr = torch::stable::new_empty(bits, {rows + 1}, ScalarType::Int);
  int32_t* ptr = mutable_data<int32_t>(row_ptr);
  int64_t nnz = 0;
  for (int64_t r = 0; r <= rows; ++r) {
    require(nnz < INT32_MAX, "a pattern has less than 2**31 - 1 nonzeros");
    ptr[r] = static_cast<int32_t>(nnz);
    for (int64_t t = 0; r < rows && t < segments; ++t) nnz += __builtin_popcountll(words[r * segments + t]);
  }
  return row_ptr;
}

// How many bits are set in both, 0-d int64.
Tensor common_bits(const Tensor& left, const Tensor& right) {
  require(left.dim() == 2 && right.dim() == 2, "bits must be int64 tensors [rows, segments]");
  const int64_t rows = left.size(0), cols = left.size(1) * kWord;
  const uint64_t *a = words_of(left, rows, cols), *b = words_of(right, rows, cols);
  int64_t count = 0;
  for (int64_t i = 0; i < left.numel(); ++i) count += __builtin_popcountll(a[i] & b[i]);
  Tensor result = torch::stable::new_empty(left, {});
  *mutable_data<int64_t>(result) = count;
  return result;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) {
  m.impl("bit_index", TORCH_BOX(&sparsekern::bit_index));
  m.impl("mask_bits", TORCH_BOX(&sparsekern::mask_bits));
  m.impl("bit_pointers", TORCH_BOX(&sparsekern::bit_pointers));
  m.impl("common_bits", TORCH_BOX(&sparsekern::common_bits));
}
