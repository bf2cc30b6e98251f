// `cuda/gpu.cuh` for host memory: one element after another. Registers operators of a library of its own.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "common.h"

#define __device__
#define SPARSEKERN_REGISTER(op) \
  STABLE_TORCH_LIBRARY_IMPL(sparsekern_serial, CPU, m) { m.impl(#op, TORCH_BOX(&sparsekern::op)); }

namespace sparsekern {

class Device {
 public:
  explicit Device(const Tensor&) {}
  void require_here(const Tensor& t, const char* name) const { require(t.is_cpu(), name, " must be on the CPU"); }

  template <class T>
  void read(T* to, const T* from, int64_t n) const {
    std::copy(from, from + n, to);
  }
};

inline void atomic_min(int64_t* at, int64_t value) { *at = std::min(*at, value); }
inline void atomic_max(uint64_t* at, uint64_t value) { *at = std::max(*at, value); }

template <class Body>
void each(const Device&, int64_t n, Body body) {
  for (int64_t i = 0; i < n; ++i) body(i);
}

template <class Part, class Store>
void group_sums(const Device&, int64_t n, int lanes, Part part, Store store) {
  for (int64_t i = 0; i < n; ++i) {
    std::array<decltype(part(i, 0)), 32> sum;
    for (int lane = 0; lane < lanes; ++lane) sum[lane] = part(i, lane);
    for (int other = lanes / 2; other > 0; other /= 2)
      for (int lane = 0; lane < other; ++lane) sum[lane] += sum[lane + other];
    store(i, sum[0]);
  }
}

}  // namespace sparsekern
