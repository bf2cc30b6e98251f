// Numbers of 16 bits, which the kernels read and write as vectors of float. Part of vector-inl.h.
#pragma once

namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
template <>
struct SumOf<BFloat16> {
  using type = float;
};
template <>
struct SumOf<Float16> {
  using type = float;
};

// ---- bfloat16, the upper half of a float

typedef uint32_t Words __attribute__((vector_size(SPARSEKERN_VECTOR_BYTES)));
typedef uint16_t Halves __attribute__((vector_size(SPARSEKERN_VECTOR_BYTES / 2)));

SPARSEKERN_INLINE Vector<float> widened(Halves h, BFloat16) {
  return (Vector<float>)(__builtin_convertvector(h, Words) << 16);
}

// Rounds to nearest, ties to even; NaN stays NaN.
SPARSEKERN_INLINE Halves narrowed(Vector<float> v, BFloat16) {
  const Words w = (Words)v;
  const Words rounded = (w + 0x7fff + ((w >> 16) & 1)) >> 16;
  return __builtin_convertvector(v == v ? rounded : (w >> 16) | 0x40, Halves);
}

SPARSEKERN_INLINE Vector<float> load(const BFloat16* p) {
  Halves h;
  __builtin_memcpy(&h, p, sizeof h);
  return widened(h, BFloat16{});
}

SPARSEKERN_INLINE void store(BFloat16* p, Vector<float> v) {
  const Halves h = narrowed(v, BFloat16{});
  __builtin_memcpy(p, &h, sizeof h);
}

SPARSEKERN_INLINE float widen(BFloat16 x) {
  const uint32_t w = uint32_t(x.bits) << 16;
  float f;
  __builtin_memcpy(&f, &w, sizeof f);
  return f;
}

// ---- float16, which is stored rounded to nearest, ties to even, and is infinite from 65520 on

#if !defined(SPARSEKERN_CONVERTS_FLOAT16)

template <class To, class From>
SPARSEKERN_INLINE To bits_as(From from) {
  To to;
  static_assert(sizeof to == sizeof from);
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

// For a number and for a vector: the float, as `F`, of the bits of a float16, as `I`.
template <class F, class I>
SPARSEKERN_INLINE F float_of(I half) {
  constexpr int32_t kBias = 112 << 23;  // between the two exponents
  const I magnitude = (half & 0x7fff) << 13, one = I{} + (kBias + (1 << 23));
  const I subnormal = bits_as<I>(bits_as<F>(magnitude + one) - bits_as<F>(one));
  const I normal = magnitude + (magnitude >= (31 << 23) ? I{} + 2 * kBias : I{} + kBias);  // or infinite, or NaN
  return bits_as<F>((magnitude < (1 << 23) ? subnormal : normal) | (half & 0x8000) << 16);
}

// The other way round. Adding .5 rounds to the last digit of what is subnormal.
template <class I, class F>
SPARSEKERN_INLINE I half_of(F x) {
  const I w = bits_as<I>(x), magnitude = w & 0x7fffffff;
  const I subnormal = bits_as<I>(bits_as<F>(magnitude) + .5f) - (126 << 23);
  const I normal = (magnitude - (112 << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
  const I nan = 0x7e00 | (magnitude >> 13 & 0x3ff), infinite = I{} + 0x7c00;
  const I large = magnitude > (255 << 23) ? nan : infinite;
  const I finite = magnitude < (113 << 23) ? subnormal : normal;
  return (w >> 16 & 0x8000) | (magnitude < (143 << 23) ? finite : large);
}

typedef int32_t Integers __attribute__((vector_size(SPARSEKERN_VECTOR_BYTES)));

SPARSEKERN_INLINE Vector<float> load(const Float16* p) {
  Halves h;
  __builtin_memcpy(&h, p, sizeof h);
  return float_of<Vector<float>>(__builtin_convertvector(h, Integers));
}

SPARSEKERN_INLINE void store(Float16* p, Vector<float> v) {
  const Halves h = __builtin_convertvector(half_of<Integers>(v), Halves);
  __builtin_memcpy(p, &h, sizeof h);
}

SPARSEKERN_INLINE float widen(Float16 x) { return float_of<float>(int32_t{x.bits}); }

#elif defined(__aarch64__)

SPARSEKERN_INLINE Vector<float> load(const Float16* p) { return vcvt_f32_f16(vld1_f16((const __fp16*)p)); }

SPARSEKERN_INLINE void store(Float16* p, Vector<float> v) { vst1_f16((__fp16*)p, vcvt_f16_f32(v)); }

SPARSEKERN_INLINE float widen(Float16 x) {
  __fp16 h;
  __builtin_memcpy(&h, &x, sizeof h);
  return h;
}

#else

constexpr uint16_t kAll = 0xffff;  // GCC 12 warns of the functions without a mask

SPARSEKERN_INLINE Vector<float> widened(Halves h, Float16) {
#if SPARSEKERN_VECTOR_BYTES == 64
  return (Vector<float>)_mm512_maskz_cvtph_ps(kAll, (__m256i)h);
#else
  return (Vector<float>)_mm256_cvtph_ps((__m128i)h);
#endif
}

SPARSEKERN_INLINE Halves narrowed(Vector<float> v, Float16) {
#if SPARSEKERN_VECTOR_BYTES == 64
  return (Halves)_mm512_maskz_cvtps_ph(kAll, (__m512)v, _MM_FROUND_TO_NEAREST_INT);
#else
  return (Halves)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
#endif
}

SPARSEKERN_INLINE Vector<float> load(const Float16* p) {
  Halves h;
  __builtin_memcpy(&h, p, sizeof h);
  return widened(h, Float16{});
}

SPARSEKERN_INLINE void store(Float16* p, Vector<float> v) {
  const Halves h = narrowed(v, Float16{});
  __builtin_memcpy(p, &h, sizeof h);
}

SPARSEKERN_INLINE float widen(Float16 x) { return _cvtsh_ss(x.bits); }

#endif

}  // namespace
