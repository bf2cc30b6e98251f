// A CSR pattern from flat coordinates: sorted if they are not, then every row finds its start.
#include <array>
#include <optional>
#include <tuple>

#include "cuda/launch.cuh"
#include "cuda/search.cuh"

namespace sparsekern {

std::tuple<Tensor, Tensor> compress(const Tensor& coordinates, int64_t rows, int64_t cols, int64_t capacity) {
  require(coordinates.scalar_type() == ScalarType::Long && coordinates.dim() == 1,
          "coordinates must be a 1-D int64 tensor");
  const int64_t nnz = coordinates.numel(), size = rows * cols;
  require(nnz <= capacity && capacity < INT32_MAX, "capacity must be at least nnz = ", nnz,
          " and below 2**31 - 1, got ", capacity);
  const Device device(coordinates);
  const Tensor flat = torch::stable::contiguous(coordinates);
  const int64_t* x = data<int64_t>(flat);
  const auto number = [&](const int64_t* from) {
    int64_t value;
    device.read(&value, from, 1);
    return value;
  };

  const Workspace<int64_t> faults(coordinates, 2);
  int64_t* fault = faults.data();
  fill(device, fault, 2, kNowhere);
  each(device, nnz, [=] __device__(int64_t i) {
    if (x[i] < 0 || x[i] >= size) atomic_min(fault, i);
    if (i > 0 && x[i - 1] >= x[i]) atomic_min(fault + 1, i);
  });
  std::array<int64_t, 2> found;
  device.read(found.data(), fault, 2);
  const auto [outside, falling] = found;
  if (outside != kNowhere) fail("coordinates must lie in [0, ", size, "), got ", number(x + outside));

  std::optional<Workspace<int64_t>> sorted;
  if (falling != kNowhere) {
    sorted.emplace(coordinates, nnz);
    Workspace<int32_t> unused(coordinates, nnz);
    int64_t* copy = sorted->data();
    int32_t* positions = unused.data();
    each(device, nnz, [=] __device__(int64_t i) { copy[i] = x[i], positions[i] = 0; });
    sort_pairs(device, coordinates, *sorted, unused, size);
    const int64_t* s = x = sorted->data();
    each(device, nnz, [=] __device__(int64_t i) {
      if (i > 0 && s[i - 1] == s[i]) atomic_min(fault, i);
    });
    const int64_t twice = number(fault);
    if (twice != kNowhere) fail("coordinates must be distinct, got ", number(x + twice), " twice");
  }

  Tensor row_ptr = torch::stable::new_empty(coordinates, {rows + 1}, ScalarType::Int);
  Tensor col = torch::stable::new_empty(coordinates, {capacity}, ScalarType::Int);
  int32_t* ptr = mutable_data<int32_t>(row_ptr);
  int32_t* c = mutable_data<int32_t>(col);
  const int64_t* s = x;
  each(device, rows + 1, [=] __device__(int64_t r) { ptr[r] = static_cast<int32_t>(count_below(s, nnz, r * cols)); });
  each(device, capacity, [=] __device__(int64_t i) { c[i] = i < nnz ? static_cast<int32_t>(s[i] % cols) : 0; });
  return {row_ptr, col};
}

}  // namespace sparsekern

SPARSEKERN_REGISTER(compress)
