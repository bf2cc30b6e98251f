// The ways to multiply with a weight that is held as values and bitmask; expanded_linear.cpp chooses among them.
#pragma once

#include <optional>

#include "cpu/packed_weight.h"

namespace sparsekern {

using Bias = std::optional<Tensor>;

// By values expanded in registers, for up to kFewInputs.
void few_forward(const PackedWeight& w, const Batch& x, const Bias& bias, const Batch& y);
void few_input_gradient(const PackedWeight& w, const Batch& delta, const Batch& out);
void few_weight_gradient(const PackedWeight& w, const Batch& delta, const Batch& x, char* out);

// By dense products of our own, of float32, float64 and pairs of bfloat16.
void blocks_forward(const PackedWeight& w, const Batch& x, const Bias& bias, const Batch& y);
void blocks_input_gradient(const PackedWeight& w, const Batch& delta, const Batch& out);
void blocks_weight_gradient(const PackedWeight& w, const Batch& delta, const Batch& x, char* out);

// By dense products of the library.
void panels_forward(const PackedWeight& w, const Batch& x, const Bias& bias, const Batch& y);
void panels_input_gradient(const PackedWeight& w, const Batch& delta, const Batch& out);
void panels_weight_gradient(const PackedWeight& w, const Batch& delta, const Batch& x, char* out);

}  // namespace sparsekern
