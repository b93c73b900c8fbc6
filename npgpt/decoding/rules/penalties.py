"""Penalties for tokens and n-grams that the text already has: (z, ids, ...) -> z.

Which ids a penalty looks at (all, the prompt, a window) is the caller's choice; nothing
is remembered. DRY is in npgpt.decoding.rules.dry, FSD in npgpt.decoding.rules.fsd.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from npgpt.shapes import Float


def repetition(
    z: Float[np.ndarray, " V"], ids: Sequence[int], r: float
) -> Float[np.ndarray, " V"]:
    """Tokens seen before, once each: z_v / r where z_v > 0, z_v r elsewhere.

    r > 1 makes them less probable. The whole text counts, prompt included, as in
    transformers and vLLM (llama.cpp: the last 64 tokens; see repeat_last_n). Not
    invariant to a shift of z: on log-probabilities
    it always multiplies. Source: Keskar et al., "CTRL" (2019).

    >>> z = np.array([2.0, 4.0, -3.0, 0.0])
    >>> repetition(z, [0, 0, 2], 2.0).tolist()
    [1.0, 4.0, -6.0, 0.0]
    """
    return _scaled(z, _seen(ids), r)


def encoder_repetition(
    z: Float[np.ndarray, " V"], prompt: Sequence[int], r: float
) -> Float[np.ndarray, " V"]:
    """Tokens of the prompt: z_v r where z_v > 0, z_v / r elsewhere; r > 1 favours them.

    Source: transformers.

    >>> encoder_repetition(np.array([2.0, 4.0, -3.0]), [0, 2], 2.0).tolist()
    [4.0, 4.0, -1.5]
    """
    return _scaled(z, _seen(prompt), 1 / r)


def windowed_repetition(
    z: Float[np.ndarray, " V"], ids: Sequence[int], last_n: int, decay: int, r: float
) -> Float[np.ndarray, " V"]:
    """The repetition penalty of the last last_n tokens (-1: all), fading before them.

    A token last seen a <= last_n places back gets r; then the penalty falls linearly,
    1 + (r - 1) (1 - (a - last_n) / (decay + 1)), to none. decay = 0 is llama.cpp's
    window. Source: ExLlamaV2's sustain and decay.

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


def presence(
    z: Float[np.ndarray, " V"], ids: Sequence[int], alpha: float
) -> Float[np.ndarray, " V"]:
    """A constant off every token seen before: z_v - alpha [c_v > 0]. Source: OpenAI.

    The prompt counts, as in llama.cpp; with penalties_ignore_prompt it does not, as at
    OpenAI and in vLLM.

    >>> presence(np.zeros(3), [1, 1], 0.5).tolist()
    [0.0, -0.5, 0.0]
    """
    z = z.copy()
    z[_seen(ids)] -= alpha
    return z


def frequency(
    z: Float[np.ndarray, " V"], ids: Sequence[int], beta: float
) -> Float[np.ndarray, " V"]:
    """A constant off for every time a token was seen: z_v - beta c_v. Source: OpenAI.

    The prompt counts unless penalties_ignore_prompt is set, as for `presence`.

    >>> frequency(np.zeros(3), [1, 1], 0.5).tolist()
    [0.0, -1.0, 0.0]
    """
    seen, counts = np.unique(np.asarray(ids, np.int64), return_counts=True)
    z = z.copy()
    z[seen] -= (beta * counts).astype(z.dtype)
    return z


def no_repeat_ngram(
    z: Float[np.ndarray, " V"], ids: Sequence[int], n: int
) -> Float[np.ndarray, " V"]:
    """No n tokens in a row occur twice: ban v if (last n-1 tokens, v) occurred.

    n = 1 bans every token seen. Source: Paulus, Xiong and Socher, "A Deep Reinforced
    Model for Abstractive Summarization" (2017).

    >>> no_repeat_ngram(np.zeros(3), [0, 1, 2, 0], 2).tolist()
    [0.0, -inf, 0.0]
    """
    return encoder_no_repeat_ngram(z, ids, ids, n)


def encoder_no_repeat_ngram(
    z: Float[np.ndarray, " V"], ids: Sequence[int], prompt: Sequence[int], n: int
) -> Float[np.ndarray, " V"]:
    """No n tokens in a row of the prompt occur again. Source: transformers.

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


def penalty_decoding(
    z: Float[np.ndarray, " V"],
    generated: Sequence[int],
    eos: Sequence[int],
    r: float,
    window: int,
    early_end: float,
) -> Float[np.ndarray, " V"]:
    """Repetition penalty r over the last `window` new tokens, and fewer early ends.

    The end of text loses early_end (1 - t / window) while the new text has t < window
    tokens: a text should not end because all else is penalised. The window and the
    repetition penalty are the paper's; the linear form of its length penalty is ours.
    Source: Zhu, Hao and Wang, "Penalty Decoding" (2023).

    >>> penalty_decoding(np.ones(3), [0], [2], 2.0, 4, 1.0).tolist()
    [0.5, 1.0, 0.25]
    """
    z = windowed_repetition(z, generated, window, 0, r).copy()
    z[list(eos)] -= early_end * max(0.0, 1 - len(generated) / window)
    return z


def hamming(
    z: Float[np.ndarray, " V"], chosen: Sequence[int], weight: float
) -> Float[np.ndarray, " V"]:
    """What earlier groups of beams chose at this step: z_v - weight (times v chosen).

    Source: Vijayakumar et al., "Diverse Beam Search" (2016).

    >>> hamming(np.zeros(3), [1, 1, 2], 0.5).tolist()
    [0.0, -1.0, -0.5]
    """
    return frequency(z, chosen, weight)


def degeneration(
    candidates: Float[np.ndarray, "k C"], previous: Float[np.ndarray, "S C"]
) -> Float[np.ndarray, " k"]:
    """How much each candidate repeats the text: max_j cos(h_v, h_j), in [-1, 1].

    Rows are last hidden states. Source: Su et al., "A Contrastive Framework for Neural
    Text Generation" (2022).

    >>> previous = np.array([[0.0, 1.0], [2.0, 0.0]])
    >>> degeneration(np.array([[1.0, 0.0]]), previous).tolist()
    [1.0]
    """
    h = candidates / np.linalg.norm(candidates, axis=-1, keepdims=True)
    seen = previous / np.linalg.norm(previous, axis=-1, keepdims=True)
    return (h @ seen.T).max(axis=-1)


def _seen(ids: Sequence[int]) -> np.ndarray:
    return np.unique(np.asarray(ids, np.int64))


def _scaled(z: np.ndarray, seen: np.ndarray, r: float | np.ndarray) -> np.ndarray:
    z, r = z.copy(), np.asarray(r, z.dtype)
    z[seen] = np.where(z[seen] > 0, z[seen] / r, z[seen] * r)
    return z
