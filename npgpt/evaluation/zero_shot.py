"""Zero-shot tests of a language model: LAMBADA, HellaSwag and cloze questions.

Nothing is trained and no example is shown: an answer is what the model finds most
probable. Files are the user's, in the formats in which they were published; each is
read whole, and checked, before the model starts. Text is taken as it is, without the
de-tokenisers of the GPT-2 paper, which were not published.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt.errors import DataError
from npgpt.evaluation.score import token_logprobs
from npgpt.interface import Model
from npgpt.support.arguments import check_fields, checked, shown
from npgpt.texts import following, read_text

STYLES = ("llm.c", "lm-eval")
NORMS = ("tokens", "characters")
BLANK = "XXXXX"


class Question(NamedTuple):
    """A text, how it might go on, and which of these is right."""

    context: str
    endings: list[str]
    label: int


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
    for text in _watched(_some(texts, "texts"), progress):
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
    for question in _watched(_some(questions, "questions"), progress):
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


@checked(DataError)
def read_lambada(file: str | Path, limit: int | None = None) -> list[str]:
    """Texts of a LAMBADA file: {"text": ...} a line, or the plain text a line."""
    texts = []
    for where, line in _lines(file, limit):
        text = line
        if line.lstrip().startswith("{"):
            text = _field(_json(line, where), "text", str, where)
        text = text.strip()
        if " " not in text:
            raise DataError(f"{where}: one word alone has no text before it to go by")
        texts.append(text)
    return _some(texts, file)


@checked(DataError)
def read_hellaswag(
    file: str | Path, limit: int | None = None, style: str = "llm.c"
) -> list[Question]:
    """Questions of HellaSwag's jsonl: ctx, endings and label.

    style "llm.c" takes ctx and endings as they are; "lm-eval" puts the activity before
    the context and removes the brackets of WikiHow, as lm-evaluation-harness does.
    """
    if style not in STYLES:
        raise DataError(f"style must be one of {', '.join(STYLES)}, not {style!r}")
    questions = []
    for where, line in _lines(file, limit):
        item = _json(line, where)
        endings = _field(item, "endings", list, where)
        label = item.get("label")
        if isinstance(label, str) and label in map(str, range(len(endings))):
            label = int(label)  # as the Hub's copy has it
        if len(endings) < 2 or not all(isinstance(e, str) and e for e in endings):
            raise DataError(f"{where}: endings must be two texts or more")
        if type(label) is not int or not 0 <= label < len(endings):
            raise DataError(
                f"{where}: label must be 0 to {len(endings) - 1}, not "
                f"{label!r}; the test file comes without"
            )
        if style == "llm.c":
            context = _field(item, "ctx", str, where)
        else:
            keys = ("activity_label", "ctx_a", "ctx_b")
            activity, a, b = (_field(item, key, str, where) for key in keys)
            context = _plain(f"{activity}: {a} {b.capitalize()}")
            endings = [_plain(ending) for ending in endings]
            if not all(endings):
                raise DataError(f"{where}: an ending is all brackets")
        questions.append(Question(context, endings, label))
    return _some(questions, file)


@checked(DataError)
def read_cloze(file: str | Path, limit: int | None = None) -> list[Question]:
    """Questions of the Children's Book Test: a numbered story, its last line asks.

    "21 <sentence with XXXXX>\\t<answer>\\t\\t<candidate>|...|<candidate>", blank lines
    between questions. As in the GPT-2 paper an ending is the candidate and the rest of
    its sentence.
    """
    _check_limit(limit)
    questions: list[Question] = []
    story: list[str] = []
    for where, line in _lines(file, None):
        if limit is not None and len(questions) == limit:
            break
        number, _, text = line.partition(" ")
        if number != str(len(story) + 1):
            raise DataError(
                f"{where}: expected a line that begins with '{len(story) + 1} '"
            )
        text, *fields = text.split("\t")
        if not fields:
            story.append(text.strip())
            continue
        answer, candidates = fields[0].strip(), fields[-1].strip().split("|")
        before, blank, after = text.partition(BLANK)
        if not blank or answer not in candidates:
            raise DataError(
                f"{where}: a question needs {BLANK} in it, a tab, its answer and "
                "candidates with the answer among them"
            )
        context = " ".join([*story, before.strip()]).strip()
        endings = [f"{candidate}{after.rstrip()}" for candidate in candidates]
        questions.append(Question(context, endings, candidates.index(answer)))
        story = []
    if story:
        raise DataError(f"{file}: the last story ends without its question")
    return _some(questions, file)


def _answers(model: Any, context: str, endings: Sequence[str]) -> list[_Answer]:
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


def _watched(items: Iterable[Any], progress: Callable | None) -> Iterator[Any]:
    for item in items:
        yield item
        if progress is not None:
            progress(1)


def _lines(file: str | Path, limit: int | None) -> Iterator[tuple[str, str]]:
    """Lines that are not empty, each with the place to name in an error."""
    _check_limit(limit)
    rest, number, given = "", 0, 0
    for piece in (*read_text(file), "\n"):
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            number += 1
            line = line.rstrip("\r")
            if line.strip():
                if given == limit:
                    return
                given += 1
                yield f"{file}, line {number}", line


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, not {limit}")


def _json(line: str, where: str) -> dict[str, Any]:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    if not isinstance(item, dict):
        raise DataError(f"{where}: not a JSON object")
    return item


def _field(item: dict[str, Any], key: str, kind: type, where: str) -> Any:
    value = item.get(key)
    if not isinstance(value, kind):
        raise DataError(f"{where}: {key} is missing or not a {kind.__name__}")
    return value


def _plain(text: str) -> str:
    """WikiHow's markup out: " [title]" ends a sentence, other brackets go."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _some(items: Sequence[Any], file: str | Path) -> Any:
    if not len(items):
        raise DataError(f"{file}: there is nothing in it to evaluate")
    return items
