// Ascending order of non-negative 64-bit keys.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <memory>

namespace sparsekern {

// Least-significant-digit radix sort of keys in [0, limit); needs as much memory again.
inline void sort_keys(int64_t* keys, int64_t n, int64_t limit) {
  constexpr int kDigit = 11;
  if (n < 1024) {
    std::sort(keys, keys + n);
    return;
  }
  const std::unique_ptr<int64_t[]> buffer(new int64_t[n]);
  const int bits = std::bit_width(static_cast<uint64_t>(limit));
  int64_t *from = keys, *to = buffer.get();
  for (int shift = 0; shift < bits; shift += kDigit, std::swap(from, to)) {
    std::array<int64_t, 1 << kDigit> start{};
    const auto digit = [shift](int64_t key) { return (key >> shift) & ((1 << kDigit) - 1); };
    for (int64_t i = 0; i < n; ++i) ++start[digit(from[i])];
    int64_t sum = 0;
    for (int64_t& s : start) sum += std::exchange(s, sum);
    for (int64_t i = 0; i < n; ++i) to[start[digit(from[i])]++] = from[i];
  }
  if (from != keys) std::copy(from, from + n, keys);
}

}  // namespace sparsekern
