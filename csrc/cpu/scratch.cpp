#include "cpu/scratch.h"

#include <cstdlib>

#include "common.h"

namespace sparsekern {

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
    block.data = static_cast<char*>(std::aligned_alloc(kAlign, aligned(bytes)));
    STD_TORCH_CHECK(block.data, "no memory for ", bytes, " bytes");
    block.size = aligned(bytes);
  }
  return block.data;
}

}  // namespace sparsekern
