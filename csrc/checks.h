// What needs no torch: errors, and rounding up.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>

namespace sparsekern {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What a caller got wrong: a ValueError in Python, its message streamed from `parts`.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

template <class... Parts>
void require(bool ok, const Parts&... parts) {
  if (!ok) fail(parts...);
}

}  // namespace sparsekern
