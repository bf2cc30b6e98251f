"""Triton kernels, a family a file. A function of the name of an operator takes that operator's arguments; `ops.cuda`
says which operators are these functions on CUDA tensors."""
