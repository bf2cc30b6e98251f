// Tensors as the vector kernels take them.
#pragma once

#include "common.h"
#include "cpu/simd/kinds.h"

namespace sparsekern {

Storage storage_of(ScalarType dtype);

Tensor bytes_like(const Tensor& like, int64_t bytes);

// The tensor itself, or a contiguous copy.
Tensor dense_vector(const Tensor& t);

// The first `nnz` values in the type of the sums, contiguous: themselves, or a copy.
Tensor widened(const Tensor& values, int64_t nnz);

}  // namespace sparsekern
