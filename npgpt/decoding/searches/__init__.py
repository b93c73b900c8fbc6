"""Searches: loops of their own over texts, and choosing among whole texts."""
