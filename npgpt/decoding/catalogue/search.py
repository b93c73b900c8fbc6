"""Section G. Searches over sequences, and choosing among samples."""

from __future__ import annotations

from npgpt.decoding.registry import Strategy

STRATEGIES: tuple[Strategy, ...] = ()
