"""Bias, bans and forced tokens: (z, ...) -> z, by token id.

Each is a pure function of the text so far. Constraints on the form of the text are in
npgpt.decoding.rules.regex, grammar and trie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from npgpt.decoding.callbacks import allowed_ids
from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.rules.base import Context, Ids, log_probabilities
from npgpt.errors import DecodingError
from npgpt.shapes import Logits


@strategy("E1", "logit bias", stage="bias", rank=10)
@parameter("logit_bias", {}, "{id: bias}.", kind="bias")
@example(logit_bias={3: 2.0})
def logit_bias(z: Logits, bias: Mapping[int, float]) -> Logits:
    """Adds a number to chosen logits, -inf bans: z_v + b_v.

    +inf is refused. Source: OpenAI.

    >>> logit_bias(np.zeros(3), {1: -5.0, 2: 1.0}).tolist()
    [0.0, -5.0, 1.0]
    """
    z = z.copy()
    for id, b in bias.items():
        if b == np.inf:
            raise DecodingError(
                f"logit_bias of token {id} is +inf; allow it alone with "
                "allowed_token_ids"
            )
        z[id] += b
    return z


@strategy("E2", "sequence bias", stage="bias", rank=20)
@parameter("sequence_bias", (), "[[ids], bias] pairs.", kind="sequence_bias")
@example(sequence_bias=[[[0, 2], -3.0]])
def sequence_bias(z: Logits, ids: Ids, biases: Iterable[tuple[Ids, float]]) -> Logits:
    """Adds a number to the last token of a sequence: if the text ends with seq[:-1],
    z[seq[-1]] + b; matches add up.

    A sequence of one token always matches. Source: transformers.

    >>> sequence_bias(np.zeros(3), [0, 1], [((1, 2), 5.0), ((0, 0), 1.0)]).tolist()
    [0.0, 0.0, 5.0]
    """
    z = z.copy()
    for sequence, b in biases:
        *before, last = sequence
        if list(ids[len(ids) - len(before) :]) == before and len(before) <= len(ids):
            z[last] += b
    return z


def encode_words(words: Sequence[str], setup: Any) -> list[list[int]]:
    """Words that never occur, with or without a space before them: sequence bias of
    their ids with -inf. Source: vLLM.
    """
    if setup.tokenizer is None:
        raise DecodingError("bad_words need a tokenizer; give bad_words_ids instead")
    variants = dict.fromkeys(v for word in words for v in (word, " " + word.lstrip()))
    return [setup.tokenizer.encode(variant) for variant in variants]


@strategy("E3", "bad words as text", stage="ban", rank=20, ranks={"vllm": 3})
@fields(element="bad_words_text", prepare=encode_words, explains=encode_words)
@parameter("bad_words", (), "Words.", kind="texts")
@example(bad_words=["old"])
@strategy("E3", "bad words", stage="ban", rank=10, ranks={"vllm": 2})
@parameter("bad_words_ids", (), "Lists of ids.", kind="phrases")
@example(bad_words_ids=[[0, 2]])
def bad_words(z: Logits, ids: Ids, phrases: Iterable[Ids]) -> Logits:
    """Sequences of ids that never occur: sequence bias with -inf.

    An end-of-text id is banned like any other (transformers drops such entries).
    Source: transformers.

    >>> bad_words(np.zeros(3), [1], [(1, 2)]).tolist()
    [0.0, 0.0, -inf]
    """
    return sequence_bias(z, ids, [(phrase, -np.inf) for phrase in phrases])


@strategy("E4", "suppress tokens", stage="ban", rank=150, element="suppress_tokens")
@parameter("suppress_tokens", (), "Ids.", kind="ids")
@example(suppress_tokens=[1])
def suppress(z: Logits, banned: Ids) -> Logits:
    """Tokens that never occur: z_v = -inf. Source: transformers.

    >>> suppress(np.zeros(2), [1]).tolist()
    [0.0, -inf]
    """
    z = z.copy()
    z[list(banned)] = -np.inf
    return z


@strategy("E4", "suppress tokens at begin", stage="ban", rank=160)
@fields(element="begin_suppress_tokens")
@parameter("begin_suppress_tokens", (), "Ids.", kind="ids")
@example(begin_suppress_tokens=[1, 2])
def begin_suppress(z: Logits, context: Context, banned: Ids) -> Logits:
    """Tokens that do not begin the new text: z_v = -inf at the first step. Source:
    transformers.

    >>> begin_suppress(np.zeros(2), Context(prompt_length=3, step=0), [1]).tolist()
    [0.0, -inf]
    """
    return suppress(z, banned) if context.step == 0 else z


@strategy("E5", "allowed tokens", stage="ban", rank=50, ranks={"vllm": 1})
@fields(element="allowed_tokens")
@parameter("allowed_token_ids", None, "Ids.", kind="ids")
@example(allowed_token_ids=[2, 3])
def allow(z: Logits, allowed: Ids) -> Logits:
    """Nothing but these tokens: z_v = -inf for all others.

    An empty list removes all. What was banned before stays banned, and nothing left is
    an error (transformers sets such tokens to 0). Source: vLLM.

    >>> allow(np.zeros(3), [1]).tolist()
    [-inf, 0.0, -inf]
    """
    kept = np.full_like(z, -np.inf)
    index = list(allowed)
    kept[index] = z[index]
    return kept


@strategy("E5", "allowed tokens by function", stage="ban", rank=60, constrains=True)
@parameter(
    "prefix_allowed_tokens_fn", None, "(row, ids) -> ids allowed next.", kind="function"
)
@example(prefix_allowed_tokens_fn=lambda row, ids: [2, 3] if ids[-1] == 0 else [0, 1])
def prefix_allowed_tokens(
    z: Logits, ids: Ids, context: Context, function: Callable[[int, Ids], Ids]
) -> Logits:
    """A function names the tokens allowed next: z_v = -inf for all others.

    It is called with the row (prompt i, sequence j: i num_return_sequences + j; with
    beams i, as in transformers) and its ids, prompt included. Source: De Cao et al.,
    "Autoregressive Entity Retrieval" (2020, arXiv:2010.00904).

    >>> prefix_allowed_tokens(np.zeros(2), [7], Context(1, 0), lambda i, ids: [1])
    array([-inf,   0.])
    """
    return allow(z, allowed_ids(function, ids, context, len(z)))


@strategy("E6", "minimum length", stage="ban", rank=30)
@parameter("min_length", 0, "Tokens, prompt included.", 0)
@example(min_length=5)
def min_length(z: Logits, ids: Ids, eos: Ids, least: int) -> Logits:
    """No end before so many tokens, prompt included: z_eos = -inf while the text is
    shorter.

    With min_new_tokens both hold (transformers then drops min_length). Source:
    transformers.

    >>> min_length(np.zeros(2), [0, 0], [1], 3).tolist()
    [0.0, -inf]
    """
    return suppress(z, eos) if len(ids) < least else z


def _check_room(options: Any) -> None:
    if options.min_new_tokens > options.max_new_tokens:
        raise DecodingError(
            f"min_new_tokens {options.min_new_tokens} is more than max_new_tokens "
            f"{options.max_new_tokens}"
        )


@strategy("E6", "minimum new tokens", stage="ban", rank=40, check=_check_room)
@parameter("min_new_tokens", 0, "No end of text before so many.", 0)
@example(min_new_tokens=2)
def min_new_tokens(z: Logits, context: Context, eos: Ids, least: int) -> Logits:
    """No end before so many new tokens: z_eos = -inf while the step is below. Source:
    transformers.

    >>> early = Context(prompt_length=3, step=0)
    >>> min_new_tokens(np.array([1.0, 2.0]), early, [1], 5).tolist()
    [1.0, -inf]
    """
    return suppress(z, eos) if context.step < least else z


@strategy("E7", "forced first token", stage="ban", rank=120)
@parameter("forced_bos_token_id", None, "Id.", 0, kind="id")
@example(forced_bos_token_id=3)
def forced_bos(z: Logits, context: Context, id: int) -> Logits:
    """The first new token is this one: z_v = -inf for all others at the first step.

    Whatever the prompt (transformers: only after a prompt of one token). Source:
    transformers.

    >>> forced_bos(np.zeros(2), Context(prompt_length=3, step=0), 1).tolist()
    [-inf, 0.0]
    """
    return _force(z, [id]) if context.step == 0 else z


@strategy("E7", "forced last token", stage="ban", rank=130)
@parameter("forced_eos_token_id", (), "Id, or ids.", kind="ids")
@fields(also=("max_new_tokens",))
@example(forced_eos_token_id=4, max_new_tokens=1)
def forced_eos(z: Logits, context: Context, ends: Ids, max_new_tokens: int) -> Logits:
    """The token at max_new_tokens is this one, or one of several: z_v = -inf for all
    others at the last step. Source: transformers.

    >>> forced_eos(np.zeros(2), Context(prompt_length=3, step=4), [1], 5).tolist()
    [-inf, 0.0]
    """
    return _force(z, ends) if context.step == max_new_tokens - 1 else z


def _force(z: np.ndarray, ids: Ids) -> np.ndarray:
    """Only these ids, whatever came before; the model's preference among them stays.

    As log-probabilities, so a forced token costs the sum of a beam nothing (of several
    ids its share of them; transformers: 0 each).
    """
    forced = allow(z, ids)
    if not (forced > -np.inf).any():
        forced[list(ids)] = 0
    return log_probabilities(forced)


@strategy("E8", "ignore EOS", stage="ban", rank=170)
@parameter("ignore_eos", False, "Ban the end of text.")
@example(ignore_eos=True)
def ignore_eos(z: Logits, eos: Ids, on: bool = True) -> Logits:
    """The text never ends by itself: z_eos = -inf.

    vLLM lets the end occur and goes on. Source: llama.cpp.

    >>> ignore_eos(np.zeros(2), [1]).tolist()
    [0.0, -inf]
    """
    return suppress(z, eos) if on else z


@strategy("E10", "exponential length decay", stage="ban", rank=140)
@fields(element="length_decay")
@parameter(
    "exponential_decay_length_penalty",
    None,
    "(start, factor): after start new tokens.",
    kind="pair",
)
@example(lambda show: show.rule({"exponential_decay_length_penalty": (1, 1.3)}, new=3))
def exponential_decay(
    z: Logits, context: Context, eos: Ids, start_factor: tuple[int, float]
) -> Logits:
    """The end becomes ever more probable: z_eos + |z_eos| (factor^(t - start) - 1) for
    t > start.

    t counts new tokens. An end that is banned stays banned. Source: transformers.

    >>> late = Context(prompt_length=1, step=4)
    >>> exponential_decay(np.array([0.0, -2.0]), late, [1], (2, 1.5)).tolist()
    [0.0, 0.5]
    """
    start, factor = start_factor
    if context.step <= start:
        return z
    z = z.copy()
    for id in eos:
        if np.isfinite(z[id]):
            z[id] += abs(z[id]) * (factor ** (context.step - start) - 1)
    return z
