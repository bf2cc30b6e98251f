// All vector kernels in 16-byte vectors: SSE2, which every x86-64 has, or whatever the compiler makes of them.
#define SPARSEKERN_ISA generic
#define SPARSEKERN_VECTOR_BYTES 16
#define SPARSEKERN_REGISTERS 16
#include "cpu/simd/bits-inl.h"
#include "cpu/simd/conv-inl.h"
#include "cpu/simd/dense-inl.h"
#include "cpu/simd/few-inl.h"
#include "cpu/simd/linear-inl.h"
#include "cpu/simd/moment-inl.h"
