#include "cpu/scratch.h"

#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "common.h"

namespace sparsekern {
namespace {

constexpr int64_t kHugePage = 2 << 20;

}  // namespace

void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a wish: errors do not matter
#endif
}

char* scratch(int64_t bytes) {
  struct Block {
    char* data = nullptr;
    int64_t size = 0;
    ~Block() { std::free(data); }
  };
  static thread_local Block block;
  if (bytes > block.size) {
    std::free(block.data);
    block.size = 0;
    const int64_t unit = bytes < kHugePage ? kAlign : kHugePage, size = (bytes + unit - 1) / unit * unit;
    block.data = static_cast<char*>(std::aligned_alloc(unit, size));
    STD_TORCH_CHECK(block.data, "no memory for ", bytes, " bytes");
    block.size = size;
    prefer_huge_pages(block.data, block.size);
  }
  return block.data;
}

}  // namespace sparsekern
