// The kernels of the sparse linear layer against plain loops.
#include "cpu/simd/linear.h"

#include <bit>

#include "families.h"
#include "plain.h"

namespace plain {
namespace {

using sparsekern::CsrView;
using sparsekern::LinearKernels;
using sparsekern::NarrowView;
using sparsekern::Panel;
using sparsekern::TileView;

// A matrix by rows: row r has slots [ptr[r], ptr[r + 1]).
struct Compressed {
  int64_t rows, cols;
  std::vector<int32_t> ptr, index;

  void end_row() { ptr.push_back(static_cast<int32_t>(index.size())); }

  CsrView view() const { return {ptr.data(), index.data(), nullptr, rows, cols}; }
};

// A random pattern with empty rows and full ones, the same by columns, in tiles and narrow.
struct Pattern {
  Compressed csr, csc;
  std::vector<int32_t> position;       // of the values, by columns
  std::vector<int32_t> tiles, narrow;  // their bytes

  Pattern(int64_t rows, int64_t cols, int64_t side, Random& random)
      : csr{rows, cols, {0}, {}}, csc{cols, rows, {0}, {}} {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c)
        if (r % 4 != 1 && (r % 8 == 3 || random.below(10) < 3)) csr.index.push_back(static_cast<int32_t>(c));
      csr.end_row();
    }
    for (int64_t c = 0; c < cols; ++c) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int32_t k = csr.ptr[r]; k < csr.ptr[r + 1]; ++k) {
          if (csr.index[k] != c) continue;
          csc.index.push_back(static_cast<int32_t>(r)), position.push_back(k);
        }
      }
      csc.end_row();
    }
    tiles.resize((sparsekern::tile_bytes(rows, cols, nnz(), side) + 3) / 4);
    sparsekern::write_tile_header(tiles.data(), rows, cols, nnz(), side);
    const TileView view = tile_view();
    count_tiles(view, csr.index.data(), 0, view.down);
    start_tiles(view);
    fill_tiles(view, 0, view.down);
    narrow.resize((sparsekern::narrow_bytes(rows, cols, nnz()) + 3) / 4);
    sparsekern::write_narrow_header(narrow.data(), rows, cols, nnz());
    const NarrowView n = narrow_view();
    narrow_rows(n, csr.index.data(), 0, rows);
    for (int64_t strip = n.strips; strip-- > 0;) count_columns(n, strip, strip + 1);
    start_columns(n);
    for (int64_t strip = n.strips; strip-- > 0;) fill_columns(n, strip, strip + 1);
  }

  int64_t nnz() const { return static_cast<int64_t>(csr.index.size()); }

  CsrView transposed() const {
    CsrView view = csc.view();
    view.position = position.data();
    return view;
  }

  NarrowView narrow_view() const { return sparsekern::narrow_view(narrow.data(), csr.ptr.data()); }

  CsrView narrow_rows_view() const { return {csr.ptr.data(), nullptr, nullptr, csr.rows, csr.cols, narrow_view().col}; }

  TileView tile_view() const { return sparsekern::tile_view(tiles.data(), csr.ptr.data()); }
};

// The rows of a block of the batch, and the panel that a kernel makes of them.
template <class S>
struct Activations {
  int64_t features;
  Panel panel;
  std::vector<S> input;  // [begin + columns, stride]
  Factors<S> packed;

  Activations(const LinearKernels& kernels, int64_t features_, const Panel& panel_, Random& random)
      : features(features_), panel(panel_), packed(features_ * panel_.width, kernels.factor_size) {
    const int64_t stride = features + 3;
    input = random.numbers<S>((panel.begin + panel.columns) * stride, 4, 16);
    std::vector<Sum<S>> sums = unwritten<Sum<S>>(features);
    for (int64_t f = 0; f < features; f += sparsekern::kRowBlock)
      kernels.pack(input.data(), stride, panel, f, std::min(features, f + sparsekern::kRowBlock), packed.data(),
                   sums.data());
    for (int64_t f = 0; f < features; ++f) {
      double sum = 0;
      for (int64_t b = 0; b < panel.width; ++b) {
        const double x = b < panel.columns ? static_cast<double>(input[(panel.begin + b) * stride + f]) : 0;
        sum += x;
        expect(at(f, b), x, "pack, feature ", f, ", column ", b);
      }
      expect(sums[f], sum, "pack, sum of feature ", f);
    }
  }

  double at(int64_t feature, int64_t column) const { return packed[feature * panel.width + packed.place(column)]; }
};

// Row `row` of the product for one batch column.
template <class S>
double product_of(const CsrView& csr, const std::vector<Sum<S>>& values, const Activations<S>& x, int64_t row,
                  int64_t column) {
  double sum = 0;
  for (int32_t k = csr.ptr[row]; k < csr.ptr[row + 1]; ++k)
    sum += static_cast<double>(values[csr.position ? csr.position[k] : k]) * x.at(csr.index[k], column);
  return sum;
}

// What `multiply(out)` writes is the product of `csr`.
template <class S, class F>
void check_product(const char* name, const CsrView& csr, const std::vector<Sum<S>>& values, const Activations<S>& x,
                   const S* bias, const F& multiply) {
  const Panel& panel = x.panel;
  std::vector<S> out = unwritten<S>((panel.begin + panel.columns) * csr.rows);
  multiply(out.data());
  for (int64_t b = 0; b < panel.begin + panel.columns; ++b) {
    for (int64_t r = 0; r < csr.rows; ++r) {
      double want = std::numeric_limits<double>::quiet_NaN();
      if (b >= panel.begin)
        want = (bias ? static_cast<double>(bias[r]) : 0) + product_of<S>(csr, values, x, r, b - panel.begin);
      expect(out[b * csr.rows + r], stored<S>(want), name, " of ", csr.rows, " x ", csr.cols, ", panel of ",
             panel.columns, ", row ", r, ", column ", b);
    }
  }
}

template <class S>
void check_products(const LinearKernels& kernels, const Pattern& pattern, const std::vector<Sum<S>>& values,
                    const void* factors, const Activations<S>& x, const Activations<S>& delta, const S* bias) {
  const auto by_rows = [&](const CsrView& csr, const Activations<S>& in) {
    return [&kernels, factors, &in, csr, bias](S* out) {
      for (int64_t r = 0; r < csr.rows; r += sparsekern::kRowBlock)
        kernels.product(csr, in.panel, in.packed.data(), factors, bias, out, r,
                        std::min(csr.rows, r + sparsekern::kRowBlock));
    };
  };
  const CsrView csr = pattern.csr.view(), csc = pattern.transposed();
  check_product("product", csr, values, x, bias, by_rows(csr, x));
  check_product("product by columns", csc, values, delta, bias, by_rows(csc, delta));

  const NarrowView narrow = pattern.narrow_view();
  check_product("narrow product", csr, values, x, bias, by_rows(pattern.narrow_rows_view(), x));
  check_product<S>("narrow transposed product", csc, values, delta, nullptr, [&](S* out) {
    std::vector<int32_t> positions(narrow.rows, -1);
    const int64_t middle = narrow.cols / 2 / sparsekern::kRowBlock * sparsekern::kRowBlock;
    for (const auto& [begin, end] : {std::pair(middle, narrow.cols), std::pair(int64_t(0), middle)}) {
      positions_from(narrow, begin / sparsekern::kStrip, positions.data());
      kernels.narrow_transposed(narrow, delta.panel, delta.packed.data(), factors, positions.data(), out, begin, end);
    }
  });

  const TileView tiles = pattern.tile_view();
  check_product("product in tiles", csr, values, x, bias, [&](S* out) {
    for (int64_t i = 0; i < tiles.down; ++i)
      kernels.tile_product(tiles, x.panel, x.packed.data(), factors, bias, out, i, i + 1);
  });
  check_product<S>("transposed product in tiles", csc, values, delta, nullptr, [&](S* out) {
    std::vector<int32_t> positions(tiles.down * tiles.side, -1);
    const int64_t middle = tiles.across / 2;
    for (const auto& [begin, end] : {std::pair(middle, tiles.across), std::pair(int64_t(0), middle)}) {
      positions_from(tiles, begin, positions.data());
      kernels.tile_transposed(tiles, delta.panel, delta.packed.data(), factors, positions.data(), out, begin, end);
    }
  });
}

void check_columns(const LinearKernels& kernels, const Pattern& pattern) {
  const TileView tiles = pattern.tile_view();
  for (int64_t i = 0; i < tiles.down; ++i) {
    const int32_t first = pattern.csr.ptr[i * tiles.side];
    const int32_t last = pattern.csr.ptr[std::min(tiles.rows, (i + 1) * tiles.side)];
    std::vector<int32_t> columns(last - first + 1, -1);
    kernels.tile_columns(tiles, i, columns.data());
    for (int32_t k = first; k < last; ++k) expect(columns[k - first], pattern.csr.index[k], "column of ", k);
    expect(columns[last - first], -1, "column past the last");
  }
}

// What `sample(sums)` writes or adds are inner products at the nonzeros of `csr`.
template <class S, class F>
void check_sample(const char* name, const CsrView& csr, const Activations<S>& left, const Activations<S>& right,
                  bool add, const F& sample) {
  const int64_t nnz = csr.ptr[csr.rows];
  std::vector<Sum<S>> sums = add ? std::vector<Sum<S>>(nnz, 3) : unwritten<Sum<S>>(nnz);
  sample(sums.data());
  for (int64_t r = 0; r < csr.rows; ++r) {
    for (int32_t k = csr.ptr[r]; k < csr.ptr[r + 1]; ++k) {
      double want = add ? 3 : 0;
      for (int64_t b = 0; b < left.panel.width; ++b) want += left.at(r, b) * right.at(csr.index[k], b);
      expect(sums[k], want, name, add ? ", added" : "", ", row ", r, ", slot ", k);
    }
  }
}

template <class S>
void check_samples(const LinearKernels& kernels, const Pattern& pattern, const Activations<S>& left,
                   const Activations<S>& right, bool add) {
  const CsrView csr = pattern.csr.view();
  const auto by_rows = [&](const CsrView& by) {
    return [&kernels, &left, &right, add, by](Sum<S>* sums) {
      for (int64_t r = 0; r < by.rows; r += sparsekern::kRowBlock)
        kernels.sample(by, left.panel, left.packed.data(), right.packed.data(), add, sums, r,
                       std::min(by.rows, r + sparsekern::kRowBlock));
    };
  };
  check_sample("sample", csr, left, right, add, by_rows(csr));
  check_sample("narrow sample", csr, left, right, add, by_rows(pattern.narrow_rows_view()));
  const TileView tiles = pattern.tile_view();
  check_sample("sample in tiles", csr, left, right, add, [&](Sum<S>* sums) {
    for (int64_t i = 0; i < tiles.down; ++i)
      kernels.tile_sample(tiles, left.panel, left.packed.data(), right.packed.data(), add, sums, i, i + 1);
  });
}

// Sums of vectors, of which [begin, end) is asked for.
template <class S>
void check_combine(const LinearKernels& kernels, int64_t count, Random& random) {
  constexpr int64_t kLength = 101, kStride = 105;
  const auto parts = random.numbers<Sum<S>>(count * kStride, 4, 16);
  for (const int64_t begin : {0, 5}) {
    for (int64_t end = begin; end <= kLength; end += 12) {
      std::vector<S> out = unwritten<S>(kLength);
      kernels.combine(parts.data(), count, kStride, begin, end, out.data());
      for (int64_t k = 0; k < kLength; ++k) {
        double want = begin <= k && k < end ? 0 : std::numeric_limits<double>::quiet_NaN();
        for (int64_t i = 0; i < count; ++i) want += parts[i * kStride + k];
        expect(out[k], stored<S>(want), "combine of ", count, ", element ", k, " of ", begin, " to ", end);
      }
    }
  }
}

// Every number of 16 bits is read, and floats are rounded to them: those halfway between two, their neighbours, and
// any.
template <class S>
void check_conversions(const LinearKernels& kernels, Random& random) {
  std::vector<S> all(1 << 16);
  for (size_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<uint16_t>(i);
  auto wide = unwritten<float>(1 << 16);
  kernels.widen(all.data(), 0, 1 << 16, wide.data());
  std::vector<float> floats;
  for (size_t i = 0; i < all.size(); ++i) {
    expect(wide[i], static_cast<double>(all[i]), "widen, bits ", i);
    const uint32_t bits = std::bit_cast<uint32_t>(wide[i]), half = (1 << 22) >> S::kMantissa;
    for (const uint32_t near : {bits, bits + half - 1, bits + half, bits + half + 1, bits - 1})
      floats.push_back(std::bit_cast<float>(near));
    floats.push_back(std::bit_cast<float>(static_cast<uint32_t>(random.below(int64_t{1} << 32))));
  }
  for (const float x : {65504.f, 65519.9f, 65520.f, 1e30f, 0x1.8p-25f, 0x1p-25f, 0x1.1p-25f, 0x1p-140f}) {
    floats.push_back(x), floats.push_back(-x);
  }
  const auto count = static_cast<int64_t>(floats.size());
  std::vector<S> out = unwritten<S>(count);
  kernels.combine(floats.data(), 1, 0, 0, count, out.data());
  for (int64_t i = 0; i < count; ++i) {
    expect(out[i], stored<S>(floats[i]), "rounding of ", floats[i]);
    expect(out[i].bits >> 15, std::signbit(floats[i]), "sign of ", floats[i]);
  }
}

}  // namespace

template <class S>
void check_linear(const LinearKernels& kernels) {
  constexpr int64_t kShapes[][2] = {{1, 1}, {7, 5}, {64, 64}, {67, 130}, {130, 65}, {9, 460}};
  Random random;
  for (const auto& [rows, cols] : kShapes) {
    const Pattern pattern(rows, cols, rows < 100 ? 16 : 64, random);
    check_columns(kernels, pattern);
    const auto values = random.numbers<S>(pattern.nnz(), 4, 16);
    const auto bias = random.numbers<S>(std::max(rows, cols), 4, 16);
    auto wide = unwritten<Sum<S>>(pattern.nnz());
    kernels.widen(values.data(), 0, pattern.nnz(), wide.data());
    for (int64_t k = 0; k < pattern.nnz(); ++k) expect(wide[k], static_cast<double>(values[k]), "widen, ", k);
    for (int64_t vectors = 1; vectors <= kernels.vectors; ++vectors) {
      const int64_t width = vectors * kernels.lanes;
      for (const int64_t columns : {width, width - 1, width - kernels.lanes + 1}) {
        if (columns == 0 || (columns < width && vectors > 2 && vectors < kernels.vectors)) continue;
        const Panel panel{columns % 3, columns, width};
        const Activations<S> x(kernels, cols, panel, random), delta(kernels, rows, panel, random);
        const void* factors =
            kernels.factor_size == kernels.storage_size ? values.data() : static_cast<const void*>(wide.data());
        check_products<S>(kernels, pattern, wide, factors, x, delta, columns == width ? bias.data() : nullptr);
        for (const bool add : {false, true}) check_samples<S>(kernels, pattern, delta, x, add);
      }
    }
  }
  for (const int64_t count : {1, 2, 7}) check_combine<S>(kernels, count, random);
  if constexpr (sizeof(S) == 2) check_conversions<S>(kernels, random);
}

template void check_linear<float>(const LinearKernels&);
template void check_linear<double>(const LinearKernels&);
template void check_linear<BFloat16>(const LinearKernels&);
template void check_linear<Float16>(const LinearKernels&);

}  // namespace plain
