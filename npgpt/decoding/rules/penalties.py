"""Penalties for tokens and n-grams that the text already has: (z, ids, ...) -> z.

Which ids a penalty looks at (all, the prompt, a window) is the caller's choice; nothing
is remembered. DRY is in npgpt.decoding.rules.dry, FSD in npgpt.decoding.rules.fsd.
"""

from __future__ import annotations

import numpy as np

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.rules.base import Ids
from npgpt.shapes import Float, Logits


@strategy("D1", "repetition penalty", stage="penalty", rank=20)
@fields(element="repetition_penalty", aliases=("penalties",))
@parameter("repetition_penalty", 1.0, "1 is off.", 1e-6)
@example(repetition_penalty=1.5)
def repetition(z: Logits, window: Ids, r: float) -> Logits:
    """Tokens seen before become less probable, once each: z_v / r where z_v > 0, z_v r
    elsewhere.

    r > 1 makes them less probable. The whole text counts, prompt included, as in
    transformers and vLLM (llama.cpp: the last 64 tokens; see repeat_last_n). Not
    invariant to a shift of z: on log-probabilities it always multiplies. Source: Keskar
    et al., "CTRL" (2019, arXiv:1909.05858).

    >>> z = np.array([2.0, 4.0, -3.0, 0.0])
    >>> repetition(z, [0, 0, 2], 2.0).tolist()
    [1.0, 4.0, -6.0, 0.0]
    """
    return _scaled(z, _seen(window), r)


@strategy("D6", "encoder repetition penalty", stage="penalty", rank=10)
@fields(element="encoder_repetition_penalty")
@parameter(
    "encoder_repetition_penalty", 1.0, "Above 1 favours the prompt; 1 is off.", 1e-6
)
@example(encoder_repetition_penalty=1.5)
def encoder_repetition(z: Logits, prompt: Ids, r: float) -> Logits:
    """Tokens of the prompt get a bonus: z_v r where z_v > 0, z_v / r elsewhere.

    r < 1 makes it a penalty. Source: transformers.

    >>> encoder_repetition(np.array([2.0, 4.0, -3.0]), [0, 2], 2.0).tolist()
    [4.0, 4.0, -1.5]
    """
    return _scaled(z, _seen(prompt), 1 / r)


@strategy("D4", "windowed and decaying penalty", element="repetition_penalty")
@fields(replaces=True, also=("repetition_penalty",))
@parameter("repeat_last_n", -1, "Window of the penalties; -1 is all, 0 none.", -1)
@parameter(
    "penalty_decay",
    0,
    "Tokens over which repetition_penalty fades before the window.",
    0,
)
@example(repetition_penalty=1.5, repeat_last_n=1)
def windowed_repetition(
    z: Logits, ids: Ids, last_n: int, decay: int, r: float
) -> Logits:
    """Penalties look at the last tokens only, and may fade: r in full for the last n,
    then 1 + (r - 1) (1 - (a - n) / (decay + 1)), a places back.

    n is last_n, -1 for all. decay = 0 is llama.cpp's window. Source: llama.cpp;
    ExLlamaV2's sustain and decay.

    >>> z = np.ones(3)
    >>> windowed_repetition(z, [0, 1, 2], 1, 1, 3.0).round(3).tolist()  # 3, 2 and none
    [1.0, 0.5, 0.333]
    """
    if last_n < 0:
        return repetition(z, ids, r)
    recent = np.asarray(ids[max(0, len(ids) - last_n - decay) :][::-1], np.int64)
    seen, age = np.unique(recent, return_index=True)  # places back, from 0
    faded = np.maximum(0, age + 1 - last_n) / (decay + 1)
    return _scaled(z, seen, 1 + (r - 1) * (1 - faded))


@strategy("D2", "presence penalty", stage="penalty", rank=30)
@fields(element="presence_penalty", aliases=("penalties",))
@parameter("presence_penalty", 0.0, "0 is off.")
@parameter(
    "penalties_ignore_prompt",
    False,
    "Presence and frequency count generated tokens only, as OpenAI and vLLM do.",
)
@example(presence_penalty=1.0)
def presence(z: Logits, counted: Ids, alpha: float) -> Logits:
    """A constant off every token seen before: z_v - alpha [c_v > 0].

    The prompt counts, as in llama.cpp; with penalties_ignore_prompt it does not, as at
    OpenAI and in vLLM. Source: OpenAI.

    >>> presence(np.zeros(3), [1, 1], 0.5).tolist()
    [0.0, -0.5, 0.0]
    """
    z = z.copy()
    z[_seen(counted)] -= alpha
    return z


@strategy("D3", "frequency penalty", stage="penalty", rank=40)
@fields(element="frequency_penalty", aliases=("penalties",))
@parameter("frequency_penalty", 0.0, "0 is off.")
@fields(also=("penalties_ignore_prompt",))
@example(frequency_penalty=1.0)
def frequency(z: Logits, counted: Ids, beta: float) -> Logits:
    """A constant off for every time a token was seen: z_v - beta c_v.

    The prompt counts unless penalties_ignore_prompt is set, as for `presence`. Source:
    OpenAI.

    >>> frequency(np.zeros(3), [1, 1], 0.5).tolist()
    [0.0, -1.0, 0.0]
    """
    seen, counts = np.unique(np.asarray(counted, np.int64), return_counts=True)
    z = z.copy()
    z[seen] -= (beta * counts).astype(z.dtype)
    return z


@strategy("D5", "no-repeat n-gram", stage="ngram", rank=10)
@parameter("no_repeat_ngram_size", 0, "n; 0 is off.", 1)
@example(no_repeat_ngram_size=2)
def no_repeat_ngram(z: Logits, ids: Ids, n: int) -> Logits:
    """No n tokens in a row occur twice: ban v if (last n-1 tokens, v) occurred before.

    n = 1 bans every token seen. Source: Paulus, Xiong and Socher, "A Deep Reinforced
    Model for Abstractive Summarization" (2017, arXiv:1705.04304).

    >>> no_repeat_ngram(np.zeros(3), [0, 1, 2, 0], 2).tolist()
    [0.0, -inf, 0.0]
    """
    return encoder_no_repeat_ngram(z, ids, ids, n)


@strategy("D7", "encoder no-repeat n-gram", stage="ngram", rank=20)
@parameter("encoder_no_repeat_ngram_size", 0, "n; 0 is off.", 1)
@example(encoder_no_repeat_ngram_size=2)
def encoder_no_repeat_ngram(z: Logits, ids: Ids, prompt: Ids, n: int) -> Logits:
    """No n tokens in a row of the prompt recur: ban v if (last n-1 tokens, v) is in it.
    Source: transformers.

    >>> encoder_no_repeat_ngram(np.zeros(3), [0, 1, 2, 1], [0, 1, 2], 2).tolist()
    [0.0, 0.0, -inf]
    """
    start = len(ids) - n + 1
    if n < 1 or start < 0 or len(prompt) < n:
        return z
    text, last = np.asarray(prompt, np.int64), np.asarray(ids[start:], np.int64)
    places = np.arange(len(text) - n + 1)
    for i, id in enumerate(last.tolist()):
        places = places[text[places + i] == id]
    z = z.copy()
    z[text[places + n - 1]] = -np.inf
    return z


@strategy("D9", "penalty decoding", stage="penalty", rank=50)
@parameter("penalty_decoding", 1.0, "r; 1 is off.", 1)
@parameter("forgetting_window", 100, "w: tokens looked back.", 1)
@parameter(
    "early_end_penalty",
    0.0,
    "lambda: off z of the end while the text is shorter than w.",
    0,
)
@example(lambda show: show.rule({"penalty_decoding": 1.5}, new=3))
def penalty_decoding(
    z: Logits, generated: Ids, eos: Ids, r: float, window: int, early_end: float
) -> Logits:
    """Repetition penalty r with a forgetting window w, and fewer early ends:
    z_eos - lambda (1 - t/w) while t < w new tokens, and r over the last w of them.

    A text should not end because all else is penalised. The window and the repetition
    penalty are the paper's; the linear form of its length penalty is ours. Source: Zhu,
    Hao and Wang, "Penalty Decoding" (2023, arXiv:2310.14971).

    >>> penalty_decoding(np.ones(3), [0], [2], 2.0, 4, 1.0).tolist()
    [0.5, 1.0, 0.25]
    """
    z = windowed_repetition(z, generated, window, 0, r).copy()
    z[list(eos)] -= early_end * max(0.0, 1 - len(generated) / window)
    return z


@strategy("D13", "degeneration penalty", kind="part")
@example(penalty_alpha=0.6, top_k=3)
def degeneration(
    candidates: Float[np.ndarray, "k C"], previous: Float[np.ndarray, "S C"]
) -> Float[np.ndarray, " k"]:
    """Similarity of each candidate to what the text already said: max_j cos(h_v, h_j).

    In [-1, 1]; rows are last hidden states. Source: Su et al., "A Contrastive Framework
    for Neural Text Generation" (2022, arXiv:2202.06417).

    >>> previous = np.array([[0.0, 1.0], [2.0, 0.0]])
    >>> degeneration(np.array([[1.0, 0.0]]), previous).tolist()
    [1.0]
    """
    h = candidates / np.linalg.norm(candidates, axis=-1, keepdims=True)
    seen = previous / np.linalg.norm(previous, axis=-1, keepdims=True)
    return (h @ seen.T).max(axis=-1)


def _seen(ids: Ids) -> np.ndarray:
    return np.unique(np.asarray(ids, np.int64))


def _scaled(z: np.ndarray, seen: np.ndarray, r: float | np.ndarray) -> np.ndarray:
    z, r = z.copy(), np.asarray(r, z.dtype)
    z[seen] = np.where(z[seen] > 0, z[seen] / r, z[seen] * r)
    return z
