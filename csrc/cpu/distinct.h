// Distinct random numbers: draws repeated until enough differ.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "common.h"
#include "cpu/parallel.h"
#include "cpu/sorting.h"
#include "random.h"

namespace sparsekern {

// Keeps the first `n` of the draws, in the order they were made, that are not repeated and not in the set `chosen`.
inline int64_t keep_first(int64_t* draws, int64_t size, const int64_t* chosen, int64_t have, int64_t n) {
  std::vector<std::pair<int64_t, int64_t>> fresh;  // number, when it was drawn
  for (int64_t i = 0; i < size; ++i)
    if (!std::binary_search(chosen, chosen + have, draws[i])) fresh.emplace_back(draws[i], i);
  std::sort(fresh.begin(), fresh.end());
  const auto same = [](const auto& a, const auto& b) { return a.first == b.first; };
  fresh.erase(std::unique(fresh.begin(), fresh.end(), same), fresh.end());
  std::sort(fresh.begin(), fresh.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const int64_t kept = std::min<int64_t>(n, fresh.size());
  for (int64_t i = 0; i < kept; ++i) draws[i] = fresh[i].first;
  return kept;
}

constexpr int64_t kFew = 64;

// Adds the independent draws `draw(i)`, i = counter, counter + 1, ..., in [0, limit) or -1 for a rejected one, until
// there are `n` distinct ones: those that come first, as if they were made one by one. A round draws what will be
// needed if it fares like the last one, and no more than `n`, except for small `n`; `add(draws, size, missing)` returns
// how many of them are new. Stops after `rounds`; returns how many there are.
template <class Draw, class Add>
int64_t draw_distinct(int64_t n, int64_t rounds, int64_t& counter, const Draw& draw, const Add& add) {
  const std::unique_ptr<int64_t[]> draws(new int64_t[n > 0 ? std::max(n, kFew) : 0]);
  int64_t have = 0;
  for (int64_t drawn = 1, accepted = 1; have < n && rounds > 0; --rounds) {
    const int64_t missing = n - have;
    drawn = std::clamp(missing * drawn / accepted, kFew, std::max(n, kFew));
    parallel_for(0, drawn, 1 << 12, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) draws[i] = draw(counter + i);
    });
    counter += drawn;
    const int64_t added = add(draws.get(), drawn, missing);
    have += added;
    accepted = std::max<int64_t>(1, added);
  }
  return have;
}

// Into the ascending `out`.
template <class Draw>
int64_t sorted_distinct(int64_t* out, int64_t n, int64_t limit, int64_t rounds, int64_t& counter, const Draw& draw) {
  int64_t have = 0;
  return draw_distinct(n, rounds, counter, draw, [&](int64_t* draws, int64_t drawn, int64_t missing) {
    int64_t found = std::remove(draws, draws + drawn, int64_t{-1}) - draws;
    if (found > missing) found = keep_first(draws, found, out, have, missing);
    std::copy(draws, draws + found, out + have);
    sort_keys(out + have, found, limit);
    std::inplace_merge(out, out + have, out + have + found);
    const int64_t before = have;
    have = std::unique(out, out + have + found) - out;
    return have - before;
  });
}

// One bit for each number in [0, limit).
class BitSet {
 public:
  explicit BitSet(int64_t limit) : words_((limit + 63) / 64) {}

  bool has(int64_t x) const { return words_[x / 64] >> x % 64 & 1; }
  void set(int64_t x) { words_[x / 64] |= uint64_t{1} << x % 64; }
  void clear(int64_t x) { words_[x / 64] &= ~(uint64_t{1} << x % 64); }

  // Writes the numbers in ascending order.
  void list(int64_t* out) const {
    for (size_t t = 0; t < words_.size(); ++t)
      for (uint64_t word = words_[t]; word; word &= word - 1) *out++ = 64 * t + std::countr_zero(word);
  }

 private:
  std::vector<uint64_t> words_;
};

// Whether a bit for each number in [0, limit) takes no more memory than `n` numbers.
inline bool bits_are_few(int64_t limit, int64_t n) { return limit / 64 <= n; }

// Into a set; what it has before is rejected.
template <class Draw>
int64_t marked_distinct(BitSet& set, int64_t n, int64_t rounds, int64_t& counter, const Draw& draw) {
  return draw_distinct(n, rounds, counter, draw, [&](const int64_t* draws, int64_t drawn, int64_t missing) {
    int64_t added = 0;
    for (int64_t i = 0; i < drawn && added < missing; ++i) {
      if (draws[i] < 0) continue;
      added += !set.has(draws[i]);
      set.set(draws[i]);
    }
    return added;
  });
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
  const auto draw = [&](int64_t i) {
    const uint64_t x = stream.bits(i) >> 1;
    return x < fair ? static_cast<int64_t>(x % size) : int64_t{-1};
  };
  if (bits_are_few(size, n)) {
    BitSet set(size);
    marked_distinct(set, n, INT64_MAX, counter, draw);
    set.list(out);
  } else {
    sorted_distinct(out, n, size, INT64_MAX, counter, draw);
  }
}

}  // namespace sparsekern
