"""Where in the code a number was computed: the expression that a tap was given."""

from __future__ import annotations

import ast
import itertools
import linecache
import sys
import textwrap
from pathlib import Path
from types import FrameType
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
    while frame is not None and _is_tap(frame):
        frame = frame.f_back
    if frame is None:
        return Source("", 0, 0, "")
    code = frame.f_code
    positions = next(itertools.islice(code.co_positions(), frame.f_lasti // 2, None))
    line, end, column, stop = positions
    file = code.co_filename
    if line is None or end is None or column is None or stop is None:
        return Source(short(file), frame.f_lineno, 1, "")
    lines = linecache.getlines(file)[line - 1 : end]
    if not lines:
        return Source(short(file), line, column + 1, "")
    text = _cut(lines, column, stop)
    call = ast.parse(text, mode="eval").body
    if not isinstance(call, ast.Call) or len(call.args) < 2:
        return Source(short(file), line, column + 1, text)
    value = call.args[1]
    if isinstance(value, ast.Name):
        found = _assignment(file, code.co_firstlineno, line, value.id)
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


def _is_tap(frame: FrameType) -> bool:
    """Whether a frame only hands on: a trace, a checked tap, the names of a place.

    In the suite the checks of shapes stand between as well.
    """
    file = frame.f_code.co_filename
    if "jaxtyping" in file or file.startswith("<"):
        return True
    name = Path(file).name
    inside = name in ("trace.py", "source.py", "taps.py", "gradient.py")
    return inside or (name == "block.py" and frame.f_code.co_name == "<lambda>")


def _cut(lines: list[str], column: int, stop: int) -> str:
    """The text between two columns (in bytes) of the first and the last line."""
    raw = [line.encode() for line in lines]
    raw[-1] = raw[-1][:stop]
    raw[0] = raw[0][column:]
    return b"".join(raw).decode()


def _assignment(file: str, first: int, until: int, name: str) -> Source | None:
    """The last assignment to a name in a function, above a line."""
    lines = linecache.getlines(file)[first - 1 : until - 1]
    body = textwrap.dedent("".join(linecache.getlines(file)[first - 1 :]))
    indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    function = ast.parse(_block(body)).body[0]
    found: ast.Assign | None = None
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and (node.end_lineno or 0) + first - 1 < until:
            names = {x.id for t in node.targets for x in ast.walk(t)
                     if isinstance(x, ast.Name)}  # fmt: skip
            if name in names and (found is None or node.lineno > found.lineno):
                found = node
    if found is None:
        return None
    text = ast.get_source_segment(body, found) or ""
    line = found.lineno + first - 1
    return Source(short(file), line, found.col_offset + 1 + indent, text)


def _block(text: str) -> str:
    """The first function of a text: up to the next line that stands as far left."""
    lines = text.splitlines(keepends=True)
    header = 0
    while header < len(lines) and not lines[header].rstrip().endswith(":"):
        header += 1
    end = header + 1
    while end < len(lines) and (not lines[end].strip() or lines[end][0] in " \t"):
        end += 1
    return "".join(lines[:end])
