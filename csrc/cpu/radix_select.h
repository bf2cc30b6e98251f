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
#include "dtypes.h"

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

  static constexpr Key INF = sizeof(T) == 8                                   ? Key(0x7FF0000000000000u)
                             : sizeof(T) == 4                                 ? Key(0x7F800000u)
                             : std::is_same_v<T, torch::headeronly::BFloat16> ? Key(0x7F80u)
                                                                              : Key(0x7C00u);

  static bool is_nan(Bit x) { return (x & (SIGN - 1)) > INF; }

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

constexpr int64_t CHUNK = 1 << 15;

// A stretch of one of the tensors.
template <class T>
struct Chunk {
  const Bits<T>* data;
  int64_t size, tensor, offset;
};

template <class T>
std::vector<Chunk<T>> cut(const Bits<T>* data, int64_t size, int64_t tensor) {
  std::vector<Chunk<T>> chunks;
  for (int64_t at = 0; at < size; at += CHUNK) chunks.push_back({data + at, std::min(CHUNK, size - at), tensor, at});
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

constexpr int DIGIT = 11;
constexpr int TURNS = 4;  // equal neighbours would wait for each other's counter: so many of them take turns
using Histogram = std::array<int64_t, 1 << DIGIT>;

// Counts the digit `(key >> shift) % 2^width` of the keys that start with `prefix`; of all keys if it is the FIRST.
template <bool FIRST, class T>
Histogram count_digits(const std::vector<Chunk<T>>& chunks, Keys<T> keys, typename Keys<T>::Key prefix, int shift,
                       int width) {
  Histogram total{};
  std::mutex mutex;
  torch::stable::parallel_for(0, chunks.size(), 1, [&](int64_t begin, int64_t end) {
    const auto counts = std::make_unique<std::array<uint32_t, TURNS << DIGIT>>();
    counts->fill(0);
    int64_t counted = 0;
    const auto add = [&] {
      const std::lock_guard lock(mutex);
      for (int t = 0; t < TURNS; ++t)
        for (size_t d = 0; d < total.size(); ++d) total[d] += (*counts)[(t << DIGIT) + d];
      counts->fill(0);
      counted = 0;
    };
    for (int64_t i = begin; i < end; ++i) {
      const auto* x = chunks[i].data;
      const auto count = [&](int64_t j, int turn) {
        const auto key = keys.of(x[j]);
        const auto digit = (key >> shift) & ((1u << width) - 1);
        if (FIRST || (key >> shift) >> width == prefix) ++(*counts)[(turn << DIGIT) + digit];
      };
      int64_t j = 0;
      for (; j + TURNS <= chunks[i].size; j += TURNS)
        for (int turn = 0; turn < TURNS; ++turn) count(j + turn, turn);
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
  const auto top = first.begin() + digit(static_cast<Bits<T>>(Keys<T>::INF));
  const auto bottom = keys.absolute ? 0 : 1 + digit(static_cast<Bits<T>>(Keys<T>::SIGN | Keys<T>::INF));
  const auto occurs = [](int64_t count) { return count > 0; };
  if (!std::any_of(top, first.end(), occurs) && !std::any_of(first.begin(), first.begin() + bottom, occurs)) return;
  for (const auto& chunk : chunks)
    require(!std::any_of(chunk.data, chunk.data + chunk.size, Keys<T>::is_nan), "scores must not contain NaN");
}

// The numbers whose keys start with `prefix`, `count` of them, in no particular order.
template <class T>
std::unique_ptr<Bits<T>[]> gather_prefix(const std::vector<Chunk<T>>& chunks, Keys<T> keys,
                                         typename Keys<T>::Key prefix, int shift, int64_t count) {
  std::unique_ptr<Bits<T>[]> found(new Bits<T>[count]);
  std::atomic<int64_t> used{0};
  torch::stable::parallel_for(0, chunks.size(), 1, [&](int64_t begin, int64_t end) {
    std::unique_ptr<Bits<T>[]> mine(new Bits<T>[CHUNK]);
    for (int64_t i = begin; i < end; ++i) {
      const auto* x = chunks[i].data;
      int64_t n = 0, j = 0;
      for (; j + 32 <= chunks[i].size; j += 32) {  // few match: compare vectors, then look where a bit is set
        uint8_t matches[32];
        for (int m = 0; m < 32; ++m) matches[m] = keys.of(x[j + m]) >> shift == prefix;
        const auto words = std::bit_cast<std::array<uint64_t, 4>>(matches);
        for (int w = 0; w < 4; ++w)
          for (uint64_t word = words[w]; word; word &= word - 1) mine[n++] = x[j + 8 * w + std::countr_zero(word) / 8];
      }
      for (; j < chunks[i].size; ++j)
        if (keys.of(x[j]) >> shift == prefix) mine[n++] = x[j];
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
    if (first) refuse_nan(scores.chunks, keys, counts, shift);
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
