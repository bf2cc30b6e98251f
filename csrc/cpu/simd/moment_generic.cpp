// 16-byte vectors: SSE2, which every x86-64 has, NEON, or whatever the compiler makes of them.
#define SPARSEKERN_VECTOR_BYTES 16
#define SPARSEKERN_KERNELS moment_kernels_generic
#include "cpu/simd/moment_kernels.h"
