// Distinct inactive coordinates, drawn by row and column weights. O(nnz + rows + cols + n) memory, and the set of the
// CPU for the same seed: the cumulative sums are those of one pass in order, however short of a GPU's means that falls.
#include <array>
#include <bit>
#include <limits>
#include <tuple>

#include "cuda/distinct.cuh"
#include "cuda/search.cuh"
#include "dtypes.h"

namespace sparsekern {
namespace {

constexpr int64_t kRounds = 32;
constexpr int kUnrolled = 8;

// What the host has to know before it can go on, for which it waits once.
struct Facts {
  int64_t bad_row, bad_col;  // where a weight is none, or kNowhere
  int64_t nnz, row_support, col_support, active_support;
};

// Of weights relative to the largest: their cumulative sums, and the positions of those that are positive.
struct Weights {
  Workspace<double> sums;
  Workspace<int32_t> ranks;  // how many positive ones up to each
  int64_t size() const { return sums.size(); }
};

template <class T>
void load(const Device& device, const Tensor& weight, const Weights& weights, int64_t* fault, uint64_t* largest) {
  const T* w = data<T>(weight);
  const int64_t stride = weight.stride(0);
  double* out = weights.sums.data();
  each(device, weights.size(), [=] __device__(int64_t i) {
    const double x = static_cast<double>(w[i * stride]);
    out[i] = x;
    if (!(x >= 0 && x <= std::numeric_limits<double>::max())) atomic_min(fault, i);
    // Positive numbers are ordered like their bits.
    if (x > 0) atomic_max(largest, std::bit_cast<uint64_t>(x));
  });
}

// `fault` becomes the first position of what is no weight; the sums are then of no meaning.
Weights weights_of(const Device& device, const Tensor& weight, const char* name, int64_t* fault) {
  require(weight.dim() == 1, name, " must be 1-D");
  device.require_here(weight, name);
  const int64_t n = weight.numel();
  const Weights weights{Workspace<double>(weight, n), Workspace<int32_t>(weight, n)};
  const Workspace<uint64_t> most(weight, 1);
  fill(device, fault, 1, kNowhere);
  fill(device, most.data(), 1, uint64_t{0});
  with_floating_type(weight.scalar_type(), name,
                     [&](auto zero) { load<decltype(zero)>(device, weight, weights, fault, most.data()); });

  double* sum = weights.sums.data();
  int32_t* rank = weights.ranks.data();
  const uint64_t* bits = most.data();
  each(device, n, [=] __device__(int64_t i) {
    const double largest = std::bit_cast<double>(*bits);
    sum[i] = largest > 0 ? sum[i] / largest : 0;
    rank[i] = sum[i] > 0;
  });
  inclusive_sum(device, weight, rank, n);
  each(device, 1, [=] __device__(int64_t) {
    double total = 0;
    for (int64_t start = 0; start < n; start += kUnrolled) {
      double part[kUnrolled];  // loaded together, added one after another
      for (int j = 0; j < kUnrolled; ++j) part[j] = start + j < n ? sum[start + j] : 0;
      for (int j = 0; j < kUnrolled; ++j)
        if (start + j < n) sum[start + j] = total += part[j];
    }
  });
  return weights;
}

void check_weights(const Device& device, const Tensor& weight, const char* name, int64_t fault) {
  if (fault == kNowhere) return;
  with_floating_type(weight.scalar_type(), name, [&](auto bad) {
    device.read(&bad, data<decltype(bad)>(weight) + fault * weight.stride(0), 1);
    fail(name, " must be finite and not negative, got ", static_cast<double>(bad));
  });
}

// Its positions of positive weight.
Workspace<int64_t> support_of(const Device& device, const Tensor& like, const Weights& weights, int64_t count) {
  Workspace<int64_t> support(like, count);
  const int32_t* rank = weights.ranks.data();
  int64_t* out = support.data();
  each(device, weights.size(), [=] __device__(int64_t i) {
    const int32_t before = i == 0 ? 0 : rank[i - 1];
    if (rank[i] > before) out[before] = i;
  });
  return support;
}

// The inactive coordinates of positive probability, of which there are `count`.
Set list_support(const Device& device, const Tensor& like, const Weights& row, const Weights& column, int64_t rows,
                 int64_t cols, const Pattern& pattern, int64_t count) {
  const Workspace<int64_t> row_support = support_of(device, like, row, rows);
  const Workspace<int64_t> col_support = support_of(device, like, column, cols);
  const int64_t *r = row_support.data(), *c = col_support.data();
  const Workspace<int32_t> ranks(like, rows * cols);
  const Set support{Workspace<int64_t>(like, count)};
  int32_t* rank = ranks.data();
  int64_t* out = support.members.data();
  each(device, rows * cols, [=] __device__(int64_t i) { rank[i] = !pattern.active(r[i / cols], c[i % cols]); });
  inclusive_sum(device, like, rank, rows * cols);
  each(device, rows * cols, [=] __device__(int64_t i) {
    const int32_t before = i == 0 ? 0 : rank[i - 1];
    if (rank[i] > before) out[before] = r[i / cols] * pattern.cols + c[i % cols];
  });
  return support;
}

// How many active coordinates have a positive probability, up to each slot.
Workspace<int32_t> count_active(const Device& device, const Tensor& col, const Weights& row, const Weights& column,
                                const Pattern& pattern) {
  const Workspace<int32_t> counts(col, col.numel());
  int32_t* count = counts.data();
  const int32_t *r = row.ranks.data(), *c = column.ranks.data();
  const auto positive = [] __device__(const int32_t* rank, int64_t i) { return rank[i] > (i == 0 ? 0 : rank[i - 1]); };
  each(device, col.numel(), [=] __device__(int64_t k) {
    const bool used = k < pattern.ptr[pattern.rows];
    count[k] = used && positive(r, pattern.row(k)) && positive(c, pattern.col[k]);
  });
  inclusive_sum(device, col, count, col.numel());
  return counts;
}

// The coordinates that have the given ranks among those that are neither active nor chosen.
Set ranked(const Device& device, const Tensor& like, const Set& ranks, const Set& chosen, const Pattern& pattern,
           int64_t nnz) {
  const Set active{Workspace<int64_t>(like, nnz)};
  int64_t* coordinate = active.members.data();
  each(device, nnz, [=] __device__(int64_t k) { coordinate[k] = pattern.coordinate(k); });
  const Set taken = merged(device, like, active, chosen), found{Workspace<int64_t>(like, ranks.size())};
  const int64_t* rank = ranks.members.data();
  int64_t *gap = taken.members.data(), *out = found.members.data();
  const int64_t gaps = taken.size();
  each(device, gaps, [=] __device__(int64_t i) { gap[i] -= i; });
  each(device, ranks.size(), [=] __device__(int64_t i) { out[i] = rank[i] + count_up_to(gap, gaps, rank[i]); });
  return found;
}

}  // namespace

std::tuple<Tensor, Tensor> guided_sample(const Tensor& row_weight, const Tensor& col_weight, const Tensor& row_ptr,
                                         const Tensor& col, int64_t n, int64_t seed) {
  const Device device(col);
  device.require_here(row_ptr, "row_ptr");
  const Workspace<int64_t> gathered(col, sizeof(Facts) / sizeof(int64_t));
  auto* fact = reinterpret_cast<Facts*>(gathered.data());
  const Weights row = weights_of(device, row_weight, "row_weight", &fact->bad_row),
                column = weights_of(device, col_weight, "col_weight", &fact->bad_col);
  const int64_t rows = row.size(), cols = column.size();
  require(row_ptr.numel() == rows + 1, "row_ptr must have ", rows + 1, " elements, got ", row_ptr.numel());
  const Pattern pattern{index_data(row_ptr, 1, "row_ptr"), index_data(col, 0, "col"), rows, cols};
  const int64_t room = col.numel();
  const Workspace<int32_t> counts = count_active(device, col, row, column, pattern);
  const int32_t *row_rank = row.ranks.data(), *col_rank = column.ranks.data(), *count = counts.data();
  each(device, 1, [=] __device__(int64_t) {
    fact->nnz = pattern.ptr[rows];
    fact->row_support = rows > 0 ? row_rank[rows - 1] : 0;
    fact->col_support = cols > 0 ? col_rank[cols - 1] : 0;
    fact->active_support = room > 0 ? count[room - 1] : 0;
  });
  Facts facts;
  device.read(&facts, fact, 1);
  check_weights(device, row_weight, "row_weight", facts.bad_row);
  check_weights(device, col_weight, "col_weight", facts.bad_col);
  const int64_t nnz = facts.nnz, inactive = rows * cols - nnz;
  index_data(col, nnz, "col");
  require(0 <= n && n <= inactive, "n must be between 0 and ", inactive, ", the number of inactive coordinates, got ",
          n);

  const int64_t support = facts.row_support * facts.col_support - facts.active_support;
  const Stream stream(seed);
  int64_t counter = 0;
  Set chosen{Workspace<int64_t>(col, 0)};
  if (support <= n) {
    chosen = list_support(device, col, row, column, facts.row_support, facts.col_support, pattern, support);
  } else {
    const double *row_sum = row.sums.data(), *col_sum = column.sums.data();
    chosen = extend_distinct(device, col, n, rows * cols, kRounds, counter, [=] __device__(int64_t i) {
      const int64_t r = count_up_to(row_sum, rows, stream.unit(2 * i) * row_sum[rows - 1]);
      const int64_t c = count_up_to(col_sum, cols, stream.unit(2 * i + 1) * col_sum[cols - 1]);
      return pattern.active(r, c) ? rows * cols : r * cols + c;
    });
  }
  const int64_t rest = n - chosen.size();
  if (rest > 0) {
    counter *= 2;  // a guided draw took two numbers
    const Set ranks = random_distinct(device, col, rest, inactive - chosen.size(), stream, counter);
    chosen = merged(device, col, chosen, ranked(device, col, ranks, chosen, pattern, nnz));
  }

  Tensor coordinates = torch::stable::new_empty(col, {n}, ScalarType::Long);
  Tensor remainder = torch::stable::new_empty(col, {}, ScalarType::Long);
  int64_t *out = mutable_data<int64_t>(coordinates), *uniform = mutable_data<int64_t>(remainder);
  const int64_t* c = chosen.members.data();
  each(device, n, [=] __device__(int64_t i) { out[i] = c[i]; });
  fill(device, uniform, 1, rest);
  return {coordinates, remainder};
}

}  // namespace sparsekern

SPARSEKERN_REGISTER(guided_sample)
