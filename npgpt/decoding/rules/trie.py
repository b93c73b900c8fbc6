"""Prefix-constrained decoding: the new text is one of a list of texts.

A trie of token ids; where the text stands in it follows from the new tokens alone.
Dead ends cannot occur: every node lies on the way to a text of the list.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.rules.base import Context, Ids
from npgpt.decoding.rules.bias import allow
from npgpt.decoding.vocabulary import whole
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
@fields(prepare=lambda choice, setup: Choice(choice, setup))
@fields(ends=lambda new, c, choice: choice.ended(new, c.prefix))
@fields(
    call=lambda z, generated, context, choice: _one_of(z, generated, context, choice)
)
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


def _one_of(z: Logits, generated: Ids, context: Context, choice: Choice) -> Logits:
    return allow_children(z, generated, choice.root(context.prefix))


class Choice:
    """A list of texts or of token ids, each ended by an end-of-text id if there is one.

    An end-of-text id's own name in a text is spelt, for the id would end it.
    """

    def __init__(self, choice: Any, setup: Any):
        if isinstance(choice, str) or not choice:
            raise DecodingError(
                "choice must be a list of texts or of lists of token ids"
            )
        self.choice, self.setup = list(choice), setup
        self.ends = () if setup.options.ignore_eos else setup.eos
        texts = [text for text in self.choice if isinstance(text, str)]
        if texts and setup.tokenizer is None:
            raise DecodingError("choice: texts need a tokenizer; give token ids")
        if setup.options.token_healing and len(texts) < len(self.choice):
            raise DecodingError(
                "choice: token ids do not go with token_healing; give texts"
            )
        self._roots = {b"": self._trie("")}

    def root(self, prefix: bytes = b"") -> Node:
        """The trie of the texts behind these bytes of the prompt (token healing)."""
        if prefix not in self._roots:
            self._roots[prefix] = self._trie(whole(prefix))
        return self._roots[prefix]

    def ended(self, generated: Ids, prefix: bytes) -> bool:
        """Whether these new tokens are one of the texts, and of no longer one."""
        node = self.root(prefix)
        for id in generated:
            node = node.get(id, {0: {}})
        return not node

    def _encode(self, text: str) -> list[int]:
        tokenizer, ids = self.setup.tokenizer, []
        for id in tokenizer.encode(text):
            if id in self.setup.eos:
                name = tokenizer.decode([id])
                ids += tokenizer.encode(name[:1]) + tokenizer.encode(name[1:])
            else:
                ids.append(id)
        return ids

    def _trie(self, before: str) -> Node:
        setup, sequences = self.setup, []
        for text in self.choice:
            if isinstance(text, str):
                text = self._encode(before + text)
            ids, V = [int(id) for id in text], setup.vocab_size
            if V is not None and not all(0 <= id < V for id in ids):
                raise DecodingError(f"choice: {ids} has ids beyond the vocabulary")
            sequences.append(ids)
        if self.ends:
            return trie([*ids, end] for ids in sequences for end in self.ends)
        for ids in sequences:
            if not ids or any(x[: len(ids)] == ids != x for x in sequences):
                raise DecodingError(
                    f"choice: {ids} is the beginning of another text; to end there it "
                    "needs an end-of-text id, and there is none"
                )
        return trie(sequences)
