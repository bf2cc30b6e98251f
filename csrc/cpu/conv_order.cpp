#include "cpu/conv_order.h"

#include <numeric>

#include "common.h"
#include "cpu/parallel.h"

namespace sparsekern {
namespace {

// An array that nobody has written to.
template <class T>
std::unique_ptr<T[]> fresh(int64_t size) {
  return std::unique_ptr<T[]>(new T[size]);
}

template <class T>
Order ordered(const Weight& weight, const T* values, const Planes& planes, int64_t channels) {
  const int64_t taps = planes.taps(), grids = planes.grids, groups = planes.window.groups;
  const int64_t in_group = channels / groups, out_group = weight.rows / groups;
  const int64_t segments = (out_group + planes.segment_out - 1) / planes.segment_out;
  Order order{std::vector<int32_t>(channels * grids * segments + 1), fresh<int32_t>(weight.nnz),
              fresh<char>(weight.nnz * sizeof(T)), segments};
  std::vector<int32_t> grid(weight.cols), shift(weight.cols);
  for (int64_t c = 0; c < weight.cols; ++c) {
    grid[c] = static_cast<int32_t>(c / taps * grids + planes.grid(c % taps));
    shift[c] = static_cast<int32_t>(planes.shift(c % taps));
  }
  T* out = reinterpret_cast<T*>(order.values.get());
  // Every thread takes some input channels of each group.
  const auto each = [&](const auto& f) {
    parallel_for(0, in_group, 16, [&](int64_t begin, int64_t end) {
      for (int64_t r = 0; r < weight.rows; ++r) {
        const int64_t base = r / out_group * in_group * grids, segment = r % out_group / planes.segment_out;
        const int32_t* last = weight.col + weight.ptr[r + 1];
        const int32_t* c = std::lower_bound(weight.col + weight.ptr[r], last, static_cast<int32_t>(begin * taps));
        for (; c < last && *c < end * taps; ++c) f(r, (base + grid[*c]) * segments + segment, c - weight.col);
      }
    });
  };
  // Where each channel starts is known unless the index came without the pointers of the transposed (CSC) index.
  if (groups * grids * segments == 1 && weight.t_ptr && weight.t_ptr[weight.cols] == weight.nnz) {
    for (int64_t c = 0; c <= channels; ++c) order.bounds[c] = weight.t_ptr[c * taps];
  } else {
    each([&](int64_t, int64_t list, int64_t) { ++order.bounds[list + 1]; });
    std::partial_sum(order.bounds.begin(), order.bounds.end(), order.bounds.begin());
  }
  std::vector<int32_t> next(order.bounds.begin(), order.bounds.end() - 1);
  each([&](int64_t row, int64_t list, int64_t k) {
    const int32_t at = next[list]++;
    order.offset[at] = static_cast<int32_t>(row * planes.output_plane() - shift[weight.col[k]]);
    out[at] = values[k];
  });
  return order;
}

}  // namespace

Order forward_order(const Weight& weight, const Planes& planes) {
  const int64_t taps = planes.taps(), in_group = weight.cols / taps, out_group = weight.rows / planes.window.groups;
  const int64_t segments = (in_group + planes.segment_in - 1) / planes.segment_in;
  Order order{std::vector<int32_t>(weight.rows * segments + 1), fresh<int32_t>(weight.nnz), nullptr, segments};
  std::vector<int32_t> of_column(weight.cols);
  for (int64_t c = 0; c < weight.cols; ++c)
    of_column[c] = static_cast<int32_t>(c / taps * planes.input_plane() + planes.input_offset(c % taps));
  parallel_for(0, weight.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const auto group = static_cast<int32_t>(r / out_group * in_group * planes.input_plane());
      int32_t k = weight.ptr[r];
      for (int64_t s = 0; s < segments; ++s) {
        order.bounds[r * segments + s] = k;
        const int64_t stop = (s + 1) * planes.segment_in * taps;
        for (; k < weight.ptr[r + 1] && weight.col[k] < stop; ++k) order.offset[k] = of_column[weight.col[k]] + group;
      }
    }
  });
  order.bounds.back() = static_cast<int32_t>(weight.nnz);
  return order;
}

Order backward_order(const Weight& weight, const void* values, int size, const Planes& planes, int64_t channels) {
  if (size == sizeof(double)) return ordered(weight, static_cast<const double*>(values), planes, channels);
  if (size == sizeof(uint16_t)) return ordered(weight, static_cast<const uint16_t*>(values), planes, channels);
  return ordered(weight, static_cast<const float*>(values), planes, channels);
}

}  // namespace sparsekern
