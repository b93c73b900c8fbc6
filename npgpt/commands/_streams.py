"""stdin, stdout and stderr: text is UTF-8, whatever the system would make of it.

Python opens a pipe in the encoding of the locale, cp1252 on most Windows machines: what
is read would be other characters, and what is written question marks. Here pipes and
files are UTF-8. A terminal keeps its encoding, and PYTHONIOENCODING its say; what then
cannot be written becomes a question mark, is counted and named, and in a pipe or a file
the command has failed.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import locale
import os
import sys
from typing import Any

import click

_lost: list[str] = []  # of stdout, since `prepare`


def prepare() -> None:
    """Set up the streams; one that is closed reads as empty and takes everything."""
    _lost.clear()
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, nowhere)
    codecs.register_error("npgpt.count", _question_marks)
    chosen = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    for stream, errors in ((sys.stdout, "npgpt.count"), (sys.stderr, "replace")):
        if hasattr(stream, "reconfigure"):
            keep = chosen or stream.isatty()
            stream.reconfigure(encoding=None if keep else "utf-8", errors=errors)


def _question_marks(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    _lost.extend(error.object[error.start : error.end])
    return "?" * (error.end - error.start), error.end


def say_what_was_lost() -> bool:
    """Name what stdout had no place for; whether it is lost to who reads it later."""
    if not _lost:
        return False
    what = "a character" if len(_lost) == 1 else f"{len(_lost):,} characters"
    shown = sys.stdout.isatty()  # and was seen by someone
    sentence = (
        f"stdout is {sys.stdout.encoding}, in which {what} became '?' "
        f"(U+{ord(_lost[0]):04X}); set PYTHONIOENCODING=utf-8, or take --json"
    )
    with contextlib.suppress(OSError):
        click.echo(f"{'note' if shown else 'npgpt'}: {sentence}", err=True)
    return not shown


def json_text(value: Any) -> str:
    """JSON that arrives as it is: escaped where stdout is not UTF-8 for everyone."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(_json_encoding())
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text


def _json_encoding() -> str:
    """UTF-8 where stdout and whoever reads it take text for that, else ASCII."""
    names = sys.stdout.encoding or "ascii", locale.getpreferredencoding(False)
    plain = all(codecs.lookup(name).name == "utf-8" for name in names)
    return "utf-8" if plain else "ascii"


def read_stdin() -> str:
    """All text on stdin. Raises TokenizerError for a byte that is no UTF-8."""
    from npgpt.texts import read_text

    if sys.stdin.isatty():  # typed, in the terminal's encoding
        return sys.stdin.read()
    binary: Any = sys.stdin.buffer
    return "".join(read_text(binary))
