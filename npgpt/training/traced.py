"""A trace of the way back: every gradient of a text's loss, beside the forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from npgpt import gpt2
from npgpt.errors import InsideError
from npgpt.inside.source import caller
from npgpt.inside.trace import Trace
from npgpt.shapes import Array
from npgpt.support.leaves import leaves
from npgpt.training import backward
from npgpt.training.engine import Engine
from npgpt.training.gradients import loss_and_gradients

NO_TARGET = -1  # of the last token, which nothing follows


class GradientTrace(Trace):
    """A Trace that also keeps dE/d of what a tap sees, as d. and its name."""

    def backward(self, name: str, gradient: Array) -> Array:
        """Keep the gradient that arrives at a tap."""
        full = f"d.{name}"
        if full not in self.sources:
            self.sources[full] = caller()
        if name != "wpe":  # comes added up over the rows
            kept = np.array(gradient)
            self._count(kept.nbytes)
            self.passes[-1].keep(full, kept)
        return gradient


def trace_gradients(model: Any, ids: list[int]) -> Trace:
    """The forward pass over a text and the gradients of its loss, by address.

    The loss is the mean of -log p over the tokens that follow another. Raises
    InsideError for a text of one token.
    """
    if len(ids) < 2:
        raise InsideError("a loss needs two tokens at least: one that another follows")
    row, targets = np.array([ids]), np.array([[*ids[1:], NO_TARGET]])
    with GradientTrace(model) as trace:
        engine = Engine(model.backend)._replace(
            gelu=backward.gelu,
            layer_norm=backward.layer_norm,
            attention=backward.attention,
            cross_entropy=backward.cross_entropy,
            embedding=backward.embedding,
        )
        _, gradients = loss_and_gradients(
            model.params,
            row,
            targets,
            backend=engine,
            tap=trace,
            ignore_index=NO_TARGET,
        )
        hidden = trace.passes[-1].arrays["ln_f"]
        gpt2.logits(model.params, hidden, backend=model.backend, tap=trace)
    trace.gradients = {f"d.{n}": np.asarray(x) for n, x in leaves(gradients).items()}
    head = np.asarray(gradients.lm_head.weight)
    trace.gradients.setdefault("d.lm_head.weight", head)
    return trace
