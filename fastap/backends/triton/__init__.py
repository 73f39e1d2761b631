"""The exact algorithm in Triton kernels."""
