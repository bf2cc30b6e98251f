// The vector kernels of the sparse linear layer, as one table per instruction set and storage type.
//
// Activations are packed into panels of batch columns, `[panel][feature][column]`, so that every nonzero is one
// broadcast multiply-add over contiguous columns. A panel is a whole number of vectors wide; columns past the batch are
// zero. Sums are kept in `A`: double for double, float for the rest. Activations and values are multiplied in `A`, too,
// or as pairs of bfloat16.
#pragma once

#include <cstdint>

#include "cpu/narrow.h"
#include "cpu/simd/kinds.h"
#include "cpu/tiles.h"

namespace sparsekern {

// A compressed matrix (CSR, or CSC with its columns as rows) as a kernel reads it: its columns are `index` or, where
// these are given, `narrow`; `position`, where given, maps a position to that of its value.
struct CsrView {
  const int32_t* ptr;
  const int32_t* index;
  const int32_t* position;
  int64_t rows;
  int64_t cols;
  const uint16_t* narrow = nullptr;
};

// f(the columns of a matrix)
template <class F>
inline __attribute__((always_inline)) void with_columns(const CsrView& csr, const F& f) {
  csr.narrow ? f(csr.narrow) : f(csr.index);
}

// Batch columns [begin, begin + columns), padded to `width`.
struct Panel {
  int64_t begin;
  int64_t columns;
  int64_t width;
};

constexpr int64_t kPanel = 64;     // widest panel of vectors of `A`, in batch columns
constexpr int64_t kRowBlock = 64;  // rows that are unpacked together; threads get whole blocks, which are whole cache
                                   // lines of output

struct LinearKernels {
  int lanes;         // numbers of a vector of factors
  int vectors;       // widest panel, in vectors
  int storage_size;  // bytes of an element in memory
  int sum_size;      // bytes of `A`
  int factor_size;   // bytes of a packed activation and of a value, as products take them

  // Packs features [begin, end) of a row-major [batch, features] matrix whose rows lie `stride` elements apart;
  // `packed` is the panel's own memory, here and below. Pairs have the columns in an order of their own. Writes the sum
  // of each over the panel's columns to sums[feature], in `A`, unless that is null.
  void (*pack)(const void* input, int64_t stride, const Panel& panel, int64_t begin, int64_t end, void* packed,
               void* sums);

  // values [begin, end) as `A`
  void (*widen)(const void* values, int64_t begin, int64_t end, void* wide);

  // SpMM: rows [begin, end) of the matrix times the packed activations, transposed into row-major `out` [batch, rows].
  // The values are factors.
  void (*product)(const CsrView& csr, const Panel& panel, const void* packed, const void* values, const void* bias,
                  void* out, int64_t begin, int64_t end);

  // SDDMM: inner products over the panel's columns of packed `left` (rows) and `right` (cols) at the positions of rows
  // [begin, end), written or added to `sums`, in `A`.
  void (*sample)(const CsrView& csr, const Panel& panel, const void* left, const void* right, bool add, void* sums,
                 int64_t begin, int64_t end);

  // SpMM with the transposed matrix, columns [begin, end), which are whole blocks of rows of the result; `positions`
  // are those of the strip that `begin` is in, and are changed.
  void (*narrow_transposed)(const NarrowView& narrow, const Panel& panel, const void* packed, const void* values,
                            int32_t* positions, void* out, int64_t begin, int64_t end);

  // SpMM where the matrix is in tiles, rows of tiles [begin, end); and that of the transposed matrix, columns of tiles
  // [begin, end), for which `positions` holds what `positions_from(begin)` gives, and is changed.
  void (*tile_product)(const TileView& tiles, const Panel& panel, const void* packed, const void* values,
                       const void* bias, void* out, int64_t begin, int64_t end);
  void (*tile_transposed)(const TileView& tiles, const Panel& panel, const void* packed, const void* values,
                          int32_t* positions, void* out, int64_t begin, int64_t end);

  // SDDMM at the nonzeros of rows of tiles [begin, end).
  void (*tile_sample)(const TileView& tiles, const Panel& panel, const void* left, const void* right, bool add,
                      void* sums, int64_t begin, int64_t end);

  // The columns of the nonzeros of the i-th row of tiles, in the order of the CSR index.
  void (*tile_columns)(const TileView& tiles, int64_t i, int32_t* columns);

  // Elements [begin, end) of the sum of `count` vectors in `A` that lie `stride` apart.
  void (*combine)(const void* parts, int64_t count, int64_t stride, int64_t begin, int64_t end, void* out);
};

// The table of one instruction set; `linear_kernels` of cpu/dispatch.h chooses.
template <Isa isa>
const LinearKernels& linear_kernels_of(Storage storage);
template <>
const LinearKernels& linear_kernels_of<Isa::generic>(Storage storage);
template <>
const LinearKernels& linear_kernels_of<Isa::avx2>(Storage storage);
template <>
const LinearKernels& linear_kernels_of<Isa::avx512>(Storage storage);
template <>
const LinearKernels& linear_kernels_of<Isa::neon>(Storage storage);

const LinearKernels& linear_kernels_of_pairs();  // of bfloat16, for AVX-512 with VDPBF16PS

}  // namespace sparsekern
