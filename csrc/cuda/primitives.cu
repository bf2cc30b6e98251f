// Sums and sorting.
#include <bit>

#include "cuda/launch.cuh"

#if defined(__CUDACC__)
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#else
#include <numeric>
#include <vector>
#endif

namespace sparsekern {

int32_t last_of(const Device& device, const int32_t* numbers, int64_t n) {
  int32_t last = 0;
  if (n > 0) device.read(&last, numbers + n - 1, 1);
  return last;
}

#if defined(__CUDACC__)

void inclusive_sum(const Device& device, const Tensor& like, int32_t* numbers, int64_t n) {
  if (n == 0) return;
  require(n <= INT32_MAX, "expected at most 2**31 - 1 numbers, got ", n);
  size_t bytes = 0;
  const int count = static_cast<int>(n);
  check(cub::DeviceScan::InclusiveSum(nullptr, bytes, numbers, numbers, count, device.stream()));
  const Workspace<char> workspace(like, static_cast<int64_t>(bytes));
  check(cub::DeviceScan::InclusiveSum(workspace.data(), bytes, numbers, numbers, count, device.stream()));
}

void sort_pairs(const Device& device, const Tensor& like, Workspace<int64_t>& keys, Workspace<int32_t>& positions,
                int64_t limit) {
  require(keys.size() <= INT32_MAX, "expected at most 2**31 - 1 numbers, got ", keys.size());
  const int count = static_cast<int>(keys.size()), bits = std::bit_width(static_cast<uint64_t>(limit));
  if (count == 0 || bits == 0) return;
  Workspace<int64_t> sorted(like, count);
  Workspace<int32_t> moved(like, count);
  const auto* from = reinterpret_cast<const uint64_t*>(keys.data());
  auto* to = reinterpret_cast<uint64_t*>(sorted.data());
  size_t bytes = 0;
  const auto sort = [&](void* workspace) {
    check(cub::DeviceRadixSort::SortPairs(workspace, bytes, from, to, positions.data(), moved.data(), count, 0, bits,
                                          device.stream()));
  };
  sort(nullptr);
  sort(Workspace<char>(like, static_cast<int64_t>(bytes)).data());
  keys = sorted;
  positions = moved;
}

#else

void inclusive_sum(const Device&, const Tensor&, int32_t* numbers, int64_t n) {
  std::partial_sum(numbers, numbers + n, numbers);
}

void sort_pairs(const Device&, const Tensor&, Workspace<int64_t>& keys, Workspace<int32_t>& positions, int64_t) {
  const int64_t n = keys.size();
  std::vector<std::pair<int64_t, int32_t> > pairs(n);
  for (int64_t i = 0; i < n; ++i) pairs[i] = {keys.data()[i], positions.data()[i]};
  std::stable_sort(pairs.begin(), pairs.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (int64_t i = 0; i < n; ++i) std::tie(keys.data()[i], positions.data()[i]) = pairs[i];
}

#endif

}  // namespace sparsekern
