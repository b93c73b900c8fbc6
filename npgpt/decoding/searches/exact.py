"""Exact constrained sampling: the model's law given that the text fits the constraint.

Masking each step distorts that law: a token that leads where little is allowed is taken
as often as if much were. Here the probability Z_t that the model gives to the allowed
tokens is put back. Three ways: rejection (exact, slow where the constraint is
improbable), asap (learns what is probable ahead, exact in the limit), smc (particles,
exact in the limit of many).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from npgpt.decoding.catalogue import example, parameter, strategies, strategy
from npgpt.decoding.chain import run_chain
from npgpt.decoding.job import Job
from npgpt.decoding.randomness import ACCEPT, CHOICE
from npgpt.decoding.row import Row, Step, record
from npgpt.decoding.rules.base import Context, Rule, keep, probabilities
from npgpt.decoding.selectors import ancestral
from npgpt.errors import DecodingError


class _Task(NamedTuple):
    """One row to write, and the rules of each kind."""

    job: Job
    row: Row
    rules: Sequence[Rule]  # what the law is
    constraints: Sequence[Rule]  # what it is conditioned on

    def ends(self, new_ids: Sequence[int]) -> bool:
        """Whether a text of these new tokens ends with the last of them."""
        return self.row.over(new_ids)

    def context(self, step: int, attempt: int = 0) -> Context:
        """Where a token stands."""
        return replace(self.row.context, step=step, attempt=attempt)


class _Choice(NamedTuple):
    """A token, and what it was chosen from."""

    id: int
    logits: np.ndarray
    z: np.ndarray


@strategy("E19", "exact constrained sampling", kind="search")
@parameter("exact_constraint", ("off", "rejection", "asap", "smc"), "How.")
@parameter(
    "exact_rounds", 1000, "Texts tried by rejection, or learned from by asap.", 1
)
@parameter("smc_particles", 16, "Particles of smc.", 1)
@example(lambda show: _example(show))
def exact_sampling(job: Job) -> Iterator[Step]:
    """The model's law given the constraint, which masking alone distorts: y ~ p(y | y
    fits it and ends within max_new_tokens).

    p is the model's law after the rules of the chain that are no constraints. Source:
    Park et al., "Grammar-Aligned Decoding" (2024, arXiv:2405.21047); Lew et al.,
    "Sequential Monte Carlo Steering" (2023, arXiv:2306.03081).
    """
    if job.options.greedy:
        raise DecodingError("exact_constraint needs do_sample=True")
    if job.cache is not None or job.options.overflow == "slide":
        raise DecodingError(
            "exact_constraint goes back and forth: it takes no cache and no "
            "overflow='slide'"
        )
    job.check_room()
    job.check_selector("exact_constraint")
    names = {s.chain_name for s in strategies() if s.constrains}
    constraints = [rule for rule in job.chain if rule.name in names]
    if not constraints or not (job.eos or any(rule.ends for rule in constraints)):
        raise DecodingError(
            "exact_constraint needs a constraint (regex, json_schema, grammar, choice) "
            "and an end-of-text id"
        )
    rules = [rule for rule in job.chain if rule.name not in names]
    tasks = [_Task(job, row, rules, constraints) for row in job.rows()]
    return _steps(tasks if job.options.max_new_tokens else [])


def _steps(tasks: Sequence[_Task]) -> Iterator[Step]:
    write = {"rejection": rejection, "asap": asap, "smc": smc}
    for task in tasks:
        for choice in write[task.job.options.exact_constraint](task):
            yield record(task.row, *choice)
            if task.row.finish_reason is not None:
                break


def allowed_mass(
    task: _Task, ids: Sequence[int], logits: np.ndarray, context: Context
) -> tuple[np.ndarray, float, np.ndarray]:
    """Logits under the law and masked, and the probability Z of what is allowed."""
    z = run_chain(task.rules, ids, logits, context)
    p = probabilities(z)
    allowed = run_chain(task.constraints, ids, np.zeros_like(z), context) > -np.inf
    return keep(z, allowed), float(p[allowed].sum()), p


Chosen = tuple[int | None, np.ndarray]  # a token, or None to give up; what is allowed


def _write(
    task: _Task,
    attempt: int,
    choose: Callable[[list[int], np.ndarray, Context], Chosen],
) -> list[_Choice] | None:
    """One text, token by token; None if it does not end in time or choose gives up."""
    model, ids = task.job.model, list(task.row.ids)
    choices: list[_Choice] = []
    cache, unread = task.job.cache_of(task.row), ids
    for step in range(task.job.options.max_new_tokens):
        logits = model.next_logits([unread], cache)[0]
        id, z = choose(ids, logits, task.context(step, attempt))
        if id is None:
            return None
        choices.append(_Choice(id, logits, z))
        if task.ends([choice.id for choice in choices]):
            return choices
        ids, unread = [*ids, id], [id]
    return None


def rejection(task: _Task) -> list[_Choice]:
    """Draw under the mask, keep the text with probability prod Z_t, else begin anew.

    The mask's law is prod p_t / Z_t, so what is kept has the law prod p_t, normalised.
    A text is given up as soon as one of its Z_t fails.
    """

    def choose(ids: list[int], logits: np.ndarray, context: Context) -> Chosen:
        z, Z, _ = allowed_mass(task, ids, logits, context)
        if context.uniform(ACCEPT) >= Z:
            return None, z
        return ancestral(z, context), z

    rounds = task.job.options.exact_rounds
    for attempt in range(rounds):
        choices = _write(task, attempt, choose)
        if choices is not None:
            return choices
    raise DecodingError(
        f"exact_constraint: no text in {rounds} rounds fitted; the model finds the "
        "constraint improbable: use exact_constraint='smc', or more exact_rounds"
    )


def asap(task: _Task) -> list[_Choice]:
    """Adaptive sampling with approximate expected futures; the last of exact_rounds.

    Each round draws from p_v c(prefix v), where c is the best bound so far on the
    probability that a text goes on to fit: 1 where nothing is known, and after a round
    c(prefix) = sum_v p_v c(prefix v) along its path. The law tends to the exact one.
    """
    # Of each prefix: p of what is allowed, and the bound c of each token after it
    known: dict[tuple[int, ...], np.ndarray] = {}
    bounds: dict[tuple[int, ...], np.ndarray] = {}

    def choose(ids: list[int], logits: np.ndarray, context: Context) -> Chosen:
        prefix = tuple(ids[task.row.prompt_length :])
        z, _, p = allowed_mass(task, ids, logits, context)
        known[prefix] = np.where(z > -np.inf, p, 0.0)
        weight = known[prefix] * bounds.setdefault(prefix, np.ones(len(z)))
        if weight.sum() <= 0:
            return None, z
        with np.errstate(divide="ignore"):
            id = ancestral(np.log(weight), context)
        path[:] = [*prefix, id]
        return id, z

    found, options, whole = None, task.job.options, 1.0
    path: list[int] = []
    for attempt in range(options.exact_rounds):
        path.clear()
        choices = _write(task, attempt, choose)
        text = tuple(path)
        if len(text) >= options.max_new_tokens and not task.ends(text):
            bounds[text[:-1]][text[-1]] = 0.0  # it did not end in time
        for n in range(len(text) - 1, -1, -1):
            whole = float(known[text[:n]] @ bounds[text[:n]])
            if n:
                bounds[text[: n - 1]][text[n - 1]] = whole
        found = choices or found
        if whole <= 0:
            break
    if found is None:
        raise DecodingError(
            f"exact_constraint: no text in {options.exact_rounds} rounds fitted"
        )
    return found


def smc(task: _Task) -> list[_Choice]:
    """Particles that are written under the mask, weighed by Z_t, and resampled.

    After each token the weights are multiplied by Z_t; where the effective number
    (sum w)^2 / sum w^2 falls below half, particles are drawn anew by weight
    (systematic resampling). At the end one is drawn by weight.
    """
    model, steps = task.job.model, task.job.options.max_new_tokens
    n = task.job.options.smc_particles
    cache = task.job.cache_of(task.row)
    logits = np.repeat(model.next_logits([task.row.ids], cache), n, axis=0)
    cache, weights = cache.repeat(n), np.ones(n)
    texts: list[list[_Choice]] = [[] for _ in range(n)]
    writing = list(range(n))  # particles that have not ended, in the cache's order
    for step in range(steps):
        for at, i in enumerate(writing):
            context = task.context(step, i)
            ids = task.row.ids + [choice.id for choice in texts[i]]
            z, Z, _ = allowed_mass(task, ids, logits[at], context)
            weights[i] *= Z
            if not Z:
                continue  # no way on: its weight is 0
            id = ancestral(z, context)
            texts[i] = [*texts[i], _Choice(id, logits[at], z)]
        ended = [task.ends([choice.id for choice in text]) for text in texts]
        if step == steps - 1:
            weights *= ended
        if weights.sum() <= 0:
            raise DecodingError(
                f"exact_constraint: none of {n} particles fits within max_new_tokens"
            )
        weights /= weights.sum()
        if step == steps - 1 or all(ended):
            break
        row_of, parents = {i: at for at, i in enumerate(writing)}, np.arange(n)
        if 1 / (weights**2).sum() < n / 2:
            points = (np.arange(n) + task.context(step).uniform(ACCEPT)) / n
            alive = np.flatnonzero(weights)
            places = np.searchsorted(np.cumsum(weights[alive]), points)
            parents = alive[places.clip(0, len(alive) - 1)]
            texts, weights = [texts[i] for i in parents], np.full(n, 1 / n)
            ended = [ended[i] for i in parents]
        writing = [i for i in range(n) if weights[i] > 0 and not ended[i]]
        if not writing:
            break
        cache = cache.select([row_of[int(parents[i])] for i in writing])
        logits = model.next_logits([[texts[i][-1].id] for i in writing], cache)
    u = task.context(0).uniform(CHOICE) * weights.sum()
    i = int(np.searchsorted(np.cumsum(weights), u, side="right"))
    return texts[min(i, n - 1)]


def _example(show: Any) -> str:
    """Two texts: the law given the constraint, what masking makes of it, and draws."""
    texts, n = [[1, 3, 4], [3, 4]], 300
    setting = {"exact_constraint": "rejection", "choice": [[1, 3], [3]], "seed": 1}
    given = {"do_sample": True, "max_new_tokens": 4, "num_return_sequences": n}
    found = show.FiveWords().generate("the", **given, **setting)
    p = [[show.TABLE[a][b] for a, b in pairwise([0, *text])] for text in texts]
    law, first = [np.prod(one) for one in p], [one[0] for one in p]
    columns = {
        "law": law / np.sum(law),
        "masked": first / np.sum(first),  # behind the first token all is settled
        "drawn": [sum(one.ids == text for one in found) / n for text in texts],
    }
    head = f"{show.settings(setting)}: {n} texts after 'the'"
    return f"{head}\n\n{show.table(columns, [show.say(text) for text in texts])}"
