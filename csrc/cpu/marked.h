// Walks over the marks of a mask, bytes of 0 or 1, and packs them into words.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>

namespace sparsekern {

// 64 marks as a word, whose lowest bit is the first.
inline uint64_t packed(const uint8_t* mask) {
  static_assert(std::endian::native == std::endian::little);
  uint64_t bits = 0;
  for (int j = 0; j < 8; ++j) {
    uint64_t word;
    std::memcpy(&word, mask + 8 * j, 8);
    bits |= (word * 0x0102040810204080u >> 56) << 8 * j;
  }
  return bits;
}

// Calls `f(i)` for every byte that is 1, in ascending order.
template <class F>
void for_marked(const uint8_t* mask, int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + 64 <= n; i += 64)  // few loops over bits: where one ends cannot be predicted
    for (uint64_t bits = packed(mask + i); bits; bits &= bits - 1) f(i + std::countr_zero(bits));
  for (; i < n; ++i)
    if (mask[i]) f(i);
}

// Sets bits of `words`, rows of `cols` bits each, to the marks of the entries from `offset` on; returns how many there
// are. Others may set bits of the same words at the same time.
inline int64_t set_bits(uint64_t* words, int64_t cols, int64_t offset, const uint8_t* marks, int64_t size) {
  constexpr int64_t kWord = 64;
  const int64_t segments = (cols + kWord - 1) / kWord;
  int64_t count = 0;
  for (int64_t i = 0; i < size;) {
    const int64_t c = (offset + i) % cols, bit = c % kWord;
    const int64_t n = std::min({kWord - bit, cols - c, size - i});
    uint64_t word = 0;
    if (n == kWord)
      word = packed(marks + i);
    else
      for (int64_t j = 0; j < n; ++j) word |= uint64_t(marks[i + j]) << (bit + j);
    if (word)
      std::atomic_ref(words[(offset + i) / cols * segments + c / kWord]).fetch_or(word, std::memory_order_relaxed);
    count += std::popcount(word);
    i += n;
  }
  return count;
}

}  // namespace sparsekern
