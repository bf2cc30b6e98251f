// The vector kernels of 2-byte elements that AVX-512 with VBMI2 has better. Standard headers come before the pragma, so
// that what they define inline is compiled for every processor.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,avx2,fma,f16c")
#endif
#define SPARSEKERN_ISA avx512
#define SPARSEKERN_CONVERTS_FLOAT16
#define SPARSEKERN_VBMI2
#define SPARSEKERN_VECTOR_BYTES 64
#define SPARSEKERN_REGISTERS 32
#include "cpu/simd/bits-inl.h"
#include "cpu/simd/few-inl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
