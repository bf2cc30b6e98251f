// Products of dense blocks, as one table per instruction set and dtype. They are made of register tiles: kTileRows rows
// by a few vectors of columns.
#pragma once

#include <cstdint>

#include "cpu/simd/kinds.h"

namespace sparsekern {

constexpr int64_t kTileRows = 6;
constexpr int64_t kBlockColumns = 64;  // at most

// A matrix whose rows come in blocks of kTileRows: element (i, k) lies at
// data[i / kTileRows * block + i % kTileRows * row + k * column].
struct BlockedRows {
  const void* data;
  int64_t block, row, column;
};

// Operands are units: elements or, of bfloat16 where the processor multiplies those, pairs of neighbours in depth. Sums
// are elements or, of pairs, floats.
struct DenseKernels {
  int lanes;     // units of a vector, and sums
  int paired;    // elements of a unit, 1 or 2
  int sum_size;  // bytes of a sum

  // c = a b, or c + a b: `a` [rows, depth], `b` [depth, width] contiguous, `c` [rows, width] with rows `stride` sums
  // apart. `width` is a whole number of vectors. Every element of c is one chain of sums.
  void (*multiply)(const BlockedRows& a, const void* b, int64_t width, int64_t rows, int64_t depth, bool add, void* c,
                   int64_t stride);

  // Packs the transpose of `in` [depth, rows], whose rows lie `stride` units apart, as `multiply` reads it with
  // {out, block, 1, kTileRows}. Reads in few streams if the depth is small.
  void (*pack)(const void* in, int64_t stride, int64_t rows, int64_t depth, void* out, int64_t block);

  // Sets every row of `c` [rows, width] to its element of `first`.
  void (*fill)(const void* first, int64_t width, int64_t rows, void* c);

  // Writes `c` [rows, width], of which `columns` count, as out[column * stride + row]. Reads whole vectors of rows.
  void (*transpose)(const void* c, int64_t width, int64_t columns, int64_t rows, void* out, int64_t stride);

  // Writes `count` sums as elements; `out` may be where the sums are.
  void (*round)(const void* sums, int64_t count, void* out);

  // Makes units of two rows of `count` elements; the second may be null, for zeros.
  void (*pair)(const void* first, const void* second, int64_t count, void* out);
};

// The table of one instruction set, for float32, float64 or pairs of bfloat16; `dense_kernels` of cpu/dispatch.h
// chooses.
template <Isa isa>
const DenseKernels& dense_kernels_of(Storage storage);
template <>
const DenseKernels& dense_kernels_of<Isa::generic>(Storage storage);
template <>
const DenseKernels& dense_kernels_of<Isa::avx2>(Storage storage);
template <>
const DenseKernels& dense_kernels_of<Isa::avx512>(Storage storage);
template <>
const DenseKernels& dense_kernels_of<Isa::neon>(Storage storage);
const DenseKernels& dense_kernels_of_pairs();  // of bfloat16, for AVX-512 with VDPBF16PS

}  // namespace sparsekern
