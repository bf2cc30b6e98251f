// A counter-based generator: the same numbers on every device.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace sparsekern {

// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014) read by position, so that a
// draw depends on the seed and its number alone, not on the thread that makes it.
class Stream {
 public:
  explicit Stream(int64_t seed) : base_(mix(static_cast<uint64_t>(seed))) {}

  C10_HOST_DEVICE uint64_t bits(int64_t i) const {
    return mix(base_ + (static_cast<uint64_t>(i) + 1) * 0x9E3779B97F4A7C15u);
  }

  // In [0, 1), on a grid of 2^-53.
  C10_HOST_DEVICE double unit(int64_t i) const { return static_cast<double>(bits(i) >> 11) * 0x1p-53; }

 private:
  C10_HOST_DEVICE static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }

  uint64_t base_;
};

}  // namespace sparsekern
