// A uniformly random set of integers, that of the CPU for the same seed.
#include "cuda/distinct.cuh"

namespace sparsekern {

void random_subset(Tensor out, int64_t size, int64_t seed) {
  require(out.scalar_type() == ScalarType::Long && out.dim() == 1 && out.is_contiguous(),
          "out must be a contiguous 1-D int64 tensor");
  const int64_t n = out.numel();
  require(n <= size, "cannot choose ", n, " distinct integers below ", size);
  const Device device(out);
  int64_t counter = 0;
  const Set set = random_distinct(device, out, n, size, Stream(seed), counter);
  const int64_t* chosen = set.members.data();
  int64_t* o = mutable_data<int64_t>(out);
  each(device, n, [=] __device__(int64_t i) { o[i] = chosen[i]; });
}

}  // namespace sparsekern

SPARSEKERN_REGISTER(random_subset)
