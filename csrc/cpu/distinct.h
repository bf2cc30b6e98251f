// Distinct random numbers: a counter-based generator, and draws repeated until enough differ.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "common.h"
#include "cpu/sorting.h"

namespace sparsekern {

// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014) read by position, so that a
// draw depends on the seed and its number alone, not on the thread that makes it.
class Stream {
 public:
  explicit Stream(int64_t seed) : base_(mix(static_cast<uint64_t>(seed))) {}

  uint64_t bits(int64_t i) const { return mix(base_ + (static_cast<uint64_t>(i) + 1) * 0x9E3779B97F4A7C15u); }

  // In [0, 1), on a grid of 2^-53.
  double unit(int64_t i) const { return static_cast<double>(bits(i) >> 11) * 0x1p-53; }

 private:
  static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }

  uint64_t base_;
};

// Grows the ascending set `out[0:have]` towards `n` members with the independent draws `draw(i)`, i = counter,
// counter + 1, ..., in [0, limit) or -1 for a rejected one. A round draws as many as are missing, never more: the set
// is that of the first distinct draws, and nothing drawn is ever dropped. Stops after `rounds`; returns its size.
template <class Draw>
int64_t extend_distinct(int64_t* out, int64_t have, int64_t n, int64_t limit, int64_t rounds, int64_t& counter,
                        const Draw& draw) {
  for (; have < n && rounds > 0; --rounds) {
    const int64_t missing = n - have;
    int64_t* fresh = out + have;
    torch::stable::parallel_for(0, missing, 1 << 12, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) fresh[i] = draw(counter + i);
    });
    counter += missing;
    int64_t* last = std::remove(fresh, fresh + missing, int64_t{-1});
    sort_keys(fresh, last - fresh, limit);
    std::inplace_merge(out, fresh, last);
    have = std::unique(out, last) - out;
  }
  return have;
}

// `n` distinct numbers in [0, size), ascending, every such set equally likely.
inline void random_distinct(int64_t* out, int64_t n, int64_t size, const Stream& stream, int64_t& counter) {
  if (n > size - n) {  // draw what is absent
    const int64_t absent = size - n;
    const std::unique_ptr<int64_t[]> gaps(new int64_t[absent + 1]);
    random_distinct(gaps.get(), absent, size, stream, counter);
    gaps[absent] = size;
    int64_t next = 0;
    for (int64_t i = 0; i <= absent; ++i, ++next)
      for (; next < gaps[i]; ++next) *out++ = next;
    return;
  }
  if (n == 0) return;
  // The largest multiple of `size` up to 2^63: what lies beyond would favour small numbers.
  const uint64_t fair = (uint64_t{1} << 63) / size * size;
  extend_distinct(out, 0, n, size, INT64_MAX, counter, [&](int64_t i) {
    const uint64_t x = stream.bits(i) >> 1;
    return x < fair ? static_cast<int64_t>(x % size) : int64_t{-1};
  });
}

}  // namespace sparsekern
