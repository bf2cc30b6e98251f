// The sparse linear layer for one input, as walks over the nonzeros: panels of a batch would be empty but for a lane.
#pragma once

#include "cpu/simd/linear.h"

namespace sparsekern {

// What is stored is in the storage type of the kernels, values and their gradients are in the type of its sums.

// out = bias + the matrix times x; `bias` may be null.
void one_product(const LinearKernels& kernels, const CsrView& csr, const void* x, const void* values, const void* bias,
                 void* out);

// The gradients of the input, of the values and of the bias; those that are null are not wanted.
void one_gradients(const LinearKernels& kernels, const CsrView& csr, const void* delta, const void* x,
                   const void* values, void* grad_input, void* grad_values, void* grad_bias);

}  // namespace sparsekern
