#include "cpu/workspace.h"

#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "common.h"

namespace sparsekern {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kLarge = 2 * kHugePage;

}  // namespace

void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (bytes >= kLarge && begin < end)
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a wish: errors do not matter
#endif
}

char* workspace(int64_t bytes) {
  struct Block {
    char* data = nullptr;
    int64_t size = 0;
    ~Block() { release(); }
    void release() {
#if defined(__linux__)
      if (data) munmap(data, size);
#else
      std::free(data);
#endif
      data = nullptr, size = 0;
    }
  };
  static thread_local Block block;
  if (bytes > block.size) {
    block.release();
    const int64_t size = (bytes + kPage - 1) / kPage * kPage;
#if defined(__linux__)  // not from the heap, where a block that stays would keep others from being returned
    void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) data = nullptr;
#else
    void* data = std::aligned_alloc(kPage, size);
#endif
    STD_TORCH_CHECK(data, "no memory for ", bytes, " bytes");
    block.data = static_cast<char*>(data);
    block.size = size;
    prefer_huge_pages(block.data, block.size);
  }
  return block.data;
}

}  // namespace sparsekern
