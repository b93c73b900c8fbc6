"""The published files of zero-shot tests, read and checked before a model starts.

LAMBADA, HellaSwag and the Children's Book Test, as their authors published them. Text
is taken as it is, without the de-tokenisers of the GPT-2 paper, which were not
published. An item that does not fit is named with its line, or its place in an array.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from npgpt.errors import DataError
from npgpt.support.arguments import checked
from npgpt.texts import read_text

STYLES = ("llm.c", "lm-eval")
BLANK = "XXXXX"


class Question(NamedTuple):
    """A text, how it might go on, and which of these is right."""

    context: str
    endings: list[str]
    label: int


@checked(DataError)
def read_lambada(file: str | Path, limit: int | None = None) -> list[str]:
    """Texts of a LAMBADA file: {"text": ...} or the plain text a line, or an array."""
    texts = []
    for where, item in _items(file, limit):
        text = item if isinstance(item, str) else _field(item, "text", str, where)
        text = text.strip()
        if " " not in text:
            raise DataError(f"{where}: one word alone has no text before it to go by")
        texts.append(text)
    return at_least_one(texts, file)


@checked(DataError)
def read_hellaswag(
    file: str | Path, limit: int | None = None, style: str = "llm.c"
) -> list[Question]:
    """Questions of HellaSwag's jsonl, or an array of them: ctx, endings and label.

    style "llm.c" takes ctx and endings as they are; "lm-eval" puts the activity before
    the context and removes the brackets of WikiHow, as lm-evaluation-harness does.
    """
    if style not in STYLES:
        raise DataError(f"style must be one of {', '.join(STYLES)}, not {style!r}")
    questions = []
    for where, item in _items(file, limit):
        item = _json(item, where) if isinstance(item, str) else item
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
    return at_least_one(questions, file)


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
    return at_least_one(questions, file)


def _items(file: str | Path, limit: int | None) -> Iterator[tuple[str, Any]]:
    """JSON objects of lines, or of one array; a line that begins otherwise, as text."""
    lines = _lines(file, limit)
    first = next(lines, None)
    if first is None:
        return
    if re.match(r"\s*\[\s*([{\"]|$)", first[1]):
        yield from islice(_array(file), limit)
        return
    for where, line in chain([first], lines):
        is_json = line.lstrip().startswith("{")
        yield where, _json(line, where) if is_json else line


def _array(file: str | Path) -> Iterator[tuple[str, Any]]:
    try:
        items = json.loads("".join(read_text(file)))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not a JSON array ({error})") from None
    for i, item in enumerate(items):
        where = f"{file}, item {i + 1}"
        if not isinstance(item, dict | str):
            raise DataError(f"{where}: not a JSON object")
        yield where, item


def _lines(file: str | Path, limit: int | None) -> Iterator[tuple[str, str]]:
    """Lines that are not empty, each with the place to name in an error."""
    _check_limit(limit)
    rest, number, given = "", 0, 0
    for piece in (*read_text(file), "\n"):
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            number += 1
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


def at_least_one(items: Sequence[Any], file: str | Path) -> Any:
    """The items, of which there must be one. Raises DataError."""
    if not len(items):
        raise DataError(f"{file}: there is nothing in it to evaluate")
    return items
