// Panels of the batch of a linear layer: how the batch is cut, what is packed, and which thread works on what.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>

#include "common.h"
#include "cpu/parallel.h"
#include "cpu/simd/linear.h"
#include "cpu/workspace.h"

namespace sparsekern {

constexpr int64_t kUndivided = 32;  // a small batch
constexpr int64_t kSerial = 8192;   // vectors of work, which take no longer than a second thread takes to start

// A tensor seen as [batch, features] with contiguous rows.
struct Activations {
  Tensor tensor;
  int64_t batch = 1, features, stride;

  explicit Activations(const Tensor& t) : tensor(t) {
    const int64_t last = t.dim() - 1;
    features = t.size(last);
    stride = features;
    int64_t expected = -1;
    bool regular = features <= 1 || t.stride(last) == 1;
    for (int64_t d = last - 1; d >= 0; --d) {
      batch *= t.size(d);
      if (t.size(d) == 1) continue;
      if (expected < 0)
        stride = t.stride(d);
      else
        regular = regular && t.stride(d) == expected;
      expected = t.stride(d) * t.size(d);
    }
    if (regular) return;
    tensor = torch::stable::contiguous(t);
    stride = features;
  }
};

// Splits [0, n) into `parts` ranges of whole blocks.
inline std::pair<int64_t, int64_t> even_range(int64_t n, int64_t block, int64_t part, int64_t parts) {
  const int64_t blocks = (n + block - 1) / block;
  return {std::min(n, blocks * part / parts * block), std::min(n, blocks * (part + 1) / parts * block)};
}

// How the batch is cut into panels, and these and the rows over threads. The panels do not depend on the threads, so
// that results do not depend on the number of threads. A thread keeps to its own panels where it can: what it packs and
// unpacks then stays in its own cache. Panels are taken `chunk` at a time, which bounds the workspace.
class Plan {
 public:
  int64_t panels, chunk;

  // `work`: nonzeros, rows and columns together
  Plan(const LinearKernels& kernels, int64_t batch, double density, int64_t work)
      : batch_(batch), lanes_(kernels.lanes) {
    const int64_t widest = kernels.vectors * lanes_;
    units_ = (batch + lanes_ - 1) / lanes_;
    threads_ = units_ * work < kSerial ? 1 : threads();
    // A small batch is worth two panels only where little is computed with them.
    const bool undivided = units_ * lanes_ <= std::min(widest, kUndivided) && 12 * density > 1;
    panels = undivided || units_ == 1 ? 1 : 2 * ((units_ * lanes_ + 2 * widest - 1) / (2 * widest));
    chunk = std::min(panels, std::max<int64_t>(4, threads_));
    panel_bytes_ = (units_ + panels - 1) / panels * lanes_ * kernels.factor_size;
  }

  Panel panel(int64_t i) const {
    const int64_t begin = units_ * i / panels * lanes_, end = units_ * (i + 1) / panels * lanes_;
    return {begin, std::min(end, batch_) - begin, end - begin};
  }

  int64_t packed_bytes(int64_t features) const { return aligned(panel_bytes_ * features); }
  int64_t workers() const { return threads_; }
  int64_t stop(int64_t first) const { return std::min(panels, first + chunk); }

  // Into how many the rows are split while panels [first, stop(first)) are worked on: 1 if every thread has its own.
  int64_t row_parts(int64_t first) const { return threads_ / panel_parts(first); }
  int64_t panel_parts(int64_t first) const { return std::gcd(stop(first) - first, threads_); }

  // f(panel number, row part, worker), in parallel
  template <class F>
  void each(int64_t first, const F& f) const {
    const int64_t across = panel_parts(first), count = stop(first) - first;
    parallel_for(0, threads_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        const int64_t p = part % across;
        for (int64_t i = p; i < count; i += across) f(first + i, part / across, part);
      }
    });
  }

  // f(part, parts), in parallel
  template <class F>
  void each_part(const F& f) const {
    parallel_for(0, threads_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) f(part, threads_);
    });
  }

 private:
  int64_t batch_, lanes_, threads_, units_, panel_bytes_;
};

// One chunk of activations, packed.
class Packed {
 public:
  Packed(const LinearKernels& kernels, const Plan& plan, const Activations& a, char* memory)
      : kernels_(kernels), plan_(plan), a_(a), memory_(memory) {}

  void pack(int64_t i, int64_t part, int64_t parts, void* sums = nullptr) const {
    const auto [begin, end] = even_range(a_.features, kRowBlock, part, parts);
    kernels_.pack(a_.tensor.const_data_ptr(), a_.stride, plan_.panel(i), begin, end, panel(i), sums);
  }

  char* panel(int64_t i) const { return memory_ + i % plan_.chunk * plan_.packed_bytes(a_.features); }

 private:
  const LinearKernels& kernels_;
  const Plan& plan_;
  const Activations& a_;
  char* memory_;
};

}  // namespace sparsekern
