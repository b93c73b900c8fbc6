"""Section F. Guidance and contrast: more than one distribution a step."""

from __future__ import annotations

from npgpt.decoding.registry import Strategy

STRATEGIES: tuple[Strategy, ...] = ()
