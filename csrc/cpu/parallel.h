// Work on ranges of [begin, end) at once, on torch's threads.
#pragma once

#include "common.h"
#include "cpu/threads.h"

#if defined(__SANITIZE_THREAD__)
#include <algorithm>
#include <thread>
#include <vector>
#endif

namespace sparsekern {

// `f(first, last)` on parts of at least `grain`; it does not throw.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
#if defined(__SANITIZE_THREAD__)
  // ThreadSanitizer does not see how OpenMP's threads wait for each other.
  const int64_t most = (end - begin + grain - 1) / std::max<int64_t>(1, grain);
  const int64_t parts = std::min<int64_t>(threads(), most);
  std::vector<std::thread> others;
  const auto bound = [&](int64_t part) { return begin + (end - begin) * part / std::max<int64_t>(1, parts); };
  for (int64_t part = 1; part < parts; ++part) others.emplace_back([&, part] { f(bound(part), bound(part + 1)); });
  if (parts > 0) f(begin, bound(1));
  for (std::thread& other : others) other.join();
#else
  torch::stable::parallel_for(begin, end, grain, f);
#endif
}

}  // namespace sparsekern
