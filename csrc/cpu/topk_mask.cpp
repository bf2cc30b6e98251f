// Marks the k largest numbers in a list of tensors; of equal ones the first.
#include <numeric>

#include "common.h"
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

}  // namespace

std::vector<Tensor> topk_mask(const std::vector<Tensor>& scores, int64_t k, bool absolute) {
  std::vector<Tensor> masks;
  if (scores.empty()) return masks;
  for (const Tensor& score : scores) masks.push_back(torch::stable::new_empty(score, score.sizes(), ScalarType::Bool));
  with_floating_type(scores[0].scalar_type(), "scores", [&](auto zero) {
    using T = decltype(zero);
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
        bool* out = mutable_data<bool>(masks[chunk.tensor]) + chunk.offset;
        mark(chunk, keys, last.key, before[i + 1] <= needed, out);
        if (before[i + 1] <= needed) continue;
        int64_t left = needed - before[i];
        for (int64_t j = 0; left > 0; ++j)
          if (keys.of(chunk.data[j]) == last.key) out[j] = true, --left;
      }
    });
  });
  return masks;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("topk_mask", TORCH_BOX(&sparsekern::topk_mask)); }
