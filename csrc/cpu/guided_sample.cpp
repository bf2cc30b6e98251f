// Distinct inactive coordinates, drawn by row and column weights. O(nnz + rows + cols + n) memory.
#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "common.h"
#include "cpu/csr.h"
#include "cpu/distinct.h"
#include "dtypes.h"

namespace sparsekern {
namespace {

constexpr int64_t kRounds = 32;
constexpr int64_t kBuckets = 8;  // for each position

// Draws positions with probability proportional to their weight: inversion of the cumulative sum, with a table that
// says where in it to look.
class Weights {
 public:
  Weights(const Tensor& weight, const char* name) {
    require(weight.dim() == 1, name, " must be 1-D");
    const Tensor flat = torch::stable::contiguous(weight);
    with_floating_type(weight.scalar_type(), name, [&](auto zero) {
      const auto* w = data<decltype(zero)>(flat);
      for (int64_t i = 0; i < flat.numel(); ++i) cumulative_.push_back(static_cast<double>(w[i]));
    });
    double largest = 0;
    for (const double w : cumulative_) {
      require(std::isfinite(w) && w >= 0, name, " must be finite and not negative, got ", w);
      largest = std::max(largest, w);
    }
    double sum = 0;
    for (size_t i = 0; i < cumulative_.size(); ++i) {
      const double w = largest > 0 ? cumulative_[i] / largest : 0;
      if (w > 0) support_.push_back(static_cast<int64_t>(i));
      positive_.push_back(w > 0);
      cumulative_[i] = sum += w;
    }
    if (support_.empty()) return;
    const int64_t buckets = kBuckets * size();
    scale_ = static_cast<double>(buckets) / sum;
    start_.assign(buckets + 1, static_cast<int32_t>(size() - 1));
    for (int64_t i = size() - 1; i >= 0; --i)
      for (int64_t b = i == 0 ? 0 : bucket(cumulative_[i - 1]) + 1; b <= bucket(cumulative_[i]); ++b)
        start_[b] = static_cast<int32_t>(i);
  }

  int64_t size() const { return static_cast<int64_t>(cumulative_.size()); }
  bool positive(int64_t i) const { return positive_[i]; }
  const std::vector<int64_t>& support() const { return support_; }

  // The position of `unit` in [0, 1): the first whose cumulative sum exceeds that share of the total.
  int64_t at(double unit) const {
    const double target = unit * cumulative_.back();
    const int64_t b = bucket(target);
    const auto first = cumulative_.begin() + start_[b], last = cumulative_.begin() + start_[b + 1];
    if (first == last || *first > target) return first - cumulative_.begin();  // as most often
    return std::upper_bound(first + 1, last, target) - cumulative_.begin();
  }

 private:
  int64_t bucket(double x) const { return std::min(static_cast<int64_t>(x * scale_), kBuckets * size() - 1); }

  std::vector<double> cumulative_;
  std::vector<char> positive_;
  std::vector<int64_t> support_;  // positions of positive weight
  std::vector<int32_t> start_;    // per bucket of the range of sums, the first position that can answer
  double scale_ = 0;
};

// The pattern as an ascending list of coordinates with an end mark.
struct Pattern {
  const int32_t* ptr;
  const int32_t* col;
  int64_t rows, cols;

  bool active(int64_t r, int64_t c) const {
    return std::binary_search(col + ptr[r], col + ptr[r + 1], static_cast<int32_t>(c));
  }

  // f(coordinate) for all of them.
  template <class F>
  void each(const F& f) const {
    for (int64_t r = 0; r < rows; ++r)
      for (int32_t k = ptr[r]; k < ptr[r + 1]; ++k) f(r * cols + col[k]);
  }

  struct Cursor {
    const Pattern& p;
    int64_t row = 0;
    int32_t k = 0;
    int64_t next() {
      while (row < p.rows && k == p.ptr[row + 1]) ++row;
      return row < p.rows ? row * p.cols + p.col[k++] : std::numeric_limits<int64_t>::max();
    }
  };
};

// How many inactive coordinates have a positive probability.
int64_t count_support(const Weights& row, const Weights& col, const Pattern& pattern) {
  int64_t count = static_cast<int64_t>(row.support().size() * col.support().size());
  for (const int64_t r : row.support())
    for (int32_t k = pattern.ptr[r]; k < pattern.ptr[r + 1]; ++k) count -= col.positive(pattern.col[k]);
  return count;
}

void list_support(int64_t* out, const Weights& row, const Weights& col, const Pattern& pattern) {
  for (const int64_t r : row.support()) {
    int32_t k = pattern.ptr[r];
    for (const int64_t c : col.support()) {
      while (k < pattern.ptr[r + 1] && pattern.col[k] < c) ++k;
      if (k == pattern.ptr[r + 1] || pattern.col[k] != c) *out++ = r * pattern.cols + c;
    }
  }
}

// Turns ascending ranks among the coordinates that are neither active nor chosen into these coordinates.
void rank_to_coordinate(int64_t* ranks, int64_t n, const int64_t* chosen, int64_t have, const Pattern& pattern) {
  constexpr int64_t kEnd = std::numeric_limits<int64_t>::max();
  Pattern::Cursor cursor{pattern};
  int64_t taken = 0, i = 0, active = cursor.next();
  for (int64_t j = 0; j < n; ++j) {
    while (true) {
      const int64_t drawn = i < have ? chosen[i] : kEnd;
      if (std::min(active, drawn) > ranks[j] + taken) break;
      active < drawn ? active = cursor.next() : ++i;
      ++taken;
    }
    ranks[j] += taken;
  }
}

}  // namespace

std::tuple<Tensor, Tensor> guided_sample(const Tensor& row_weight, const Tensor& col_weight, const Tensor& row_ptr,
                                         const Tensor& col, int64_t n, int64_t seed) {
  const Weights row(row_weight, "row_weight"), column(col_weight, "col_weight");
  const int64_t rows = row.size(), cols = column.size();
  require(row_ptr.numel() == rows + 1, "row_ptr must have ", rows + 1, " elements, got ", row_ptr.numel());
  const Csr csr = pattern_of(row_ptr, col, cols);
  const Pattern pattern{csr.ptr, csr.col, rows, cols};
  const int64_t inactive = rows * cols - csr.nnz;
  require(0 <= n && n <= inactive, "n must be between 0 and ", inactive, ", the number of inactive coordinates, got ",
          n);

  Tensor coordinates = torch::stable::new_empty(col, {n}, ScalarType::Long);
  Tensor remainder = torch::stable::new_empty(col, {}, ScalarType::Long);
  int64_t* out = mutable_data<int64_t>(coordinates);
  const Stream stream(seed);
  int64_t counter = 0, have = count_support(row, column, pattern);
  if (have <= n) {
    list_support(out, row, column, pattern);
  } else {
    const auto draw = [&](int64_t i) {
      return std::pair(row.at(stream.unit(2 * i)), column.at(stream.unit(2 * i + 1)));
    };
    if (bits_are_few(rows * cols, n + csr.nnz)) {
      BitSet set(rows * cols);
      pattern.each([&](int64_t x) { set.set(x); });
      have = marked_distinct(set, n, kRounds, counter, [&](int64_t i) {
        const auto [r, c] = draw(i);
        return r * cols + c;
      });
      pattern.each([&](int64_t x) { set.clear(x); });
      set.list(out);
    } else {
      have = sorted_distinct(out, n, rows * cols, kRounds, counter, [&](int64_t i) {
        const auto [r, c] = draw(i);
        return pattern.active(r, c) ? int64_t{-1} : r * cols + c;
      });
    }
  }
  const int64_t rest = n - have;
  *mutable_data<int64_t>(remainder) = rest;
  counter *= 2;  // a guided draw took two numbers
  random_distinct(out + have, rest, inactive - have, stream, counter);
  rank_to_coordinate(out + have, rest, out, have, pattern);
  std::inplace_merge(out, out + have, out + n);
  return {coordinates, remainder};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("guided_sample", TORCH_BOX(&sparsekern::guided_sample)); }
