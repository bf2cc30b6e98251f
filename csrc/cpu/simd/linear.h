// The vector kernels of the sparse linear layer, as one table per instruction set and storage type.
//
// Activations are packed into panels of batch columns, `[panel][feature][column]`, so that every nonzero is one
// broadcast multiply-add over contiguous columns. A panel is a whole number of vectors wide; columns past the batch are
// zero. Sums are kept in `A`: double for double, float for the rest.
#pragma once

#include <cstdint>

#include "cpu/simd/kinds.h"

namespace sparsekern {

// A compressed matrix (CSR, or CSC with its columns as rows) as a kernel reads it: row r, segment s covers positions
// [bounds[r * stride + s], bounds[r * stride + s + 1]) of `index`; `position`, where given, maps a position to that of
// its value.
struct CsrView {
  const int32_t* bounds;
  int64_t stride;
  int64_t segments;
  const int32_t* index;
  const int32_t* position;
  int64_t rows;
  int64_t cols;
  const int32_t* value_bounds;  // where `position` is given and segments are: the bounds by values
  int64_t value_stride;
};

// Batch columns [begin, begin + columns), padded to `width`.
struct Panel {
  int64_t begin;
  int64_t columns;
  int64_t width;
};

constexpr int64_t kPanel = 64;     // widest panel, in batch columns
constexpr int64_t kRowBlock = 64;  // rows that share an L1 tile of activations, and are unpacked together; threads get
                                   // whole blocks, which are whole cache lines of output

struct LinearKernels {
  int lanes;         // elements of a vector of `A`
  int vectors;       // widest panel, in vectors
  int storage_size;  // bytes of an element in memory
  int sum_size;      // bytes of `A`

  // Packs features [begin, end) of a row-major [batch, features] matrix whose rows lie `stride` elements apart;
  // `packed` is the panel's own memory, here and below. Writes the sum of each over the panel's columns to
  // sums[feature], in `A`, unless that is null.
  void (*pack)(const void* input, int64_t stride, const Panel& panel, int64_t begin, int64_t end, void* packed,
               void* sums);

  // values [begin, end) as `A`
  void (*widen)(const void* values, int64_t begin, int64_t end, void* wide);

  // SpMM: rows [begin, end) of the matrix times the packed activations, transposed into row-major `out` [batch, rows].
  // The values are in `A`.
  void (*product)(const CsrView& csr, const Panel& panel, const void* packed, const void* values, const void* bias,
                  void* out, int64_t begin, int64_t end);

  // SDDMM: inner products over the panel's columns of packed `left` (rows) and `right` (cols) at the positions of rows
  // [begin, end), written or added to `sums`, in `A`.
  void (*sample)(const CsrView& csr, const Panel& panel, const void* left, const void* right, bool add, void* sums,
                 int64_t begin, int64_t end);

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

}  // namespace sparsekern
