#include "cpu/threads.h"

#include "common.h"

namespace sparsekern {

int threads() { return static_cast<int>(torch::stable::get_num_threads()); }

}  // namespace sparsekern
