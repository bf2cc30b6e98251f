// Partitions numbers by a range: copies what lies in it and counts what lies above it, in one pass of the compiler's
// own vectors.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/keys.h"
#include "cpu/marked.h"
#include "cpu/parallel.h"

namespace sparsekern {

// From `low` to `high`, both included.
template <class T>
struct Bracket {
  typename Keys<T>::Key low, high;
};

template <class T>
struct Partition {
  int64_t above = 0, inside = 0;
  bool nan = false;
  std::unique_ptr<Bits<T>[]> numbers;  // inside, in no particular order; not all if there are more than there is room
};

constexpr int64_t kMarks = 1 << 12;  // numbers that are marked at a time

// Copies what is inside of one chunk to `numbers`.
template <class T>
void partition(const Chunk<T>& chunk, Keys<T> keys, Bracket<T> bracket, Bits<T>* numbers, Partition<T>& sums) {
  using Key = typename Keys<T>::Key;
  uint8_t marks[kMarks];
  for (int64_t begin = 0; begin < chunk.size; begin += kMarks) {
    const Bits<T>* x = chunk.data + begin;
    const int64_t n = std::min(kMarks, chunk.size - begin);
    const auto [above, nan] = vectorized(
        [](const Bits<T>* x, int64_t n, Keys<T> keys, Bracket<T> bracket, uint8_t* marks) SPARSEKERN_VECTORIZED {
          const Key low = bracket.low, span = bracket.high - bracket.low;
          Key above = 0, nan = 0;
          for (int64_t i = 0; i < n; ++i) {
            above += keys.of(x[i]) > bracket.high;
            nan |= Keys<T>::is_nan(x[i]);
          }
          for (int64_t i = 0; i < n; ++i) marks[i] = keys.of(x[i]) - low <= span;
          return std::pair(above, nan != 0);
        },
        x, n, keys, bracket, marks);
    sums.above += above;
    sums.nan |= nan;
    for_marked(marks, n, [&](int64_t i) { numbers[sums.inside++] = x[i]; });
  }
}

// Gives up where more than `room` numbers are inside.
template <class T>
Partition<T> partition(const std::vector<Chunk<T>>& chunks, Keys<T> keys, Bracket<T> bracket, int64_t room) {
  std::unique_ptr<Bits<T>[]> numbers(new Bits<T>[room]);
  std::atomic<int64_t> above{0}, inside{0};
  std::atomic<bool> nan{false};
  parallel_for(0, chunks.size(), 1, [&](int64_t begin, int64_t end) {
    std::unique_ptr<Bits<T>[]> mine(new Bits<T>[kChunk]);
    for (int64_t i = begin; i < end && inside <= room; ++i) {
      Partition<T> found;
      partition(chunks[i], keys, bracket, mine.get(), found);
      above += found.above;
      if (found.nan) nan = true;
      const int64_t at = inside.fetch_add(found.inside);
      if (at + found.inside <= room) std::copy(mine.get(), mine.get() + found.inside, numbers.get() + at);
    }
  });
  return {above, inside, nan, std::move(numbers)};
}

}  // namespace sparsekern
