// The products of dense blocks against plain loops.
#include "cpu/simd/dense.h"

#include "families.h"
#include "plain.h"

namespace plain {
namespace {

using sparsekern::DenseKernels;
using sparsekern::kTileRows;

// Rows whose elements lie `column` apart, as they come or in blocks that are packed.
struct Layout {
  int64_t block, row, column;
  int64_t at(int64_t i, int64_t k) const { return i / kTileRows * block + i % kTileRows * row + k * column; }
};

// An element of unit `at`, of `paired` elements.
template <class S>
double part(const std::vector<S>& units, int64_t at, int paired, int i) {
  return static_cast<double>(units[at * paired + i]);
}

template <class S>
void check_multiply(const DenseKernels& kernels, const Layout& layout, int64_t rows, int64_t depth, int64_t width,
                    bool add, Random& random) {
  const int paired = kernels.paired;
  const auto a = random.numbers<S>((layout.at(rows - 1, depth) + 1) * paired, 4, 16),
             b = random.numbers<S>(depth * width * paired, 4, 16);
  const int64_t stride = width + 3;
  const auto before = random.numbers<Sum<S>>(rows * stride, 4, 16);
  auto c = before;
  kernels.multiply({a.data(), layout.block, layout.row, layout.column}, b.data(), width, rows, depth, add, c.data(),
                   stride);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < stride; ++j) {
      double want = add || j >= width ? static_cast<double>(before[i * stride + j]) : 0;
      for (int64_t k = 0; k < depth && j < width; ++k)
        for (int p = 0; p < paired; ++p)
          want += part(a, layout.at(i, k), paired, p) * part(b, k * width + j, paired, p);
      expect(c[i * stride + j], want, "multiply, ", rows, " x ", depth, " x ", width, ", row ", i, ", column ", j);
    }
  }
}

template <class S>
void check_pack(const DenseKernels& kernels, int64_t rows, int64_t depth, Random& random) {
  const Layout layout{kTileRows * depth + 1, 1, kTileRows};
  const int64_t stride = rows + 2;
  const int paired = kernels.paired;
  const auto in = random.numbers<S>(depth * stride * paired, 4, 16);
  auto out = unwritten<S>((rows / kTileRows + 1) * layout.block * paired);
  kernels.pack(in.data(), stride, rows, depth, out.data(), layout.block);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < depth; ++k)
      for (int p = 0; p < paired; ++p)
        expect(out[layout.at(i, k) * paired + p], part(in, k * stride + i, paired, p), "pack, row ", i, " of ", rows,
               ", ", k);
  }
}

template <class S>
void check_ends(const DenseKernels& kernels, int64_t rows, int64_t width, Random& random) {
  const auto first = random.numbers<S>(rows, 4, 16);
  auto c = unwritten<Sum<S>>(rows * width);
  kernels.fill(first.data(), width, rows, c.data());
  for (int64_t i = 0; i < rows * width; ++i)
    expect(c[i], static_cast<double>(first[i / width]), "fill, ", rows, " rows of ", width, ", element ", i);

  const auto sums = random.numbers<Sum<S>>((rows + kernels.lanes) * width, 4, 16);
  const int64_t columns = width - kernels.lanes / 2, stride = rows + 3;
  auto out = unwritten<S>(columns * stride);
  kernels.transpose(sums.data(), width, columns, rows, out.data(), stride);
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t i = 0; i < stride; ++i) {
      const double want = i < rows ? static_cast<double>(stored<S>(static_cast<double>(sums[i * width + j])))
                                   : std::numeric_limits<double>::quiet_NaN();
      expect(out[j * stride + i], want, "transpose, ", rows, " rows of ", width, ", column ", j, ", row ", i);
    }
  }
}

// Sums become elements, also where they lie; two rows become units.
template <class S>
void check_rows(const DenseKernels& kernels, int64_t count, Random& random) {
  const auto sums = random.numbers<Sum<S>>(count, 4, 16);
  auto apart = unwritten<S>(count);
  kernels.round(sums.data(), count, apart.data());
  auto own = sums;
  kernels.round(own.data(), count, own.data());
  for (int64_t i = 0; i < count; ++i) {
    const double want = static_cast<double>(stored<S>(static_cast<double>(sums[i])));
    expect(apart[i], want, "round, ", i, " of ", count);
    expect(reinterpret_cast<const S*>(own.data())[i], want, "round in place, ", i, " of ", count);
  }
  if (kernels.paired == 1) return;
  const auto first = random.numbers<S>(count, 4, 16), second = random.numbers<S>(count, 4, 16);
  for (const S* other : {second.data(), static_cast<const S*>(nullptr)}) {
    auto units = unwritten<S>(2 * count);
    kernels.pair(first.data(), other, count, units.data());
    for (int64_t i = 0; i < count; ++i) {
      expect(units[2 * i], static_cast<double>(first[i]), "pair, ", i, " of ", count);
      expect(units[2 * i + 1], other ? static_cast<double>(other[i]) : 0, "pair, second ", i, " of ", count);
    }
  }
}

}  // namespace

template <class S>
void check_dense(const DenseKernels& kernels) {
  Random random;
  for (int64_t width = kernels.lanes; width <= sparsekern::kBlockColumns; width += kernels.lanes) {
    check_rows<S>(kernels, width, random);
    check_rows<S>(kernels, width > 3 ? width - 3 : 1, random);
    for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 12, 17, 25}) {
      check_ends<S>(kernels, rows, width, random);
      for (const int64_t depth : {0, 1, 9}) {
        for (const bool add : {false, true}) {
          check_multiply<S>(kernels, {kTileRows * 11, 11, 1}, rows, depth, width, add, random);
          check_multiply<S>(kernels, {kTileRows * depth, 1, kTileRows}, rows, depth, width, add, random);
        }
        check_pack<S>(kernels, rows, depth, random);
      }
    }
  }
}

template void check_dense<float>(const DenseKernels&);
template void check_dense<double>(const DenseKernels&);
template void check_dense<BFloat16>(const DenseKernels&);

}  // namespace plain
