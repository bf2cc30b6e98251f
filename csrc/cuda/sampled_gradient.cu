// The weight gradient at a list of coordinates: dot products over the batch of one column of `grad_output` with one of
// `input`. Both are packed feature by feature, some batch entries at a time, so that the lanes of a group read two
// contiguous stretches in 16-byte loads: 2 * batch numbers of traffic for a coordinate, of which that of `grad_output`
// is shared by the coordinates of a row. The host waits for nothing: a coordinate out of range gives NaN.
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "cuda/launch.cuh"
#include "dtypes.h"

namespace sparsekern {
namespace {

constexpr int64_t kChunk = 2048;  // batch entries at a time, a bound on the memory that packing takes
constexpr int64_t kRun = 16;      // batch entries of one feature that a thread packs

struct alignas(16) Bytes {
  uint32_t words[4];
};

template <class T>
constexpr int64_t kWidth = sizeof(Bytes) / sizeof(T);

// Batch entries from `start` on, each feature in a zero-padded stretch of `length`, a multiple of kRun.
template <class T>
void pack(const Device& device, const Tensor& from, int64_t start, int64_t length, T* packed) {
  const T* numbers = data<T>(from);
  const int64_t batch = from.size(0), features = from.size(1);
  const int64_t batch_stride = from.stride(0), feature_stride = from.stride(1);
  // Neighbours read along the features and write whole sectors along the batch.
  each(device, features * (length / kRun), [=] __device__(int64_t i) {
    const int64_t f = i % features, first = i / features * kRun;
    T run[kRun];
    for (int64_t j = 0; j < kRun; ++j) {
      const int64_t b = start + first + j;
      run[j] = b < batch ? numbers[b * batch_stride + f * feature_stride] : static_cast<T>(0);
    }
    auto* to = reinterpret_cast<Bytes*>(packed + f * length + first);
    for (int64_t j = 0; j < kRun; j += kWidth<T>) {
      Bytes stored;
      memcpy(&stored, run + j, sizeof stored);
      to[j / kWidth<T>] = stored;
    }
  });
}

template <class T>
void accumulate(const Device& device, const Tensor& delta, const Tensor& h, const Tensor& where, Tensor& result) {
  using W = Wide<T>;
  const int64_t batch = delta.size(0), rows = delta.size(1), cols = h.size(1);
  const int64_t longest = std::min(kChunk, (batch + kRun - 1) / kRun * kRun);
  const Workspace<T> packed_delta(where, rows * longest), packed_h(where, cols * longest);
  const T *d = packed_delta.data(), *a = packed_h.data();
  const int64_t* x = data<int64_t>(where);
  W* out = mutable_data<W>(result);
  for (int64_t start = 0; start < batch; start += kChunk) {
    const int64_t length = std::min(kChunk, (batch - start + kRun - 1) / kRun * kRun);
    pack(device, delta, start, length, packed_delta.data());
    pack(device, h, start, length, packed_h.data());
    const int64_t loads = length / kWidth<T>;
    const int lanes = static_cast<int>(std::bit_floor<uint64_t>(std::clamp<int64_t>(loads / 2, 2, 32)));
    const auto part = [=] __device__(int64_t i, int lane) {
      if (x[i] < 0 || x[i] >= rows * cols) return std::numeric_limits<W>::quiet_NaN();
      const int64_t row = x[i] / cols, col = x[i] - row * cols;
      const auto* left = reinterpret_cast<const Bytes*>(d + row * length);
      const auto* right = reinterpret_cast<const Bytes*>(a + col * length);
      W sum = 0;
      for (int64_t k = lane; k < loads; k += lanes) {
        const Bytes u = left[k], v = right[k];
        T p[kWidth<T>], q[kWidth<T>];
        memcpy(p, &u, sizeof u);
        memcpy(q, &v, sizeof v);
        for (int j = 0; j < kWidth<T>; ++j) sum += static_cast<W>(p[j]) * static_cast<W>(q[j]);
      }
      return sum;
    };
    group_sums(device, where.numel(), lanes, part, [=] __device__(int64_t i, W sum) { out[i] += sum; });
  }
}

}  // namespace

Tensor sampled_gradient(const Tensor& grad_output, const Tensor& input, const Tensor& coordinates) {
  require(grad_output.dim() >= 1 && input.dim() >= 1, "grad_output and input must have a feature dimension");
  require(grad_output.scalar_type() == input.scalar_type(), "grad_output and input must have one dtype, got ",
          grad_output.scalar_type(), " and ", input.scalar_type());
  require(coordinates.scalar_type() == ScalarType::Long && coordinates.dim() == 1,
          "coordinates must be a 1-D int64 tensor");
  const Device device(input);
  device.require_here(grad_output, "grad_output");
  device.require_here(coordinates, "coordinates");
  const int64_t rows = grad_output.size(-1), cols = input.size(-1);
  const auto batch = [](const Tensor& t) {
    int64_t size = 1;
    for (int64_t i = 0; i + 1 < t.dim(); ++i) size *= t.size(i);
    return size;
  };
  require(batch(grad_output) == batch(input), "grad_output and input must have one batch size, got ",
          batch(grad_output), " and ", batch(input));
  const Tensor where = torch::stable::contiguous(coordinates);
  const Tensor delta = torch::stable::reshape(grad_output, {batch(grad_output), rows});
  const Tensor h = torch::stable::reshape(input, {batch(input), cols});
  const bool wide = input.scalar_type() == ScalarType::Double;
  Tensor result = torch::stable::new_zeros(input, {where.numel()}, wide ? ScalarType::Double : ScalarType::Float);
  with_floating_type(input.scalar_type(), "input",
                     [&](auto zero) { accumulate<decltype(zero)>(device, delta, h, where, result); });
  return result;
}

}  // namespace sparsekern

SPARSEKERN_REGISTER(sampled_gradient)
