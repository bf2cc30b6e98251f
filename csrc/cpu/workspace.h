// Memory that a thread keeps from call to call: what is packed then stays in the caches of the cores that use it.
#pragma once

#include <cstdint>

namespace sparsekern {

constexpr int64_t kAlign = 64;

constexpr int64_t aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

char* workspace(int64_t bytes);  // the calling thread's own; what it held is lost

// Asks the system for huge pages under fresh memory: fewer page faults, and fewer misses of the address cache by
// kernels that read many channels.
void prefer_huge_pages(void* data, int64_t bytes);

}  // namespace sparsekern
