// Walks over the marks of a mask, bytes of 0 or 1.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace sparsekern {

// Calls `f(i)` for every byte that is 1, in ascending order.
template <class F>
void for_marked(const uint8_t* mask, int64_t n, const F& f) {
  static_assert(std::endian::native == std::endian::little);
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {  // few loops over bits: where one ends cannot be predicted
    uint64_t bits = 0;
    for (int j = 0; j < 8; ++j) {
      uint64_t word;
      std::memcpy(&word, mask + i + 8 * j, 8);
      bits |= (word * 0x0102040810204080u >> 56) << 8 * j;
    }
    for (; bits; bits &= bits - 1) f(i + std::countr_zero(bits));
  }
  for (; i < n; ++i)
    if (mask[i]) f(i);
}

}  // namespace sparsekern
