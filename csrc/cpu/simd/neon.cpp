// All vector kernels in 16-byte vectors, for NEON, which every aarch64 has: 32 registers.
#if defined(__aarch64__)
#include <arm_neon.h>

#define SPARSEKERN_CONVERTS_FLOAT16
#define SPARSEKERN_ISA neon
#define SPARSEKERN_VECTOR_BYTES 16
#define SPARSEKERN_REGISTERS 32
#include "cpu/simd/bits-inl.h"
#include "cpu/simd/conv-inl.h"
#include "cpu/simd/dense-inl.h"
#include "cpu/simd/few-inl.h"
#include "cpu/simd/linear-inl.h"
#include "cpu/simd/moment-inl.h"
#endif
