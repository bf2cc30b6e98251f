// The vector kernels of the sparse linear layer, as one table per instruction set and storage type.
//
// Activations are packed into panels of up to `panel` batch columns, `[panel][feature][column]`, so that every nonzero
// is one broadcast multiply-add over contiguous columns. The last panel is as narrow as whole vectors allow; columns
// past the batch are zero. Sums are kept in `A`: float for float and bfloat16 storage, double for double.
#pragma once

#include <cstdint>

namespace sparsekern {

// A compressed matrix as one kernel walks it: row r, segment s covers slots
// [bounds[r * stride + s], bounds[r * stride + s + 1]) of `index`; `position`, where given, maps a slot to its value.
struct Walk {
  const int32_t* bounds;
  int64_t stride;
  int64_t segments;
  const int32_t* index;
  const int32_t* position;
  int64_t rows;
  int64_t cols;
};

struct LinearKernels {
  int panel;         // batch columns of a full panel
  int lanes;         // granularity of the last one
  int storage_size;  // bytes of an element in memory
  int sum_size;      // bytes of `A`

  // Packs features [begin, end) of a row-major [batch, features] matrix whose rows lie `stride` elements apart; adds up
  // each feature over the batch into `sums` (storage type) unless it is null.
  void (*pack)(const void* input, int64_t stride, int64_t batch, int64_t features, int64_t begin, int64_t end,
               void* packed, void* sums);

  // values [begin, end) as `A`; used only where storage and sums differ.
  void (*widen)(const void* values, int64_t begin, int64_t end, void* wide);

  // Rows [begin, end) of the matrix times the packed activations, transposed into row-major `out` [batch, rows].
  void (*product)(const Walk& walk, const void* packed, const void* values, const void* bias, int64_t batch, void* out,
                  int64_t begin, int64_t end);

  // Inner products over the batch of packed `left` (rows) and `right` (cols) at the slots of rows [begin, end).
  // `wide` holds sums of the same slots where storage and sums differ, else is null.
  void (*sample)(const Walk& walk, const void* left, const void* right, int64_t batch, void* out, void* wide,
                 int64_t begin, int64_t end);
};

enum class Storage { float32, float64, bfloat16 };

const LinearKernels& linear_kernels_generic(Storage storage);
#if defined(__x86_64__)
const LinearKernels& linear_kernels_avx2(Storage storage);
const LinearKernels& linear_kernels_avx512(Storage storage);
#endif

}  // namespace sparsekern
