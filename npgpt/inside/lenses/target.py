"""What a lens asks about: a prompt, a place in it, a token that may come next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from npgpt.errors import InsideError
from npgpt.ops import log_softmax
from npgpt.support.arguments import shown

Prompt = str | Sequence[int]
Token = str | int

SLACK = 4  # units of rounding in a sum of products, against the sum of their sizes


class Target(NamedTuple):
    """A next token, perhaps held against another, after token `at` of a prompt."""

    at: int
    token: int
    against: int | None
    text: str  # of what it measures

    def logit(self, z: np.ndarray) -> float:
        """Its logit, or its lead over the other one's."""
        lead = float(z[self.token])
        return lead if self.against is None else lead - float(z[self.against])

    def measure(self, z: np.ndarray) -> float:
        """Its log-probability in nats, or its lead over the other, which is the same.

        Unlike a logit these do not change when all logits do alike.
        """
        return self.logit(z if self.against is not None else log_softmax(z))

    @property
    def measured(self) -> str:
        """What `measure` gives, in words."""
        kind = "log-probability of" if self.against is None else "lead in logits"
        return f"{kind} {self.text}"


def target(
    model: Any,
    z: np.ndarray,
    token: Token | None,
    against: Token | None,
    at: int,
) -> Target:
    """The token meant after token `at`, whose logits are z (V,).

    By default the best one. Raises InsideError for what is not there, and for a text
    that is not one token.
    """
    best = int(z.argmax()) if token is None else token_id(model, token)
    other = None if against is None else token_id(model, against)
    if best == other:
        raise InsideError("token and against are the same: there is no difference")
    text = written(model, best)
    return Target(
        at, best, other, text if other is None else f"{text} - {written(model, other)}"
    )


def place(ids: Sequence[int], at: int) -> int:
    """A place in a prompt, counted from its end where it is negative."""
    if (
        isinstance(at, bool)
        or not isinstance(at, int)
        or not -len(ids) <= at < len(ids)
    ):
        raise InsideError(
            f"token {shown(at)} is not there; the prompt has tokens 0 to {len(ids) - 1}"
        )
    return at % len(ids)


def token_id(model: Any, token: Token) -> int:
    """The id of a token given by its text or its id."""
    if isinstance(token, str):
        if model.tokenizer is None:
            raise InsideError("this model has no tokenizer; give the token as its id")
        ids = model.tokenizer.encode(token)
        if len(ids) != 1:
            parts = ", ".join(written(model, id) for id in ids)
            raise InsideError(
                f"{shown(token)} is not one token but {len(ids)} ({parts}); name one, "
                "with its leading space if it has one"
            )
        return int(ids[0])
    if isinstance(token, bool) or not isinstance(token, int | np.integer):
        raise InsideError(f"a token is its text or its id, not {shown(token)}")
    if not 0 <= token < model.config.vocab_size:
        raise InsideError(
            f"there is no token {token}; ids are 0 to {model.config.vocab_size - 1}"
        )
    return int(token)


def written(model: Any, id: int) -> str:
    """A token as Python writes it, or its id where there is no tokenizer."""
    return f"<{id}>" if model.tokenizer is None else repr(model.tokenizer.decode([id]))


def labels(model: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """The tokens of a prompt with their places."""
    return tuple(f"{t} {written(model, id)}" for t, id in enumerate(ids))


def logits(model: Any, ids: Sequence[int], patch: Any = None) -> np.ndarray:
    """The logits (T, V) of a prompt, of a patched reading if there is a patch."""
    with model.trace((), patch=patch):
        z: np.ndarray = model.logits([list(ids)])
    return z[0]


def rounding(array: np.ndarray, size: float) -> float:
    """What rounding may make of a sum whose addends have this size altogether."""
    return SLACK * float(np.finfo(array.dtype).eps) * size
