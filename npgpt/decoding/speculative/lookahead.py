"""Jacobi and lookahead decoding: the model drafts for itself, from its own guesses.

Neither needs a second model. Both give what plain decoding would give: greedy the same
tokens, sampling the same draws (sample and match).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.guidance.guided import NO_TREES
from npgpt.decoding.job import Job
from npgpt.decoding.row import Row, Step
from npgpt.decoding.speculative.loop import (
    Draft,
    Drafter,
    check_speculative,
    speculate,
)
from npgpt.decoding.speculative.token_tree import (
    Tree,
    choose_greedy,
    choose_matching,
    run_trees,
)
from npgpt.interface import able


class Jacobi(Drafter):
    """A block of guesses, all improved in every reading: y_i <- argmax p(. | x, y_<i)
    until nothing changes.

    Each reading of the block is one Jacobi iteration; what agrees with its own reading
    is final, so n tokens take at most n readings. Source: Santilli et al.,
    "Accelerating Transformer Inference for Translation via Parallel Decoding" (2023,
    arXiv:2305.10427).
    """

    def __init__(self, num_tokens: int):
        self.num_tokens = num_tokens
        self.guesses: dict[int, list[int]] = {}  # of each row

    def guess(self, row: Row, limit: int) -> list[int]:
        """The guesses of the row, the last one repeated where there are too few."""
        known = self.guesses.get(row.index, [])
        last = (known or row.ids)[-1]
        block = known + [last] * (self.num_tokens - len(known))
        return block[: min(self.num_tokens, limit)]

    def observe(
        self, place: int, row: Row, draft: Draft, accepted: int, z: np.ndarray
    ) -> None:
        """What the model said behind the token that follows the accepted ones."""
        self.guesses[row.index] = z[accepted + 1 :].argmax(axis=-1).tolist()


class Lookahead:
    """Jacobi trajectories fill a pool of n-grams: window and guesses in one pass, by a
    tree mask.

    The window has `levels` = ngram - 1 rows of `window` tokens: row 0 continues the
    text, the token below another follows it. A reading adds a new last row; a column
    with it is an n-gram of the model's own, and goes into the pool under its first
    token. The pool's n-grams that begin with the text's last token are the draft. All
    of it is one token tree. Source: Fu et al., "Break the Sequential Dependency of LLM
    Inference Using Lookahead Decoding" (2024, arXiv:2402.02057); the window is not
    moved by more than one place when several tokens were accepted.
    """

    def __init__(self, window: int, ngram: int, guesses: int):
        self.window, self.levels, self.guesses = window, ngram - 1, guesses
        self.pool: dict[int, list[tuple[int, ...]]] = {}
        self.rows: list[list[int]] = []

    @property
    def nodes(self) -> int:
        """Nodes of the largest tree."""
        return self.levels * (self.window + self.guesses)

    def grow(self, row: Row, limit: int) -> Tree:
        """The draft's n-grams first, then the window, as one tree below the text."""
        tree = Tree([], [], {})
        self.columns: list[int] = []
        for gram in self.pool.get(row.ids[-1], [])[-self.guesses :]:
            self._hang(tree, -1, gram[: max(0, limit)])
        if limit < self.window + self.levels:  # its positions would not fit
            return tree
        if not self.rows:
            text = row.ids[-self.window * self.levels :]
            cycle = [text[i % len(text)] for i in range(self.window * self.levels)]
            self.rows = [cycle[i :: self.levels] for i in range(self.levels)]
        before = -1
        for column in zip(*self.rows, strict=True):
            before = tree.add(column[0], before)
            self.columns.append(self._hang(tree, before, column[1:]))
        return tree

    def _hang(self, tree: Tree, node: int, tokens: Sequence[int]) -> int:
        for token in tokens:
            node = tree.add(token, node)
        return node

    def observe(self, row: Row, tree: Tree, z: np.ndarray) -> None:
        """New n-grams for the pool, the window's next rows; z[0] is the text's end."""
        if not self.columns:
            return
        new = [int(z[1 + node].argmax()) for node in self.columns]
        for column, token in zip(zip(*self.rows, strict=True), new, strict=True):
            first, gram = column[0], (*column[1:], token)
            known = self.pool.setdefault(first, [])
            if gram in known:
                known.remove(gram)
            known.append(gram)  # the latest last
            del known[: -4 * self.guesses]
        self.rows = [*self.rows[1:], new]


@strategy("H7", "Jacobi decoding", kind="search", explains=Jacobi)
@parameter("jacobi_num_tokens", 0, "Tokens; 0 is off.", 1)
@example(jacobi_num_tokens=4)
def jacobi(job: Job) -> Iterator[Step]:
    """H7: the model's own guesses of the last reading are the next draft."""
    check_speculative(job, "jacobi_num_tokens")
    return speculate(job, Jacobi(job.options.jacobi_num_tokens))


@strategy("H8", "lookahead decoding", kind="search", explains=Lookahead)
@parameter("lookahead_window", 0, "W: columns; 0 is off.", 1)
@parameter("lookahead_ngram", 4, "N: tokens of an n-gram.", 2)
@parameter("lookahead_guesses", 4, "G: n-grams verified.", 1)
@example(lookahead_window=2, lookahead_ngram=3)
def lookahead(job: Job) -> Iterator[Step]:
    """H8: lookahead decoding."""
    o = job.options
    check_speculative(job, "lookahead decoding")
    able(job.model, "tree_logits", NO_TREES)
    settings = (o.lookahead_window, o.lookahead_ngram, o.lookahead_guesses)
    choose = choose_greedy if o.greedy else choose_matching
    return run_trees(job, lambda: Lookahead(*settings), choose)
