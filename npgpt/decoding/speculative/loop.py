"""Speculative decoding: a drafter guesses several tokens, the model reads them at once.

The model's logits after every drafted token come out of one reading, which costs little
more than reading one token. What stands is decided by
npgpt.decoding.speculative.acceptance. Rows share their readings and advance at their
own pace. Which drafters there are is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.decoding.callbacks import drafted
from npgpt.decoding.job import Job
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Row, Step, record
from npgpt.decoding.speculative import acceptance
from npgpt.errors import DecodingError
from npgpt.interface import able


@dataclass(frozen=True)
class Draft:
    """Guessed tokens, and the probabilities (V,) each was drawn from; None: certain."""

    tokens: list[int]
    q: list[np.ndarray] | None = None


class Drafter:
    """What proposes tokens: for each row as many as its limit allows, or fewer.

    Whatever looks at one text at a time, and is certain of it, defines `guess` alone.
    """

    tells = False  # whether it knows the probabilities q of what it drafts
    bonus = True  # one more token of the model's follows a draft that stands
    read_draft: Any = None  # reads in the place of model.all_logits, where it is set

    def propose(
        self, rows: Sequence[Row], limits: Sequence[int], cache: Any
    ) -> list[Draft]:
        """One Draft a row; `cache` is the model's, and must be left as it was."""
        pairs = zip(rows, limits, strict=True)
        return [Draft(self.guess(row, limit)) for row, limit in pairs]

    def guess(self, row: Row, limit: int) -> list[int]:
        """The next tokens of one row."""
        raise NotImplementedError

    def observe(
        self, place: int, row: Row, draft: Draft, accepted: int, z: np.ndarray
    ) -> None:
        """The row at this place kept so many; z (len + 1, V): the model's logits."""

    def select(self, places: Sequence[int]) -> None:
        """Only the rows at these places go on."""


def run(
    job: Job,
    rows: list[Row],
    drafter: Drafter,
    rule: acceptance.Accept | None,
    bonus: bool = True,
) -> Iterator[Step]:
    """The loop: draft, read, verify, keep what stands. rule None is greedy.

    With `bonus` a draft that stands whole is followed by one more token of the
    model's; without, its last token need not be read yet.
    """
    most, n = job.options.max_new_tokens, job.options.num_return_sequences
    if not most:
        return
    cache = job.new_cache(job.prompts)
    read = drafter.read_draft or job.model.all_logits
    if n > 1 or drafter.read_draft:
        heads = [list(prompt[:-1]) for prompt in job.prompts]
        if all(heads) and not hasattr(cache, "parts"):
            job.model.next_logits(heads, cache)  # once for all texts of a prompt
        cache = cache.repeat(n) if n > 1 else cache
    while rows:
        limits = [
            max(0, min(most - bonus - row.step, job.room - len(row.ids)))
            for row in rows
        ]
        drafts = drafter.propose(rows, limits, cache)
        drafted(drafter, drafts, limits, job.config.vocab_size)
        # the drafted tokens to be read, and the positions whose logits count
        heads = [draft.tokens if bonus else draft.tokens[:-1] for draft in drafts]
        unread = [
            row.ids[len(held) :] + head
            for row, held, head in zip(rows, cache.ids, heads, strict=True)
        ]
        z = read(unread, cache, [len(head) + 1 for head in heads])
        for i, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
            steps, accepted = _advance(row, draft, z[i], rule, bonus)
            drafter.observe(i, row, draft, accepted, z[i])
            yield from steps
            cache.crop_row(i, min(len(row.ids) - 1, len(cache.ids[i])))
        alive = [i for i, row in enumerate(rows) if row.finish_reason is None]
        if len(alive) < len(rows) and alive:
            cache = cache.select(alive)
            drafter.select(alive)
        rows = [rows[i] for i in alive]


def _advance(
    row: Row,
    draft: Draft,
    logits: np.ndarray,
    rule: acceptance.Accept | None,
    bonus: bool,
) -> tuple[list[Step], int]:
    """The steps of the tokens that stand, and how many of the draft do."""
    rows, made = list(logits), []  # one array a position: `record` knows an unprocessed

    def z(i: int, tokens: Sequence[int]) -> np.ndarray:
        made.append(row.processed(rows[i], tokens))
        return made[-1]

    bonus = bonus or not draft.tokens
    if rule is None or (row.options.greedy and not draft.tokens):
        verdict = acceptance.verify_greedy(z, draft.tokens, bonus, row.over)
    else:
        verdict = acceptance.verify(
            rule, z, draft.tokens, draft.q, row.context_at, bonus, row.over
        )
    steps = []
    for i, id in enumerate(verdict.tokens):
        steps.append(record(row, id, rows[i], made[i]))
        if row.finish_reason is not None:
            break
    return steps, min(verdict.accepted, len(steps))


def check_speculative(job: Job, what: str) -> None:
    """Raise what speculative decoding cannot do, before any work."""
    job.check_search(what)
    job.check_selector(what)
    o = job.options
    able(
        job.model,
        "all_logits",
        f"{what} needs logits at several positions from the model",
    )
    if o.typical_acceptance and o.greedy:
        raise DecodingError(
            "typical_acceptance (lossy) changes nothing without do_sample=True"
        )


def rule_of(options: GenerationConfig, has_q: bool) -> acceptance.Accept | None:
    """The verification that the options ask for; None is greedy.

    By default speculative sampling where the drafter knows its probabilities, else
    sample and match.
    """
    o = options
    if o.assistant_ensemble_weight != 1:
        if not has_q:
            raise DecodingError(
                "assistant_ensemble_weight needs a drafter with probabilities: "
                "assistant_model or assistant_early_exit"
            )
        rule = acceptance.ensemble_greedy if o.greedy else acceptance.ensemble
        return rule(o.assistant_ensemble_weight)
    if o.greedy:
        return None
    if o.typical_acceptance:
        return acceptance.typical(o.typical_acceptance, o.typical_delta)
    if o.verification == "match" or not has_q:
        return acceptance.match
    return acceptance.speculative


def speculate(job: Job, drafter: Drafter) -> Iterator[Step]:
    """Speculative decoding with this drafter."""
    rule = rule_of(job.options, drafter.tells)
    # The mixture of ensemble verification needs a q at every position: no bonus token.
    bonus = drafter.bonus and job.options.assistant_ensemble_weight == 1
    return run(job, job.rows(), drafter, rule, bonus)
