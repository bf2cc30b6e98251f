// The linear layer by dense products of its own: a block of the weight is expanded where it is multiplied, in memory
// that stays in a core's cache, and a block of its gradient is compressed as soon as it is summed. How the work is cut
// depends on shapes only and every sum is one thread's, so that results do not depend on the threads.
//
// Pairs of bfloat16 are units as wide as a float: rows that lie beside each other in depth are paired as they are
// expanded or packed, and what has its depth along rows is read as floats.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "cpu/expanded_linear.h"
#include "cpu/parallel.h"
#include "cpu/tensors.h"
#include "cpu/workspace.h"

namespace sparsekern {
namespace {

constexpr int64_t kMostRows = 16 * kTileRows;  // of the weight, in a block
constexpr int64_t kRowBytes = 4096;            // of a row of a block: long enough for the processor to read ahead
constexpr int64_t kLine = 64;                  // bytes; rows of a block lie one more apart, lest they share cache sets
constexpr int64_t kDepth = 512;                // products that are summed at once: what they read lies in the L2 cache
constexpr int64_t kBatch = 256;                // rows of the batch that are taken at once, lest they leave the L2 cache
constexpr int64_t kEnough = 24;                // parts that the work is cut into at least, if it is large enough
constexpr int64_t kFew = 8;                    // the same where more parts mean more work
constexpr int64_t kSerial = 1 << 15;           // vectors of work, which take no longer than a second thread to start

// What the three products share. Memory is that of the calling thread: what all threads read, then a part for each.
struct Work {
  const PackedWeight& w;
  const DenseKernels& dense;
  const LinearKernels& linear;
  int64_t paired, unit, sum;  // elements of a unit; bytes of one, and of a sum
  int64_t batch, workers, rows, chunk;
  char* memory = nullptr;
  int64_t shared = 0, own = 0;

  Work(const PackedWeight& w, const Batch& x)
      : w(w),
        dense(dense_kernels(storage_of(x.dtype))),
        linear(linear_kernels(dense.paired == 2 ? Storage::float32 : storage_of(x.dtype))),
        paired(dense.paired),
        unit(w.size * paired),
        sum(dense.sum_size),
        batch(x.rows),
        workers(w.rows() * w.cols * batch / (dense.lanes * paired) < kSerial ? 1 : threads()),
        rows(std::clamp(ceil_div(w.rows(), kEnough * kTileRows) * kTileRows, 2 * kTileRows, kMostRows)),
        chunk(std::min(batch, ceil_div(batch, ceil_div(batch, kBatch) * kBlockColumns) * kBlockColumns)) {}

  void reserve(int64_t for_all, int64_t for_each) {
    shared = aligned(for_all), own = aligned(for_each);
    memory = workspace(shared + workers * own);
  }

  // f(first item, last item, memory of the thread), in parallel
  template <class F>
  void each(int64_t items, const F& f) const {
    parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        f(items * i / workers, items * (i + 1) / workers, memory + shared + i * own);
    });
  }

  // How many words a row of a block has, and how far apart rows are.
  int64_t words() const { return std::min(w.mask.segments, kRowBytes / (kWord * sum)); }
  int64_t stride() const { return words() * kWord + kLine / w.size; }
  int64_t row_blocks() const { return ceil_div(w.rows(), rows); }
  int64_t bytes(int64_t elements) const { return aligned(elements * w.size); }
};

}  // namespace

// y^T = W x^T: the batch in panels of columns, [panel][feature][column].
void blocks_forward(const PackedWeight& w, const Batch& x, const Bias& bias, const Batch& y) {
  Work work(w, x);
  const int64_t stride = work.stride(), lanes = work.dense.lanes;
  const int64_t most = ceil_div(work.chunk, kBlockColumns), panel_bytes = w.cols * kBlockColumns * w.size;
  const int64_t block_bytes = work.bytes(work.rows * stride), paired = work.paired;
  const int64_t sum_rows = ceil_div(work.rows, lanes) * lanes, sums_bytes = sum_rows * kBlockColumns * work.sum;
  work.reserve(most * panel_bytes, block_bytes + most * sums_bytes);
  std::atomic<bool> wrong{false};
  for (int64_t first = 0; first < work.batch; first += work.chunk) {
    const int64_t columns = std::min(work.chunk, work.batch - first), panels = ceil_div(columns, kBlockColumns);
    const auto panel = [&](int64_t p) {
      const int64_t count = std::min(kBlockColumns, columns - p * kBlockColumns);
      return Panel{first + p * kBlockColumns, count, ceil_div(count, lanes) * lanes};
    };
    const auto packed = [&](int64_t p) { return work.memory + p * panel_bytes; };
    work.each(panels * w.mask.segments, [&](int64_t begin, int64_t end, char*) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t p = i / w.mask.segments, feature = i % w.mask.segments * kWord;
        work.linear.pack(x.at(0, 0), w.cols / paired, panel(p), feature / paired,
                         std::min(w.cols, feature + kWord) / paired, packed(p), nullptr);
      }
    });
    work.each(work.row_blocks(), [&](int64_t begin, int64_t end, char* block) {
      const auto sums = [&](int64_t p) { return block + block_bytes + p * sums_bytes; };
      int64_t positions[kMostRows];
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i * work.rows, rows = std::min(work.rows, w.rows() - row);
        for (int64_t r = 0; r < rows; ++r) positions[r] = w.mask.start(row + r);
        for (int64_t p = 0; bias && p < panels; ++p)
          work.dense.fill(static_cast<const char*>(bias->const_data_ptr()) + row * w.size, panel(p).width, rows,
                          sums(p));
        for (int64_t word = 0; word < w.mask.segments; word += work.words()) {
          const int64_t count = std::min(work.words(), w.mask.segments - word);
          for (int64_t r = 0; r < rows; ++r)
            positions[r] += w.expand(row + r, word, count, positions[r], block + r * stride * w.size);
          const int64_t end = std::min(w.cols, (word + count) * kWord);
          for (int64_t p = 0; p < panels; ++p) {
            const int64_t width = panel(p).width;
            for (int64_t column = word * kWord; column < end; column += kDepth)
              work.dense.multiply(
                  {block + (column - word * kWord) * w.size, kTileRows * stride / paired, stride / paired, 1},
                  packed(p) + column * width * w.size, width, rows, std::min(kDepth, end - column) / paired,
                  bias || column > 0, sums(p), width);
          }
        }
        for (int64_t r = 0; r < rows; ++r) wrong = wrong || positions[r] != w.mask.start(row + r + 1);
        for (int64_t p = 0; p < panels; ++p)
          work.dense.transpose(sums(p), panel(p).width, panel(p).columns, rows, y.at(panel(p).begin, row), w.rows());
      }
    });
  }
  require(!wrong, "each row of bits must have as many set bits as row_ptr gives it nonzeros");
}

// dx = delta W, a few columns at a time.
void blocks_input_gradient(const PackedWeight& w, const Batch& delta, const Batch& out) {
  constexpr int64_t kWords = 2, kWidth = kWords * kWord, kAhead = 8;  // rows whose values are asked for
  Work work(w, delta);
  const int64_t ranges = ceil_div(w.mask.segments, kWords), rows = w.rows(), size = w.size;
  const int64_t parts = std::max(ceil_div(work.batch, kBatch), std::min(ceil_div(kFew, ranges), work.batch / kWord));
  const int64_t part = ceil_div(ceil_div(work.batch, parts), kTileRows) * kTileRows;
  const int64_t starts_bytes = aligned(rows * sizeof(int32_t)), block_bytes = work.bytes(kDepth * kWidth);
  const int64_t paired = work.paired, sums_bytes = aligned(part * kWidth * work.sum);
  const int64_t ahead_bytes = kLine + w.nnz() * kWidth / (rows * w.cols) * size;
  work.reserve(0, starts_bytes + block_bytes + sums_bytes + work.bytes(paired * kWidth));
  work.each(ceil_div(work.batch, part) * ranges, [&](int64_t begin, int64_t end, char* memory) {
    int32_t* positions = reinterpret_cast<int32_t*>(memory);  // of each row's values in the columns
    char *block = memory + starts_bytes, *sums = block + block_bytes, *two = sums + sums_bytes;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i / ranges * part, batch = std::min(part, work.batch - first);
      const int64_t word = i % ranges * kWords, words = std::min(kWords, w.mask.segments - word), width = words * kWord;
      for (int64_t r = 0; (i == begin || word == 0) && r < rows; ++r)
        positions[r] = w.mask.start(r) + w.mask.count(r, 0, word);
      for (int64_t row = 0; row < rows; row += kDepth) {
        const int64_t depth = std::min(kDepth, rows - row);
        for (int64_t r = row; r < row + depth; ++r) {
          const char* ahead = w.at(positions[std::min(r + kAhead, rows - 1)]);
          for (int64_t line = 0; line < ahead_bytes; line += kLine) __builtin_prefetch(ahead + line);
          char *to = block + (r - row) * width * size, *half = two + r % paired * width * size;
          positions[r] += w.expand(r, word, words, positions[r], paired == 1 ? to : half);
          if (paired == 2 && r % 2 == 1) work.dense.pair(two, half, width, to - width * size);
        }
        work.dense.multiply({delta.at(first, row), kTileRows * rows / paired, rows / paired, 1}, block, width, batch,
                            depth / paired, row > 0, sums, width);
      }
      const int64_t column = word * kWord, columns = std::min(width, w.cols - column);
      for (int64_t b = 0; b < batch; ++b)
        work.dense.round(sums + b * width * work.sum, columns, out.at(first + b, column));
    }
  });
}

// delta^T x, a block of rows at a time: x as [word][batch][column], delta as rows of tiles, [tile][batch][row]. Sums of
// pairs are never stored as elements, so that these take the batch at once.
void blocks_weight_gradient(const PackedWeight& w, const Batch& delta, const Batch& x, char* out) {
  Work work(w, x);
  constexpr int64_t kGroup = 16;  // units of the batch that are packed together
  const int64_t paired = work.paired, unit = work.unit, chunk = paired == 1 ? work.chunk : work.batch;
  const int64_t words = w.mask.segments, line = kWord * unit, stride = work.stride(), most = ceil_div(chunk, paired);
  const int64_t x_bytes = words * most * line, tiles = ceil_div(w.rows(), kTileRows);
  const int64_t two_bytes = paired == 1 ? 0 : kGroup * w.rows() * unit;
  work.reserve(x_bytes + aligned(tiles * kTileRows * most * unit),
               std::max(aligned(work.rows * stride * work.sum), aligned(two_bytes)));
  for (int64_t first = 0; first < work.batch; first += chunk) {
    const int64_t count = std::min(chunk, work.batch - first), depth = ceil_div(count, paired);
    const auto packed = [&](int64_t word) { return work.memory + word * depth * line; };
    const auto at = [&](int64_t position) { return out + position * w.size; };
    const auto packed_delta = [&](int64_t row) { return work.memory + x_bytes + row * depth * unit; };
    // Of the second row of a pair; null behind the last.
    const auto second = [&](const Batch& t, int64_t b, int64_t column) {
      return b + 1 < count ? t.at(first + b + 1, column) : nullptr;
    };
    work.each(ceil_div(depth, kGroup), [&](int64_t begin, int64_t end, char* two) {
      for (int64_t u = begin * kGroup; u < std::min(depth, end * kGroup); u += kGroup) {
        const int64_t n = std::min(kGroup, depth - u);
        for (int64_t i = 0; paired == 2 && i < n; ++i)
          work.dense.pair(delta.at(first + 2 * (u + i), 0), second(delta, 2 * (u + i), 0), w.rows(),
                          two + i * w.rows() * unit);
        work.dense.pack(paired == 2 ? two : delta.at(first + u, 0), w.rows(), w.rows(), n,
                        packed_delta(0) + u * kTileRows * unit, kTileRows * depth);
      }
      for (int64_t u = begin * kGroup; u < std::min(depth, end * kGroup); ++u) {
        for (int64_t word = 0; word < words; ++word) {
          const int64_t column = word * kWord, columns = std::min(kWord, w.cols - column), bytes = columns * unit;
          char* to = packed(word) + u * line;
          if (paired == 2)
            work.dense.pair(x.at(first + 2 * u, column), second(x, 2 * u, column), columns, to);
          else
            std::memcpy(to, x.at(first + u, column), bytes);
          std::memset(to + bytes, 0, line - bytes);
        }
      }
    });
    work.each(work.row_blocks(), [&](int64_t begin, int64_t end, char* sums) {
      int64_t positions[kMostRows], room[kMostRows];
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i * work.rows, rows = std::min(work.rows, w.rows() - row);
        for (int64_t r = 0; r < rows; ++r) positions[r] = w.mask.start(row + r);
        for (int64_t word = 0; word < words; word += work.words()) {
          const int64_t stop = std::min(words, word + work.words());
          for (int64_t r = 0; r < rows; ++r) {
            room[r] = w.mask.start(row + r + 1) - positions[r];
            if (first > 0)  // what is written must end with these words
              room[r] = std::min(room[r], w.kernels.expand(w.mask.row(row + r) + word, stop - word, at(positions[r]),
                                                           room[r], sums + r * stride * w.size));
          }
          for (int64_t j = word; j < stop; ++j)
            work.dense.multiply({packed_delta(row), kTileRows * depth, 1, kTileRows}, packed(j), kWord, rows, depth,
                                first > 0, sums + (j - word) * kWord * work.sum, stride);
          for (int64_t r = 0; r < rows; ++r) {
            char* own = sums + r * stride * work.sum;
            if (paired == 2) work.dense.round(own, (stop - word) * kWord, own);
            positions[r] += w.kernels.compress(w.mask.row(row + r) + word, stop - word, own, at(positions[r]), room[r]);
          }
        }
      }
    });
  }
}

}  // namespace sparsekern
