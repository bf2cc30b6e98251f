"""Triton kernels, in files named after the operators. A function of the name of an operator takes its arguments;
`ops.cuda` says which operators are these functions on CUDA tensors."""
