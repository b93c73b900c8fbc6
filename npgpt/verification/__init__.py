"""Whether a model's numbers are right, on this machine."""
