// Where the segments of `TILE` consecutive columns start in every row: a search for each of them.
#include "cuda/launch.cuh"
#include "cuda/search.cuh"

namespace sparsekern {

constexpr int64_t TILE = 64;

Tensor tile_index(const Tensor& ptr, const Tensor& index, int64_t extent) {
  const int64_t rows = ptr.numel() - 1, edges = (extent + TILE - 1) / TILE + 1;
  const Device device(index);
  device.require_here(ptr, "ptr");
  const Pattern pattern{index_data(ptr, 1, "ptr"), index_data(index, 0, "index"), rows, extent};
  Tensor starts = torch::stable::new_empty(index, {rows, edges});
  int32_t* s = mutable_data<int32_t>(starts);
  each(device, rows * edges, [=] __device__(int64_t i) {
    const int64_t r = i / edges, t = i % edges;
    s[i] = t + 1 == edges ? pattern.ptr[r + 1] : static_cast<int32_t>(pattern.slot(r, t * TILE));
  });
  return starts;
}

}  // namespace sparsekern

SPARSEKERN_REGISTER(tile_index)
