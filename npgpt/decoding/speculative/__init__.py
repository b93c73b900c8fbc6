"""Speculative decoding: fewer readings of the model, the same law."""
