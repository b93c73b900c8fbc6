"""Numba twins of npgpt.ops: not written yet; npgpt.get_backend("numba") says so."""
