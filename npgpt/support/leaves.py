"""Trees of NamedTuples: parameters, their gradients, an optimiser's moments.

A tree is a NamedTuple (or tuple) of trees, with arrays at its ends; what is neither (a
config) is handed through. Attribute paths are names: the array `h[3].ln_1.weight` is
called "h.3.ln_1.weight". An array that stands in two places (the tied output head) is
one leaf, named by its first place, and stays one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def leaves(tree: Any) -> dict[str, Any]:
    """Every array of a tree under its name, each once.

    >>> import numpy as np
    >>> from npgpt.block import Affine
    >>> list(leaves((Affine(np.ones(2), np.zeros(2)),)))
    ['0.weight', '0.bias']
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(node: Any, name: str) -> None:
        if isinstance(node, tuple):
            keys = getattr(node, "_fields", range(len(node)))
            for key, part in zip(keys, node, strict=True):
                visit(part, f"{name}.{key}" if name else str(key))
        elif hasattr(node, "dtype") and id(node) not in seen:
            seen.add(id(node))
            found[name] = node

    visit(tree, "")
    return found


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same tree with function(array) for every array, called once for each.

    >>> import numpy as np
    >>> from npgpt.gpt2 import Weight
    >>> map_leaves(lambda x: 2 * x, Weight(np.ones(2)))
    Weight(weight=array([2., 2.]))
    """
    mapped: dict[int, Any] = {}

    def visit(node: Any) -> Any:
        if isinstance(node, tuple):
            parts = [visit(part) for part in node]
            return type(node)(*parts) if hasattr(node, "_fields") else tuple(parts)
        if not hasattr(node, "dtype"):
            return node
        if id(node) not in mapped:
            mapped[id(node)] = function(node)
        return mapped[id(node)]

    return visit(tree)


def rename_leaves(tree: Any, arrays: dict[str, Any]) -> Any:
    """The same tree with arrays[name] in the place of every leaf called name.

    >>> from npgpt.gpt2 import Weight
    >>> import numpy as np
    >>> rename_leaves(Weight(np.ones(2)), {"weight": np.zeros(2)})
    Weight(weight=array([0., 0.]))
    """
    names = {id(array): name for name, array in leaves(tree).items()}
    return map_leaves(lambda array: arrays[names[id(array)]], tree)
