"""What the kernels of a GPU cost beside cuBLAS, cuDNN, cuSPARSE and PyTorch."""
