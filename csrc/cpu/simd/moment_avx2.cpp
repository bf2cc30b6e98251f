#if defined(__x86_64__)
#include <cstdint>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define SPARSEKERN_VECTOR_BYTES 32
#define SPARSEKERN_KERNELS moment_kernels_avx2
#include "cpu/simd/moment_kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
