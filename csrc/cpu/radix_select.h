// The k-th largest of the numbers in a list of tensors, exactly: radix select on order-preserving integer keys.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "common.h"
#include "cpu/dtypes.h"

namespace sparsekern {

template <class T>
using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;

// Integers in the order of the floating-point numbers `T`, or of their magnitudes; both zeros have the same key.
template <class T>
struct Keys {
  using Bit = Bits<T>;
  using Key = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static constexpr Key SIGN = Key{1} << (8 * sizeof(T) - 1);
  static constexpr Key MASK = SIGN | (SIGN - 1);

  bool absolute;

  static bool is_nan(Bit x) {
    constexpr Key INF = sizeof(T) == 8                                   ? Key(0x7FF0000000000000u)
                        : sizeof(T) == 4                                 ? Key(0x7F800000u)
                        : std::is_same_v<T, torch::headeronly::BFloat16> ? Key(0x7F80u)
                                                                         : Key(0x7C00u);
    return (x & (SIGN - 1)) > INF;
  }

  int bits() const { return 8 * sizeof(T) - absolute; }

  Key of(Bit x) const {
    if (absolute) return x & (SIGN - 1);
    return x & SIGN ? (Key{0} - x) & MASK : x | SIGN;
  }

  Bit number(Key key) const {
    if (absolute) return static_cast<Bit>(key);
    return static_cast<Bit>(key & SIGN ? key ^ SIGN : (Key{0} - key) & MASK);
  }
};

// A stretch of one of the tensors, short enough for 32-bit counters.
template <class T>
struct Chunk {
  const Bits<T>* data;
  int64_t size, tensor, offset;
};

template <class T>
std::vector<Chunk<T>> cut(const Bits<T>* data, int64_t size, int64_t tensor) {
  constexpr int64_t LENGTH = 1 << 17;
  std::vector<Chunk<T>> chunks;
  for (int64_t at = 0; at < size; at += LENGTH) chunks.push_back({data + at, std::min(LENGTH, size - at), tensor, at});
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

constexpr int DIGIT = 12;
using Histogram = std::array<int64_t, 1 << DIGIT>;

// Counts the digit `(key >> shift) % 2^width` of the keys that start with `prefix`. Refuses NaN.
template <bool FIRST, class T>
Histogram count_digits(const std::vector<Chunk<T>>& chunks, Keys<T> keys, typename Keys<T>::Key prefix, int shift,
                       int width) {
  Histogram total{};
  std::mutex mutex;
  std::atomic<bool> nan{false};
  torch::stable::parallel_for(0, chunks.size(), 1, [&](int64_t begin, int64_t end) {
    // Equal neighbours would wait for each other's counter: four of them take turns.
    const auto counts = std::make_unique<std::array<uint32_t, 4 << DIGIT>>();
    for (int64_t i = begin; i < end; ++i) {
      counts->fill(0);
      bool bad = false;
      const auto* x = chunks[i].data;
      for (int64_t j = 0; j < chunks[i].size; ++j) {
        const auto key = keys.of(x[j]);
        const auto digit = (key >> shift) & ((1u << width) - 1);
        if constexpr (FIRST) bad |= Keys<T>::is_nan(x[j]);
        if (FIRST || (key >> shift) >> width == prefix) ++(*counts)[4 * digit + (j & 3)];
      }
      if (bad) nan = true;
      const std::lock_guard lock(mutex);
      for (size_t d = 0; d < total.size(); ++d)
        for (int t = 0; t < 4; ++t) total[d] += (*counts)[4 * d + t];
    }
  });
  require(!nan, "scores must not contain NaN");
  return total;
}

// The numbers whose keys start with `prefix`, `count` of them, in no particular order.
template <class T>
std::unique_ptr<Bits<T>[]> gather_prefix(const std::vector<Chunk<T>>& chunks, Keys<T> keys,
                                         typename Keys<T>::Key prefix, int shift, int64_t count) {
  std::unique_ptr<Bits<T>[]> found(new Bits<T>[count]);
  std::atomic<int64_t> used{0};
  torch::stable::parallel_for(0, chunks.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::unique_ptr<Bits<T>[]> mine(new Bits<T>[chunks[i].size]);
      const auto* x = chunks[i].data;
      int64_t n = 0;
      for (int64_t j = 0; j < chunks[i].size; ++j) {
        mine[n] = x[j];
        n += keys.of(x[j]) >> shift == prefix;
      }
      std::copy(mine.get(), mine.get() + n, found.get() + used.fetch_add(n));
    }
  });
  return found;
}

template <class T>
struct Selected {
  typename Keys<T>::Key key;  // the k-th largest
  int64_t needed, equal;      // how many of the numbers with that key are among the k largest, and how many there are
};

// `k` from 1 to the number of scores.
template <class T>
Selected<T> radix_select(const Scores<T>& scores, int64_t k, bool absolute) {
  const Keys<T> keys{absolute};
  std::vector<Chunk<T>> chunks = scores.chunks;
  std::unique_ptr<Bits<T>[]> candidates;
  Selected<T> result{0, k, scores.size};
  for (int shift = keys.bits(); shift > 0;) {
    const int width = std::min(DIGIT, shift);
    const bool first = shift == keys.bits();
    shift -= width;
    const Histogram counts = first ? count_digits<true>(chunks, keys, result.key, shift, width)
                                   : count_digits<false>(chunks, keys, result.key, shift, width);
    int digit = (1 << width) - 1;
    for (; counts[digit] < result.needed; --digit) result.needed -= counts[digit];
    result.equal = counts[digit];
    result.key = result.key << width | static_cast<typename Keys<T>::Key>(digit);
    // Go on with a copy of what is left if that is little; numbers that share a digit are read where they are.
    if (shift > 0 && !candidates && result.equal <= scores.size / 8) {
      candidates = gather_prefix(chunks, keys, result.key, shift, result.equal);
      chunks = cut<T>(candidates.get(), result.equal, 0);
    }
  }
  return result;
}

}  // namespace sparsekern
