"""What the kernels of a GPU cost beside cuBLAS, cuDNN, cuSPARSE, PyTorch and BackPACK."""
