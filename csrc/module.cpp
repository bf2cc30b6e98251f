// The extension module: facts about the build. Operators register themselves, one file each.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/headeronly/version.h>

#include "cpu/dispatch.h"
#include "cpu/threads.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of sparsekern";
  m.attr("torch_version") = TORCH_VERSION;
#if defined(__clang__)
  m.attr("compiler") = __VERSION__;
#else
  m.attr("compiler") = "GCC " __VERSION__;
#endif
  m.def("threads", &sparsekern::threads, "Number of threads that the kernels use: torch's.");
  m.def(
      "isa", [] { return sparsekern::isa_name(sparsekern::active_isa()); },
      "Instruction set in use: avx512, avx2, neon or generic.");
  m.def(
      "isas",
      [] {
        std::vector<std::string> names;
        for (auto isa : sparsekern::supported_isas()) names.push_back(sparsekern::isa_name(isa));
        return names;
      },
      "Instruction sets that this processor can run, best first.");
  m.def("_set_isa", &sparsekern::set_isa, "Chooses the instruction set; for tests.");
}
