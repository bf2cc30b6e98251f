// The running signal-to-noise ratio of every weight. In fp64, where no product of fp32 numbers is rounded: the variance
// is a difference of two.
#include <limits>

#include "common.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "dtypes.h"

namespace sparsekern {
namespace {

constexpr double kCap = 1e6;  // SNR_CAP of ops/snr_update.py

template <class W, class T>
struct Update {
  W* ratio;
  const T* gradient;
  const W* moment;
  double batch, decay;
  bool first;
};

template <class W, class T>
void update(Update<W, T> update, int64_t begin, int64_t end) {
  vectorized(
      [](Update<W, T> u, int64_t begin, int64_t end) SPARSEKERN_VECTORIZED {
        const double keep = u.first ? 0 : u.decay, take = 1 - keep, before = u.batch - 1;
        for (int64_t i = begin; i < end; ++i) {
          const double g = static_cast<double>(static_cast<Wide<T>>(u.gradient[i]));
          const double square = static_cast<double>(u.moment[i]);
          const double signal = g * g, variance = u.batch * square - signal;
          const double ratio = signal * before / variance;
          double snr = ratio > kCap ? kCap : ratio;
          snr = variance <= 0 ? kCap : snr;
          snr = square < std::numeric_limits<W>::min() ? 0 : snr;  // squares that were lost, all or some
          const double old = u.first ? 0 : static_cast<double>(u.ratio[i]);
          u.ratio[i] = static_cast<W>(keep * old + take * snr);
        }
      },
      update, begin, end);
}

template <class W>
void run(Tensor& ratio, const Tensor& gradient, const Tensor& moment, int64_t batch, double decay, bool first) {
  with_floating_type(gradient.scalar_type(), "gradient", [&](auto zero) {
    using T = decltype(zero);
    const Update<W, T> u{
        mutable_data<W>(ratio), data<T>(gradient), data<W>(moment), static_cast<double>(batch), decay, first};
    parallel_for(0, ratio.numel(), 1 << 14, [&](int64_t begin, int64_t end) { update(u, begin, end); });
  });
}

}  // namespace

void snr_update(Tensor ratio, const Tensor& gradient, const Tensor& moment, int64_t batch, double decay, bool first) {
  require(moment.scalar_type() == ratio.scalar_type(), "moment must have the dtype of ratio");
  for (const Tensor& t : {gradient, moment})
    require(t.numel() == ratio.numel() && t.is_contiguous() && ratio.is_contiguous(),
            "ratio, gradient and moment must be contiguous and of one shape");
  if (ratio.scalar_type() == ScalarType::Double) return run<double>(ratio, gradient, moment, batch, decay, first);
  require(ratio.scalar_type() == ScalarType::Float, "ratio must be float32 or float64, got ", ratio.scalar_type());
  run<float>(ratio, gradient, moment, batch, decay, first);
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("snr_update", TORCH_BOX(&sparsekern::snr_update)); }
