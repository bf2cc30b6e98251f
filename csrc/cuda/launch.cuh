// What the operators are written in: work on elements, where their tensors are. nvcc compiles it for GPUs; any other
// compiler makes of the same files serial code on host memory, which tests them on machines without a GPU.
#pragma once

#include <cstdint>
#include <limits>
#include <tuple>
#include <type_traits>

#include "common.h"

#if defined(__CUDACC__)
#include "cuda/gpu.cuh"
#else
#include "cuda/serial.h"
#endif

namespace sparsekern {

// Memory for the time of a call. Where it is freed, the stream may still be using it: PyTorch hands it out again only
// behind that.
template <class T>
class Workspace {
 public:
  Workspace(const Tensor& like, int64_t n)
      : bytes_(torch::stable::new_empty(like, {n * static_cast<int64_t>(sizeof(T))}, ScalarType::Byte)),
        size_(n),
        data_(reinterpret_cast<T*>(bytes_.mutable_data_ptr())) {}

  T* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  Tensor bytes_;
  int64_t size_;
  T* data_;
};

template <class T>
void fill(const Device& device, T* to, int64_t n, T value) {
  each(device, n, [=] __device__(int64_t i) { to[i] = value; });
}

// Where something is the matter, to be lowered by `atomic_min`.
constexpr int64_t kNowhere = std::numeric_limits<int64_t>::max();

// Replaces up to 2^31 - 1 numbers by their running sum.
void inclusive_sum(const Device& device, const Tensor& like, int32_t* numbers, int64_t n);

// Returns the last of `n` numbers, 0 if there are none; the host waits for it.
int32_t last_of(const Device& device, const int32_t* numbers, int64_t n);

// Sorts `keys` in [0, limit] together with `positions`, equal keys in the order they came in.
void sort_pairs(const Device& device, const Tensor& like, Workspace<int64_t>& keys, Workspace<int32_t>& positions,
                int64_t limit);

}  // namespace sparsekern
