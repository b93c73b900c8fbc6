"""A user's functions: what they are given is a copy, what they return is checked.

A sentence names the function that went wrong; what it raises itself passes through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from npgpt.errors import DecodingError
from npgpt.support.arguments import shown


def named(function: Callable[..., Any]) -> str:
    """What a function is called, or an object its class.

    >>> named(len)
    'len'
    """
    return getattr(function, "__name__", type(function).__name__)


def processor(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """A user's logits processor (ids, z, context) -> z, as the chain calls it."""

    def apply(ids: Sequence[int], z: np.ndarray, context: Any) -> np.ndarray:
        made = function(list(ids), z.copy(), context)
        what = ""
        if not isinstance(made, np.ndarray):
            what = type(made).__name__
        elif made.shape != z.shape or made.dtype.kind != "f":
            what = f"an array {made.shape} of {made.dtype}"
        elif not np.isnan(z).any() and (np.isnan(made).any() or made.max() == np.inf):
            what = "NaN or +inf"
        elif made.max() == -np.inf < z.max():
            what = "no token at all (all logits are -inf)"
        if what:
            raise DecodingError(
                f"logits_processor {named(function)} returned {what} at step "
                f"{context.step}; it must return logits {z.shape} of {z.dtype}, -inf "
                "for what it removes"
            )
        return made.astype(z.dtype)  # a copy: the function may use its array again

    return apply


def allowed_ids(
    function: Callable[..., Any], ids: Sequence[int], context: Any, V: int
) -> list[int]:
    """What a prefix function (row, ids) -> ids allows: ids of the vocabulary."""
    made = function(context.index, list(ids))
    try:
        allowed = [whole(id) for id in made]
    except (TypeError, ValueError):
        allowed = []
    if not allowed or not 0 <= min(allowed) <= max(allowed) < V:
        raise DecodingError(
            f"prefix_allowed_tokens_fn {named(function)} must return ids of the "
            f"vocabulary, 0 to {V - 1}, at least one; in row {context.index} at step "
            f"{context.step} it returned {shown(made)}"
        )
    return allowed


def whole(id: Any) -> int:
    """A whole number as an int; raises TypeError for what only rounds to one."""
    if isinstance(id, bool | np.bool_) or int(id) != id:
        raise TypeError
    return int(id)


def drafted(drafter: Any, drafts: Sequence[Any], limits: Iterable[int], V: int) -> None:
    """Raise DecodingError for drafts that are longer than asked for, or no ids."""
    for draft, limit in zip(drafts, limits, strict=True):
        tokens = draft.tokens
        if len(tokens) > limit or not all(0 <= id < V for id in tokens):
            raise DecodingError(
                f"the drafter {named(drafter)} proposed {shown(tokens)}; it must be at "
                f"most {limit} ids of the vocabulary, 0 to {V - 1}"
            )


def number(function: Callable[..., Any], *given: Any) -> float:
    """What a user's score says of these texts: a number, not NaN."""
    made = function(*given)
    try:
        score = float(made)
    except (TypeError, ValueError):
        score = np.nan
    if np.isnan(score):
        raise DecodingError(f"{named(function)} returned {shown(made)}, not a number")
    return score
