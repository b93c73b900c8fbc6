"""Prefix-constrained decoding: the new text is one of a list of texts.

A trie of token ids; where the text stands in it follows from the new tokens alone.
Dead ends cannot occur: every node lies on the way to a text of the list.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.rules.base import Ids
from npgpt.decoding.rules.bias import allow
from npgpt.errors import DecodingError
from npgpt.shapes import Logits

Node = dict[int, Any]  # token id -> Node


def trie(sequences: Iterable[Ids]) -> Node:
    """Nested dicts, token id -> what may follow.

    >>> trie([[1, 2], [1, 3]])
    {1: {2: {}, 3: {}}}
    """
    root: Node = {}
    for sequence in sequences:
        node = root
        for id in sequence:
            node = node.setdefault(id, {})
    return root


@strategy("E11", "prefix trie", constrains=True, stage="ban", rank=80, element="choice")
@parameter("choice", (), "Texts, or lists of token ids.", kind="any")
@fields(prepare=lambda choice, setup: build(choice, setup))
@example(choice=[[2, 3], [3]])
def allow_children(z: Logits, generated: Ids, root: Node) -> Logits:
    """The new text is one of a list: keep the children of the trie's node reached.

    Every sequence ends with an end-of-text id, which tells "be" from the beginning of
    "bee". After the end nothing is constrained. Source: De Cao et al., "Autoregressive
    Entity Retrieval" (2020, arXiv:2010.00904).

    >>> import numpy as np
    >>> allow_children(np.zeros(4), [1], trie([[1, 2, 0], [1, 3, 0]])).tolist()
    [-inf, -inf, 0.0, 0.0]
    """
    node = root
    for id in generated:
        if not node:
            return z
        if id not in node:
            raise DecodingError(
                f"token {id} leaves the texts of choice; a rule after it forced it"
            )
        node = node[id]
    return allow(z, list(node)) if node else z


def build(choice: Any, setup: Any) -> Node:
    """The trie of a list of texts or of token ids, each ended by an end-of-text id."""
    if isinstance(choice, str) or not choice:
        raise DecodingError("choice must be a list of texts or of lists of token ids")
    if not setup.eos:
        raise DecodingError("choice needs an end-of-text id, and there is none")
    sequences = []
    for text in choice:
        if isinstance(text, str):
            if setup.tokenizer is None:
                raise DecodingError("choice: texts need a tokenizer; give token ids")
            text = setup.tokenizer.encode(text)
        ids = [int(id) for id in text]
        vocab_size = setup.vocab_size
        if vocab_size is not None and not all(0 <= id < vocab_size for id in ids):
            raise DecodingError(f"choice: {ids} has ids beyond the vocabulary")
        sequences += [[*ids, end] for end in setup.eos]
    return trie(sequences)
