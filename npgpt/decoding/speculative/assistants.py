"""Drafts by a model: a smaller one, or the first layers of the model itself.

Each keeps its own state within what the rows hold: after a rejection it finds the new
text in row.ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from npgpt.cache import keep_common
from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.job import Job
from npgpt.decoding.randomness import DRAFT
from npgpt.decoding.row import Row, Step
from npgpt.decoding.rules.base import probabilities
from npgpt.decoding.selectors import ancestral
from npgpt.decoding.speculative.acceptance import speculative
from npgpt.decoding.speculative.loop import Draft, Drafter, check_speculative, speculate
from npgpt.decoding.speculative.token_tree import assisted_tree
from npgpt.decoding.vocabulary import sized_as
from npgpt.errors import DecodingError
from npgpt.interface import Model, Rows, able
from npgpt.shapes import Array

BESIDE = (  # what may be set beside a drafter that is a model
    "typical_acceptance",
    "typical_delta",
    "assistant_ensemble_weight",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "verification",
)


@strategy("H12", "dynamic draft length", kind="part")
@parameter(
    "num_assistant_tokens_schedule",
    ("constant", "heuristic"),
    "Fixed, or longer after a draft that stood.",
)
@parameter(
    "assistant_confidence_threshold",
    0.4,
    "A draft ends with a token less probable; 0: never.",
    0,
    1,
)
@example(assistant_model="smaller", assistant_confidence_threshold=0.45)
class Pace:
    """Drafts as long as they are likely to stand: stop where q(x) < threshold; +2 / -1
    tokens.

    The heuristic of Transformers: two more after a draft that stood whole, else one
    fewer, at least one. (Transformers can also re-tune the confidence threshold while
    it runs; here that is fixed.) Source: Mamou et al., "Dynamic Speculation Lookahead"
    (2024, arXiv:2405.04304).
    """

    def __init__(self, tokens: int, schedule: str = "constant"):
        self.tokens, self.schedule = tokens, schedule
        self.rows: list[int] = []

    def limits(self, limits: Sequence[int]) -> list[int]:
        """The draft lengths, within the limits."""
        if not self.rows:
            self.rows = [self.tokens] * len(limits)
        return [min(a, b) for a, b in zip(self.rows, limits, strict=True)]

    def observe(self, index: int, drafted: int, accepted: int) -> None:
        """Adapt to what became of a draft."""
        if self.schedule == "heuristic" and drafted:
            more = 2 if accepted == drafted else -1
            self.rows[index] = max(1, self.rows[index] + more)

    def select(self, rows: Sequence[int]) -> None:
        """Only these rows go on."""
        self.rows = [self.rows[i] for i in rows]


class ModelDrafter(Drafter):
    """A smaller model with the same tokens, its logits through the same chain.

    Greedy for greedy decoding, else it draws. It tells its probabilities q where the
    verification wants them, and stops early after a token of probability below the
    threshold (dynamic draft length).
    """

    def __init__(self, job: Job, assistant: Model):
        self.model: Model = sized_as(job.model, assistant)
        o = job.options
        self.greedy, self.tells = (
            o.greedy,
            not o.greedy or o.assistant_ensemble_weight != 1,
        )
        self.threshold = o.assistant_confidence_threshold
        self.pace = Pace(o.num_assistant_tokens, o.num_assistant_tokens_schedule)
        self.cache: Any = None

    def propose(
        self, rows: Sequence[Row], limits: Sequence[int], cache: Any
    ) -> list[Draft]:
        """Drafts of all rows, token by token side by side."""
        room = self.model.config.n_positions
        limits = [
            max(0, min(n, room - len(row.ids) + 1))
            for n, row in zip(self.pace.limits(limits), rows, strict=True)
        ]
        drafts = [Draft([], [] if self.tells else None) for _ in rows]
        going = [i for i, limit in enumerate(limits) if limit]
        self._start(rows)
        while going:
            z = self._read(rows, drafts)
            going = [
                i
                for i in going
                if self._draw(rows[i], drafts[i], z[i])
                and len(drafts[i].tokens) < limits[i]
                and not rows[i].over(drafts[i].tokens)
            ]
        return drafts

    def _start(self, rows: Sequence[Row]) -> None:
        if self.cache is None:
            self.cache = self.model.new_cache(len(rows))
        for i, row in enumerate(rows):
            keep_common(self.cache, i, row.ids)

    def _read(self, rows: Sequence[Row], drafts: Sequence[Draft]) -> np.ndarray:
        """Logits after every row's draft; one that has stopped reads its end again."""
        unread, room = [], self.model.config.n_positions
        for i, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
            text, held = (row.ids + draft.tokens)[:room], len(self.cache.ids[i])
            if held == len(text):
                held -= 1
                self.cache.crop_row(i, held)
            unread.append(text[held:])
        return self._logits(unread)

    def _logits(self, unread: Rows) -> np.ndarray:
        return self.model.next_logits(unread, self.cache)

    def _draw(self, row: Row, draft: Draft, logits: np.ndarray) -> bool:
        """Add one token to a draft; whether to go on."""
        z, here = row.processed(logits, draft.tokens), len(draft.tokens)
        if z.max() == -np.inf:
            return False  # nothing may follow; the model may go another way
        context = row.context_at(here)
        x = int(z.argmax()) if self.greedy else ancestral(z, context, DRAFT)
        draft.tokens.append(x)
        if not self.tells and not self.threshold:
            return True
        q = probabilities(z)
        if draft.q is not None:
            draft.q.append(q)
        return bool(q[x] >= self.threshold)

    def observe(
        self, place: int, row: Row, draft: Draft, accepted: int, z: np.ndarray
    ) -> None:
        """Adapt the draft length."""
        self.pace.observe(place, len(draft.tokens), accepted)

    def select(self, places: Sequence[int]) -> None:
        """Only these rows go on."""
        self.pace.select(places)
        self.cache = self.cache.select(places)


class EarlyExit(ModelDrafter):
    """The model's own first layers draft: q = softmax(head(ln_f(h_L))).

    Each layer reads each token once: the first ones leave their keys and values in the
    model's cache, and what they made of the draft is where the others go on to verify.
    So a draft that stands whole is followed by no token of the model's own: the first
    layers have not read its end. GPT-2 was not trained to speak from its middle layers,
    so little of the draft stands. Source: Elhoushi et al., "LayerSkip" (2024,
    arXiv:2404.16710).
    """

    bonus = False

    def __init__(self, job: Job):
        super().__init__(job, job.model)
        self.layers, n = job.options.assistant_early_exit, job.model.config.n_layer
        if self.layers >= n:
            raise DecodingError(
                f"assistant_early_exit {self.layers} must be below the model's {n} "
                "layers"
            )
        what = "assistant_early_exit does not go with guidance"
        self.deep = able(job.model, "first_logits", what)

    def propose(
        self, rows: Sequence[Row], limits: Sequence[int], cache: Any
    ) -> list[Draft]:
        """Drafts by the first layers, in the model's own cache, cropped after."""
        held = cache.lengths.tolist()
        self.cache = cache
        self.states: list[list[Array]] = [[] for _ in rows]
        drafts = super().propose(rows, limits, cache)
        cache.crop(held)
        return drafts

    def read_draft(
        self, unread: Rows, cache: Any, keep: Sequence[int]
    ) -> list[np.ndarray]:
        """The model's logits, by the layers that have not read the draft."""
        if not all(self.states):
            return self.model.all_logits(unread, cache, keep)
        return self.deep.rest_logits(unread, self.states, cache, self.layers, keep)

    def _start(self, rows: Sequence[Row]) -> None:
        pass  # the model's cache holds what stands

    def _logits(self, unread: Rows) -> np.ndarray:
        z, states = self.deep.first_logits(unread, self.cache, self.layers)
        for known, state in zip(self.states, states, strict=True):
            known.append(state)
        return z

    def select(self, places: Sequence[int]) -> None:
        """Only these rows go on; the model's cache is the loop's to select."""
        self.pace.select(places)


@strategy("H1", "speculative sampling", kind="search", also=(*BESIDE, "assistant_tree"))
@fields(explains=speculative)
@parameter("assistant_model", None, "The smaller model.", kind="model")
@parameter("num_assistant_tokens", 20, "Tokens a draft.", 1)
@parameter(
    "verification",
    ("speculative", "match"),
    "Accept by p/q, or draw from p and compare.",
)
@example(assistant_model="smaller", do_sample=True)
def assisted(job: Job) -> Iterator[Step]:
    """H1 and H2: a smaller model drafts; with `assistant_tree`, trees."""
    if job.options.assistant_tree:
        return assisted_tree(job)
    check_speculative(job, "assistant_model")
    return speculate(job, ModelDrafter(job, job.options.assistant_model))


@strategy("H6", "early exit", kind="search", also=BESIDE, explains=EarlyExit)
@parameter("assistant_early_exit", 0, "Layers; 0 is off.", 1)
@example(assistant_early_exit=1)
def early_exit(job: Job) -> Iterator[Step]:
    """H6: the model's own first layers draft, the others verify."""
    check_speculative(job, "assistant_early_exit")
    return speculate(job, EarlyExit(job))
