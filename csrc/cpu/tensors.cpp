#include "cpu/tensors.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace sparsekern {

Storage storage_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return Storage::float32;
    case ScalarType::Double:
      return Storage::float64;
    case ScalarType::BFloat16:
      return Storage::bfloat16;
    case ScalarType::Half:
      return Storage::float16;
    default:
      fail("sparse layers on the CPU take float32, float64, bfloat16 or float16, got ", dtype);
  }
}

Tensor dense_vector(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

namespace {

// Dimensions in the order of their strides, the smallest first.
Tensor with_strides(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes,
                    const std::vector<size_t>& order) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (const size_t d : order) strides[d] = stride, stride *= std::max<int64_t>(1, sizes[d]);
  int32_t dtype, device, index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(sizes.size(), sizes.data(), strides.data(), dtype, device, index, &made));
  return Tensor(made);
}

}  // namespace

Tensor uninitialized(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes) {
  std::vector<size_t> order(sizes.size());
  std::iota(order.rbegin(), order.rend(), 0);
  return with_strides(like, sizes, order);
}

Tensor uninitialized_channels_last(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes) {
  return with_strides(like, sizes, {1, 3, 2, 0});
}

Tensor bytes_like(const Tensor& like, int64_t bytes) {
  return torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
}

Tensor widened(const Tensor& values, int64_t nnz) {
  const LinearKernels& kernels = linear_kernels(storage_of(values.scalar_type()));
  if (kernels.storage_size == kernels.sum_size) return dense_vector(values);
  const Tensor flat = dense_vector(values);
  Tensor wide = bytes_like(values, nnz * kernels.sum_size);
  parallel_for(0, nnz, 1 << 14, [&](int64_t begin, int64_t end) {
    kernels.widen(flat.const_data_ptr(), begin, end, wide.mutable_data_ptr());
  });
  return wide;
}

Tensor factors(const Tensor& values, int64_t nnz, int factor_size) {
  return static_cast<size_t>(factor_size) == values.element_size() ? dense_vector(values) : widened(values, nnz);
}

}  // namespace sparsekern
