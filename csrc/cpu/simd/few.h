// The vector kernels of a linear layer of few inputs whose weight is values and a bitmask, as one table per instruction
// set and storage type: a group of values is expanded in a register and multiplied at once, nothing of the weight is
// written. Sums are kept in `A`: double for double, float for the rest.
#pragma once

#include <cstdint>

#include "cpu/simd/kinds.h"

namespace sparsekern {

// A weight as values and a bitmask: row r has words [r * segments, (r + 1) * segments), and its values start at
// ptr[r * stride].
struct BitWeight {
  const uint64_t* words;
  int64_t segments;
  const int32_t* ptr;
  int64_t stride;
  const void* values;
  int64_t capacity;  // of the values, which are read no further
};

constexpr int64_t kFewInputs = 12;
constexpr int64_t kFewPaired = 8;  // where dense products take pairs

// How many inputs the kernels take for `batch` of them; those beyond are zero.
constexpr int64_t inputs_for(int64_t batch) {
  return batch <= 2 ? batch : batch <= 4 ? 4 : batch <= 8 ? 8 : kFewInputs;
}

// Packed inputs are in `A`, zero where there is none: of every group of `lanes` columns first the one of the first
// input, then that of the second, [64 * segments / lanes, inputs_for(batch), lanes]. What is stored is [batch,
// features].
struct FewKernels {
  int sum_size;  // bytes of `A`

  // Packs the inputs of a weight with `segments` words in a row.
  void (*pack)(const void* input, int64_t batch, int64_t features, int64_t segments, void* packed);

  // out = bias + packed inputs times rows [begin, end) of the weight, which has `rows`. `bias` may be null. Returns
  // whether these rows have as many bits as values.
  bool (*product)(const BitWeight& weight, const void* packed, int64_t batch, const void* bias, void* out, int64_t rows,
                  int64_t begin, int64_t end);

  // sums = delta times rows [begin, end); `sums` are packed.
  void (*transposed)(const BitWeight& weight, const void* delta, int64_t batch, int64_t rows, void* sums, int64_t begin,
                     int64_t end);

  // out = the sum of `count` packed sums, columns of words [begin, end).
  void (*unpack)(const void* sums, int64_t count, int64_t batch, int64_t features, int64_t segments, void* out,
                 int64_t begin, int64_t end);

  // The gradients of the values of rows [begin, end), written in their places.
  void (*outer)(const BitWeight& weight, const void* delta, const void* packed, int64_t batch, int64_t rows,
                void* gradients, int64_t begin, int64_t end);

  // out = the sum of `batch` rows of `features`.
  void (*sum_rows)(const void* rows, int64_t batch, int64_t features, void* out);
};

// The table of one instruction set; `few_kernels` of cpu/dispatch.h chooses.
template <Isa isa>
const FewKernels& few_kernels_of(Storage storage);
template <>
const FewKernels& few_kernels_of<Isa::generic>(Storage storage);
template <>
const FewKernels& few_kernels_of<Isa::avx2>(Storage storage);
template <>
const FewKernels& few_kernels_of<Isa::avx512>(Storage storage);
template <>
const FewKernels& few_kernels_of<Isa::neon>(Storage storage);
const FewKernels& few_kernels_of_vbmi2(Storage storage);  // of 2 bytes, for AVX-512 with VBMI2

}  // namespace sparsekern
