#include "cpu/compact.h"

#include "cpu/dispatch.h"

namespace sparsekern {
namespace {

// The header, int32: rows, columns, side of a tile, nonzeros; null of another tensor.
const int32_t* header_of(const Tensor& compact) {
  const bool bytes = compact.scalar_type() == ScalarType::Byte && compact.is_contiguous();
  if (!bytes || compact.numel() < 4 * kCompactHeader) return nullptr;
  const auto* header = data<int32_t>(compact);
  return reinterpret_cast<uintptr_t>(header) % alignof(int32_t) == 0 ? header : nullptr;
}

void require_fit(const int32_t* header, bool fits, const int32_t* row_ptr, int64_t rows, int64_t cols) {
  const int64_t nnz = row_ptr[rows];
  require(fits && header[0] == rows && header[1] == cols && header[3] == nnz, "compact must be the index of a ", rows,
          " x ", cols, " pattern of ", nnz, " nonzeros, made by tile_pattern or narrow_pattern");
}

}  // namespace

bool is_narrow(const Tensor& compact) {
  const int32_t* header = header_of(compact);
  return header && header[2] == 0;
}

TileView tiles_of(const Tensor& compact, const int32_t* row_ptr, int64_t rows, int64_t cols) {
  const int32_t* header = header_of(compact);
  const bool fits = header && cols >= 0 && header[2] > 0 && header[2] <= kMostSide &&
                    compact.numel() >= tile_bytes(rows, cols, row_ptr[rows], header[2]);
  require_fit(header, fits, row_ptr, rows, cols);
  return tile_view(header, row_ptr);
}

NarrowView narrow_of(const Tensor& compact, const int32_t* row_ptr, int64_t rows, int64_t cols) {
  const int32_t* header = header_of(compact);
  const bool fits = header && cols >= 0 && header[2] == 0 && compact.numel() >= narrow_bytes(rows, cols, row_ptr[rows]);
  require_fit(header, fits, row_ptr, rows, cols);
  return narrow_view(header, row_ptr);
}

bool read_columns(const TileView& tiles, int64_t i, int32_t* columns) {
  if (!rows_fit(tiles, i)) return false;
  linear_kernels(Storage::float32).tile_columns(tiles, i, columns);
  return true;
}

}  // namespace sparsekern
