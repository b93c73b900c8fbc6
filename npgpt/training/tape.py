"""The tape: what the forward pass leaves for the way back.

A tap that keeps the activations that a derivative needs, until that one takes them.
Which activations those are is what npgpt.training.gradients reads; nothing is kept
twice, and what can be computed again cheaply (attention's probabilities) is not kept.
"""

from __future__ import annotations

from typing import Any

from npgpt.shapes import Array
from npgpt.taps import no_tap, tap_wants, tell

_KEPT = ("embed", "ln_1", "attn.q", "attn.k", "attn.v", "attn.context", "resid_mid",
         "ln_2", "mlp.pre", "mlp.act", "resid")  # fmt: skip


class Tape:
    """A tap that keeps the activations that a backward pass reads, each until then.

    Another tap (dropout, or any that is None) comes first; what it returns is kept.
    """

    def __init__(self, tap: Any = no_tap):
        self.tap = tap
        self.kept: dict[str, Array] = {}

    def wants(self, name: str) -> bool:
        """Activations of the backward pass, and what the other tap asks for."""
        return name.endswith(_KEPT) or tap_wants(self.tap, name)

    def __call__(self, name: str, array: Array) -> Array:
        """The other tap's result, which is kept where the way back needs it."""
        if name.endswith("attn.weights"):  # softmax's own derivative needs its result
            self.kept[f"{name}.before"] = array
        result = self.tap(name, array)
        if name.endswith((*_KEPT, "attn.weights")):
            self.kept[name] = result
        return result

    def begin(self, *said: Any) -> None:
        """Hand on to the other tap (npgpt.taps.tell)."""
        tell(self.tap, "begin", *said)

    def take(self, name: str) -> Array:
        """The activation, which is forgotten here."""
        return self.kept.pop(name)

    def backward(self, name: str, gradient: Array) -> Array:
        """The gradient before the other tap, from the gradient after it."""
        through = getattr(self.tap, "backward", None)
        return gradient if through is None else through(name, gradient)
