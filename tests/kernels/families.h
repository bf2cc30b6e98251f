// The comparisons, a function for each family of kernels.
#pragma once

#include "cpu/simd/bits.h"
#include "cpu/simd/conv.h"
#include "cpu/simd/dense.h"
#include "cpu/simd/few.h"
#include "cpu/simd/linear.h"
#include "cpu/simd/moment.h"

namespace plain {

template <class S>
void check_linear(const sparsekern::LinearKernels& kernels);
template <class S>
void check_conv(const sparsekern::ConvKernels& kernels);
template <class S>
void check_few(const sparsekern::FewKernels& kernels);
template <class S>
void check_moment(const sparsekern::MomentKernels& kernels);
template <class S>
void check_dense(const sparsekern::DenseKernels& kernels);
template <class T>
void check_bits(const sparsekern::BitKernels& kernels);

}  // namespace plain
