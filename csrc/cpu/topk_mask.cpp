// Marks the k largest numbers in a list of tensors, in bytes or in bits; of equal ones the first.
#include <atomic>
#include <numeric>

#include "common.h"
#include "cpu/bitmask.h"
#include "cpu/marked.h"
#include "cpu/parallel.h"
#include "cpu/select.h"

namespace sparsekern {
namespace {

// Marks the numbers above the threshold, and those equal to it if so told.
template <class T>
void mark(const Chunk<T>& chunk, Keys<T> keys, typename Keys<T>::Key threshold, bool equal, bool* out) {
  vectorized(
      [](const Chunk<T> chunk, Keys<T> keys, typename Keys<T>::Key least, bool* out) SPARSEKERN_VECTORIZED {
        for (int64_t i = 0; i < chunk.size; ++i) out[i] = keys.of(chunk.data[i]) >= least;
      },
      chunk, keys, threshold + !equal, out);
}

template <class T>
int64_t count_equal(const Chunk<T>& chunk, Keys<T> keys, typename Keys<T>::Key threshold) {
  return vectorized(
      [](const Chunk<T> chunk, Keys<T> keys, typename Keys<T>::Key threshold) SPARSEKERN_VECTORIZED {
        typename Keys<T>::Key equal = 0;
        for (int64_t i = 0; i < chunk.size; ++i) equal += keys.of(chunk.data[i]) == threshold;
        return equal;
      },
      chunk, keys, threshold);
}

// Calls `f(chunk, marks)` with the k largest numbers of each chunk marked, in parallel.
template <class T, class F>
void each_marked(const std::vector<Tensor>& scores, int64_t k, bool absolute, const F& f) {
  const Scores<T> all(scores);
  require(0 <= k && k <= all.size, "k must be between 0 and ", all.size, ", the number of scores, got ", k);
  if (all.size == 0) return;
  const Keys<T> keys{absolute};
  const Selected<T> last = select(all, std::max<int64_t>(k, 1), absolute);
  const int64_t needed = k == 0 ? 0 : last.needed;

  // How many of the equal numbers precede each chunk; of no interest when all of them are taken.
  const auto& chunks = all.chunks;
  std::vector<int64_t> before(chunks.size() + 1, 0);
  if (needed < last.equal) {
    parallel_for(0, chunks.size(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) before[i + 1] = count_equal(chunks[i], keys, last.key);
    });
    std::partial_sum(before.begin(), before.end(), before.begin());
  }
  parallel_for(0, chunks.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Chunk<T>& chunk = chunks[i];
      f(chunk, [&](bool* out) {
        mark(chunk, keys, last.key, before[i + 1] <= needed, out);
        if (before[i + 1] <= needed) return;
        int64_t left = needed - before[i];
        for (int64_t j = 0; left > 0; ++j)
          if (keys.of(chunk.data[j]) == last.key) out[j] = true, --left;
      });
    }
  });
}

}  // namespace

std::vector<Tensor> topk_mask(const std::vector<Tensor>& scores, int64_t k, bool absolute) {
  std::vector<Tensor> masks;
  if (scores.empty()) return masks;
  for (const Tensor& score : scores) masks.push_back(torch::stable::new_empty(score, score.sizes(), ScalarType::Bool));
  with_floating_type(scores[0].scalar_type(), "scores", [&](auto zero) {
    using T = decltype(zero);
    each_marked<T>(scores, k, absolute, [&](const Chunk<T>& chunk, const auto& mark) {
      mark(mutable_data<bool>(masks[chunk.tensor]) + chunk.offset);
    });
  });
  return masks;
}

std::vector<Tensor> topk_bits(const std::vector<Tensor>& scores, int64_t k, bool absolute) {
  std::vector<Tensor> bits;
  std::vector<int64_t> cols;
  if (scores.empty()) return bits;
  for (const Tensor& score : scores) {
    const int64_t rows = score.dim() > 1 ? score.size(0) : 1;
    cols.push_back(1);
    for (int64_t d = score.dim() > 1; d < score.dim(); ++d) cols.back() *= score.size(d);
    bits.push_back(torch::stable::new_zeros(score, {rows, ceil_div(cols.back(), kWord)}, ScalarType::Long));
  }
  Tensor counts = torch::stable::new_zeros(scores[0], {static_cast<int64_t>(scores.size())}, ScalarType::Long);
  int64_t* count = mutable_data<int64_t>(counts);
  with_floating_type(scores[0].scalar_type(), "scores", [&](auto zero) {
    using T = decltype(zero);
    each_marked<T>(scores, k, absolute, [&](const Chunk<T>& chunk, const auto& mark) {
      bool marks[kChunk];
      mark(marks);
      const int64_t t = chunk.tensor, marked = set_bits(mutable_data<uint64_t>(bits[t]), cols[t], chunk.offset,
                                                        reinterpret_cast<const uint8_t*>(marks), chunk.size);
      std::atomic_ref(count[t]).fetch_add(marked, std::memory_order_relaxed);
    });
  });
  bits.push_back(counts);
  return bits;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) {
  m.impl("topk_mask", TORCH_BOX(&sparsekern::topk_mask));
  m.impl("topk_bits", TORCH_BOX(&sparsekern::topk_bits));
}
