"""Watermarks: marks in the text, and their detectors."""
