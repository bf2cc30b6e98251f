// What there is a table of vector kernels for: an instruction set, and how elements are stored.
#pragma once

namespace sparsekern {

enum class Isa { generic, avx2, avx512, neon };

enum class Storage { float32, float64, bfloat16, float16 };

}  // namespace sparsekern
