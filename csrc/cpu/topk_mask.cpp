// Marks the k largest numbers in a list of tensors; of equal ones the first.
#include <numeric>

#include "common.h"
#include "cpu/radix_select.h"

namespace sparsekern {

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
    const Selected<T> last = radix_select(all, std::max<int64_t>(k, 1), absolute);
    const auto threshold = last.key;
    const int64_t needed = k == 0 ? 0 : last.needed, equal = last.equal;

    // How many of the equal numbers precede each chunk; of no interest when all of them are taken.
    const auto& chunks = all.chunks;
    std::vector<int64_t> before(chunks.size() + 1, 0);
    if (needed < equal) {
      torch::stable::parallel_for(0, chunks.size(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          for (int64_t j = 0; j < chunks[i].size; ++j) before[i + 1] += keys.of(chunks[i].data[j]) == threshold;
      });
      std::partial_sum(before.begin(), before.end(), before.begin());
    }
    torch::stable::parallel_for(0, chunks.size(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto [x, size, tensor, offset] = chunks[i];
        bool* out = mutable_data<bool>(masks[tensor]) + offset;
        if (needed == equal) {
          for (int64_t j = 0; j < size; ++j) out[j] = keys.of(x[j]) >= threshold;
          continue;
        }
        int64_t rank = before[i];
        for (int64_t j = 0; j < size; ++j) {
          const auto key = keys.of(x[j]);
          out[j] = key > threshold || (key == threshold && rank < needed);
          rank += key == threshold;
        }
      }
    });
  });
  return masks;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("topk_mask", TORCH_BOX(&sparsekern::topk_mask)); }
