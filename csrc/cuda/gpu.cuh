// Work on elements of tensors that are on a GPU, on its current stream.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "common.h"

#define SPARSEKERN_REGISTER(op) \
  STABLE_TORCH_LIBRARY_IMPL(sparsekern, CUDA, m) { m.impl(#op, TORCH_BOX(&sparsekern::op)); }

namespace sparsekern {

inline void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(status));
}

// The GPU of a tensor, current as long as this lives, and its stream.
class Device {
 public:
  explicit Device(const Tensor& t) : index_(index_of(t)), guard_(index_) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  void require_here(const Tensor& t, const char* name) const {
    require(t.is_cuda() && t.get_device_index() == index_, name, " must be on GPU ", index_, " like the rest");
  }

  // Copies numbers to the host, which waits for them.
  template <class T>
  void read(T* to, const T* from, int64_t n) const {
    check(cudaMemcpyAsync(to, from, n * sizeof(T), cudaMemcpyDeviceToHost, stream_));
    check(cudaStreamSynchronize(stream_));
  }

 private:
  static int32_t index_of(const Tensor& t) {
    require(t.is_cuda(), "all tensors must be on the GPU");
    return t.get_device_index();
  }

  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

__device__ inline void atomic_min(int64_t* at, int64_t value) {
  atomicMin(reinterpret_cast<long long*>(at), static_cast<long long>(value));
}

__device__ inline void atomic_max(uint64_t* at, uint64_t value) {
  atomicMax(reinterpret_cast<unsigned long long*>(at), static_cast<unsigned long long>(value));
}

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = int64_t{1} << 30;

template <class Body>
__global__ void run_each(int64_t n, Body body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) body(i);
}

// `body(i)` for every i in [0, n).
template <class Body>
void each(const Device& device, int64_t n, Body body) {
  if (n <= 0) return;
  const int64_t blocks = std::min((n + kThreads - 1) / kThreads, kMostBlocks);
  run_each<<<static_cast<unsigned>(blocks), kThreads, 0, device.stream()>>>(n, body);
  check(cudaGetLastError());
}

template <class Part, class Store>
__global__ void run_sums(int64_t n, int lanes, Part part, Store store) {
  // All lanes of a warp take part in its shuffles, those without a sum, too.
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kThreads / lanes);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kThreads / lanes);
  const int lane = threadIdx.x % lanes;
  for (int64_t base = first; base < n; base += step) {
    const int64_t i = base + threadIdx.x / lanes;
    auto sum = part(i < n ? i : n - 1, lane);
    for (int other = lanes / 2; other > 0; other /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
    if (lane == 0 && i < n) store(i, sum);
  }
}

// `store(i, part(i, 0) + ... + part(i, lanes - 1))` for every i in [0, n), summed in an order that depends on `lanes`
// alone, a power of two up to 32.
template <class Part, class Store>
void group_sums(const Device& device, int64_t n, int lanes, Part part, Store store) {
  if (n <= 0) return;
  const int64_t groups = kThreads / lanes, blocks = std::min((n + groups - 1) / groups, kMostBlocks);
  run_sums<<<static_cast<unsigned>(blocks), kThreads, 0, device.stream()>>>(n, lanes, part, store);
  check(cudaGetLastError());
}

}  // namespace sparsekern
