"""CUDA twins for the CuPy backend: not written yet."""
