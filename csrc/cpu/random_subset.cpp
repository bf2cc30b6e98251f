// A uniformly random set of integers.
#include "common.h"
#include "cpu/distinct.h"

namespace sparsekern {

void random_subset(Tensor out, int64_t size, int64_t seed) {
  require(out.scalar_type() == ScalarType::Long && out.dim() == 1 && out.is_contiguous(),
          "out must be a contiguous 1-D int64 tensor");
  const int64_t n = out.numel();
  require(n <= size, "cannot choose ", n, " distinct integers below ", size);
  int64_t counter = 0;
  random_distinct(mutable_data<int64_t>(out), n, size, Stream(seed), counter);
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("random_subset", TORCH_BOX(&sparsekern::random_subset)); }
