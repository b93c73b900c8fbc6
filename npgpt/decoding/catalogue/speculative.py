"""Section H. Speculative decoding: the same law with fewer passes."""

from __future__ import annotations

from npgpt.decoding.registry import Strategy

STRATEGIES: tuple[Strategy, ...] = ()
