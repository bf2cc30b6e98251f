// The tiles of an index (cpu/tiles.h), checked.
#pragma once

#include "common.h"
#include "cpu/tiles.h"

namespace sparsekern {

// Whether a header describes such a pattern, and there are as many bytes as it takes. What stands in the tiles is not
// looked at.
TileView tiles_of(const Tensor& tiles, const int32_t* row_ptr, int64_t rows, int64_t cols);

// Writes the columns of the i-th row of tiles, in the order of the CSR index; not if the counts are not those of its
// rows, which it returns.
bool read_columns(const TileView& tiles, int64_t i, int32_t* columns);

}  // namespace sparsekern
