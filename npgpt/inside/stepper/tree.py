"""Session: a tree of texts that begin alike, and where in it one stands.

A node is a token behind its parent's; the root is the prompt. What the model says after
a node, and what each rule makes of that, is computed when it is first asked for and
then kept, with one cache that is cropped to what the next text shares with it: going
back costs nothing. Random numbers are keyed by step (npgpt.decoding.randomness), so the
selector's own choices, one after another, are the text that `generate` writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from npgpt.cache import common_prefix
from npgpt.decoding.healing import heal
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules.base import Context, probabilities
from npgpt.errors import InsideError
from npgpt.inside.choice import Choice, judge
from npgpt.inside.trace import Trace
from npgpt.support.arguments import shown


@dataclass
class Node:
    """A token (None: the prompt), its parent, its children in order, a bookmark."""

    token: int | None
    parent: int | None
    children: list[int] = field(default_factory=list)
    bookmark: bool = False
    last: int | None = None  # the child that was visited last


class Session:
    """Where one stands in a tree of texts, and what the model says there.

    >>> from npgpt import GPT2
    >>> session = Session(GPT2.from_pretrained("tales-mini"), "Once upon a")
    >>> session.take(), session.text
    (1, 'Once upon a time')
    >>> session.back(), session.text
    (0, 'Once upon a')
    """

    def __init__(
        self, model: Any, prompt: Any, options: GenerationConfig | None = None
    ):
        self.model = model
        self.options = GenerationConfig() if options is None else options
        start = heal(model.encode(prompt), model.tokenizer, self.options)
        self.prompt, self.prefix = start.ids, start.prefix
        self.nodes, self.here = [Node(None, None)], 0
        self.off: set[tuple[int, int]] = set()  # heads: (layer, head)
        self._cache = model.new_cache(1)
        self._choices: dict[int, tuple[Choice, Any]] = {}
        self._without: dict[Any, np.ndarray] = {}

    # The tree

    def path(self, node: int | None = None) -> list[int]:
        """The nodes from the root to one (here)."""
        at: int | None = self._known(node)
        path = []
        while at is not None:
            path.append(at)
            at = self.nodes[at].parent
        return path[::-1]

    def ids(self, node: int | None = None) -> list[int]:
        """The prompt and the tokens up to a node (here)."""
        new = (self.nodes[one].token for one in self.path(node)[1:])
        return [*self.prompt, *(int(id) for id in new if id is not None)]

    @property
    def text(self) -> str:
        """The text up to here, or its ids where there is no tokenizer."""
        ids = self.ids()
        if self.model.tokenizer is None:
            return " ".join(f"<{id}>" for id in ids)
        text: str = self.model.tokenizer.decode(ids)
        return text

    def go(self, node: int) -> int:
        """Stand at a node; the number of it."""
        self.here = self._known(node)
        parent = self.nodes[node].parent
        if parent is not None:
            self.nodes[parent].last = node
        return node

    def take(self, token: int | None = None) -> int:
        """Go on by a token (the selector's own), along an old branch or a new one."""
        token = self.choice().token_id if token is None else token
        if not 0 <= token < self.model.config.vocab_size:
            raise InsideError(
                f"there is no token {token}; ids are 0 to "
                f"{self.model.config.vocab_size - 1}"
            )
        for child in self.nodes[self.here].children:
            if self.nodes[child].token == token:
                return self.go(child)
        self.nodes.append(Node(int(token), self.here))
        self.nodes[self.here].children.append(len(self.nodes) - 1)
        return self.go(len(self.nodes) - 1)

    def back(self) -> int:
        """One token back."""
        parent = self.nodes[self.here].parent
        if parent is None:
            raise InsideError("this is the prompt: nothing was before it")
        return self.go(parent)

    def forward(self) -> int:
        """To the child that was visited last, or by the selector's own token."""
        last = self.nodes[self.here].last
        return self.take() if last is None else self.go(last)

    def sibling(self) -> int:
        """To the next branch from the same parent, after the last to the first."""
        parent = self.nodes[self.here].parent
        if parent is None:
            raise InsideError("this is the prompt: it has no sibling")
        children = self.nodes[parent].children
        return self.go(children[(children.index(self.here) + 1) % len(children)])

    def bookmark(self) -> bool:
        """Set a bookmark here, or take it away."""
        node = self.nodes[self.here]
        node.bookmark = not node.bookmark
        return node.bookmark

    def _known(self, node: int | None) -> int:
        at = self.here if node is None else node
        if not 0 <= at < len(self.nodes):
            raise InsideError(
                f"node {at} is not there; there are 0 to {len(self.nodes) - 1}"
            )
        return at

    # What the model says

    def choice(self, node: int | None = None) -> Choice:
        """What every rule did to the distribution after a node (here), what it takes.

        A selector with a memory (mirostat) remembers what it would have taken itself.
        """
        memory: list[Any] = []
        for one in self.path(node):
            if one not in self._choices:
                ids = self.ids(one)
                step = len(ids) - len(self.prompt)
                context = Context(
                    len(self.prompt), step, self.options.seed, prefix=self.prefix
                )
                z = self._read(ids)
                self._choices[one] = judge(
                    self.model, ids, z, context, self.options, *memory
                )
            memory = [self._choices[one][1]]
        return self._choices[self._known(node)][0]

    def _read(self, ids: list[int]) -> np.ndarray:
        held = self._cache.ids[0]
        self._cache.crop(min(common_prefix(held, ids), len(ids) - 1))
        z = self.model.next_logits([ids[len(self._cache.ids[0]) :]], self._cache)
        return np.array(z[0])

    def trace(self, names: Any = "*") -> Trace:
        """Everything that the model computes for the text up to here."""
        trace: Trace = self.model.trace(names)
        with trace:
            self.model.logits([self.ids()])
        return trace

    def switch(self, layer: int, head: int) -> bool:
        """Take a head out, or put it back; whether it is out now."""
        config = self.model.config
        for name, value, n in (
            ("layer", layer, config.n_layer),
            ("head", head, config.n_head),
        ):
            if not 0 <= value < n:
                raise InsideError(
                    f"{name} {value} is not there; {name}s are 0 to {n - 1}"
                )
        self.off ^= {(layer, head)}
        return (layer, head) in self.off

    def without(self) -> np.ndarray | None:
        """The model's probabilities here with heads taken out; None if none is."""
        if not self.off:
            return None
        key = self.here, frozenset(self.off)
        if key not in self._without:
            patch = {f"h.{i}.attn.context[:, {h}]": 0 for i, h in sorted(self.off)}
            with self.model.trace((), patch=patch):
                z = self.model.logits([self.ids()])[0, -1]
            self._without[key] = probabilities(z)
        return self._without[key]

    def written(self, *ids: int) -> str:
        """Tokens as Python writes them, or as ids where there is no tokenizer."""
        if self.model.tokenizer is None:
            return " ".join(f"<{id}>" for id in ids)
        return repr(self.model.tokenizer.decode(ids))

    def __repr__(self) -> str:
        return (
            f"Session({len(self.nodes)} nodes, at {self.here}: "
            f"{shown(self.text[-40:])})"
        )


def removed_by(choice: Choice, id: int) -> str | None:
    """The first rule that removed a token; None if it is left."""
    for before, stage in pairwise(choice.stages):
        if before.p[id] > 0 and stage.p[id] == 0:
            return stage.name
    return None
