// The kernels for bfloat16 of processors with AVX-512 that multiply pairs of them. Standard headers
// come before the pragma, so that what they define inline is compiled for every processor.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif
#define SPARSEKERN_PAIRS
#define SPARSEKERN_VECTOR_BYTES 64
#define SPARSEKERN_REGISTERS 32
#include "cpu/simd/conv-inl.h"
#include "cpu/simd/dense-inl.h"
#include "cpu/simd/linear-inl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
