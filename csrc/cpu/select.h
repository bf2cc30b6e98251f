// The k-th largest number in a list of tensors, exactly. A sample tells between which two numbers it lies; one pass
// counts what is above them and copies what is between, among which it is found. Where the sample was wrong, or many
// numbers are equal, it is found among all.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/radix_select.h"

namespace sparsekern {

constexpr int64_t kSample = 1 << 12, kSampled = 1 << 16;  // of how many numbers, and from how many on
constexpr double kDeviations = 3;                         // of the rank in the sample, to either side

template <class T>
Bracket<T> bracket(const Scores<T>& scores, int64_t k, Keys<T> keys) {
  std::vector<typename Keys<T>::Key> sample;
  sample.reserve(kSample);
  const int64_t stride = scores.size / kSample;
  int64_t begin = 0;
  for (const Chunk<T>& chunk : scores.chunks) {
    while (sample.size() < kSample) {
      // One of every stretch of `stride`, not always the same: rows and columns have periods.
      const int64_t i = sample.size(), at = i * stride + static_cast<int64_t>(i * 0x9E3779B97F4A7C15u >> 32) % stride;
      if (at >= begin + chunk.size) break;
      sample.push_back(keys.of(chunk.data[at - begin]));
    }
    begin += chunk.size;
  }
  const double share = static_cast<double>(k) / scores.size, rank = share * kSample;
  const double margin = kDeviations * std::sqrt(kSample * share * (1 - share)) + 1;
  const auto ranked = [&](double from_top) {
    const auto nth = sample.end() - 1 - std::clamp<int64_t>(from_top, 0, kSample - 1);
    std::nth_element(sample.begin(), nth, sample.end());
    return *nth;
  };
  const auto low = rank + margin < kSample ? ranked(rank + margin) : 0;
  const auto high = rank > margin ? ranked(rank - margin) : std::numeric_limits<typename Keys<T>::Key>::max();
  return {low, high};
}

// `k` from 1 to the number of scores.
template <class T>
Selected<T> select(const Scores<T>& scores, int64_t k, bool absolute) {
  const Keys<T> keys{absolute};
  if (scores.size >= kSampled) {
    const Partition<T> found = partition(scores.chunks, keys, bracket(scores, k, keys), scores.size / 8);
    require(!found.nan, "scores must not contain NaN");
    if (found.above < k && k <= found.above + found.inside && found.inside <= scores.size / 8)
      return radix_select(cut<T>(found.numbers.get(), found.inside, 0), found.inside, k - found.above, keys);
  }
  return radix_select(scores.chunks, scores.size, k, keys);
}

}  // namespace sparsekern
