"""Sizes of models, and the laws that say how large one should be."""
