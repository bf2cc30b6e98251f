// The kernels for few inputs against plain loops.
#include "cpu/simd/few.h"

#include "families.h"
#include "plain.h"

namespace plain {
namespace {

using sparsekern::BitWeight;
using sparsekern::FewKernels;

// A random weight with empty rows and full ones, whose values nothing follows.
template <class S>
struct Weight {
  int64_t rows, cols, segments;
  std::vector<uint64_t> words;
  std::vector<int32_t> ptr{0}, col;
  std::vector<S> values;

  Weight(int64_t rows, int64_t cols, Random& random)
      : rows(rows), cols(cols), segments((cols + 63) / 64), words(rows * segments) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        if (r % 4 == 1 || (r % 8 != 3 && random.below(10) >= 3)) continue;
        words[r * segments + c / 64] |= uint64_t(1) << c % 64;
        col.push_back(static_cast<int32_t>(c));
      }
      ptr.push_back(static_cast<int32_t>(col.size()));
    }
    values = random.numbers<S>(static_cast<int64_t>(col.size()), 4, 16);
  }

  BitWeight view() const {
    return {words.data(), segments, ptr.data(), 1, values.data(), static_cast<int64_t>(values.size())};
  }
  double at(int64_t k) const { return static_cast<double>(values[k]); }
};

template <class S>
void check_few(const FewKernels& kernels, const Weight<S>& weight, int64_t batch, Random& random) {
  const int64_t rows = weight.rows, cols = weight.cols, middle = rows / 2;
  const int64_t packed_size = weight.segments * 64 * sparsekern::inputs_for(batch);
  const auto place = [&](const char* what, int64_t b, int64_t i) {
    return std::string(what) + " of " + std::to_string(rows) + " x " + std::to_string(cols) + ", input " +
           std::to_string(b) + " of " + std::to_string(batch) + ", number " + std::to_string(i);
  };
  const std::vector<S> x = random.numbers<S>(batch * cols, 4, 16), delta = random.numbers<S>(batch * rows, 4, 16),
                       bias = random.numbers<S>(rows, 4, 16);
  std::vector<Sum<S>> packed = unwritten<Sum<S>>(packed_size);
  kernels.pack(x.data(), batch, cols, weight.segments, packed.data());

  std::vector<S> out = unwritten<S>(batch * rows);
  for (const auto& [begin, end] : {std::pair(middle, rows), std::pair(int64_t(0), middle)})
    if (!kernels.product(weight.view(), packed.data(), batch, bias.data(), out.data(), rows, begin, end))
      fail("product: bits do not fit");
  std::vector<double> gradient(batch * cols), values(weight.col.size());
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t r = 0; r < rows; ++r) {
      const double d = static_cast<double>(delta[b * rows + r]);
      double sum = static_cast<double>(bias[r]);
      for (int32_t k = weight.ptr[r]; k < weight.ptr[r + 1]; ++k) {
        const double in = static_cast<double>(x[b * cols + weight.col[k]]);
        sum += weight.at(k) * in;
        gradient[b * cols + weight.col[k]] += weight.at(k) * d;
        values[k] += d * in;
      }
      expect(out[b * rows + r], stored<S>(sum), place("product", b, r));
    }
  }

  std::vector<Sum<S>> sums = unwritten<Sum<S>>(2 * packed_size);
  kernels.transposed(weight.view(), delta.data(), batch, rows, sums.data(), 0, middle);
  kernels.transposed(weight.view(), delta.data(), batch, rows, sums.data() + packed_size, middle, rows);
  std::vector<S> in = unwritten<S>(batch * cols);
  kernels.unpack(sums.data(), 2, batch, cols, weight.segments, in.data(), 0, weight.segments);
  for (int64_t i = 0; i < batch * cols; ++i)
    expect(in[i], stored<S>(gradient[i]), place("transposed product", i / cols, i % cols));

  std::vector<S> found = unwritten<S>(static_cast<int64_t>(values.size()));
  kernels.outer(weight.view(), delta.data(), packed.data(), batch, rows, found.data(), middle, rows);
  kernels.outer(weight.view(), delta.data(), packed.data(), batch, rows, found.data(), 0, middle);
  for (size_t k = 0; k < values.size(); ++k)
    expect(found[k], stored<S>(values[k]), place("outer product", 0, static_cast<int64_t>(k)));

  std::vector<S> total = unwritten<S>(rows);
  kernels.sum_rows(delta.data(), batch, rows, total.data());
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t b = 0; b < batch; ++b) sum += static_cast<double>(delta[b * rows + r]);
    expect(total[r], stored<S>(sum), place("sum", batch, r));
  }
}

}  // namespace

template <class S>
void check_few(const FewKernels& kernels) {
  Random random;
  for (const auto& [rows, cols] : {std::pair(1, 1), std::pair(7, 64), std::pair(21, 150), std::pair(40, 33)}) {
    const Weight<S> weight(rows, cols, random);
    for (int64_t batch = 1; batch <= sparsekern::kFewInputs; ++batch) check_few(kernels, weight, batch, random);
  }
}

template void check_few<float>(const FewKernels&);
template void check_few<double>(const FewKernels&);
template void check_few<BFloat16>(const FewKernels&);
template void check_few<Float16>(const FewKernels&);

}  // namespace plain
