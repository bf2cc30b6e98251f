// The extension module: facts about the build. Operators register themselves, one file each.
#include <pybind11/pybind11.h>

#include "cpu/isa.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of sparsekern";
  m.def("isa", [] { return sparsekern::isa_name(sparsekern::active_isa()); },
        "Instruction set in use: avx512, avx2 or generic.");
  m.def("isas", [] {
    py::list names;
    for (auto isa : sparsekern::supported_isas()) names.append(sparsekern::isa_name(isa));
    return names;
  }, "Instruction sets this processor can run, best first.");
  m.def("_set_isa", [](const std::string& name) { sparsekern::set_isa(name); },
        "Chooses the instruction set; for tests.");
#ifdef SPARSEKERN_CUDA
  m.attr("cuda") = true;
#else
  m.attr("cuda") = false;
#endif
}
