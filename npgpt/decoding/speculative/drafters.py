"""Drafters: what guesses the next tokens of a row, cheaper than the model can say them.

A smaller model, the model's first layers, the text itself. Each keeps its own state
within what the rows hold: after a rejection it finds the new text in row.ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from npgpt.decoding.chain import run_chain
from npgpt.decoding.guidance.guided import check_same_vocabulary
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.randomness import DRAFT
from npgpt.decoding.row import Row
from npgpt.decoding.rules.base import Context, Rule, probabilities
from npgpt.decoding.selectors import inverse_cdf
from npgpt.decoding.speculative.loop import Draft, Pace
from npgpt.errors import DecodingError


class ModelDrafter:
    """A smaller model with the same tokens, its logits through the same chain.

    Greedy for greedy decoding, else it draws. It tells its probabilities q where the
    verification wants them, and stops early after a token of probability below the
    threshold (dynamic draft length).
    """

    def __init__(
        self,
        assistant: Any,
        options: GenerationConfig,
        model: Any,
        chain: Sequence[Rule],
    ):
        check_same_vocabulary(model, assistant)
        self.model, self.chain, self.greedy = assistant, chain, options.greedy
        self.tells = not self.greedy or options.assistant_ensemble_weight != 1
        self.threshold = options.assistant_confidence_threshold
        self.pace = Pace(
            options.num_assistant_tokens, options.num_assistant_tokens_schedule
        )
        self.cache: Any = None

    def propose(self, rows: Sequence[Row], limits: Sequence[int], cache: Any) -> list:
        """Drafts of all rows, token by token side by side."""
        room = self.model.config.n_positions
        limits = [
            max(0, min(n, room - len(row.ids) + 1))
            for n, row in zip(self.pace.limits(limits), rows, strict=True)
        ]
        drafts = [Draft([], [] if self.tells else None) for _ in rows]
        going = [i for i, limit in enumerate(limits) if limit]
        self._start(rows, room)
        while going:
            z = self._read(rows, drafts, going)
            going = [
                i
                for i in going
                if self._draw(rows[i], drafts[i], z[i])
                and len(drafts[i].tokens) < limits[i]
            ]
        return drafts

    def _start(self, rows: Sequence[Row], room: int) -> None:
        if self.cache is None:
            self.cache = self.model.new_cache(len(rows))
        for i, row in enumerate(rows):
            held = self.cache.ids[i]
            same = 0
            while (
                same < min(len(held), len(row.ids) - 1) and held[same] == row.ids[same]
            ):
                same += 1
            self.cache.crop_row(i, same)

    def _read(
        self, rows: Sequence[Row], drafts: Sequence[Draft], going: Sequence[int]
    ) -> np.ndarray:
        """Logits after every row's draft; one that has stopped reads its end again."""
        unread, active = [], set(going)
        for i, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
            text = row.ids + draft.tokens
            if i not in active:
                text = text[: max(1, min(len(text), len(self.cache.ids[i])))]
                if len(self.cache.ids[i]) >= len(text):
                    self.cache.crop_row(i, len(text) - 1)
            unread.append(text[len(self.cache.ids[i]) :])
        return self.model.next_logits(unread, self.cache)

    def _draw(self, row: Row, draft: Draft, logits: np.ndarray) -> bool:
        """Add one token to a draft; whether to go on."""
        context = Context(
            row.prompt_length, row.step + len(draft.tokens), row.seed, row.sequence
        )
        z = run_chain(self.chain, row.ids + draft.tokens, logits, context)
        x = int(z.argmax()) if self.greedy else inverse_cdf(z, context.uniform(DRAFT))
        draft.tokens.append(x)
        if not self.tells and not self.threshold:
            return True
        q = probabilities(z)
        if draft.q is not None:
            draft.q.append(q)
        return bool(q[x] >= self.threshold)

    def observe(self, index: int, draft: Draft, accepted: int, z: np.ndarray) -> None:
        """Adapt the draft length."""
        self.pace.observe(index, len(draft.tokens), accepted)

    def select(self, rows: Sequence[int]) -> None:
        """Only these rows go on."""
        self.pace.select(rows)
        self.cache = self.cache.select(rows)


class EarlyExit(ModelDrafter):
    """The model's own first layers, with ln_f and the output head after them.

    Each layer reads each token once: the first ones leave their keys and values in the
    model's cache, and what they made of the draft is where the others go on to verify.
    So a draft that stands whole is followed by no token of the model's own: the first
    layers have not read its end. GPT-2 was not trained to speak from its middle layers,
    so little of the draft stands. Source: Elhoushi et al., "LayerSkip" (2024).
    """

    def __init__(self, options: GenerationConfig, model: Any, chain: Sequence[Rule]):
        super().__init__(model, options, model, chain)
        self.layers = options.assistant_early_exit
        if self.layers >= model.config.n_layer:
            raise DecodingError(
                f"assistant_early_exit {self.layers} must be below the model's "
                f"{model.config.n_layer} layers"
            )
        if not hasattr(model, "first_logits"):
            raise DecodingError("assistant_early_exit does not go with guidance")

    def propose(self, rows: Sequence[Row], limits: Sequence[int], cache: Any) -> list:
        """Drafts by the first layers, in the model's own cache, cropped after."""
        held = cache.lengths.tolist()
        self.cache, self.states = cache, [[] for _ in rows]
        drafts = super().propose(rows, limits, cache)
        cache.crop(held)
        return drafts

    def read_draft(
        self, unread: Sequence[Sequence[int]], cache: Any, keep: Sequence[int]
    ) -> list[np.ndarray]:
        """The model's logits, by the layers that have not read the draft."""
        if not all(self.states):
            return self.model.all_logits(unread, cache, keep)
        return self.model.rest_logits(unread, self.states, cache, self.layers, keep)

    def _start(self, rows: Sequence[Row], room: int) -> None:
        pass  # the model's cache holds what stands

    def _read(
        self, rows: Sequence[Row], drafts: Sequence[Draft], going: Sequence[int]
    ) -> np.ndarray:
        unread = [
            (row.ids + draft.tokens)[len(self.cache.ids[i]) :]
            for i, (row, draft) in enumerate(zip(rows, drafts, strict=True))
        ]
        for i, new in enumerate(unread):
            if not new:  # a row that has stopped reads its end again
                unread[i] = self.cache.ids[i][-1:]
                self.cache.crop_row(i, len(self.cache.ids[i]) - 1)
        z, states = self.model.first_logits(unread, self.cache, self.layers)
        for row, state in zip(self.states, states, strict=True):
            row.append(state)
        return z

    def select(self, rows: Sequence[int]) -> None:
        """Only these rows go on; the model's cache is the loop's to select."""
        self.pace.select(rows)


class PromptLookup:
    """Prompt lookup: finds the text's last tokens earlier in it, drafts what followed.

    The longest n-gram that ends the text (n = max_ngram .. 1) is searched in the text;
    the latest place with enough tokens behind it is taken (Transformers takes the first
    one). No match, no draft. Source: Saxena, "Prompt Lookup Decoding" (2023).
    """

    def __init__(self, num_tokens: int, max_ngram: int = 2):
        self.num_tokens, self.max_ngram = num_tokens, max_ngram

    def propose(self, rows: Sequence[Row], limits: Sequence[int], cache: Any) -> list:
        """What followed the same tokens before."""
        return [
            Draft(lookup(row.ids, min(self.num_tokens, limit), self.max_ngram))
            for row, limit in zip(rows, limits, strict=True)
        ]

    def observe(self, index: int, draft: Draft, accepted: int, z: np.ndarray) -> None:
        """Nothing to learn: the text is all it knows."""

    def select(self, rows: Sequence[int]) -> None:
        """Nothing to keep."""


def lookup(ids: Sequence[int], n: int, max_ngram: int) -> list[int]:
    """The n tokens after the latest earlier place of the longest matching end of ids.

    >>> lookup([1, 2, 3, 9, 1, 2, 4, 9, 1, 2], 2, 2)
    [4, 9]
    """
    text = np.asarray(ids)
    ends = np.flatnonzero(text[:-1] == text[-1])  # the last token, earlier
    for back in range(1, min(max_ngram, len(ids) - 1)):
        longer = ends[ends >= back]
        longer = longer[text[longer - back] == text[-1 - back]]
        if not longer.size:
            break
        ends = longer
    if n < 1 or not ends.size:
        return []
    enough = ends[ends + n < len(ids)]
    at = int(enough[-1] if enough.size else ends[0]) + 1
    return text[at : at + n].tolist()


class NgramCache:
    """Counts of which token followed which n-gram, in the texts seen so far.

    The draft goes on with the most frequent follower of the longest known context, the
    latest of equals, until none is known. Counts grow with the text, and each row has
    its own. Sources: llama.cpp's ngram-cache; Oliaro et al., "SuffixDecoding" (2024).
    """

    def __init__(self, num_tokens: int, size: int = 3):
        self.num_tokens, self.size = num_tokens, size
        self.tables: list[dict[tuple[int, ...], Counter]] = []
        self.read: list[int] = []

    def propose(self, rows: Sequence[Row], limits: Sequence[int], cache: Any) -> list:
        """The most frequent continuation of every row."""
        if not self.tables:
            self.tables, self.read = [{} for _ in rows], [0] * len(rows)
        drafts = []
        for i, (row, limit) in enumerate(zip(rows, limits, strict=True)):
            self._learn(i, row.ids)
            draft: list[int] = []
            while len(draft) < min(limit, self.num_tokens):
                x = self._next(i, (*row.ids[-self.size :], *draft))
                if x is None:
                    break
                draft.append(x)
            drafts.append(Draft(draft))
        return drafts

    def _learn(self, i: int, ids: Sequence[int]) -> None:
        for at in range(max(1, self.read[i]), len(ids)):
            for n in range(1, min(self.size, at) + 1):
                context = tuple(ids[at - n : at])
                self.tables[i].setdefault(context, Counter())[ids[at]] += 1
        self.read[i] = len(ids)

    def _next(self, i: int, end: tuple[int, ...]) -> int | None:
        for n in range(min(self.size, len(end)), 0, -1):
            followers = self.tables[i].get(end[-n:])
            if followers:
                most = max(followers.values())
                return [x for x, count in followers.items() if count == most][-1]
        return None

    def observe(self, index: int, draft: Draft, accepted: int, z: np.ndarray) -> None:
        """What stands is learnt from the text."""

    def select(self, rows: Sequence[int]) -> None:
        """Only these rows go on."""
        self.tables = [self.tables[i] for i in rows]
        self.read = [self.read[i] for i in rows]
