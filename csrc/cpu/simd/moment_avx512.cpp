#if defined(__x86_64__)
#include <cstdint>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define SPARSEKERN_VECTOR_BYTES 64
#define SPARSEKERN_KERNELS moment_kernels_avx512
#include "cpu/simd/moment_kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
