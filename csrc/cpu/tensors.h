// Tensors as the vector kernels take them.
#pragma once

#include "common.h"
#include "cpu/simd/kinds.h"

namespace sparsekern {

Storage storage_of(ScalarType dtype);

// A contiguous tensor of the dtype and device of `like`. torch::stable::new_empty looks its operator up by name: 1.3
// us.
Tensor uninitialized(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes);
// Images [batch, channels, height, width] in the memory format channels_last.
Tensor uninitialized_channels_last(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes);

Tensor bytes_like(const Tensor& like, int64_t bytes);

// The tensor itself, or a contiguous copy.
Tensor dense_vector(const Tensor& t);

// The first `nnz` values in the type of the sums, contiguous: themselves, or a copy.
Tensor widened(const Tensor& values, int64_t nnz);
// The same as kernels multiply them, in elements of `factor_size` bytes.
Tensor factors(const Tensor& values, int64_t nnz, int factor_size);

}  // namespace sparsekern
