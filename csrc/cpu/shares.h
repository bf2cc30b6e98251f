// Rows of a pattern, dealt out to threads in shares of equal cost.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace sparsekern {

constexpr int64_t kRowCost = 4;  // what a row costs beyond its nonzeros, in nonzeros

// The rows [begin, end) of part `part` of `parts`, whole blocks of rows. `nonzeros(row)` tells how many there are in
// the rows before it.
template <class Nonzeros>
std::pair<int64_t, int64_t> row_range(int64_t rows, int64_t block, int64_t part, int64_t parts,
                                      const Nonzeros& nonzeros) {
  const auto cost = [&](int64_t row) { return nonzeros(row) + kRowCost * row; };
  const auto bound = [&](int64_t p) {
    const int64_t target = cost(rows) * p / parts;
    int64_t low = 0, high = (rows + block - 1) / block;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (cost(std::min(rows, middle * block)) < target)
        low = middle + 1;
      else
        high = middle;
    }
    return std::min(rows, low * block);
  };
  return {part == 0 ? 0 : bound(part), part + 1 == parts ? rows : bound(part + 1)};
}

}  // namespace sparsekern
