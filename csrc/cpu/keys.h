// Floating-point numbers as integers of the same order, and lists of tensors of them cut into stretches.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "common.h"
#include "dtypes.h"

namespace sparsekern {

template <class T>
using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;

// Integers in the order of the floating-point numbers `T`, or of their magnitudes; both zeros have the same key.
template <class T>
struct Keys {
  using Bit = Bits<T>;
  using Key = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static constexpr Key kSign = Key{1} << (8 * sizeof(T) - 1);
  static constexpr Key kMask = kSign | (kSign - 1);

  bool absolute;

  static constexpr Key kInf = sizeof(T) == 8                                   ? Key(0x7FF0000000000000u)
                              : sizeof(T) == 4                                 ? Key(0x7F800000u)
                              : std::is_same_v<T, torch::headeronly::BFloat16> ? Key(0x7F80u)
                                                                               : Key(0x7C00u);

  static bool is_nan(Bit x) { return (x & (kSign - 1)) > kInf; }

  int bits() const { return 8 * sizeof(T) - absolute; }

  Key of(Bit x) const {
    if (absolute) return x & (kSign - 1);
    return x & kSign ? (Key{0} - x) & kMask : x | kSign;
  }

  Bit number(Key key) const {
    if (absolute) return static_cast<Bit>(key);
    return static_cast<Bit>(key & kSign ? key ^ kSign : (Key{0} - key) & kMask);
  }
};

constexpr int64_t kChunk = 1 << 15;

// A stretch of one of the tensors.
template <class T>
struct Chunk {
  const Bits<T>* data;
  int64_t size, tensor, offset;
};

template <class T>
std::vector<Chunk<T>> cut(const Bits<T>* data, int64_t size, int64_t tensor) {
  std::vector<Chunk<T>> chunks;
  for (int64_t at = 0; at < size; at += kChunk) chunks.push_back({data + at, std::min(kChunk, size - at), tensor, at});
  return chunks;
}

// The tensors, made contiguous, and their chunks in the global order.
template <class T>
struct Scores {
  std::vector<Tensor> tensors;
  std::vector<Chunk<T>> chunks;
  int64_t size = 0;

  explicit Scores(const std::vector<Tensor>& scores) {
    for (const Tensor& score : scores) {
      require(score.scalar_type() == scores[0].scalar_type(), "scores must have one dtype, got ",
              scores[0].scalar_type(), " and ", score.scalar_type());
      tensors.push_back(torch::stable::contiguous(score));
      const auto part = cut<T>(data<Bits<T>>(tensors.back()), score.numel(), tensors.size() - 1);
      chunks.insert(chunks.end(), part.begin(), part.end());
      size += score.numel();
    }
  }
};

}  // namespace sparsekern
