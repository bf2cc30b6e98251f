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

struct DenseKernels {
  int lanes;  // elements of a vector

  // c = a b, or c + a b: `a` [rows, depth], `b` [depth, width] contiguous, `c` [rows, width] with rows `stride`
  // elements apart. `width` is a whole number of vectors. Every element of c is one chain of sums.
  void (*multiply)(const BlockedRows& a, const void* b, int64_t width, int64_t rows, int64_t depth, bool add, void* c,
                   int64_t stride);

  // Packs the transpose of `in` [depth, rows], whose rows lie `stride` elements apart, as `multiply` reads it with
  // {out, block, 1, kTileRows}. Reads in few streams if the depth is small.
  void (*pack)(const void* in, int64_t stride, int64_t rows, int64_t depth, void* out, int64_t block);

  // Sets every row of `c` [rows, width] to its element of `first`.
  void (*fill)(const void* first, int64_t width, int64_t rows, void* c);

  // Writes `c` [rows, width], of which `columns` count, as out[column * stride + row]. Reads whole vectors of rows.
  void (*transpose)(const void* c, int64_t width, int64_t columns, int64_t rows, void* out, int64_t stride);
};

// The table of one instruction set, for float32 or float64; `dense_kernels` of cpu/dispatch.h chooses.
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

}  // namespace sparsekern
