// One axis of a convolution, as planes see it (cpu/planes.h).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace sparsekern {

// How the pixels of a padded image that some tap sees are dealt out to grids, along one axis. Cell j of grid g is pixel
// first[g] + j * step; a tap sees from output i the cell i + shift of its grid.
struct Axis {
  Axis(int64_t taps, int64_t dilation, int64_t step, int64_t padded, int64_t outputs);

  int64_t step, cells;
  std::vector<int64_t> first;
  std::vector<int64_t> grid, shift;  // of each tap
  bool complete;                     // every pixel is in a grid

  int64_t grids() const { return static_cast<int64_t>(first.size()); }
  int64_t reach() const;                                                              // the largest shift
  std::pair<int64_t, int64_t> place(int64_t pixel) const;                             // grid and cell, or -1 and -1
  std::pair<int64_t, int64_t> range(int64_t grid, int64_t begin, int64_t end) const;  // cells of pixels [begin, end)

 private:
  bool apart_;  // each tap has a grid of its own
};

}  // namespace sparsekern
