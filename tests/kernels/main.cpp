// Compares the vector kernels with plain loops, for every instruction set that this processor has and every dtype.
// Needs no torch, so that kernels compiled for another processor can run under emulation.
#include <cstdio>
#include <exception>

#include "cpu/dispatch.h"
#include "families.h"
#include "plain.h"

namespace {

using sparsekern::Storage;

int failures = 0;

template <class F>
void run(const char* family, const char* dtype, const F& check) {
  const char* isa = sparsekern::isa_name(sparsekern::active_isa());
  plain::comparisons = 0;
  try {
    check();
    std::printf("%s %s %s: %lld numbers\n", isa, dtype, family, static_cast<long long>(plain::comparisons));
  } catch (const std::exception& error) {
    std::printf("%s %s %s: WRONG: %s\n", isa, dtype, family, error.what());
    ++failures;
  }
}

template <class S>
void run_all(Storage storage, const char* dtype) {
  run("linear", dtype, [&] { plain::check_linear<S>(sparsekern::linear_kernels(storage)); });
  run("conv", dtype, [&] { plain::check_conv<S>(sparsekern::conv_kernels(storage)); });
  run("few", dtype, [&] { plain::check_few<S>(sparsekern::few_kernels(storage)); });
  run("moment", dtype, [&] { plain::check_moment<S>(sparsekern::moment_kernels(storage)); });
}

}  // namespace

int main() {
  for (const sparsekern::Isa isa : sparsekern::supported_isas()) {
    sparsekern::set_isa(sparsekern::isa_name(isa));
    run_all<float>(Storage::float32, "float32");
    run_all<double>(Storage::float64, "float64");
    run_all<plain::BFloat16>(Storage::bfloat16, "bfloat16");
    run_all<plain::Float16>(Storage::float16, "float16");
    run("dense", "float32", [] { plain::check_dense<float>(sparsekern::dense_kernels(Storage::float32)); });
    run("dense", "float64", [] { plain::check_dense<double>(sparsekern::dense_kernels(Storage::float64)); });
    if (const auto& pairs = sparsekern::dense_kernels(Storage::bfloat16); pairs.paired == 2)
      run("dense", "bfloat16", [&] { plain::check_dense<plain::BFloat16>(pairs); });
    run("bits", "2 bytes", [] { plain::check_bits<uint16_t>(sparsekern::bit_kernels(2)); });
    run("bits", "4 bytes", [] { plain::check_bits<uint32_t>(sparsekern::bit_kernels(4)); });
    run("bits", "8 bytes", [] { plain::check_bits<uint64_t>(sparsekern::bit_kernels(8)); });
  }
  return failures > 0;
}
