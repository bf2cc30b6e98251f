// The vector kernels of cpu/simd/bits.h: one source, compiled by generic.cpp, avx2.cpp and avx512.cpp.
//
// A group of elements is moved between its lanes and the low ones of a register, never from or to memory: expanding
// loads and compressing stores are microcode on some processors.
#pragma once

#include "cpu/simd/bits.h"
#include "cpu/simd/vector-inl.h"

namespace sparsekern {
namespace bits {
namespace {

constexpr int kWord = 64;

// `Group<T>::kSize` lanes of type T, selected by as many bits. `expand` reads, `compress` writes that many values.
// Without a vector instruction for it a group is one lane.
template <class T>
struct Group;

#if SPARSEKERN_VECTOR_BYTES == 64

// The vector itself, which the compiler must not make an operand in memory of.
SPARSEKERN_INLINE __m512i in_register(__m512i v) {
  __asm__("" : "+v"(v));
  return v;
}

template <>
struct Group<uint32_t> {
  static constexpr int kSize = 16;
  using Register = __m512i;
  static SPARSEKERN_INLINE __m512i expanded(uint64_t mask, __m512i values) {
    return _mm512_maskz_expand_epi32(mask, in_register(values));
  }
  static SPARSEKERN_INLINE __m512i compressed(uint64_t mask, __m512i dense) {
    return in_register(_mm512_maskz_compress_epi32(mask, dense));
  }
  static SPARSEKERN_INLINE void expand(uint64_t mask, const uint32_t* values, uint32_t* dense) {
    _mm512_storeu_si512(dense, expanded(mask, _mm512_loadu_si512(values)));
  }
  static SPARSEKERN_INLINE void compress(uint64_t mask, const uint32_t* dense, uint32_t* values) {
    _mm512_storeu_si512(values, compressed(mask, _mm512_loadu_si512(dense)));
  }
};

template <>
struct Group<uint64_t> {
  static constexpr int kSize = 8;
  using Register = __m512i;
  static SPARSEKERN_INLINE __m512i expanded(uint64_t mask, __m512i values) {
    return _mm512_maskz_expand_epi64(mask, in_register(values));
  }
  static SPARSEKERN_INLINE __m512i compressed(uint64_t mask, __m512i dense) {
    return in_register(_mm512_maskz_compress_epi64(mask, dense));
  }
  static SPARSEKERN_INLINE void expand(uint64_t mask, const uint64_t* values, uint64_t* dense) {
    _mm512_storeu_si512(dense, expanded(mask, _mm512_loadu_si512(values)));
  }
  static SPARSEKERN_INLINE void compress(uint64_t mask, const uint64_t* dense, uint64_t* values) {
    _mm512_storeu_si512(values, compressed(mask, _mm512_loadu_si512(dense)));
  }
};

#if defined(SPARSEKERN_VBMI2)

template <>
struct Group<uint16_t> {
  static constexpr int kSize = 32;
  static SPARSEKERN_INLINE __m512i expanded(uint64_t mask, __m512i values) {
    return _mm512_maskz_expand_epi16(mask, in_register(values));
  }
  static SPARSEKERN_INLINE __m512i compressed(uint64_t mask, __m512i dense) {
    return in_register(_mm512_maskz_compress_epi16(mask, dense));
  }
  static SPARSEKERN_INLINE void expand(uint64_t mask, const uint16_t* values, uint16_t* dense) {
    _mm512_storeu_si512(dense, expanded(mask, _mm512_loadu_si512(values)));
  }
  static SPARSEKERN_INLINE void compress(uint64_t mask, const uint16_t* dense, uint16_t* values) {
    _mm512_storeu_si512(values, compressed(mask, _mm512_loadu_si512(dense)));
  }
};

#else

// By way of 32 bits. The masks spare GCC 12 a false warning.
template <>
struct Group<uint16_t> {
  static constexpr int kSize = 16;
  static constexpr __mmask16 kEvery = -1;
  static SPARSEKERN_INLINE __m512i load(const uint16_t* p) {
    return _mm512_maskz_cvtepu16_epi32(kEvery, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static SPARSEKERN_INLINE void store(uint16_t* p, __m512i v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtepi32_epi16(kEvery, v));
  }
  static SPARSEKERN_INLINE void expand(uint64_t mask, const uint16_t* values, uint16_t* dense) {
    store(dense, _mm512_maskz_expand_epi32(mask, load(values)));
  }
  static SPARSEKERN_INLINE void compress(uint64_t mask, const uint16_t* dense, uint16_t* values) {
    store(values, _mm512_maskz_compress_epi32(mask, load(dense)));
  }
};

#endif

#elif SPARSEKERN_VECTOR_BYTES == 32

// For each mask of `Lanes` bits: which value each lane takes (`kEmpty` if none), and which lane each value comes from.
template <int Lanes>
struct Permutations {
  static constexpr uint8_t kEmpty = 0xff;
  uint8_t of_lane[1 << Lanes][8], of_value[1 << Lanes][8];
  constexpr Permutations() : of_lane(), of_value() {
    for (int mask = 0; mask < 1 << Lanes; ++mask) {
      for (int i = 0; i < 8; ++i) of_lane[mask][i] = of_value[mask][i] = kEmpty;
      for (int i = 0, k = 0; i < Lanes; ++i) {
        if (!(mask >> i & 1)) continue;
        of_lane[mask][i] = k;
        of_value[mask][k++] = i;
      }
    }
  }
};

constexpr Permutations<8> kPermutations;

SPARSEKERN_INLINE __m128i row_of(const uint8_t (*table)[8], uint64_t mask) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(table[mask]));
}

// Eight lanes of 32 bits, each of which takes the one that `from` names; zero where that is `kEmpty`.
SPARSEKERN_INLINE __m256i permuted(__m256i v, __m128i from) {
  const __m256i lanes = _mm256_cvtepi8_epi32(from);
  return _mm256_andnot_si256(_mm256_srai_epi32(lanes, 31), _mm256_permutevar8x32_epi32(v, lanes));
}

SPARSEKERN_INLINE __m256i load_lanes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
SPARSEKERN_INLINE void store_lanes(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

template <>
struct Group<uint32_t> {
  static constexpr int kSize = 8;
  using Register = __m256i;
  static SPARSEKERN_INLINE __m256i expanded(uint64_t mask, __m256i values) {
    return permuted(values, row_of(kPermutations.of_lane, mask));
  }
  static SPARSEKERN_INLINE __m256i compressed(uint64_t mask, __m256i dense) {
    return permuted(dense, row_of(kPermutations.of_value, mask));
  }
  static SPARSEKERN_INLINE void expand(uint64_t mask, const uint32_t* values, uint32_t* dense) {
    store_lanes(dense, expanded(mask, load_lanes(values)));
  }
  static SPARSEKERN_INLINE void compress(uint64_t mask, const uint32_t* dense, uint32_t* values) {
    store_lanes(values, compressed(mask, load_lanes(dense)));
  }
};

// Pairs of 32 bits: a mask of four bits, each of them twice.
template <>
struct Group<uint64_t> {
  static constexpr int kSize = 4;
  using Register = __m256i;
  static SPARSEKERN_INLINE uint64_t twice(uint64_t mask) {
    const uint64_t apart = (mask & 1) | (mask & 2) << 1 | (mask & 4) << 2 | (mask & 8) << 3;
    return apart | apart << 1;
  }
  static SPARSEKERN_INLINE __m256i expanded(uint64_t mask, __m256i values) {
    return permuted(values, row_of(kPermutations.of_lane, twice(mask)));
  }
  static SPARSEKERN_INLINE __m256i compressed(uint64_t mask, __m256i dense) {
    return permuted(dense, row_of(kPermutations.of_value, twice(mask)));
  }
  static SPARSEKERN_INLINE void expand(uint64_t mask, const uint64_t* values, uint64_t* dense) {
    store_lanes(dense, expanded(mask, load_lanes(values)));
  }
  static SPARSEKERN_INLINE void compress(uint64_t mask, const uint64_t* dense, uint64_t* values) {
    store_lanes(values, compressed(mask, load_lanes(dense)));
  }
};

// A shuffle of bytes, which sets those to zero whose place has its highest bit set.
template <>
struct Group<uint16_t> {
  static constexpr int kSize = 8;
  static SPARSEKERN_INLINE __m128i moved(const void* p, __m128i from) {
    const __m128i low = _mm_add_epi8(from, from), empty = _mm_cmplt_epi8(from, _mm_setzero_si128());
    const __m128i bytes = _mm_unpacklo_epi8(low, _mm_add_epi8(low, _mm_set1_epi8(1)));
    return _mm_shuffle_epi8(_mm_loadu_si128(static_cast<const __m128i*>(p)),
                            _mm_or_si128(bytes, _mm_unpacklo_epi8(empty, empty)));
  }
  static SPARSEKERN_INLINE void expand(uint64_t mask, const uint16_t* values, uint16_t* dense) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(dense), moved(values, row_of(kPermutations.of_lane, mask)));
  }
  static SPARSEKERN_INLINE void compress(uint64_t mask, const uint16_t* dense, uint16_t* values) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(values), moved(dense, row_of(kPermutations.of_value, mask)));
  }
};

#else

template <class T>
struct Group {
  static constexpr int kSize = 1;
  static SPARSEKERN_INLINE void expand(uint64_t mask, const T* values, T* dense) {
    *dense = *values & -static_cast<T>(mask);
  }
  static SPARSEKERN_INLINE void compress(uint64_t, const T* dense, T* values) { *values = *dense; }
};

#endif

// ---- rows of words

template <class T>
constexpr uint64_t kGroup = (uint64_t(1) << Group<T>::kSize) - 1;

// One word: 64 elements from the values, of which `room` may be read.
template <class T>
SPARSEKERN_INLINE void expand_word(uint64_t word, const T* values, int64_t room, T* dense) {
  using G = Group<T>;
  if (room < kWord) {  // a group could reach beyond the end
    for (int i = 0; i < kWord; ++i) dense[i] = 0;
    for (int64_t k = 0; word && k < room; word &= word - 1) dense[__builtin_ctzll(word)] = values[k++];
    return;
  }
#pragma GCC unroll 16
  for (int g = 0; g < kWord; g += G::kSize) {
    const uint64_t mask = word >> g & kGroup<T>;
    G::expand(mask, values, dense + g);
    values += __builtin_popcountll(mask);
  }
}

// The other way round; `room` values may be written.
template <class T>
SPARSEKERN_INLINE void compress_word(uint64_t word, const T* dense, T* values, int64_t room) {
  using G = Group<T>;
  if (room <= 0) return;
  T apart[kWord + G::kSize];
  T* next = room < kWord ? apart : values;
#pragma GCC unroll 16
  for (int g = 0; g < kWord; g += G::kSize) {
    const uint64_t mask = word >> g & kGroup<T>;
    G::compress(mask, dense + g, next);
    next += __builtin_popcountll(mask);
  }
  if (room < kWord) __builtin_memcpy(values, apart, least(room, __builtin_popcountll(word)) * sizeof(T));
}

template <class T>
int64_t expand(const uint64_t* words, int64_t count, const void* values, int64_t room, void* dense) {
  int64_t read = 0;
  for (int64_t i = 0; i < count; ++i) {
    expand_word(words[i], static_cast<const T*>(values) + read, room - read, static_cast<T*>(dense) + i * kWord);
    read += __builtin_popcountll(words[i]);
  }
  return read;
}

template <class T>
int64_t compress(const uint64_t* words, int64_t count, const void* dense, void* values, int64_t room) {
  int64_t written = 0;
  for (int64_t i = 0; i < count; ++i) {
    compress_word(words[i], static_cast<const T*>(dense) + i * kWord, static_cast<T*>(values) + written,
                  room - written);
    written += __builtin_popcountll(words[i]);
  }
  return written;
}

template <class T>
constexpr BitKernels kKernels{expand<T>, compress<T>};

}  // namespace
}  // namespace bits

#if defined(SPARSEKERN_VBMI2)

const BitKernels& half_kernels_of_vbmi2() { return bits::kKernels<uint16_t>; }

#else

template <>
const BitKernels& bit_kernels_of<Isa::SPARSEKERN_ISA>(int64_t element_size) {
  switch (element_size) {
    case 2:
#if SPARSEKERN_VECTOR_BYTES == 64
      if (__builtin_cpu_supports("avx512vbmi2")) return half_kernels_of_vbmi2();
#endif
      return bits::kKernels<uint16_t>;
    case 4:
      return bits::kKernels<uint32_t>;
    default:
      return bits::kKernels<uint64_t>;
  }
}

#endif

}  // namespace sparsekern
