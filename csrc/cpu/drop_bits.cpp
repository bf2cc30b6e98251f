// A bitmask without some of its entries.
#include <algorithm>
#include <atomic>
#include <tuple>

#include "common.h"
#include "cpu/bitmask.h"
#include "cpu/parallel.h"

namespace sparsekern {
namespace {

// The `n` bits, at most 64, from bit `at` on.
uint64_t bits_at(const uint64_t* words, int64_t at, int n) {
  if (n == 0) return 0;
  const int shift = at % kWord;
  uint64_t bits = words[at / kWord] >> shift;
  if (shift + n > kWord) bits |= words[at / kWord + 1] << (kWord - shift);
  return n == kWord ? bits : bits & ((uint64_t{1} << n) - 1);
}

// The bits of `word` that are set and whose turn has its bit set in `stays`.
uint64_t chosen(uint64_t word, uint64_t stays) {
  if (~word == 0) return stays;
  uint64_t left = 0;
  for (; word; word &= word - 1, stays >>= 1)
    if (stays & 1) left |= word & -word;
  return left;
}

}  // namespace

std::tuple<Tensor, Tensor> drop_bits(const Tensor& row_ptr, const Tensor& bits, const Tensor& keep, int64_t cols) {
  const Bitmask mask = bitmask_of(row_ptr, bits, cols);
  const uint64_t* stays = words_of(keep, 1, mask.start(mask.rows));
  Tensor new_ptr = torch::stable::new_empty(row_ptr, {mask.rows + 1});
  Tensor new_bits = torch::stable::new_empty(bits, {mask.rows, mask.segments});
  int32_t* ptr = mutable_data<int32_t>(new_ptr);
  uint64_t* words = mutable_data<uint64_t>(new_bits);
  std::atomic<bool> wrong{false};
  const int64_t grain = std::max<int64_t>(1, (1 << 12) / (1 + mask.segments));
  parallel_for(0, mask.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t at = mask.start(r), left = 0;
      if (mask.count(r, 0, mask.segments) != mask.start(r + 1) - at) {
        wrong = true;
        return;
      }
      for (int64_t t = 0; t < mask.segments; ++t) {
        const uint64_t word = mask.row(r)[t];
        const int n = __builtin_popcountll(word);
        const uint64_t rest = words[r * mask.segments + t] = chosen(word, bits_at(stays, at, n));
        left += __builtin_popcountll(rest);
        at += n;
      }
      ptr[r + 1] = static_cast<int32_t>(left);
    }
  });
  require(!wrong, "each row of bits must have as many set bits as row_ptr gives it nonzeros");
  ptr[0] = 0;
  for (int64_t r = 0; r < mask.rows; ++r) ptr[r + 1] += ptr[r];
  return {new_ptr, new_bits};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("drop_bits", TORCH_BOX(&sparsekern::drop_bits)); }
