// Which instruction set the vector kernels use, chosen once at run time.
#pragma once

#include <string>
#include <vector>

namespace sparsekern {

enum class Isa { generic = 0, avx2 = 1, avx512 = 2 };

const char* isa_name(Isa isa);
std::vector<Isa> supported_isas();  // best first
Isa active_isa();
void set_isa(const std::string& name);  // throws std::invalid_argument

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
