"""Speculative decoding: a drafter guesses several tokens, the model reads them at once.

The model's logits after every drafted token come out of one reading, which costs little
more than reading one token. What stands is decided by
npgpt.decoding.speculative.acceptance. Rows share their readings and advance at their
own pace. Which drafters there are is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from npgpt.decoding.chain import build_chain, run_chain
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Row, Step, record
from npgpt.decoding.rules.base import Context
from npgpt.decoding.rules.base import Rule as ChainRule
from npgpt.decoding.searches.hypotheses import check_search, new_row
from npgpt.decoding.speculative import acceptance
from npgpt.errors import DecodingError

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Draft:
    """Guessed tokens, and the probabilities (V,) each was drawn from; None: certain."""

    tokens: list[int]
    q: list[np.ndarray] | None = None


class Drafter(Protocol):
    """What proposes tokens: for each row as many as its limit allows, or fewer.

    A drafter that has nothing to learn or to keep leaves `observe` and `select` out.
    """

    tells: bool = False  # the probabilities q of what it drafts
    bonus: bool = True  # one more token of the model's follows a draft that stands

    def propose(self, rows: Sequence[Row], limits: Sequence[int], cache: Any) -> list:
        """One Draft a row; `cache` is the model's, and must be left as it was."""

    def observe(self, index: int, draft: Draft, accepted: int, z: np.ndarray) -> None:
        """Row `index` kept so many of its draft; z (len + 1, V): the model's logits."""

    def select(self, rows: Sequence[int]) -> None:
        """Only these rows go on."""


def run(
    model: Any,
    prompts: Prompts,
    options: GenerationConfig,
    drafter: Drafter,
    chain: Sequence[ChainRule],
    rule: acceptance.Rule | None,
    bonus: bool = True,
) -> Iterator[Step]:
    """The loop: draft, read, verify, keep what stands. rule None is greedy.

    With `bonus` a draft that stands whole is followed by one more token of the
    model's; without, its last token need not be read yet. A drafter with `read_draft`
    reads in the place of model.all_logits (early exit).
    """
    if not options.max_new_tokens:
        return
    eos, n = options.eos_ids(model.config), options.num_return_sequences
    room = model.config.n_positions
    rows = [
        new_row(i * n + j, prompt, j, model, options)
        for i, prompt in enumerate(prompts)
        for j in range(n)
    ]
    longest = max(map(len, prompts)) + options.max_new_tokens
    cache = model.new_cache(len(prompts), n_positions=min(longest, room))
    read = getattr(drafter, "read_draft", model.all_logits)
    if n > 1 or read != model.all_logits:
        cache = _prompts_read(model, prompts, cache, n)
    while rows:
        drafts = drafter.propose(rows, _limits(rows, options, room, bonus), cache)
        # the drafted tokens to be read, and the positions whose logits count
        heads = [draft.tokens if bonus else draft.tokens[:-1] for draft in drafts]
        unread = [
            row.ids[len(held) :] + head
            for row, held, head in zip(rows, cache.ids, heads, strict=True)
        ]
        z = read(unread, cache, [len(head) + 1 for head in heads])
        for i, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
            steps, accepted = _advance(
                row, draft, z[i], chain, rule, options, eos, room, bonus
            )
            drafter.observe(i, draft, accepted, z[i])
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
    chain: Sequence[ChainRule],
    rule: acceptance.Rule | None,
    options: GenerationConfig,
    eos: Sequence[int],
    room: int,
    bonus: bool,
) -> tuple[list[Step], int]:
    """The steps of the tokens that stand, and how many of the draft do."""
    before, processed = list(row.ids), []
    logits = list(logits)  # one array a position: `record` knows an unprocessed one

    def z(i: int, tokens: Sequence[int]) -> np.ndarray:
        processed.append(run_chain(chain, before + list(tokens), logits[i], context(i)))
        return processed[-1]

    def context(i: int) -> Context:
        return Context(
            row.prompt_length,
            len(before) + i - row.prompt_length,
            row.seed,
            row.sequence,
        )

    bonus = bonus or not draft.tokens
    if rule is None or (options.greedy and not draft.tokens):
        verdict = acceptance.verify_greedy(z, draft.tokens, bonus)
    else:
        verdict = acceptance.verify(
            rule, z, draft.tokens, draft.q, context, bonus=bonus
        )
    steps = []
    for i, id in enumerate(verdict.tokens):
        full = len(row.ids) == room
        steps.append(record(row, id, logits[i], processed[i], options, eos, last=full))
        if row.finish_reason is not None:
            break
    return steps, min(verdict.accepted, len(steps))


def _limits(
    rows: Sequence[Row], options: GenerationConfig, room: int, bonus: bool
) -> list[int]:
    """How many tokens a draft may have: one more follows it, where there is a bonus."""
    most = options.max_new_tokens - bonus
    return [max(0, min(most - row.step, room - len(row.ids))) for row in rows]


def _prompts_read(model: Any, prompts: Prompts, cache: Any, n: int) -> Any:
    """The cache for n rows a prompt, which has read all but its last token once."""
    heads = [list(prompt[:-1]) for prompt in prompts]
    if not all(heads) or hasattr(cache, "parts"):
        return cache.repeat(n) if n > 1 else cache
    model.next_logits(heads, cache)
    return cache.repeat(n) if n > 1 else cache


def check_speculative(
    model: Any, prompts: Prompts, options: GenerationConfig, cache: Any, what: str
) -> None:
    """Raise what speculative decoding cannot do, before any work."""
    check_search(model, prompts, options, cache, what)
    o = options
    if not hasattr(model, "all_logits"):
        raise DecodingError(f"{what} needs logits at several positions from the model")
    if o.mirostat or o.is_set("adaptive_target"):
        raise DecodingError(
            f"{what} does not go with mirostat or adaptive_target: their state would "
            "have to know which tokens stand"
        )
    if o.selector != "inverse_cdf" or o.watermark == "gumbel":
        raise DecodingError(f"{what} draws by inverse_cdf; another selector is set")
    if o.trace_decode_token_ids:
        raise DecodingError(f"{what} does not go with trace_decode_token_ids")
    if o.typical_acceptance and o.greedy:
        raise DecodingError(
            "typical_acceptance (lossy) changes nothing without do_sample=True"
        )


def rule_of(options: GenerationConfig, has_q: bool) -> acceptance.Rule | None:
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


def speculate(
    model: Any,
    prompts: Prompts,
    options: GenerationConfig,
    cache: Any,
    what: str,
    make_drafter: Callable[[Sequence[ChainRule]], Drafter],
) -> Iterator[Step]:
    """Speculative decoding with the drafter that make_drafter(chain) returns."""
    check_speculative(model, prompts, options, cache, what)
    eos = options.eos_ids(model.config)
    chain = build_chain(options, eos, model.tokenizer, model.config.vocab_size)
    drafter = make_drafter(chain)
    rule = rule_of(options, drafter.tells)
    # The mixture of ensemble verification needs a q at every position: no bonus token.
    bonus = drafter.bonus and options.assistant_ensemble_weight == 1
    return run(model, prompts, options, drafter, chain, rule, bonus)
