#include "cpu/axis.h"

#include <algorithm>

#include "checks.h"

namespace sparsekern {

// Pixels a whole number of steps apart share a grid, so that a tap is a shift, whatever the step and the dilation.
// Where the taps see stretches of the image that lie further apart than they are long, every stretch is a grid instead,
// and what lies between them takes no memory.
Axis::Axis(int64_t taps, int64_t dilation, int64_t step_, int64_t padded, int64_t outputs)
    : step(step_), cells(ceil_div(padded, step_)) {
  for (int64_t i = 0; i < taps; ++i) first.push_back(i * dilation % step);
  std::sort(first.begin(), first.end());
  first.erase(std::unique(first.begin(), first.end()), first.end());
  complete = grids() == std::min(step, padded);
  apart_ = (outputs - 1) * step < dilation && taps * outputs < grids() * cells;
  if (apart_) {
    first.clear(), cells = outputs, complete = false;
    for (int64_t i = 0; i < taps; ++i) first.push_back(i * dilation);
  }
  for (int64_t i = 0; i < taps; ++i) {
    const auto [g, cell] = place(i * dilation);
    grid.push_back(g), shift.push_back(cell);
  }
}

int64_t Axis::reach() const { return *std::max_element(shift.begin(), shift.end()); }

std::pair<int64_t, int64_t> Axis::place(int64_t pixel) const {
  const int64_t g = std::upper_bound(first.begin(), first.end(), apart_ ? pixel : pixel % step) - first.begin() - 1;
  if (g < 0 || (pixel - first[g]) % step != 0 || (pixel - first[g]) / step >= cells) return {-1, -1};
  return {g, (pixel - first[g]) / step};
}

std::pair<int64_t, int64_t> Axis::range(int64_t g, int64_t begin, int64_t end) const {
  const auto cell = [&](int64_t pixel) {
    return std::min(cells, ceil_div(std::max<int64_t>(0, pixel - first[g]), step));
  };
  return {cell(begin), cell(end)};
}

}  // namespace sparsekern
