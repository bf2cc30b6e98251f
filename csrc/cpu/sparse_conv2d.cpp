// Sparse convolution: checks, packing, the split over threads. The arithmetic is in cpu/simd.
#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "common.h"
#include "cpu/columns.h"
#include "cpu/conv_order.h"
#include "cpu/csr.h"
#include "cpu/dispatch.h"
#include "cpu/image_tensors.h"
#include "cpu/parallel.h"
#include "cpu/shares.h"
#include "cpu/tensors.h"
#include "cpu/workspace.h"

namespace sparsekern {
namespace {

using Bias = std::optional<Tensor>;

constexpr int64_t kSums = 4;  // sums of the weight gradient that blocks of images are added to in turn

Weight weight_of(const std::vector<Tensor>& index, const Tensor& input, const Tensor& values, const Window& window) {
  require_parts(index);
  require(input.dim() == 4, "input must be [batch, channels, height, width], got ", input.dim(), " dimensions");
  const int64_t rows = index[kRowPtr].numel() - 1, cols = index[kTPtr].size(0) - 1, channels = input.size(1);
  require(rows % window.groups == 0 && channels % window.groups == 0, "groups must divide ", channels, " input and ",
          rows, " output channels, got ", window.groups);
  require(channels / window.groups * window.kernel_height * window.kernel_width == cols, "index describes ", cols,
          " weights for an output channel, but the input and the window have ",
          channels / window.groups * window.kernel_height * window.kernel_width);
  require(values.scalar_type() == input.scalar_type(), "values must have the input's dtype ", input.scalar_type(),
          ", got ", values.scalar_type());
  require(values.dim() == 1, "values must be a vector, got ", values.dim(), " dimensions");
  const Tensor columns = column_vector(index, cols);
  const Csr csr = pointers_of(index[kRowPtr], columns);
  require_range(csr.col, csr.nnz, cols);  // cheap beside a convolution
  const int32_t* t_ptr = index[kTPtr].numel() > 0 ? pointer_data(index[kTPtr], "t_ptr") : nullptr;
  const int64_t nnz = csr.nnz;
  require(!t_ptr || t_ptr[cols] == nnz || t_ptr[cols] == 0, "t_ptr must end with the ", nnz,
          " nonzeros of row_ptr, got ", t_ptr ? t_ptr[cols] : 0);
  require(values.numel() >= nnz, "values must hold the ", nnz, " nonzeros of row_ptr, got ", values.numel());
  return {csr.ptr, csr.col, t_ptr, rows, cols, nnz, columns};
}

// What one thread does of a product: some of the tiles, or some of the rows of every tile.
void multiply(const ConvKernels& kernels, const Planes& planes, const Taps& taps, const Tiling& tiling,
              const char* packed, const void* bias, const Images& out, int64_t rows, int64_t part, int64_t parts) {
  const int64_t tiles = static_cast<int64_t>(tiling.tiles.size());
  const bool whole = tiles % parts == 0 || tiles >= 8 * parts;
  const int64_t row_part = whole ? 0 : part, row_parts = whole ? 1 : parts;
  const int64_t begin = rows * row_part / row_parts, end = rows * (row_part + 1) / row_parts;
  const int64_t first = whole ? tiles * part / parts : 0, last = whole ? tiles * (part + 1) / parts : tiles;
  for (int64_t i = first; i < last; ++i)
    kernels.product(taps, planes.flat, tiling.tiles[i], packed, bias, out, begin, end);
  if (out.large) std::atomic_thread_fence(std::memory_order_seq_cst);  // stores past the caches are not ordered
}

// f(thread) on every thread, in parallel.
template <class F>
void on_threads(int64_t threads, const F& f) {
  parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) f(t);
  });
}

// Blocks of images over threads: each thread has blocks of its own where they can be dealt out evenly, and packs and
// computes without waiting for others; else the threads share every block. `lines` of blocks are never worked on by two
// threads at once, in ascending order within a line; block i is in line i % lines.
template <class Pack, class Compute>
void over_blocks(int64_t blocks, int64_t lines, const Pack& pack, const Compute& compute) {
  const int64_t threads = sparsekern::threads();
  const int64_t across = std::gcd(lines, threads), parts = threads / across;
  if (parts == 1) {
    on_threads(threads, [&](int64_t t) {
      for (int64_t i = 0; i < blocks; ++i) {
        if (i % lines % threads != t) continue;
        pack(i, t, 0, 1);
        compute(i, t, 0, 1);
      }
    });
    return;
  }
  for (int64_t first = 0; first < blocks; first += across) {
    const auto share = [&](const auto& f) {
      on_threads(threads, [&](int64_t t) {
        if (first + t % across < blocks) f(first + t % across, t % across, t / across, parts);
      });
    };
    share(pack);
    share(compute);
  }
}

// How many blocks are worked on at once.
int64_t in_flight(int64_t lines) { return std::gcd<int64_t>(lines, threads()); }

}  // namespace

Tensor sparse_conv2d(const Tensor& input, const Tensor& values, const std::vector<Tensor>& index, const Bias& bias,
                     const Ints& kernel_size, const Ints& stride, const Ints& padding, const Ints& dilation,
                     int64_t groups) {
  const ConvKernels& kernels = conv_kernels(storage_of(input.scalar_type()));
  const Window window = window_of(kernel_size, stride, padding, dilation, groups);
  const Weight weight = weight_of(index, input, values, window);
  if (bias) {
    require(bias->scalar_type() == input.scalar_type(), "bias must have the input's dtype ", input.scalar_type(),
            ", got ", bias->scalar_type());
    require(bias->dim() == 1 && bias->numel() == weight.rows, "bias must be a vector of ", weight.rows, " elements");
  }
  const Bias b = bias ? Bias(dense_vector(*bias)) : bias;
  const ImageSize in{input.size(0), input.size(1), input.size(2), input.size(3)};
  const ImageSize out = output_of(window, in, weight.rows);
  ImageTensor output = empty_images(input, out);
  if (output.tensor.numel() == 0) return output.tensor;

  const Planes planes(window, in, out, kernels, weight.density());
  const PackedImages x(kernels, planes, input, true);
  const Order order = forward_order(weight, planes);
  const Tensor v = factors(values, weight.nnz, kernels.factor_size);
  const Taps taps{order.bounds.data(), order.segments, order.segments, order.offset.get(), v.const_data_ptr()};
  const Tiling tiling = planes.output_tiles(output.pixel_stride());
  const int64_t lines = planes.blocks;
  char* memory = workspace(in_flight(lines) * x.bytes());
  over_blocks(
      planes.blocks, lines,
      [&](int64_t i, int64_t slot, int64_t part, int64_t parts) { x.pack(i, part, parts, memory + slot * x.bytes()); },
      [&](int64_t i, int64_t slot, int64_t part, int64_t parts) {
        multiply(kernels, planes, taps, tiling, x.planes(memory + slot * x.bytes()), b ? b->const_data_ptr() : nullptr,
                 output.block(planes, i, planes.written_output, 1), weight.rows, part, parts);
      });
  return output.tensor;
}

std::tuple<Tensor, Tensor, Tensor> sparse_conv2d_backward(const Tensor& grad_output, const Tensor& input,
                                                          const Tensor& values, const std::vector<Tensor>& index,
                                                          bool need_input, bool need_values, bool need_bias,
                                                          const Ints& kernel_size, const Ints& stride,
                                                          const Ints& padding, const Ints& dilation, int64_t groups) {
  const Storage storage = storage_of(input.scalar_type());
  const ConvKernels& kernels = conv_kernels(storage);
  const Window window = window_of(kernel_size, stride, padding, dilation, groups);
  const Weight weight = weight_of(index, input, values, window);
  const ImageSize in{input.size(0), input.size(1), input.size(2), input.size(3)};
  const ImageSize out = output_of(window, in, weight.rows);
  require(grad_output.scalar_type() == input.scalar_type(), "grad_output must have the input's dtype ",
          input.scalar_type(), ", got ", grad_output.scalar_type());
  require(grad_output.dim() == 4 && grad_output.size(0) == out.batch && grad_output.size(1) == out.channels &&
              grad_output.size(2) == out.height && grad_output.size(3) == out.width,
          "grad_output must be [", out.batch, ", ", out.channels, ", ", out.height, ", ", out.width, "]");

  Tensor none = uninitialized(values, {0});
  ImageTensor grad_input = need_input ? empty_images(input, in) : ImageTensor{none};
  Tensor grad_values = need_values ? uninitialized(values, {values.numel()}) : none;
  Tensor grad_bias = need_bias ? uninitialized(values, {weight.rows}) : none;
  if (input.numel() == 0 || grad_output.numel() == 0) {
    if (need_input) torch::stable::zero_(grad_input.tensor);
    if (need_values) torch::stable::zero_(grad_values);
    if (need_bias) torch::stable::zero_(grad_bias);
    return {grad_input.tensor, grad_values, grad_bias};
  }

  const Planes planes(window, in, out, kernels, weight.density());
  const PackedImages delta(kernels, planes, grad_output, false), x(kernels, planes, input, true);
  const Order order = need_values ? forward_order(weight, planes) : Order{};
  const Taps taps{order.bounds.data(), order.segments, order.segments, order.offset.get(), nullptr};
  const Tiling tiling = planes.output_tiles(1);
  std::vector<Tiling> input_tilings;
  Order transposed;
  if (need_input) {
    const Tensor v = factors(values, weight.nnz, kernels.factor_size);
    transposed = backward_order(weight, v.const_data_ptr(), kernels.factor_size, planes, in.channels);
    for (int64_t g = 0; g < planes.grids; ++g)
      input_tilings.push_back(planes.input_tiles(g, grad_input.pixel_stride()));
    if (!planes.complete()) torch::stable::zero_(grad_input.tensor);  // pixels that no tap sees
  }

  const int64_t lines = std::min(planes.blocks, kSums), slots = in_flight(lines);
  const int64_t sum_bytes = need_values ? aligned(weight.nnz * kernels.sum_size) : 0;
  const int64_t bias_bytes = need_bias ? planes.blocks * weight.rows * kernels.sum_size : 0;
  const int64_t block_bytes = delta.bytes() + (need_values ? x.bytes() : 0);
  char* sums = workspace(lines * sum_bytes + slots * block_bytes + bias_bytes);
  char* memory = sums + lines * sum_bytes;
  char* bias_sums = memory + slots * block_bytes;
  std::fill_n(sums, lines * sum_bytes, char(0));
  over_blocks(
      planes.blocks, lines,
      [&](int64_t i, int64_t slot, int64_t part, int64_t parts) {
        char* block = memory + slot * block_bytes;
        delta.pack(i, part, parts, block, need_bias ? bias_sums + i * weight.rows * kernels.sum_size : nullptr);
        if (need_values) x.pack(i, part, parts, block + delta.bytes());
      },
      [&](int64_t i, int64_t slot, int64_t part, int64_t parts) {
        const char* block = memory + slot * block_bytes;
        const char* d =
            delta.planes(const_cast<char*>(block)) + planes.above * planes.width * planes.lanes * kernels.factor_size;
        for (int64_t g = 0; need_input && g < planes.grids; ++g) {
          const int64_t n = transposed.segments;
          const Taps back{transposed.bounds.data() + g * n, planes.grids * n, n, transposed.offset.get(),
                          transposed.values.get()};
          multiply(kernels, planes, back, input_tilings[g], d, nullptr,
                   grad_input.block(planes, i, planes.written_input, window.stride_x), in.channels, part, parts);
        }
        const auto [begin, end] = row_range(weight.rows, 1, part, parts, [&](int64_t row) { return weight.ptr[row]; });
        if (need_values) {
          for (const Tile& tile : tiling.tiles)
            kernels.sample(taps, planes.flat, tile, d, delta.plane(), block + delta.bytes(),
                           sums + i % lines * sum_bytes, begin, end);
        }
      });

  const LinearKernels& common = linear_kernels(storage);
  if (need_bias) common.combine(bias_sums, planes.blocks, weight.rows, 0, weight.rows, grad_bias.mutable_data_ptr());
  if (need_values) {
    parallel_for(0, weight.nnz, 1 << 14, [&](int64_t begin, int64_t end) {
      common.combine(sums, lines, sum_bytes / kernels.sum_size, begin, end, grad_values.mutable_data_ptr());
    });
    char* slack = static_cast<char*>(grad_values.mutable_data_ptr()) + weight.nnz * kernels.storage_size;
    std::fill_n(slack, (values.numel() - weight.nnz) * kernels.storage_size, char(0));
  }
  return {grad_input.tensor, grad_values, grad_bias};
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) {
  m.impl("sparse_conv2d", TORCH_BOX(&sparsekern::sparse_conv2d));
  m.impl("sparse_conv2d_backward", TORCH_BOX(&sparsekern::sparse_conv2d_backward));
}
