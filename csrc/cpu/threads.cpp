#include "cpu/threads.h"

#include "common.h"

namespace sparsekern {

int threads() {
#if defined(__SANITIZE_THREAD__)
  return 4;  // torch itself runs on one thread then
#else
  return static_cast<int>(torch::stable::get_num_threads());
#endif
}

}  // namespace sparsekern
