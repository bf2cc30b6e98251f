"""Operator schemas.

They are declared in Python, so that the package imports and runs without a compiler. `index` is the tensor list
`Topology.index`:

    row_ptr [rows+1], col [capacity]                     row-major CSR
    t_ptr [cols+1], t_row [capacity], t_pos [capacity]   the transposed walk: `t_pos` is the slot in `values`; all three
                                                         only for the linear kernels of the CPU, t_ptr for convolutions
    tile_ptr [rows, tiles+1] or empty                    slot where each 64-column segment of a row starts
    t_tile_ptr [cols, t_tiles+1] or empty                the same for the transposed walk
    bits [rows, tiles] or empty                          which columns of each segment exist, the lowest bit first

bits are int64, the others int32, columns sorted within a row. `row_ptr[-1]` slots are in use; the
rest is slack: `values` holds zero there and its gradient is zero.
"""

import torch

library = torch.library.Library("sparsekern", "DEF")

# How a convolution moves over its input; padding is (top, bottom, left, right).
WINDOW = "int[] kernel_size, int[] stride, int[] padding, int[] dilation, int groups"

SCHEMAS = {
    "sparse_linear": "(Tensor input, Tensor values, Tensor[] index, Tensor? bias, SymInt out_features) -> Tensor",
    "sparse_linear_backward": "(Tensor grad_output, Tensor input, Tensor values, Tensor[] index, bool need_input, "
    "bool need_values, bool need_bias) -> (Tensor, Tensor, Tensor)",
    "expanded_linear": "(Tensor input, Tensor values, Tensor[] index, Tensor? bias, SymInt out_features) -> Tensor",
    "expanded_linear_backward": "(Tensor grad_output, Tensor input, Tensor values, Tensor[] index, bool need_input, "
    "bool need_values, bool need_bias) -> (Tensor, Tensor, Tensor)",
    "sparse_conv2d": f"(Tensor input, Tensor values, Tensor[] index, Tensor? bias, {WINDOW}) -> Tensor",
    "sparse_conv2d_backward": "(Tensor grad_output, Tensor input, Tensor values, Tensor[] index, bool need_input, "
    f"bool need_values, bool need_bias, {WINDOW}) -> (Tensor, Tensor, Tensor)",
    "expanded_conv2d": f"(Tensor input, Tensor values, Tensor[] index, Tensor? bias, {WINDOW}) -> Tensor",
    "expanded_conv2d_backward": "(Tensor grad_output, Tensor input, Tensor values, Tensor[] index, bool need_input, "
    f"bool need_values, bool need_bias, {WINDOW}) -> (Tensor, Tensor, Tensor)",
    "masked_linear": "(Tensor input, Tensor weight, Tensor[] index, Tensor? bias, bool active) -> Tensor",
    "masked_linear_backward": "(Tensor grad_output, Tensor input, Tensor weight, Tensor[] index, bool need_input, "
    "bool need_weight, bool need_bias, bool active) -> (Tensor, Tensor, Tensor)",
    "masked_conv2d": f"(Tensor input, Tensor weight, Tensor[] index, Tensor? bias, {WINDOW}, bool active) -> Tensor",
    "masked_conv2d_backward": "(Tensor grad_output, Tensor input, Tensor weight, Tensor[] index, bool need_input, "
    f"bool need_weight, bool need_bias, {WINDOW}, bool active) -> (Tensor, Tensor, Tensor)",
    "expand": "(Tensor values, Tensor row_ptr, Tensor col, int start, int stop, SymInt cols) -> Tensor",
    "expand_bits": "(Tensor values, Tensor tile_ptr, Tensor bits, int start, int stop, SymInt cols) -> Tensor",
    "collect": "(Tensor dense, Tensor row_ptr, Tensor col, int start, int stop, Tensor(a!) out) -> ()",
    "sampled_gradient": "(Tensor grad_output, Tensor input, Tensor coordinates) -> Tensor",
    "guided_sample": "(Tensor row_weight, Tensor col_weight, Tensor row_ptr, Tensor col, SymInt n, int seed) "
    "-> (Tensor, Tensor)",
    "sampled_conv2d_gradient": f"(Tensor grad_output, Tensor input, Tensor coordinates, {WINDOW}) -> Tensor",
    "random_subset": "(Tensor(a!) out, SymInt size, int seed) -> ()",
    "compress": "(Tensor coordinates, SymInt rows, SymInt cols, SymInt capacity) -> (Tensor, Tensor)",
    "compress_mask": "(Tensor mask, SymInt capacity) -> (Tensor, Tensor)",
    "rewire": "(Tensor row_ptr, Tensor col, Tensor keep, Tensor grow, SymInt capacity, SymInt cols) "
    "-> (Tensor, Tensor, Tensor)",
    "transpose_index": "(Tensor row_ptr, Tensor col, SymInt cols) -> (Tensor, Tensor, Tensor)",
    "tile_index": "(Tensor ptr, Tensor index, SymInt extent) -> Tensor",
    "bit_index": "(Tensor row_ptr, Tensor col, SymInt cols) -> Tensor",
    "topk_mask": "(Tensor[] scores, int k, bool absolute) -> Tensor[]",
    "kth_largest": "(Tensor[] scores, int k, bool absolute) -> Tensor",
    "gradient_moment": "(Tensor grad_output, Tensor input) -> (Tensor, Tensor)",
    "conv2d_gradient_moment": f"(Tensor grad_output, Tensor input, {WINDOW}) -> (Tensor, Tensor)",
    "snr_update": "(Tensor(a!) ratio, Tensor gradient, Tensor moment, SymInt batch, float decay, bool first) -> ()",
    "score_step": "(Tensor(a!) score, Tensor(b!) momentum_buffer, Tensor(c!) gradient, Tensor weight, Tensor row_ptr, "
    "Tensor col, float lr, float momentum) -> ()",
}

for _name, _schema in SCHEMAS.items():
    library.define(_name + _schema)

TILE = 64
SNR_CAP = 1e6  # the largest signal-to-noise ratio
