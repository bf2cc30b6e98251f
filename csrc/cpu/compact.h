// The compact index of a pattern, checked: in tiles (cpu/tiles.h) or narrow (cpu/narrow.h). Its header tells which.
#pragma once

#include "common.h"
#include "cpu/narrow.h"
#include "cpu/tiles.h"

namespace sparsekern {

// Whether it is narrow; of another tensor, false.
bool is_narrow(const Tensor& compact);

// Refuse a header that does not describe such a pattern, and too few bytes. What stands behind it is not looked at.
TileView tiles_of(const Tensor& compact, const int32_t* row_ptr, int64_t rows, int64_t cols);
NarrowView narrow_of(const Tensor& compact, const int32_t* row_ptr, int64_t rows, int64_t cols);

// Writes the columns of the i-th row of tiles, in the order of the CSR index; not if the counts are not those of its
// rows, which it returns.
bool read_columns(const TileView& tiles, int64_t i, int32_t* columns);

}  // namespace sparsekern
