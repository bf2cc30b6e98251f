// The k-th largest of some numbers, exactly: radix select on order-preserving integer keys.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>

#include "cpu/parallel.h"
#include "cpu/partition.h"

namespace sparsekern {

constexpr int kDigit = 11;
constexpr int kTurns = 4;  // equal neighbours would wait for each other's counter: so many of them take turns
using Histogram = std::array<int64_t, 1 << kDigit>;

// Counts the digit `(key >> shift) % 2^width` of the keys that start with `prefix`, or, `kFirst`, of all keys.
template <bool kFirst, class T>
Histogram count_digits(const std::vector<Chunk<T>>& chunks, Keys<T> keys, typename Keys<T>::Key prefix, int shift,
                       int width) {
  Histogram total{};
  std::mutex mutex;
  parallel_for(0, chunks.size(), 1, [&](int64_t begin, int64_t end) {
    const auto counts = std::make_unique<std::array<uint32_t, kTurns << kDigit>>();
    counts->fill(0);
    int64_t counted = 0;
    const auto add = [&] {
      const std::lock_guard lock(mutex);
      for (int t = 0; t < kTurns; ++t)
        for (size_t d = 0; d < total.size(); ++d) total[d] += (*counts)[(t << kDigit) + d];
      counts->fill(0);
      counted = 0;
    };
    for (int64_t i = begin; i < end; ++i) {
      const auto* x = chunks[i].data;
      const auto count = [&](int64_t j, int turn) {
        const auto key = keys.of(x[j]);
        const auto digit = (key >> shift) & ((1u << width) - 1);
        if (kFirst || (key >> shift) >> width == prefix) ++(*counts)[(turn << kDigit) + digit];
      };
      int64_t j = 0;
      for (; j + kTurns <= chunks[i].size; j += kTurns)
        for (int turn = 0; turn < kTurns; ++turn) count(j + turn, turn);
      for (; j < chunks[i].size; ++j) count(j, 0);
      if ((counted += chunks[i].size) >= int64_t{1} << 31) add();  // before a counter can overflow
    }
    add();
  });
  return total;
}

// NaN lies beyond the infinities: only where the outermost digits occur do the numbers have to be looked at.
template <class T>
void refuse_nan(const std::vector<Chunk<T>>& chunks, Keys<T> keys, const Histogram& first, int shift) {
  const auto digit = [&](auto bits) { return static_cast<int64_t>(keys.of(bits) >> shift); };
  const auto top = first.begin() + digit(static_cast<Bits<T>>(Keys<T>::kInf));
  const auto bottom = keys.absolute ? 0 : 1 + digit(static_cast<Bits<T>>(Keys<T>::kSign | Keys<T>::kInf));
  const auto occurs = [](int64_t count) { return count > 0; };
  if (!std::any_of(top, first.end(), occurs) && !std::any_of(first.begin(), first.begin() + bottom, occurs)) return;
  for (const auto& chunk : chunks)
    require(!std::any_of(chunk.data, chunk.data + chunk.size, Keys<T>::is_nan), "scores must not contain NaN");
}

template <class T>
struct Selected {
  typename Keys<T>::Key key;  // the k-th largest
  int64_t needed, equal;      // how many of the numbers with that key are among the k largest, and how many there are
};

// `k` from 1 to `size`, how many numbers the chunks hold.
template <class T>
Selected<T> radix_select(const std::vector<Chunk<T>>& all, int64_t size, int64_t k, Keys<T> keys) {
  std::vector<Chunk<T>> chunks = all;
  Partition<T> left;
  Selected<T> result{0, k, size};
  for (int shift = keys.bits(); shift > 0;) {
    const int width = std::min(kDigit, shift);
    const bool first = shift == keys.bits();
    shift -= width;
    const Histogram counts = first ? count_digits<true>(chunks, keys, result.key, shift, width)
                                   : count_digits<false>(chunks, keys, result.key, shift, width);
    if (first) refuse_nan(all, keys, counts, shift);
    int digit = (1 << width) - 1;
    for (; counts[digit] < result.needed; --digit) result.needed -= counts[digit];
    result.equal = counts[digit];
    result.key = result.key << width | static_cast<typename Keys<T>::Key>(digit);
    // Go on with a copy of what is left if that is little; numbers that share a digit are read where they are.
    if (shift > 0 && !left.numbers && result.equal <= size / 8) {
      const auto low = static_cast<typename Keys<T>::Key>(result.key << shift);
      left = partition<T>(chunks, keys, {low, low | ((typename Keys<T>::Key{1} << shift) - 1)}, result.equal);
      chunks = cut<T>(left.numbers.get(), result.equal, 0);
    }
  }
  return result;
}

}  // namespace sparsekern
