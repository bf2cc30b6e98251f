// Distinct random numbers: draws repeated until enough differ. The sets are those of cpu/distinct.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/launch.cuh"
#include "random.h"

namespace sparsekern {

// An ascending set.
struct Set {
  Workspace<int64_t> members;
  int64_t size() const { return members.size(); }
};

// The union of two disjoint sets.
Set merged(const Device& device, const Tensor& like, const Set& a, const Set& b);

// The set with the first `missing` of the draws that are neither repeated, in it, nor `limit`, which marks a rejected
// one.
Set extended(const Device& device, const Tensor& like, const Set& set, Workspace<int64_t> draws, int64_t missing,
             int64_t limit);

// Grows a set towards `n` members with the independent draws `draw(i)`, i = counter, counter + 1, ..., in [0, limit],
// `limit` for a rejected one. A round draws what will be needed if it fares like the last one, and no more than `n`,
// except for small `n`. Stops after `rounds`.
template <class Draw>
Set extend_distinct(const Device& device, const Tensor& like, int64_t n, int64_t limit, int64_t rounds,
                    int64_t& counter, Draw draw) {
  constexpr int64_t kFew = 64;
  Set set{Workspace<int64_t>(like, 0)};
  for (int64_t drawn = 1, accepted = 1; set.size() < n && rounds > 0; --rounds) {
    const int64_t missing = n - set.size(), before = set.size(), start = counter;
    drawn = std::clamp(missing * drawn / accepted, kFew, std::max(n, kFew));
    const Workspace<int64_t> draws(like, drawn);
    int64_t* number = draws.data();
    each(device, drawn, [=] __device__(int64_t i) { number[i] = draw(start + i); });
    counter += drawn;
    set = extended(device, like, set, draws, missing, limit);
    accepted = std::max<int64_t>(1, set.size() - before);
  }
  return set;
}

// `n` distinct numbers in [0, size), every such set equally likely.
Set random_distinct(const Device& device, const Tensor& like, int64_t n, int64_t size, const Stream& stream,
                    int64_t& counter);

}  // namespace sparsekern
