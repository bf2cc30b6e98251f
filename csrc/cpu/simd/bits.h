// Between packed values and dense rows under a bitmask, as one table per instruction set and size of an element.
#pragma once

#include <cstdint>

#include "cpu/simd/kinds.h"

namespace sparsekern {

struct BitKernels {
  // Writes 64 elements for each of `count` words: for every bit that is set the next of the values, else zero. Reads
  // no more than `room` values. Returns how many bits are set.
  int64_t (*expand)(const uint64_t* words, int64_t count, const void* values, int64_t room, void* dense);

  // Gathers those of 64 elements a word whose bits are set, and returns how many they are. May write to what follows
  // them, too, up to `room` values in all.
  int64_t (*compress)(const uint64_t* words, int64_t count, const void* dense, void* values, int64_t room);
};

// The table of one instruction set, for elements of 2, 4 or 8 bytes; `bit_kernels` of cpu/dispatch.h chooses.
template <Isa isa>
const BitKernels& bit_kernels_of(int64_t element_size);
template <>
const BitKernels& bit_kernels_of<Isa::generic>(int64_t element_size);
template <>
const BitKernels& bit_kernels_of<Isa::avx2>(int64_t element_size);
template <>
const BitKernels& bit_kernels_of<Isa::avx512>(int64_t element_size);
template <>
const BitKernels& bit_kernels_of<Isa::neon>(int64_t element_size);

const BitKernels& half_kernels_of_vbmi2();  // of 2 bytes, for AVX-512 with VBMI2

}  // namespace sparsekern
