// Which instruction set the vector kernels use, chosen once at run time.
#pragma once

#include <string>
#include <vector>

namespace sparsekern {

enum class Isa { generic = 0, avx2 = 1, avx512 = 2 };

const char* isa_name(Isa isa);
std::vector<Isa> supported_isas();  // best first
Isa active_isa();
void set_isa(const std::string& name);  // throws std::invalid_argument

}  // namespace sparsekern
