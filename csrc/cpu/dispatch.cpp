#include "cpu/dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <atomic>
#include <stdexcept>

namespace sparsekern {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    case Isa::neon:
      return "neon";
    default:
      return "generic";
  }
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
#if defined(__x86_64__)
  __builtin_cpu_init();
  unsigned eax, ebx, ecx = 0, edx;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);  // Clang 14 does not know its name
  const bool avx2 = f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    isas.push_back(Isa::avx512);
  if (avx2) isas.push_back(Isa::avx2);
#elif defined(__aarch64__)
  isas.push_back(Isa::neon);
#endif
  isas.push_back(Isa::generic);
  return isas;
}

static std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa{supported_isas().front()};
  return isa;
}

Isa active_isa() { return chosen().load(std::memory_order_relaxed); }

void set_isa(const std::string& name) {
  for (Isa isa : supported_isas()) {
    if (name == isa_name(isa)) {
      chosen().store(isa);
      return;
    }
  }
  throw std::invalid_argument("this processor cannot run instruction set '" + name + "'");
}

// f.operator()<isa>() for the instruction set in use
template <class F>
static decltype(auto) with_active_isa(const F& f) {
  switch (active_isa()) {
#if defined(__x86_64__)
    case Isa::avx512:
      return f.template operator()<Isa::avx512>();
    case Isa::avx2:
      return f.template operator()<Isa::avx2>();
#elif defined(__aarch64__)
    case Isa::neon:
      return f.template operator()<Isa::neon>();
#endif
    default:
      return f.template operator()<Isa::generic>();
  }
}

const LinearKernels& linear_kernels(Storage storage) {
  return with_active_isa([&]<Isa isa>() -> const LinearKernels& { return linear_kernels_of<isa>(storage); });
}

const ConvKernels& conv_kernels(Storage storage) {
  return with_active_isa([&]<Isa isa>() -> const ConvKernels& { return conv_kernels_of<isa>(storage); });
}

const MomentKernels& moment_kernels(Storage storage) {
  return with_active_isa([&]<Isa isa>() -> const MomentKernels& { return moment_kernels_of<isa>(storage); });
}

const DenseKernels& dense_kernels(Storage storage) {
  return with_active_isa([&]<Isa isa>() -> const DenseKernels& { return dense_kernels_of<isa>(storage); });
}

const FewKernels& few_kernels(Storage storage) {
  return with_active_isa([&]<Isa isa>() -> const FewKernels& { return few_kernels_of<isa>(storage); });
}

const BitKernels& bit_kernels(int64_t element_size) {
  return with_active_isa([&]<Isa isa>() -> const BitKernels& { return bit_kernels_of<isa>(element_size); });
}

}  // namespace sparsekern
