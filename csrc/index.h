// The tensors of an index by their places in the list that operators take: the fields of `Index` in
// sparsekern/ops/index.py. No torch.
#pragma once

namespace sparsekern {

enum IndexPart { kRowPtr, kCol, kTPtr, kTRow, kTPos, kSegmentPtr, kCompact, kBits, kIndexParts };

}  // namespace sparsekern
