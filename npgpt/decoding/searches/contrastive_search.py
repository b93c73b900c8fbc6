"""Contrastive search: probable tokens that are unlike what the text has said before.

One model and its hidden states; contrastive *decoding*, with two models, is guidance
(npgpt.decoding.guidance.formulas.contrastive). Each step reads the k candidates of
every row side by side, so it costs a reading of k tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.chain import build_chain, run_chain
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Row, Step, record
from npgpt.decoding.rules.base import probabilities
from npgpt.decoding.rules.penalties import degeneration
from npgpt.decoding.searches.hypotheses import check_search, new_row
from npgpt.errors import ContextOverflowError, DecodingError

Prompts = Sequence[Sequence[int]]


@strategy("G5", "contrastive search", kind="search", also=("top_k",), uses=("top_k",))
@parameter("penalty_alpha", 0.0, "Weight of it; 0 is off.", 0, 1)
@example(penalty_alpha=0.6, top_k=3)
def contrastive_search(
    model: Any, prompts: Prompts, options: GenerationConfig, cache: Any = None
) -> Iterator[Step]:
    """Probable, and unlike what the text has said: over the top k, (1 - penalty_alpha)
    p_v - penalty_alpha max_j cos(h_v, h_j).

    h_v is the last hidden state (after ln_f) of v, the h_j those of the text so far.
    Deterministic; top_k 1 is greedy search. Sources: Su et al., "A Contrastive
    Framework for Neural Text Generation" (2022, arXiv:2202.06417); Su and Collier,
    "Contrastive Search Is What You Need" (2022).
    """
    check_search(model, prompts, options, cache, "contrastive search")
    if options.do_sample:
        raise DecodingError(
            "penalty_alpha (contrastive search) excludes do_sample=True"
        )
    if options.num_return_sequences > 1:
        raise DecodingError("contrastive search has one result: num_return_sequences 1")
    if options.top_k < 1:
        raise DecodingError("penalty_alpha needs top_k, the number of candidates")
    if not hasattr(model, "next_hidden"):
        raise DecodingError(
            "contrastive search needs hidden states, which this guidance does not have"
        )
    room = model.config.n_positions
    for prompt in prompts:  # the last candidates are read too, to be compared
        more = 1 if options.overflow == "stop" else options.max_new_tokens
        if len(prompt) + more > room:
            raise ContextOverflowError(
                f"contrastive search of {more} tokens after {len(prompt)} needs "
                f"{len(prompt) + more} positions, the model has {room}"
            )
    return _steps(model, prompts, options)


def _steps(model: Any, prompts: Prompts, options: GenerationConfig) -> Iterator[Step]:
    if not options.max_new_tokens:
        return
    eos, room = options.eos_ids(model.config), model.config.n_positions
    chain = build_chain(options, eos, model.tokenizer, model.config.vocab_size)
    rows = [new_row(i, prompt, 0, model, options) for i, prompt in enumerate(prompts)]
    k = min(options.top_k, model.config.vocab_size)
    longest = max(map(len, prompts)) + options.max_new_tokens
    cache = model.new_cache(len(rows), n_positions=min(longest, room))
    z, hidden = model.next_hidden(prompts, cache)
    cache = cache.repeat(k)
    while True:
        ranked = [
            _candidates(row, logits, chain, options, k)
            for row, logits in zip(rows, z, strict=True)
        ]
        tokens = [[v] for candidates, _, _ in ranked for v in candidates]
        z_next, h_next = model.next_hidden(tokens, cache)
        for i, (row, logits) in enumerate(zip(rows, z, strict=True)):
            candidates, p, scores = ranked[i]
            h = np.concatenate(h_next[i * k : (i + 1) * k])  # (k, C)
            best = choose(p, h, hidden[i], options.penalty_alpha)
            yield record(
                row,
                candidates[best],
                logits,
                scores,
                options,
                eos,
                last=len(row.ids) + 1 == room,
            )
            hidden[i] = np.concatenate([hidden[i], h[best : best + 1]])
            for j in range(k):
                if j != best:
                    cache.copy_row(i * k + j, i * k + best)
            z[i] = z_next[i * k + best]
        alive = [i for i, row in enumerate(rows) if row.finish_reason is None]
        if not alive:
            return
        if len(alive) < len(rows):
            cache = cache.select([i * k + j for i in alive for j in range(k)])
            rows, hidden = [rows[i] for i in alive], [hidden[i] for i in alive]
            z = z[alive]


def _candidates(
    row: Row, logits: np.ndarray, chain: Any, options: GenerationConfig, k: int
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The k most probable tokens, their probabilities, and the processed logits.

    Removed tokens fill up what is missing of k, with probability 0; `choose` skips
    them.
    """
    z = run_chain(chain, row.ids, logits, row.context)
    p = probabilities(z)
    best = np.argsort(-p, kind="stable")[:k]
    return best.tolist(), p[best], z


def choose(p: np.ndarray, h: np.ndarray, previous: np.ndarray, alpha: float) -> int:
    """Index of the candidate with the best (1 - alpha) p - alpha max cos(h, previous).

    p (k,), h (k, C), previous (S, C); the more probable one wins a tie.

    >>> h = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> choose(np.array([0.6, 0.4]), h, np.array([[1.0, 0.0]]), 0.5)
    1
    """
    scores = (1 - alpha) * p - alpha * degeneration(h, previous)
    return int(np.where(p > 0, scores, -np.inf).argmax())
