// What the vector kernels need to know of tensors, and the table of the processor's instruction set.
#pragma once

#include "common.h"
#include "cpu/conv_kernels.h"
#include "cpu/linear_kernels.h"
#include "cpu/moment_kernels.h"

namespace sparsekern {

Storage storage_of(ScalarType dtype);

const LinearKernels& linear_kernels(Storage storage);
const ConvKernels& conv_kernels(Storage storage);
const MomentKernels& moment_kernels(Storage storage);

Tensor bytes_like(const Tensor& like, int64_t bytes);

// Itself, or a copy without strides.
Tensor dense_vector(const Tensor& t);

// The first `nnz` values in the type of the sums, contiguous: themselves, or a copy.
Tensor widened(const Tensor& values, int64_t nnz);

}  // namespace sparsekern
