// The k-th largest number in a list of tensors.
#include "common.h"
#include "cpu/select.h"

namespace sparsekern {

Tensor kth_largest(const std::vector<Tensor>& scores, int64_t k, bool absolute) {
  require(!scores.empty(), "scores must not be an empty list");
  Tensor result = torch::stable::new_empty(scores[0], {});
  with_floating_type(scores[0].scalar_type(), "scores", [&](auto zero) {
    using T = decltype(zero);
    const Scores<T> all(scores);
    require(1 <= k && k <= all.size, "k must be between 1 and ", all.size, ", the number of scores, got ", k);
    *mutable_data<Bits<T>>(result) = Keys<T>{absolute}.number(select(all, k, absolute).key);
  });
  return result;
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("kth_largest", TORCH_BOX(&sparsekern::kth_largest)); }
