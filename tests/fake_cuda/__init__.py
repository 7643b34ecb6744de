"""Fake CUDA tensors on a CPU build of torch: devices, dtypes and shapes of the GPU's path, without values."""
