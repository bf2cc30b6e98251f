// The dispatch by instruction set: which one is used, chosen once at run time, and what is compiled for each.
#pragma once

#include <string>
#include <vector>

#include "cpu/simd/bits.h"
#include "cpu/simd/conv.h"
#include "cpu/simd/dense.h"
#include "cpu/simd/few.h"
#include "cpu/simd/linear.h"
#include "cpu/simd/moment.h"

namespace sparsekern {

const char* isa_name(Isa isa);
std::vector<Isa> supported_isas();  // best first
Isa active_isa();
void set_isa(const std::string& name);  // throws std::invalid_argument

// The kernels of cpu/simd for the instruction set in use.
const LinearKernels& linear_kernels(Storage storage);
const ConvKernels& conv_kernels(Storage storage);
const MomentKernels& moment_kernels(Storage storage);
const DenseKernels& dense_kernels(Storage storage);
const FewKernels& few_kernels(Storage storage);
const BitKernels& bit_kernels(int64_t element_size);

// A lambda of plain loops that `vectorized` compiles anew for every instruction set. It captures nothing: what it gets
// as arguments cannot be changed by what it stores, so that the compiler can make vectors of the loops.
#define SPARSEKERN_VECTORIZED __attribute__((always_inline))

#if defined(__x86_64__)
template <class F, class... Args>
[[gnu::target("avx2,fma")]] auto vectorized_avx2(F f, Args... args) {
  return f(args...);
}

template <class F, class... Args>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]] auto vectorized_avx512(F f, Args... args) {
  return f(args...);
}
#endif

// Calls `f`, whose loops the compiler vectorizes with the instruction set in use.
template <class F, class... Args>
auto vectorized(F f, Args... args) {
#if defined(__x86_64__)
  if (active_isa() == Isa::avx512) return vectorized_avx512(f, args...);
  if (active_isa() == Isa::avx2) return vectorized_avx2(f, args...);
#endif
  return f(args...);
}

}  // namespace sparsekern
