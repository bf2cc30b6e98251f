#pragma once

namespace sparsekern {

int threads();  // as torch.set_num_threads set it

}  // namespace sparsekern
