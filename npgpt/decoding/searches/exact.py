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
from typing import Any, NamedTuple

import numpy as np

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.chain import build_chain, run_chain
from npgpt.decoding.healing import heal
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.randomness import ACCEPT, CHOICE
from npgpt.decoding.row import Row, Step, record
from npgpt.decoding.rules.base import Context, Rule, keep, probabilities
from npgpt.decoding.sampling import check_room
from npgpt.decoding.selection import build_selector
from npgpt.decoding.selectors import inverse_cdf
from npgpt.errors import DecodingError

CONSTRAINTS = ("choice", "regex", "json_schema", "grammar", "prefix_allowed_tokens")


class _Task(NamedTuple):
    """One row to write: the model, its prompt, the rules of each kind."""

    model: Any
    prompt: list[int]
    context: Context
    options: GenerationConfig
    rules: Sequence[Rule]  # what the law is
    constraints: Sequence[Rule]  # what it is conditioned on
    eos: Sequence[int]


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
def exact_sampling(
    model: Any,
    prompts: Sequence[Sequence[int]],
    options: GenerationConfig,
    cache: Any = None,
) -> Iterator[Step]:
    """The model's law given the constraint, which masking alone distorts: y ~ p(y | y
    fits it and ends within max_new_tokens).

    p is the model's law after the rules of the chain that are no constraints. Source:
    Park et al., "Grammar-Aligned Decoding" (2024, arXiv:2405.21047); Lew et al.,
    "Sequential Monte Carlo Steering" (2023, arXiv:2306.03081).
    """
    if options.greedy:
        raise DecodingError("exact_constraint needs do_sample=True")
    if cache is not None or options.overflow == "slide":
        raise DecodingError(
            "exact_constraint goes back and forth: it takes no cache and no "
            "overflow='slide'"
        )
    check_room(model, prompts, options)
    eos = options.eos_ids(model.config)
    chain = build_chain(options, eos, model.tokenizer, model.config.vocab_size)
    constraints = [rule for rule in chain if rule.name in CONSTRAINTS]
    if not constraints or not eos:
        raise DecodingError(
            "exact_constraint needs a constraint (regex, json_schema, grammar, choice) "
            "and an end-of-text id"
        )
    rules = [rule for rule in chain if rule.name not in CONSTRAINTS]
    return _rows(model, prompts, options, rules, constraints, eos)


def _rows(
    model: Any,
    prompts: Sequence[Sequence[int]],
    options: GenerationConfig,
    rules: Sequence[Rule],
    constraints: Sequence[Rule],
    eos: Sequence[int],
) -> Iterator[Step]:
    write = {"rejection": rejection, "asap": asap, "smc": smc}[options.exact_constraint]
    selector, n = build_selector(options), options.num_return_sequences
    for i, prompt in enumerate(prompts):
        start = heal(prompt, model.tokenizer, options)
        for j in range(n):
            row = Row(i * n + j, start, j, model.tokenizer, options, selector)
            task = _Task(
                model, start.ids, row.context, options, rules, constraints, eos
            )
            choices = write(task) if options.max_new_tokens else []
            for choice in choices:
                last = choice is choices[-1]
                yield record(row, *choice, options, eos, last)
                if row.finish_reason is not None:
                    break


def allowed_mass(
    task: _Task, ids: Sequence[int], logits: np.ndarray, context: Context
) -> tuple[np.ndarray, float, np.ndarray]:
    """Logits under the law and masked, and the probability Z of what is allowed."""
    z = run_chain(task.rules, ids, logits, context)
    p = probabilities(z)
    allowed = run_chain(task.constraints, ids, np.zeros_like(z), context) > -np.inf
    return keep(z, allowed), float(p[allowed].sum()), p


def _write(
    task: _Task, attempt: int, choose: Callable[[list[int], np.ndarray, Context], int]
) -> list[_Choice] | None:
    """One text, token by token; None if it does not end in time or choose gives up."""
    cache, ids, choices = task.model.new_cache(1), list(task.prompt), []
    unread = ids
    for step in range(task.options.max_new_tokens):
        context = replace(task.context, step=step, attempt=attempt)
        logits = task.model.next_logits([unread], cache)[0]
        id, z = choose(ids, logits, context)
        if id is None:
            return None
        choices.append(_Choice(id, logits, z))
        if id in task.eos:
            return choices
        ids = [*ids, id]
        unread = [id]
    return None


def rejection(task: _Task) -> list[_Choice]:
    """Draw under the mask, keep the text with probability prod Z_t, else begin anew.

    The mask's law is prod p_t / Z_t, so what is kept has the law prod p_t, normalised.
    A text is given up as soon as one of its Z_t fails.
    """

    def choose(ids, logits, context):
        z, Z, _ = allowed_mass(task, ids, logits, context)
        if context.uniform(ACCEPT) >= Z:
            return None, z
        return inverse_cdf(z, context.uniform()), z

    for attempt in range(task.options.exact_rounds):
        choices = _write(task, attempt, choose)
        if choices is not None:
            return choices
    raise DecodingError(
        f"exact_constraint: no text in {task.options.exact_rounds} rounds fitted; the "
        "model finds the constraint improbable: use exact_constraint='smc', or more "
        "exact_rounds"
    )


def asap(task: _Task) -> list[_Choice]:
    """Adaptive sampling with approximate expected futures; the last of exact_rounds.

    Each round draws from p_v c(prefix v), where c is the best bound so far on the
    probability that a text goes on to fit: 1 where nothing is known, and after a round
    c(prefix) = sum_v p_v c(prefix v) along its path. The law tends to the exact one.
    """
    futures: dict[tuple[int, ...], float] = {}
    known: dict[tuple[int, ...], np.ndarray] = {}  # prefix -> p of what is allowed
    children: dict[tuple[int, ...], set[int]] = {}

    def choose(ids, logits, context):
        prefix = tuple(ids[len(task.prompt) :])
        z, _, p = allowed_mass(task, ids, logits, context)
        known[prefix] = np.where(z > -np.inf, p, 0.0)
        weight = known[prefix].copy()
        for v in children.setdefault(prefix, set()):
            weight[v] *= futures[(*prefix, v)]
        if weight.sum() <= 0:
            return None, z
        with np.errstate(divide="ignore"):
            id = inverse_cdf(np.log(weight), context.uniform())
        children[prefix].add(id)
        futures.setdefault((*prefix, id), 1.0)
        path[:] = [*prefix, id]
        return id, z

    found = None
    path: list[int] = []
    for attempt in range(task.options.exact_rounds):
        path.clear()
        choices = _write(task, attempt, choose)
        text = tuple(path)
        if (
            text
            and text[-1] not in task.eos
            and len(text) >= task.options.max_new_tokens
        ):
            futures[text] = 0.0  # it did not end in time
        for n in range(len(text) - 1, -1, -1):
            prefix = text[:n]
            weight = known[prefix]
            futures[prefix] = float(weight.sum()) - sum(
                weight[v] * (1 - futures[(*prefix, v)]) for v in children[prefix]
            )
        found = choices or found
        if futures.get((), 1.0) <= 0:
            break
    if found is None:
        raise DecodingError(
            f"exact_constraint: no text in {task.options.exact_rounds} rounds fitted"
        )
    return found


def smc(task: _Task) -> list[_Choice]:
    """Particles that are written under the mask, weighed by Z_t, and resampled.

    After each token the weights are multiplied by Z_t; where the effective number
    (sum w)^2 / sum w^2 falls below half, particles are drawn anew by weight
    (systematic resampling). At the end one is drawn by weight.
    """
    n = task.options.smc_particles
    cache = task.model.new_cache(1)
    first = task.model.next_logits([task.prompt], cache)
    cache, logits = cache.repeat(n), np.repeat(first, n, axis=0)
    texts: list[list[_Choice]] = [[] for _ in range(n)]
    weights = np.ones(n)
    writing = list(range(n))  # particles that have not ended, in the cache's order
    for step in range(task.options.max_new_tokens):
        for at, i in enumerate(writing):
            context = replace(task.context, step=step, attempt=i)
            ids = task.prompt + [choice.id for choice in texts[i]]
            z, Z, _ = allowed_mass(task, ids, logits[at], context)
            weights[i] *= Z
            id = inverse_cdf(z, context.uniform())
            texts[i] = [*texts[i], _Choice(id, logits[at], z)]
        last = step == task.options.max_new_tokens - 1
        ended = [text[-1].id in task.eos for text in texts]
        if last:
            weights *= ended
        if weights.sum() <= 0:
            raise DecodingError(
                f"exact_constraint: none of {n} particles fits within max_new_tokens"
            )
        weights /= weights.sum()
        if last or all(ended):
            break
        context = replace(task.context, step=step)
        row_of = {i: at for at, i in enumerate(writing)}
        if 1 / (weights**2).sum() < n / 2:
            points = (np.arange(n) + context.uniform(ACCEPT)) / n
            parents = np.searchsorted(np.cumsum(weights), points).clip(0, n - 1)
            texts = [texts[i] for i in parents]
            weights = np.full(n, 1 / n)
        else:
            parents = np.arange(n)
        writing = [i for i in range(n) if texts[i][-1].id not in task.eos]
        if not writing:
            break
        cache = cache.select([row_of[int(parents[i])] for i in writing])
        unread = [[texts[i][-1].id] for i in writing]
        logits = task.model.next_logits(unread, cache)
    u = task.context.uniform(CHOICE) * weights.sum()
    i = int(np.searchsorted(np.cumsum(weights), u, side="right"))
    return texts[min(i, n - 1)]


def _example(show: Any) -> str:
    """Two texts: the law given the constraint, what masking makes of it, and draws."""
    texts, law, first = [[1, 3, 4], [3, 4]], [], []
    for text in texts:
        p = [show.TABLE[a][b] for a, b in zip([0, *text], text, strict=False)]
        law.append(float(np.prod(p)))
        first.append(p[0])  # behind the first token nothing is left to choose
    found = show.FiveWords().generate(
        "the",
        do_sample=True,
        num_return_sequences=300,
        seed=1,
        max_new_tokens=4,
        choice=[text[:-1] for text in texts],
        exact_constraint="rejection",
    )
    columns = {
        "law": np.array(law) / sum(law),
        "masked": np.array(first) / sum(first),
        "drawn": [sum(one.ids == text for one in found) / 300 for text in texts],
    }
    head = "exact_constraint='rejection', 300 texts after 'the' with a choice of two"
    return f"{head}\n\n{show.table(columns, [show.say(text) for text in texts])}"
