// What the makers of a compact index share, in tiles (cpu/tiles.h) or narrow (cpu/narrow.h): its parts lie one after
// the other in a block of bytes.
#pragma once

#include <cstdint>

namespace sparsekern {

constexpr int64_t kCompactHeader = 4;  // int32: rows, cols, side of a tile or 0, nonzeros

// Bytes of a part: parts begin at multiples of four.
constexpr int64_t part_bytes(int64_t bytes) { return (bytes + 3) / 4 * 4; }

// The table behind a const view: it is the maker of the index that asks.
template <class T>
T* table(const T* t) {
  return const_cast<T*>(t);
}

}  // namespace sparsekern
