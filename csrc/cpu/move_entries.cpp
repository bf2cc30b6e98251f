// Entries of a vector that stay, moved to where they belong, in place if need be.
#include <algorithm>
#include <cstring>

#include "common.h"
#include "cpu/bitmask.h"

namespace sparsekern {
namespace {

struct Marks {
  const uint64_t* words;
  int64_t size;

  int64_t words_count() const { return ceil_div(size, kWord); }
  int64_t count() const {
    int64_t count = 0;
    for (int64_t t = 0; t < words_count(); ++t) count += __builtin_popcountll(words[t]);
    return count;
  }
};

Marks marks_of(const Tensor& bits, int64_t size, const char* name) {
  const Marks marks{words_of(bits, 1, size), size};
  require(size % kWord == 0 || marks.words[size / kWord] >> size % kWord == 0, name, " must have no bits beyond ",
          size);
  return marks;
}

// Returns how many there are.
template <class T>
int64_t to_front(const T* source, T* target, Marks keep) {
  int64_t next = 0;
  for (int64_t t = 0; t < keep.words_count(); ++t) {
    const T* entries = source + t * kWord;
    uint64_t left = keep.words[t];
    if (~left == 0) {
      if (target + next != entries) std::memmove(target + next, entries, kWord * sizeof(T));
      next += kWord;
      continue;
    }
    for (; left; left &= left - 1) target[next++] = entries[__builtin_ctzll(left)];
  }
  return next;
}

// Moves the first `next` entries to the places of `old`, the last ones first, with `fill` between them.
template <class T>
void spread(T* target, int64_t next, Marks old, T fill) {
  for (int64_t i = old.size - 1; i >= next; --i) {
    const bool stays = old.words[i / kWord] >> i % kWord & 1;
    next -= stays;
    const T entry = target[next];
    target[i] = stays ? entry : fill;
  }
}

template <class T>
void move_entries(const Tensor& source, Tensor& target, Marks keep, Marks old, const Tensor& fill) {
  T *out = mutable_data<T>(target), empty;
  std::memcpy(&empty, fill.const_data_ptr(), sizeof(T));
  const int64_t kept = to_front(data<T>(source), out, keep);
  std::fill(out + kept, out + target.numel(), empty);
  if (old.size > kept) spread(out, kept, old, empty);
}

}  // namespace

void move_entries(const Tensor& source, Tensor target, const Tensor& keep, int64_t size, const Tensor& old,
                  int64_t used, const Tensor& fill) {
  require(source.is_contiguous() && target.is_contiguous(), "source and target must be contiguous");
  require(source.scalar_type() == target.scalar_type() && fill.scalar_type() == target.scalar_type(),
          "source, target and fill must have one dtype, got ", source.scalar_type(), ", ", target.scalar_type(),
          " and ", fill.scalar_type());
  require(fill.numel() == 1, "fill must be one number, got ", fill.numel());
  require(0 <= size && size <= source.numel(), "size must be at most ", source.numel(), ", got ", size);
  require(0 <= used && used <= target.numel(), "used must be at most ", target.numel(), ", got ", used);
  const Marks stays = marks_of(keep, size, "keep"), places = marks_of(old, used, "old");
  const int64_t kept = stays.count();
  require(kept <= target.numel(), kept, " entries do not fit ", target.numel());
  require(used == 0 || places.count() == kept, "old must mark ", kept, " entries, got ", places.count());
  switch (source.element_size()) {
    case 1:
      return move_entries<uint8_t>(source, target, stays, places, fill);
    case 2:
      return move_entries<uint16_t>(source, target, stays, places, fill);
    case 4:
      return move_entries<uint32_t>(source, target, stays, places, fill);
    case 8:
      return move_entries<uint64_t>(source, target, stays, places, fill);
    default:
      require(false, "elements must have at most 8 bytes, got ", source.element_size());
  }
}

}  // namespace sparsekern

STABLE_TORCH_LIBRARY_IMPL(sparsekern, CPU, m) { m.impl("move_entries", TORCH_BOX(&sparsekern::move_entries)); }
