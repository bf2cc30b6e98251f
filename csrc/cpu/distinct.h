// Distinct random numbers: draws repeated until enough differ.
#pragma once

#include <algorithm>
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

// Grows the ascending set `out[0:have]` towards `n` members with the independent draws `draw(i)`, i = counter,
// counter + 1, ..., in [0, limit) or -1 for a rejected one. The set is that of the first distinct draws, as if they
// were made one by one. A round draws what will be needed if it fares like the last one, and no more than `n`, except
// for small `n`. Stops after `rounds`; returns the size of the set.
template <class Draw>
int64_t extend_distinct(int64_t* out, int64_t have, int64_t n, int64_t limit, int64_t rounds, int64_t& counter,
                        const Draw& draw) {
  constexpr int64_t kFew = 64;
  for (int64_t drawn = 1, accepted = 1; have < n && rounds > 0; --rounds) {
    const int64_t missing = n - have;
    drawn = std::clamp(missing * drawn / accepted, kFew, std::max(n, kFew));
    const std::unique_ptr<int64_t[]> buffer(drawn > missing ? new int64_t[drawn] : nullptr);
    int64_t* fresh = buffer ? buffer.get() : out + have;
    parallel_for(0, drawn, 1 << 12, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) fresh[i] = draw(counter + i);
    });
    counter += drawn;
    int64_t found = std::remove(fresh, fresh + drawn, int64_t{-1}) - fresh;
    if (found > missing) found = keep_first(fresh, found, out, have, missing);
    if (buffer) std::copy(fresh, fresh + found, out + have);
    sort_keys(out + have, found, limit);
    std::inplace_merge(out, out + have, out + have + found);
    const int64_t before = have;
    have = std::unique(out, out + have + found) - out;
    accepted = std::max<int64_t>(1, have - before);
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
