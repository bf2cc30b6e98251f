// The columns of a pattern that is a bitmask.
#include <algorithm>
#include <array>
#include <atomic>

#include "common.h"
#include "cpu/bitmask.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace sparsekern {
namespace {

constexpr int kByte = 8;
constexpr int kMany = 12;  // bits of a word from which on bytes are faster than bits

// The places of the bits that are set in a byte, then zeros.
using Places = std::array<std::array<uint8_t, kByte>, 1 << kByte>;

constexpr Places places_of_bytes() {
  Places places{};
  for (int byte = 0; byte < 1 << kByte; ++byte)
    for (int bit = 0, n = 0; bit < kByte; ++bit)
      if (byte >> bit & 1) places[byte][n++] = static_cast<uint8_t>(bit);
  return places;
}

constexpr Places kPlaces = places_of_bytes();

// Writes `first` + the place of each bit that is set; returns where the next ones go. What is behind them, up to `end`,
// may be overwritten.
[[gnu::always_inline]] inline int32_t* write_places(uint64_t word, int32_t first, int32_t* next, const int32_t* end) {
  if (__builtin_popcountll(word) >= kMany) {
    for (; word && end - next >= kByte; word >>= kByte, first += kByte) {
      const auto& places = kPlaces[word & 0xff];
      for (int i = 0; i < kByte; ++i) next[i] = first + places[i];
      next += __builtin_popcountll(word & 0xff);
    }
  }
  for (; word; word &= word - 1) *next++ = first + __builtin_ctzll(word);
  return next;
}

// Writes the columns of rows [begin, end) to their positions in `out`; not all, and returns false, if a row has more or
// fewer than its pointers say.
[[gnu::always_inline]] inline bool write_rows(const Bitmask& mask, int32_t* out, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    if (mask.count(r, 0, mask.segments) != mask.start(r + 1) - mask.start(r)) return false;
    int32_t* next = out + mask.start(r);
    for (int64_t t = 0; t < mask.segments; ++t)
      next = write_places(mask.row(r)[t], static_cast<int32_t>(t * kWord), next, out + mask.start(end));
  }
  return true;
}

}  // namespace

Tensor bit_columns(const Tensor& row_ptr, const Tensor& bits, int64_t cols, int64_t capacity) {
  const Bitmask mask = bitmask_of(row_ptr, bits, cols);
  const int64_t rows = mask.rows, nnz = mask.start(rows);
  require(nnz <= capacity, "capacity must be at least ", nnz, ", got ", capacity);
  Tensor col = torch::stable::new_empty(row_ptr, {capacity});
  int32_t* out = mutable_data<int32_t>(col);
  std::fill(out + nnz, out + capacity, 0);
  std::atomic<bool> wrong{false};
  const int64_t grain = std::max<int64_t>(1, (1 << 14) * rows / (1 + nnz + rows * mask.segments));
  parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    if (!vectorized([](Bitmask mask, int32_t* out, int64_t begin, int64_t end)
                        SPARSEKERN_VECTORIZED { return write_rows(mask, out, begin, end); },
                    mask, out, begin, end))
      wrong = true;
  });
  require(!wrong, "each row of bits must have as many set bits as row_ptr gives it nonzeros");
  return col;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("bit_columns", TORCH_BOX(&sparsekern::bit_columns)); }
