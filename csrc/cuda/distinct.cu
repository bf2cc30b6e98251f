#include "cuda/distinct.cuh"
#include "cuda/search.cuh"

namespace sparsekern {

Set merged(const Device& device, const Tensor& like, const Set& a, const Set& b) {
  const int64_t m = a.size(), n = b.size();
  const Set both{Workspace<int64_t>(like, m + n)};
  const int64_t *x = a.members.data(), *y = b.members.data();
  int64_t* out = both.members.data();
  each(device, m + n, [=] __device__(int64_t i) {
    if (i < m)
      out[i + count_below(y, n, x[i])] = x[i];
    else
      out[i - m + count_below(x, m, y[i - m])] = y[i - m];
  });
  return both;
}

Set extended(const Device& device, const Tensor& like, const Set& set, Workspace<int64_t> draws, int64_t missing,
             int64_t limit) {
  const int64_t n = draws.size(), have = set.size();
  Workspace<int32_t> order(like, n);
  int32_t* when = order.data();
  each(device, n, [=] __device__(int64_t i) { when[i] = static_cast<int32_t>(i); });
  sort_pairs(device, like, draws, order, limit);
  const int64_t *number = draws.data(), *chosen = set.members.data();
  const int32_t* drawn = order.data();

  // Of equal draws the first to be made is the first here. Counted in the order they were made, fresh ones have ranks.
  const Workspace<int32_t> ranks(like, n), places(like, n);
  int32_t *rank = ranks.data(), *place = places.data();
  each(device, n, [=] __device__(int64_t i) {
    const int64_t x = number[i];
    rank[drawn[i]] = x != limit && (i == 0 || number[i - 1] != x) && !contains(chosen, have, x);
  });
  inclusive_sum(device, like, rank, n);
  const auto taken = [=] __device__(int64_t i) {
    const int32_t at = drawn[i], before = at == 0 ? 0 : rank[at - 1];
    return rank[at] > before && rank[at] <= missing;
  };
  each(device, n, [=] __device__(int64_t i) { place[i] = taken(i); });
  inclusive_sum(device, like, place, n);
  const Set fresh{Workspace<int64_t>(like, last_of(device, place, n))};
  int64_t* out = fresh.members.data();
  each(device, n, [=] __device__(int64_t i) {
    if (taken(i)) out[place[i] - 1] = number[i];
  });
  return merged(device, like, set, fresh);
}

Set random_distinct(const Device& device, const Tensor& like, int64_t n, int64_t size, const Stream& stream,
                    int64_t& counter) {
  require(n < INT32_MAX, "cannot choose more than 2**31 - 2 numbers on a GPU, got ", n);
  if (n > size - n) {  // draw what is absent; a number is as many more than its rank as absent ones are below it
    const Set absent = random_distinct(device, like, size - n, size, stream, counter);
    const Set present{Workspace<int64_t>(like, n)};
    const int64_t missing = absent.size();
    int64_t *gap = absent.members.data(), *out = present.members.data();
    each(device, missing, [=] __device__(int64_t i) { gap[i] -= i; });
    each(device, n, [=] __device__(int64_t i) { out[i] = i + count_up_to(gap, missing, i); });
    return present;
  }
  // The largest multiple of `size` up to 2^63: what lies beyond would favour small numbers.
  const uint64_t fair = (uint64_t{1} << 63) / std::max<int64_t>(1, size) * size;
  return extend_distinct(device, like, n, size, INT64_MAX, counter, [=] __device__(int64_t i) {
    const uint64_t x = stream.bits(i) >> 1;
    return x < fair ? static_cast<int64_t>(x % size) : size;
  });
}

}  // namespace sparsekern
