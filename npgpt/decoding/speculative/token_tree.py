"""Token trees: several drafts that share their beginnings, read in one pass.

A tree is a list of tokens and of their parents' places (-1 hangs on the text). Its
nodes see the text and their own ancestors alone; the branch that stands stays in the
cache. Rows are verified one after another, each with its own cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from npgpt.cache import keep_common
from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.guidance.guided import NO_TREES
from npgpt.decoding.job import Job
from npgpt.decoding.randomness import ACCEPT, DRAFT
from npgpt.decoding.row import Row, Step, record
from npgpt.decoding.rules.base import Context, probabilities
from npgpt.decoding.selectors import ancestral, greedy, gumbel_max
from npgpt.decoding.speculative.acceptance import draw, residual
from npgpt.decoding.speculative.loop import check_speculative
from npgpt.decoding.vocabulary import sized_as
from npgpt.errors import DecodingError
from npgpt.interface import able


class Tree(NamedTuple):
    """Drafted tokens below the text, and the probabilities they were drawn from."""

    tokens: list[int]
    parents: list[int]
    q: dict[int, np.ndarray]  # node (-1: the text) -> what its children were drawn from

    def children(self, node: int) -> list[int]:
        """The nodes directly below a node, in the order of drawing."""
        return [i for i, parent in enumerate(self.parents) if parent == node]

    def add(self, token: int, parent: int) -> int:
        """Hang a token below a node; its own place."""
        self.tokens.append(token)
        self.parents.append(parent)
        return len(self.tokens) - 1


# (tree, node, processed logits there, context) -> the token, and its node if drafted
Choose = Callable[[Tree, int, np.ndarray, Context], tuple[int, int | None]]


def choose_greedy(
    tree: Tree, node: int, z: np.ndarray, context: Context
) -> tuple[int, int | None]:
    """The target's argmax, and the child that guessed it."""
    return _followed(tree, node, greedy(z))


def choose_matching(
    tree: Tree, node: int, z: np.ndarray, context: Context
) -> tuple[int, int | None]:
    """Sample and match: a draw from the target, and the child that guessed it."""
    return _followed(tree, node, ancestral(z, context))


def _followed(tree: Tree, node: int, y: int) -> tuple[int, int | None]:
    return y, next((i for i in tree.children(node) if tree.tokens[i] == y), None)


@strategy("H9", "token tree", kind="part", also=("assistant_model",))
@parameter(
    "assistant_tree", (), "Children of a node at each depth, such as 3,2,1.", kind="ids"
)
@example(assistant_model="smaller", assistant_tree=[2, 1])
def choose_recursive(
    tree: Tree, node: int, z: np.ndarray, context: Context
) -> tuple[int, int | None]:
    """A tree of drafts, verified in one pass: siblings x ~ q in turn, keep with
    min(1, p/q), else p = max(p - q, 0).

    p is normalised for the next sibling. If none stands, the token is drawn from what
    p has become: its law is the target's. Source: Miao et al., "SpecInfer" (2023,
    arXiv:2305.09781).
    """
    p, children = probabilities(z), tree.children(node)
    for i, u in zip(children, context.uniforms(len(children), ACCEPT), strict=True):
        x, q = tree.tokens[i], tree.q[node]
        if u * q[x] < p[x]:
            return x, i
        p = residual(p, q, x)
    return draw(p, context), None


def run_trees(
    job: Job, make_drafter: Callable[[], Any], choose: Choose
) -> Iterator[Step]:
    """The loop: grow a tree, read it, walk it, keep the branch that stands.

    make_drafter() is for one row: grow(row, limit) -> Tree of at most `nodes` nodes,
    and observe(row, tree, logits of all nodes).
    """
    if not job.options.max_new_tokens:
        return
    live = [_write(job, row, make_drafter(), choose) for row in job.rows()]
    while live:
        for writer in list(live):
            steps = next(writer, None)
            if steps is None:
                live.remove(writer)
            else:
                yield from steps


def _write(job: Job, row: Row, drafter: Any, choose: Choose) -> Iterator[list[Step]]:
    """Lists of steps of one row, one list a reading."""
    longest = min(len(row.ids) + job.options.max_new_tokens, job.room)
    # A tree's nodes lie side by side in the cache, at more places than positions.
    model = able(job.model, "tree_logits", NO_TREES)
    cache = job.cache_of(row, longest + drafter.nodes + 1)
    z = model.next_logits([row.ids], cache)  # the text's end, then the tree's nodes
    tree = Tree([], [], {})
    while True:
        steps, kept = [], []
        node: int | None = -1
        base = len(cache.ids[0]) - len(tree.tokens)
        while node is not None and row.finish_reason is None:
            logits = z[node + 1]
            made = row.processed(logits)
            y, node = choose(tree, node, made, row.context)
            steps.append(record(row, y, logits, made))
            kept += [] if node is None else [base + node]
        yield steps
        if row.finish_reason is not None:
            return
        cache.gather([[*range(base), *kept]])
        # The new last token is read together with the next tree, as its root.
        tree = drafter.grow(row, row.most - row.step - 1)
        parents = [-1, *(parent + 1 for parent in tree.parents)]
        z = model.tree_logits([row.ids[-1], *tree.tokens], parents, cache)[0]
        drafter.observe(row, tree, z)


class AssistantTree:
    """A smaller model grows the tree: branches[d] children for every node of depth d.

    Children are drawn independently from the assistant's q, or are its best ones for
    greedy decoding.
    """

    def __init__(self, job: Job):
        self.model, self.job = sized_as(job.model, job.options.assistant_model), job
        self.branches = job.options.assistant_tree
        self.nodes = int(np.cumprod(self.branches).sum())
        self.cache = self.model.new_cache(1)

    def grow(self, row: Row, limit: int) -> Tree:
        """A tree no deeper than the limit."""
        tree, room = Tree([], [], {}), self.model.config.n_positions
        if not limit or len(row.ids) > room:
            return tree
        cache, unread = self.cache, [keep_common(self.cache, 0, row.ids)]
        frontier: list[tuple[int, list[int]]] = [(-1, [])]  # node, its branch
        for depth, n in enumerate(self.branches[:limit]):
            if len(row.ids) + depth > room:
                break
            z, context = self.model.next_logits(unread, cache), row.context_at(depth)
            us = context.uniforms(n * z.size, DRAFT).reshape(len(z), n, -1)
            grown, sources = [], []
            for j, (node, branch) in enumerate(frontier):
                made = row.processed(z[j], branch)
                if made.max() == -np.inf:
                    continue  # nothing may follow
                tree.q[node] = q = probabilities(made)
                if self.job.options.greedy:
                    best = np.argsort(-q, kind="stable")[:n]
                    drawn = best[q[best] > 0].tolist()
                else:
                    drawn = [gumbel_max(made, one) for one in us[j]]
                for x in drawn:
                    child = tree.add(x, node)
                    if not row.over([*branch, x]):
                        grown.append((child, [*branch, x]))
                        sources.append(j)
            if not grown:
                break
            if depth + 1 < min(len(self.branches), limit):
                cache, unread = cache.select(sources), [b[-1:] for _, b in grown]
            frontier = grown
        return tree

    def observe(self, row: Row, tree: Tree, z: np.ndarray) -> None:
        """Nothing to learn."""


def assisted_tree(job: Job) -> Iterator[Step]:
    """H9: a smaller model drafts a token tree; recursive rejection keeps the law."""
    check_speculative(job, "assistant_tree")
    able(job.model, "tree_logits", NO_TREES)
    if min(job.options.assistant_tree) < 1:
        raise DecodingError("assistant_tree must be numbers of children, at least 1")
    for name in ("typical_acceptance", "assistant_ensemble_weight"):
        if job.options.is_set(name):
            raise DecodingError(f"{name} does not go with assistant_tree")
    choose = choose_greedy if job.options.greedy else choose_recursive
    if job.options.verification == "match" and not job.options.greedy:
        choose = choose_matching
    return run_trees(job, lambda: AssistantTree(job), choose)
