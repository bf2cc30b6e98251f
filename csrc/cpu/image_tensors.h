// Images as tensors: which of their strides the kernels of convolutions read, and how they are packed into planes.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "common.h"
#include "cpu/planes.h"
#include "cpu/tensors.h"
#include "cpu/workspace.h"

namespace sparsekern {

constexpr int64_t kLarge = 4 << 20;  // bytes of images that a cache does not keep

// A tensor [batch, channels, height, width] in any layout.
struct ImageTensor {
  Tensor tensor;

  int64_t channel_stride() const { return tensor.size(1) == 1 ? 1 : tensor.stride(1); }
  int64_t pixel_stride() const {
    return tensor.size(3) > 1 ? tensor.stride(3) : tensor.size(2) > 1 ? tensor.stride(2) : 1;
  }
  // Whether pixels lie evenly and they, or else the channels of each, are neighbours in memory.
  bool regular() const {
    const bool rows =
        tensor.size(2) == 1 || tensor.size(3) == 1 || tensor.stride(2) == tensor.size(3) * tensor.stride(3);
    return rows && (pixel_stride() == 1 || channel_stride() == 1);
  }
  // Whether it is contiguous in the memory format channels_last, and not in the usual one.
  bool channels_last() const {
    int64_t stride = 1;
    for (const int64_t d : {1, 3, 2, 0}) {
      if (tensor.size(d) != 1 && tensor.stride(d) != stride) return false;
      stride *= tensor.size(d);
    }
    return !tensor.is_contiguous();
  }

  // A block of the images, of a contiguous tensor in either format, for every `step`-th pixel of a row to be written.
  Images block(const Planes& planes, int64_t block, const Frame& frame, int64_t step) {
    const int64_t image = tensor.size(1) * frame.whole, bytes = tensor.element_size(), pixel = pixel_stride();
    char* data = static_cast<char*>(tensor.mutable_data_ptr()) + block * planes.images * image * bytes;
    Images images = planes.lanes_of(block, data, image, pixel == 1 ? frame.whole : 1, pixel, frame);
    images.step = step;
    images.large = tensor.numel() * bytes > kLarge;
    return images;
  }
};

// A new tensor of images in the format of `like`.
inline ImageTensor empty_images(const Tensor& like, const ImageSize& size) {
  const std::vector<int64_t> sizes{size.batch, size.channels, size.height, size.width};
  ImageTensor images{ImageTensor{like}.channels_last() ? uninitialized_channels_last(like, sizes)
                                                       : uninitialized(like, sizes)};
  prefer_huge_pages(images.tensor.mutable_data_ptr(), images.tensor.numel() * images.tensor.element_size());
  return images;
}

// The planes of a tensor of images, packed on demand.
class PackedImages {
 public:
  // A copy of the tensor is made where neither its pixels nor its channels are neighbours in memory.
  PackedImages(const ConvKernels& kernels, const Planes& planes, const Tensor& images, bool input)
      : kernels_(kernels), planes_(planes), images_{images} {
    if (!images_.regular() || (planes.flat && images_.pixel_stride() != 1))
      images_.tensor = torch::stable::contiguous(images);
    channels_ = images.size(1);
    grid_ = input ? planes.input_grid(cells_, zeros_) : planes.output_grid(cells_, zeros_);
    frame_ = input ? planes.packed_input : planes.packed_output;
    lead_ = input ? 0 : planes.reach;
    const int64_t cells = lead_ + channels_ * grid_.plane + planes.tail;
    require(cells < std::numeric_limits<int32_t>::max(), "an image of ", cells, " padded numbers is too large");
    bytes_ = aligned(cells * planes.lanes * kernels.factor_size);
  }

  int64_t bytes() const { return bytes_; }
  int64_t channels() const { return channels_; }
  int64_t plane() const { return grid_.plane; }

  char* planes(char* memory) const { return memory + lead_ * planes_.lanes * kernels_.factor_size; }

  // Packs part `part` of the channels of a block, and sums each if `sums` is given.
  void pack(int64_t block, int64_t part, int64_t parts, char* memory, void* sums = nullptr) const {
    const Tensor& tensor = images_.tensor;
    const int64_t stride = tensor.stride(0), first = block * planes_.images * stride * tensor.element_size();
    char* data = static_cast<char*>(const_cast<void*>(tensor.const_data_ptr())) + first;
    const Images images =
        planes_.lanes_of(block, data, stride, images_.channel_stride(), images_.pixel_stride(), frame_);
    const int64_t begin = channels_ * part / parts, end = channels_ * (part + 1) / parts;
    (planes_.flat ? kernels_.pack_flat : kernels_.pack_block)(images, grid_, begin, end, planes(memory), sums);
    const int64_t cell = planes_.lanes * kernels_.factor_size;
    if (part == 0) std::fill_n(memory, lead_ * cell, char(0));
    if (part + 1 == parts) std::fill_n(planes(memory) + channels_ * grid_.plane * cell, planes_.tail * cell, char(0));
  }

 private:
  const ConvKernels& kernels_;
  const Planes& planes_;
  ImageTensor images_;
  std::vector<int32_t> cells_, zeros_;
  Grid grid_;
  Frame frame_;
  int64_t channels_, lead_, bytes_;
};

}  // namespace sparsekern
