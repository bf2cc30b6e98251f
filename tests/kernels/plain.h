// What the vector kernels are compared with is plain C++ that shares no code with them. This header has numbers as they
// are stored, random ones, and the comparison.
//
// Random numbers are small multiples of a power of two. Every sum of their products is exact, in whatever order it is
// taken, so that a kernel has to give the very number that a loop in double gives, rounded once when it is stored.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "checks.h"

namespace plain {

using sparsekern::fail;

// A number of 16 bits: a sign, `Exponent` bits, `Mantissa` bits.
template <int Exponent, int Mantissa>
struct Narrow {
  static constexpr int kMantissa = Mantissa;
  static constexpr int kBias = (1 << (Exponent - 1)) - 1;
  static constexpr int kInfinity = ((1 << Exponent) - 1) << Mantissa;
  uint16_t bits;

  Narrow() = default;

  // Rounds to nearest, ties to even.
  explicit Narrow(double x) {
    const int exponent = x == 0 ? 1 - kBias : std::max(std::ilogb(x), 1 - kBias);
    int magnitude = kInfinity + std::isnan(x);
    if (std::isfinite(x) && exponent <= kBias) {
      const double digits = std::nearbyint(std::ldexp(std::fabs(x), Mantissa - exponent));
      magnitude = ((exponent + kBias - 1) << Mantissa) + static_cast<int>(digits);
    }
    bits = static_cast<uint16_t>(std::signbit(x) << 15 | magnitude);
  }

  explicit operator double() const {
    const int magnitude = bits & 0x7fff, exponent = magnitude >> Mantissa, digits = magnitude & ((1 << Mantissa) - 1);
    double x = std::ldexp(digits + (exponent ? 1 << Mantissa : 0), std::max(exponent, 1) - kBias - Mantissa);
    if (magnitude == kInfinity) x = std::numeric_limits<double>::infinity();
    if (magnitude > kInfinity) x = std::numeric_limits<double>::quiet_NaN();
    return bits >> 15 ? -x : x;
  }
};

using BFloat16 = Narrow<8, 7>;
using Float16 = Narrow<5, 10>;

// The type of the kernels' sums.
template <class S>
using Sum = std::conditional_t<std::is_same_v<S, double>, double, float>;

// The number that is stored where the exact result is `x`.
template <class S>
double stored(double x) {
  return static_cast<double>(static_cast<S>(x));
}

class Random {
 public:
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }

  // Multiples of 1/parts from -most to most; of a smaller fraction, such that a float does not hold their products, for
  // double.
  template <class S>
  std::vector<S> numbers(int64_t count, int64_t most, int64_t parts) {
    const int64_t unit = std::is_same_v<S, double> ? parts << 6 : parts;
    std::vector<S> numbers(count);
    for (S& x : numbers) x = static_cast<S>(static_cast<double>(below(2 * most * unit + 1)) / unit - most);
    return numbers;
  }

 private:
  std::mt19937_64 engine_{1};
};

// Memory that nobody has written to.
template <class T>
std::vector<T> unwritten(int64_t count) {
  return std::vector<T>(count, static_cast<T>(std::numeric_limits<double>::quiet_NaN()));
}

// Numbers as kernels multiply them: in the type of their sums, or as they are stored. Nobody has written to them yet.
template <class S>
struct Factors {
  int64_t size;
  std::vector<unsigned char> memory;

  Factors(int64_t count, int64_t size_) : size(size_), memory(count * size_, 0xff) {}

  bool pairs() const { return size < static_cast<int64_t>(sizeof(Sum<S>)); }
  unsigned char* data(int64_t i = 0) { return memory.data() + i * size; }
  const unsigned char* data(int64_t i = 0) const { return memory.data() + i * size; }

  double operator[](int64_t i) const {
    const auto number = [&](auto x) {
      std::memcpy(&x, data(i), sizeof x);
      return static_cast<double>(x);
    };
    return pairs() ? number(S()) : number(Sum<S>());
  }
  void set(int64_t i, double number) {
    const auto write = [&](auto x) { std::memcpy(data(i), &x, sizeof x); };
    pairs() ? write(static_cast<S>(number)) : write(static_cast<Sum<S>>(number));
  }

  // Where the i-th number of a row of the batch is: pairs have four of the first half of 32, then four of the second.
  int64_t place(int64_t i) const {
    const int64_t within = i % 32;
    return pairs() ? i - within + within % 16 / 4 * 8 + within / 16 * 4 + within % 4 : i;
  }
};

inline int64_t comparisons = 0;

// Throws if `got` is another number than `want`, with the place that `where` describes.
template <class T, class... Where>
void expect(T got, double want, const Where&... where) {
  ++comparisons;
  const double number = static_cast<double>(got);
  if (number == want || (std::isnan(number) && std::isnan(want))) return;
  std::ostringstream numbers;
  numbers.precision(17);
  numbers << ": got " << number << ", expected " << want;
  fail(where..., numbers.str());
}

}  // namespace plain
