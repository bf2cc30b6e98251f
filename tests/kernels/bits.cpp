// Moving values under a bitmask, against plain loops.
#include "cpu/simd/bits.h"

#include "families.h"
#include "plain.h"

namespace plain {
namespace {

using sparsekern::BitKernels;

constexpr int64_t kWord = 64, kRows = 7, kWords = 3;

bool set(const std::vector<uint64_t>& words, int64_t row, int64_t column) {
  return words[row * kWords + column / kWord] >> column % kWord & 1;
}

// A word of each row, none to all of whose bits are set.
std::vector<uint64_t> random_words(Random& random) {
  std::vector<uint64_t> words(kRows * kWords);
  for (uint64_t& word : words) {
    const int64_t set = random.below(5);
    for (int i = 0; i < kWord; ++i) word |= static_cast<uint64_t>(random.below(4) < set) << i;
  }
  return words;
}

// Where the values of each row begin, and the last one's end.
std::vector<int32_t> pointers_of(const std::vector<uint64_t>& words) {
  std::vector<int32_t> pointers(kRows + 1);
  for (int64_t r = 0; r < kRows; ++r) {
    pointers[r + 1] = pointers[r];
    for (int64_t c = 0; c < kWords * kWord; ++c) pointers[r + 1] += set(words, r, c);
  }
  return pointers;
}

template <class T>
std::vector<T> random_values(int64_t count, Random& random) {
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(1 + random.below(60000));
  return values;
}

// `room` values may be read: those beyond it count as none.
template <class T>
void check_expand(const BitKernels& kernels, int64_t room, const std::vector<uint64_t>& words, Random& random) {
  const auto pointers = pointers_of(words);
  room = std::min<int64_t>(room, pointers[kRows]);
  const auto values = random_values<T>(room, random);
  const auto want = [&](int64_t position) { return position < room ? static_cast<double>(values[position]) : 0; };
  for (int64_t r = 0; r < kRows; ++r) {
    const int64_t start = std::min<int64_t>(pointers[r], room);
    std::vector<T> row(kWords * kWord);
    const int64_t read = kernels.expand(&words[r * kWords], kWords, values.data() + start, room - start, row.data());
    expect(read, pointers[r + 1] - pointers[r], "expand, how many are in row ", r);
    for (int64_t c = 0, position = pointers[r]; c < kWords * kWord; ++c)
      expect(row[c], set(words, r, c) ? want(position++) : 0, "expand, row ", r, ", column ", c);
  }
}

template <class T>
void check_compress(const BitKernels& kernels, int64_t short_by, const std::vector<uint64_t>& words, Random& random) {
  const auto pointers = pointers_of(words);
  const auto dense = random_values<T>(kRows * kWords * kWord, random);
  for (int64_t r = 0; r < kRows; ++r) {
    const int64_t count = pointers[r + 1] - pointers[r], room = std::max<int64_t>(0, count - short_by);
    std::vector<T> values(room);
    const T* row = dense.data() + r * kWords * kWord;
    expect(kernels.compress(&words[r * kWords], kWords, row, values.data(), room), count, "compress, how many");
    for (int64_t c = 0, position = 0; c < kWords * kWord; ++c) {
      if (set(words, r, c) && position < room)
        expect(values[position++], static_cast<double>(row[c]), "compress, row ", r, ", column ", c);
    }
  }
}

}  // namespace

template <class T>
void check_bits(const BitKernels& kernels) {
  Random random;
  for (int64_t i = 0; i < 20; ++i) {
    const auto words = random_words(random);
    for (const int64_t room : {int64_t{0}, int64_t{70}, int64_t{1} << 30})
      check_expand<T>(kernels, room, words, random);
    for (const int64_t short_by : {0, 5, 200}) check_compress<T>(kernels, short_by, words, random);
  }
}

template void check_bits<uint16_t>(const BitKernels&);
template void check_bits<uint32_t>(const BitKernels&);
template void check_bits<uint64_t>(const BitKernels&);

}  // namespace plain
