"""CUDA kernels from source: compiled at first use and cached, on NVIDIA's devices or emulated on the CPU for tests."""
