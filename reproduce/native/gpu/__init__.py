"""Kernels for GPUs in Triton: max pooling, and batch normalisation with ReLU, forward and backward.

Maps in channels_last come in, bfloat16 or float32; maps go out, by autograd functions. `reproduce.native.kernels` uses
them on GPUs, wherever Triton is installed and each kind of layer agrees with torch's. No kernel uses atomic additions,
so that a result is the same each time. Importing this package imports neither torch nor Triton.
"""
