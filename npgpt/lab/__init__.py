"""The laboratory: decoding strategies side by side, diversity against quality."""
