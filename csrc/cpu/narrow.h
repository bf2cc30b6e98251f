// A pattern by rows and by columns whose columns and rows are numbers of 16 bits, for the linear layer.
//
// Values stay in the order of the CSR index. By columns, each nonzero has its row and its place among the nonzeros of
// this row in a strip of `kStrip` columns, one byte; a walk over columns keeps, for each row, where its nonzeros in the
// strip begin. So a nonzero takes 5 bytes, where a CSR and a CSC index in 32 bits take 12.
#pragma once

#include <cstdint>

#include "cpu/compact_parts.h"

namespace sparsekern {

constexpr int64_t kStrip = 192;          // whole blocks of rows (cpu/simd/linear.h), a count of which fits a byte
constexpr int64_t kNarrowest = 1 << 16;  // rows and columns at most

struct NarrowView {
  int64_t rows, cols, strips;
  const int32_t* row_ptr;  // [rows + 1] of the CSR index
  const int32_t* col_ptr;  // [cols + 1] of the CSC index
  const uint16_t* col;     // [nnz], in the order of the CSR index
  const uint16_t* row;     // [nnz], in the order of the CSC index
  const uint8_t* place;    // [nnz], in the order of the CSC index
  const uint8_t* count;    // [strips][rows], nonzeros of each row in each strip
};

// Bytes of the narrow index of a pattern.
int64_t narrow_bytes(int64_t rows, int64_t cols, int64_t nnz);

// The parts of `narrow`, a block of as many bytes whose header is written.
NarrowView narrow_view(const void* narrow, const int32_t* row_ptr);
void write_narrow_header(void* narrow, int64_t rows, int64_t cols, int64_t nnz);

// Makes the narrow index of a pattern: columns and counts of rows [begin, end), then the nonzeros of each column in
// strips [begin, end), then where columns start, then the rows and places of strips [begin, end).
void narrow_rows(const NarrowView& narrow, const int32_t* col, int64_t begin, int64_t end);
void count_columns(const NarrowView& narrow, int64_t begin, int64_t end);
void start_columns(const NarrowView& narrow);
void fill_columns(const NarrowView& narrow, int64_t begin, int64_t end);

// positions[row] = where row's nonzeros from strip `first` on begin.
void positions_from(const NarrowView& narrow, int64_t first, int32_t* positions);

}  // namespace sparsekern
