"""CUDA kernels compiled from source at first use and cached; run on NVIDIA GPUs, or emulated on the CPU for tests."""
