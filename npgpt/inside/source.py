"""Where in the code a number was computed: the expression that a tap was given."""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple


class Source(NamedTuple):
    """An expression of the running code."""

    file: str
    line: int
    column: int  # from 1
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


def caller() -> Source:
    """The expression whose value a tap was given.

    That is the second argument of the call tap(name, value) which is running; where it
    is a bare name, the assignment above that gave the name its value.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _hands_on(frame.f_code):
        frame = frame.f_back
    if frame is None:
        return Source("", 0, 0, "")
    return _at(frame.f_code, frame.f_lasti)


@functools.cache
def _at(code: CodeType, instruction: int) -> Source:
    """The expression of one call in the code, which is the same at every call."""
    positions = next(itertools.islice(code.co_positions(), instruction // 2, None))
    line, end, column, stop = positions
    file = code.co_filename
    if line is None or end is None or column is None or stop is None:
        return Source(short(file), line or code.co_firstlineno, 1, "")
    lines = linecache.getlines(file)[line - 1 : end]
    if not lines:
        return Source(short(file), line, column + 1, "")
    text = _cut(lines, column, stop)
    call = ast.parse(text, mode="eval").body
    if not isinstance(call, ast.Call) or len(call.args) < 2:
        return Source(short(file), line, column + 1, text)
    value = call.args[1]
    if isinstance(value, ast.Name):
        found = _assignment(file, line, value.id)
        if found is not None:
            return found
    first = value.lineno == 1
    return Source(
        short(file),
        line + value.lineno - 1,
        value.col_offset + 1 + column * first,
        ast.get_source_segment(text, value) or text,
    )


def short(file: str) -> str:
    """The file from its package on.

    >>> short("/home/me/npgpt/block.py")
    'npgpt/block.py'
    """
    parts = Path(file).parts
    for package in ("npgpt", "kernels"):
        if package in parts:
            at = len(parts) - 1 - parts[::-1].index(package)
            return "/".join(parts[at:])
    return Path(file).name


@functools.cache
def _hands_on(code: CodeType) -> bool:
    """Whether a function only hands on: a trace, a checked tap, the names of a place.

    In the suite the checks of shapes stand between as well.
    """
    file = code.co_filename
    if "jaxtyping" in file or file.startswith("<"):
        return True
    name = Path(file).name
    inside = name in ("trace.py", "source.py", "taps.py", "tape.py", "traced.py")
    return inside or (name == "block.py" and code.co_name == "<lambda>")


def _cut(lines: list[str], column: int, stop: int) -> str:
    """The text between two columns (in bytes) of the first and the last line."""
    raw = [line.encode() for line in lines]
    raw[-1] = raw[-1][:stop]
    raw[0] = raw[0][column:]
    return b"".join(raw).decode()


def _assignment(file: str, line: int, name: str) -> Source | None:
    """The last assignment to a name above a line of a function."""
    found: ast.Assign | None = None
    for node in ast.walk(_function(file, line)):
        if isinstance(node, ast.Assign) and (node.end_lineno or 0) < line:
            targets = (x for target in node.targets for x in ast.walk(target))
            known = {x.id for x in targets if isinstance(x, ast.Name)}
            if name in known and (found is None or node.lineno > found.lineno):
                found = node
    if found is None:
        return None
    text = ast.get_source_segment("".join(linecache.getlines(file)), found) or ""
    return Source(short(file), found.lineno, found.col_offset + 1, text)


def _function(file: str, line: int) -> ast.AST:
    """The innermost function that a line of a file stands in."""
    inner: ast.AST = ast.Module([], [])
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.FunctionDef):
            within = node.lineno <= line <= (node.end_lineno or 0)
            inner = node if within else inner  # walk goes from the outside in
    return inner


@functools.cache
def _tree(file: str) -> ast.Module:
    return ast.parse("".join(linecache.getlines(file)))
