"""Token trees: several drafts that share their beginnings, read in one pass.

A tree is a list of tokens and of their parents' places (-1 hangs on the text). Its
nodes see the text and their own ancestors alone; the branch that stands stays in the
cache. Rows are verified one after another, each with its own cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.chain import build_chain, run_chain
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.randomness import ACCEPT, DRAFT
from npgpt.decoding.row import Row, Step, record
from npgpt.decoding.rules.base import Context, probabilities
from npgpt.decoding.searches.hypotheses import new_row
from npgpt.decoding.selectors import greedy, inverse_cdf
from npgpt.decoding.speculative.acceptance import draw, residual
from npgpt.decoding.speculative.loop import Prompts, check_speculative
from npgpt.errors import DecodingError


class Tree(NamedTuple):
    """Drafted tokens below the text, and the probabilities they were drawn from."""

    tokens: list[int]
    parents: list[int]
    q: dict[int, np.ndarray]  # node (-1: the text) -> what its children were drawn from

    def children(self, node: int) -> list[int]:
        """The nodes directly below a node, in the order of drawing."""
        return [i for i, parent in enumerate(self.parents) if parent == node]

    def depth(self) -> int:
        """Tokens on the longest branch."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return max(depths, default=0)


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
    return _followed(tree, node, inverse_cdf(z, context.uniform()))


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

    p is normalised for the next sibling. If none stands, the
    token is drawn from what p has become: its law is the target's. Source: Miao et al.,
    "SpecInfer" (2023, arXiv:2305.09781).
    """
    p, children = probabilities(z), tree.children(node)
    for i, u in zip(children, context.uniforms(len(children), ACCEPT), strict=True):
        x, q = tree.tokens[i], tree.q[node]
        if u * q[x] < p[x]:
            return x, i
        p = residual(p, q, x)
    return draw(p, context), None


def run_trees(
    model: Any,
    prompts: Prompts,
    options: GenerationConfig,
    make_drafter: Callable[[Sequence[Any]], Any],
    nodes: int,
    choose: Choose,
) -> Iterator[Step]:
    """The loop: grow a tree, read it, walk it, keep the branch that stands.

    make_drafter(chain) has grow(row, limit) -> Tree of at most `nodes` nodes, and
    observe(row, tree, logits of all nodes).
    """
    if not options.max_new_tokens:
        return
    if not hasattr(model, "tree_logits"):
        raise DecodingError("token trees do not go with this guidance")
    n = options.num_return_sequences
    rows = [
        new_row(i * n + j, prompt, j, model, options)
        for i, prompt in enumerate(prompts)
        for j in range(n)
    ]
    chain = build_chain(
        options, options.eos_ids(model.config), model.tokenizer, model.config.vocab_size
    )
    live = [
        _one_row(
            model,
            row,
            options,
            chain,
            make_drafter(chain),
            nodes,
            choose,
            row.index // n,
        )
        for row in rows
    ]
    while live:
        going = []
        for steps in live:
            yielded = next(steps, None)
            if yielded is not None:
                yield from yielded
                going.append(steps)
        live = going


def _one_row(
    model: Any,
    row: Row,
    options: GenerationConfig,
    chain: Sequence[Any],
    drafter: Any,
    nodes: int,
    choose: Choose,
    origin: int,
) -> Iterator[list[Step]]:
    """Lists of steps of one row, one list a reading."""
    eos, room = options.eos_ids(model.config), model.config.n_positions
    longest = len(row.ids) + options.max_new_tokens
    # A tree's nodes lie side by side in the cache, at more places than positions.
    cache = model.new_cache(1, n_positions=min(longest, room) + nodes + 1)
    if hasattr(cache, "origins"):
        cache.origins = [origin]
    root = model.next_logits([row.ids], cache)[0]
    tree, z = Tree([], [], {}), np.zeros((0, len(root)), root.dtype)
    while True:
        steps, kept, node = [], [], -1
        base = len(cache.ids[0]) - len(tree.tokens)
        while True:
            logits = root if node < 0 else z[node]
            processed = run_chain(chain, row.ids, logits, row.context)
            y, below = choose(tree, node, processed, row.context)
            full = len(row.ids) == room
            steps.append(record(row, y, logits, processed, options, eos, last=full))
            if below is None or row.finish_reason is not None:
                break
            kept.append(below)
            node = below
        yield steps
        if row.finish_reason is not None:
            return
        cache.gather([[*range(base), *(base + i for i in kept)]])
        # The new last token is read together with the next tree, as its root.
        limit = min(options.max_new_tokens - row.step - 1, room - len(row.ids))
        tree = drafter.grow(row, max(0, limit))
        tokens = [row.ids[-1], *tree.tokens]
        parents = [-1, *(parent + 1 for parent in tree.parents)]
        together = model.tree_logits(tokens, parents, cache)[0]
        root, z = together[0], together[1:]
        drafter.observe(row, tree, together)


class AssistantTree:
    """A smaller model grows the tree: branches[d] children for every node of depth d.

    Children are drawn independently from the assistant's q, or are its best ones for
    greedy decoding.
    """

    def __init__(
        self,
        assistant: Any,
        branches: Sequence[int],
        options: GenerationConfig,
        chain: Sequence[Any],
    ):
        self.model, self.branches, self.chain = assistant, branches, chain
        self.greedy = options.greedy
        self.cache: Any = None

    def grow(self, row: Row, limit: int) -> Tree:
        """A tree no deeper than the limit."""
        tree = Tree([], [], {})
        room = self.model.config.n_positions
        if not limit or len(row.ids) > room:
            return tree
        cache = self._read_text(row)
        frontier: list[tuple[int, list[int]]] = [(-1, [])]  # node, its branch
        z = self.root
        for depth, n in enumerate(self.branches[:limit]):
            context = Context(
                row.prompt_length, row.step + depth, row.seed, row.sequence
            )
            u = context.uniforms(n * len(frontier), DRAFT).reshape(-1, n)
            grown, sources = [], []
            for j, (node, branch) in enumerate(frontier):
                processed = run_chain(self.chain, row.ids + branch, z[j], context)
                tree.q[node] = q = probabilities(processed)
                if self.greedy:
                    drawn = np.argsort(-q, kind="stable")[:n].tolist()
                else:
                    drawn = [inverse_cdf(processed, float(x)) for x in u[j]]
                for x in drawn:
                    tree.tokens.append(x)
                    tree.parents.append(node)
                    grown.append((len(tree.tokens) - 1, [*branch, x]))
                    sources.append(j)
            frontier = grown
            deeper = depth + 1 < min(len(self.branches), limit)
            if not deeper or len(row.ids) + depth + 1 > room:
                break
            cache = cache.select(sources)
            z = self.model.next_logits([branch[-1:] for _, branch in grown], cache)
        return tree

    def _read_text(self, row: Row) -> Any:
        """The assistant's cache of the text, with its logits in self.root."""
        if self.cache is None:
            self.cache = self.model.new_cache(1)
        held, same = self.cache.ids[0], 0
        while same < min(len(held), len(row.ids) - 1) and held[same] == row.ids[same]:
            same += 1
        self.cache.crop_row(0, same)
        self.root = self.model.next_logits([row.ids[same:]], self.cache)
        return self.cache

    def observe(self, row: Row, tree: Tree, z: np.ndarray) -> None:
        """Nothing to learn."""


def assisted_tree(
    model: Any, prompts: Prompts, options: GenerationConfig, cache: Any = None
) -> Iterator[Step]:
    """H9: a smaller model drafts a token tree; recursive rejection keeps the law."""
    check_speculative(model, prompts, options, cache, "assistant_tree")
    branches = options.assistant_tree
    if min(branches) < 1:
        raise DecodingError("assistant_tree must be numbers of children, at least 1")
    for name in ("typical_acceptance", "assistant_ensemble_weight"):
        if options.is_set(name):
            raise DecodingError(f"{name} does not go with assistant_tree")
    choose = choose_greedy if options.greedy else choose_recursive
    if options.verification == "match" and not options.greedy:
        choose = choose_matching

    def drafter(chain: Sequence[Any]) -> AssistantTree:
        return AssistantTree(options.assistant_model, branches, options, chain)

    nodes = int(np.cumprod(branches).sum())
    return run_trees(model, prompts, options, drafter, nodes, choose)
