// The weight gradient at a list of coordinates: dot products over the batch of one column of `grad_output` with one of
// `input`. Both are packed feature by feature, so that a dot product reads two contiguous stretches.
#include <algorithm>
#include <atomic>
#include <memory>

#include "common.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "dtypes.h"

namespace sparsekern {
namespace {

constexpr int64_t kChunk = 256;  // batch entries at a time, a bound on the memory that packing takes

// `[batch, features]` seen through strides.
template <class T>
struct Matrix {
  const T* data;
  int64_t batch, features, batch_stride, feature_stride;
};

template <class T>
Matrix<T> matrix(const Tensor& t) {
  return {data<T>(t), t.size(0), t.size(1), t.stride(0), t.stride(1)};
}

// Batch entries `start`, ... of every feature, each in a zero-padded stretch of `length`.
template <class T>
void pack(const Matrix<T>& m, int64_t start, int64_t length, Wide<T>* packed) {
  const int64_t n = std::min(length, m.batch - start);
  constexpr int64_t kBlock = 16;
  parallel_for(0, (m.features + kBlock - 1) / kBlock, 8, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kBlock, last = std::min(first + kBlock, m.features);
      for (int64_t b = 0; b < n; ++b) {
        const T* row = m.data + (start + b) * m.batch_stride;
        for (int64_t f = first; f < last; ++f) packed[f * length + b] = static_cast<Wide<T>>(row[f * m.feature_stride]);
      }
      for (int64_t f = first; f < last; ++f) std::fill(packed + f * length + n, packed + (f + 1) * length, Wide<T>{0});
    }
  });
}

// out[i] += dot(delta[row i], h[column i]), in vectors of kBytes; `length` fills whole groups of four vectors.
template <class W, int kBytes>
[[gnu::always_inline]] inline void dots(const int64_t* coordinates, int64_t n, int64_t cols, const W* delta, const W* h,
                                        int64_t length, W* out) {
  typedef W Vector __attribute__((vector_size(kBytes), aligned(sizeof(W)), may_alias));
  constexpr int64_t kWidth = kBytes / sizeof(W);
  int64_t row = 0, base = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t x = coordinates[i];
    if (x < base || x >= base + cols) {
      row = x / cols;
      base = row * cols;
    }
    const W* d = delta + row * length;
    const W* a = h + (x - base) * length;
    Vector sum[4] = {};
    for (int64_t b = 0; b < length; b += 4 * kWidth) {
      for (int v = 0; v < 4; ++v)
        sum[v] +=
            *reinterpret_cast<const Vector*>(d + b + v * kWidth) * *reinterpret_cast<const Vector*>(a + b + v * kWidth);
    }
    const Vector all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    W total = 0;
    for (int64_t lane = 0; lane < kWidth; ++lane) total += all[lane];
    out[i] += total;
  }
}

template <class W>
using Dots = void(const int64_t*, int64_t, int64_t, const W*, const W*, int64_t, W*);

template <class W>
void dots_generic(const int64_t* x, int64_t n, int64_t cols, const W* delta, const W* h, int64_t length, W* out) {
  dots<W, 16>(x, n, cols, delta, h, length, out);
}

#if defined(__x86_64__)
template <class W>
[[gnu::target("avx2,fma")]] void dots_avx2(const int64_t* x, int64_t n, int64_t cols, const W* delta, const W* h,
                                           int64_t length, W* out) {
  dots<W, 32>(x, n, cols, delta, h, length, out);
}

template <class W>
[[gnu::target("avx512f,avx512dq,avx512vl,fma")]] void dots_avx512(const int64_t* x, int64_t n, int64_t cols,
                                                                  const W* delta, const W* h, int64_t length, W* out) {
  dots<W, 64>(x, n, cols, delta, h, length, out);
}
#endif

// The kernel for this processor, and how many numbers it takes at a time.
template <class W>
std::pair<Dots<W>*, int64_t> choose() {
#if defined(__x86_64__)
  if (active_isa() == Isa::avx512) return {dots_avx512<W>, 256 / sizeof(W)};
  if (active_isa() == Isa::avx2) return {dots_avx2<W>, 128 / sizeof(W)};
#endif
  return {dots_generic<W>, 64 / sizeof(W)};
}

template <class T>
void accumulate(const Tensor& delta, const Tensor& h, const Tensor& coordinates, Tensor& result) {
  using W = Wide<T>;
  const auto d = matrix<T>(delta), a = matrix<T>(h);
  const auto [kernel, step] = choose<W>();
  const int64_t longest = std::min(kChunk, (d.batch + step - 1) / step * step);
  const std::unique_ptr<W[]> packed_d(new W[d.features * longest]), packed_a(new W[a.features * longest]);
  const int64_t* x = data<int64_t>(coordinates);
  W* out = mutable_data<W>(result);
  for (int64_t start = 0; start < d.batch; start += kChunk) {
    const int64_t length = std::min(kChunk, (d.batch - start + step - 1) / step * step);
    pack(d, start, length, packed_d.get());
    pack(a, start, length, packed_a.get());
    parallel_for(0, coordinates.numel(), 512, [&, kernel = kernel](int64_t begin, int64_t end) {
      kernel(x + begin, end - begin, a.features, packed_d.get(), packed_a.get(), length, out + begin);
    });
  }
}

}  // namespace

Tensor sampled_gradient(const Tensor& grad_output, const Tensor& input, const Tensor& coordinates) {
  require(grad_output.dim() >= 1 && input.dim() >= 1, "grad_output and input must have a feature dimension");
  require(grad_output.scalar_type() == input.scalar_type(), "grad_output and input must have one dtype, got ",
          grad_output.scalar_type(), " and ", input.scalar_type());
  require(coordinates.scalar_type() == ScalarType::Long && coordinates.dim() == 1,
          "coordinates must be a 1-D int64 tensor");
  const int64_t rows = grad_output.size(-1), cols = input.size(-1);
  const auto batch = [](const Tensor& t) {
    int64_t size = 1;
    for (int64_t i = 0; i + 1 < t.dim(); ++i) size *= t.size(i);
    return size;
  };
  require(batch(grad_output) == batch(input), "grad_output and input must have one batch size, got ",
          batch(grad_output), " and ", batch(input));
  const Tensor where = torch::stable::contiguous(coordinates);
  const int64_t* x = data<int64_t>(where);
  for (int64_t i = 0; i < where.numel(); ++i)
    require(0 <= x[i] && x[i] < rows * cols, "coordinates must lie in [0, ", rows * cols, "), got ", x[i]);

  const Tensor delta = torch::stable::reshape(grad_output, {batch(grad_output), rows});
  const Tensor h = torch::stable::reshape(input, {batch(input), cols});
  const bool wide = input.scalar_type() == ScalarType::Double;
  Tensor result = torch::stable::new_zeros(input, {coordinates.numel()}, wide ? ScalarType::Double : ScalarType::Float);
  with_floating_type(input.scalar_type(), "input",
                     [&](auto zero) { accumulate<decltype(zero)>(delta, h, where, result); });
  return result;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("sampled_gradient", TORCH_BOX(&sparsekern::sampled_gradient)); }
