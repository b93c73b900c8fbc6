"""Zero-shot tests of a language model: LAMBADA, HellaSwag and cloze questions.

Nothing is trained and no example is shown: an answer is what the model finds most
probable. npgpt.evaluation.formats reads the files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from npgpt.errors import DataError
from npgpt.evaluation.formats import Question, at_least_one
from npgpt.evaluation.score import token_logprobs
from npgpt.interface import Model
from npgpt.support.arguments import check_fields, checked, shown
from npgpt.texts import following

NORMS = ("tokens", "characters")


class _Answer(NamedTuple):
    logprobs: list[float]  # of the ending's tokens, in nats
    greedy: list[bool]  # whether each is the model's most probable token


@dataclass(frozen=True)
class LastWords:
    """LAMBADA. acc: share of last words all of whose tokens the model puts first.

    acc_last_token asks that of the last token alone, which is easier. perplexity =
    exp(-mean log P(word | text before)), per word, as lm-evaluation-harness has it.
    """

    items: int
    acc: float
    acc_last_token: float
    perplexity: float


@dataclass(frozen=True)
class Choices:
    """Multiple choice. acc: the right one is the most probable, by summed log P.

    acc_norm: by log P over the ending's length, which `norm` names: "tokens" as in
    llm.c, "characters" as in lm-evaluation-harness. chance: what guessing gives.
    """

    items: int
    acc: float
    acc_norm: float
    norm: str
    chance: float


@checked(DataError)
def lambada(
    model: Model, texts: Sequence[str], progress: Callable[[int], object] | None = None
) -> LastWords:
    """Predict the last word of each text from all before it.

    The word goes with the space before it. Source: Paperno et al., "The LAMBADA
    dataset" (2016).
    """
    right = last = 0
    total = 0.0
    for text in _watched(at_least_one(texts, "texts"), progress):
        context, space, word = text.rpartition(" ")
        if not space or not word:
            raise DataError(f"{shown(text)} has no last word after a space")
        (answer,) = _answers(model, context, [f" {word}"])
        right += all(answer.greedy)
        last += answer.greedy[-1]
        total += sum(answer.logprobs)
    n = len(texts)
    return LastWords(n, right / n, last / n, math.exp(min(700, -total / n)))


@checked(DataError)
def multiple_choice(
    model: Model,
    questions: Sequence[Question],
    norm: str = "tokens",
    progress: Callable[[int], object] | None = None,
) -> Choices:
    """Choose the ending that the model finds most probable after the context.

    An ending is scored with the space before it, which its characters leave out.
    Sources: Zellers et al., "HellaSwag" (2019); Hill et al., "The Goldilocks
    Principle" (2016), for cloze questions.
    """
    if norm not in NORMS:
        raise DataError(f"norm must be one of {', '.join(NORMS)}, not {shown(norm)}")
    right = right_norm = 0
    chance = 0.0
    for question in _watched(at_least_one(questions, "questions"), progress):
        check_fields(question, DataError)
        if not 0 <= question.label < len(question.endings):
            raise DataError(
                f"label {question.label} is none of {len(question.endings)} endings"
            )
        answers = _answers(
            model, question.context, [f" {ending}" for ending in question.endings]
        )
        sums = [sum(answer.logprobs) for answer in answers]
        lengths = [
            len(answer.logprobs) if norm == "tokens" else len(ending)
            for answer, ending in zip(answers, question.endings, strict=True)
        ]
        if not all(lengths):
            raise DataError(f"an empty ending after {shown(question.context)}")
        right += int(np.argmax(sums)) == question.label
        right_norm += int(np.argmax(np.divide(sums, lengths))) == question.label
        chance += 1 / len(answers)
    n = len(questions)
    return Choices(n, right / n, right_norm / n, norm, chance / n)


def _answers(model: Model, context: str, endings: Sequence[str]) -> list[_Answer]:
    """Log P of each ending's tokens after the context, which is read once."""
    targets = [following(model, ending) for ending in endings]
    # What does not fit is cut from the context's beginning, as both harnesses do.
    room = model.config.n_positions - max(map(len, targets)) + 1
    if room < 1:
        raise DataError(
            f"an ending has more tokens than the model's "
            f"{model.config.n_positions} positions"
        )
    ids = model.encode(context)[-room:]
    cache = model.new_cache(1)
    first = model.next_logits([ids], cache)  # (1, V)
    answers = []
    for target in targets:
        z = first
        if len(target) > 1:
            cache.crop(len(ids))
            (rest,) = model.all_logits([target[:-1]], cache)
            z = np.concatenate([first, rest])
        logprobs = token_logprobs(z, np.array(target)).tolist()
        answers.append(_Answer(logprobs, (z.argmax(axis=-1) == target).tolist()))
    return answers


def _watched(
    items: Iterable[Any], progress: Callable[[int], object] | None
) -> Iterator[Any]:
    for item in items:
        yield item
        if progress is not None:
            progress(1)
