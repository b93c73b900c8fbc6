"""Documents: the texts that a corpus is made of, found in files, parted in two halves.

A file is a document, or several with <|endoftext|> between them. A document is known by
its place in a file, and read in blocks.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from npgpt.errors import DataError, TokenizerError
from npgpt.support.arguments import checked
from npgpt.texts import BLOCK, read_text
from npgpt.tokenizer import END_OF_TEXT

Progress = Callable[[int], object]  # hears the bytes that are read


@dataclass(frozen=True)
class Document:
    """A text: these bytes of a UTF-8 file."""

    path: Path
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        """Its length in the file."""
        return self.stop - self.start

    def pieces(self, progress: Progress | None = None) -> Iterator[str]:
        """Its text in blocks; progress hears the bytes that are read."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.start)
                yield from read_text(_Part(stream, self), progress)
        except OSError as error:
            raise DataError(_unreadable(self.path, error)) from None

    def text(self) -> str:
        """All of it at once."""
        return "".join(self.pieces())


@checked(DataError)
def find_documents(
    paths: Sequence[str | Path], separator: str = END_OF_TEXT
) -> list[Document]:
    """The documents of files and of folders' .txt files; of equal ones the first.

    White space around a document is not part of it, an empty one is none. Raises
    DataError for a file that cannot be read or is no UTF-8, and for no text at all.
    """
    documents, seen = [], set()
    for path in _files(paths):
        for document in _in_file(path, separator.encode()):
            digest = hashlib.sha256()
            try:
                for piece in document.pieces():
                    digest.update(piece.encode())
            except TokenizerError as error:
                raise DataError(str(error)) from None
            if digest.digest() not in seen:
                seen.add(digest.digest())
                documents.append(document)
    if not documents:
        names = ", ".join(map(str, paths)) or "no file"
        raise DataError(f"there is no text in {names}")
    return documents


@checked(DataError)
def split(
    documents: Sequence[Document], validation: float = 0.1, seed: int = 0
) -> tuple[list[Document], list[Document]]:
    """Whole documents for training and for validation, the same for the same seed.

    Documents are taken in a random order as long as they fit into `validation` of all
    bytes. Where none fits, the end of the longest one becomes a document of its own,
    cut at a blank line, a line or a character, whichever comes first in this order.
    """
    if not 0 < validation < 1:
        raise DataError(f"validation must be between 0 and 1, not {validation}")
    if not documents:
        raise DataError("there are no documents to split")
    if seed < 0:
        raise DataError(f"seed must be at least 0, not {seed}")
    room = validation * sum(document.num_bytes for document in documents)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(documents))
    held = set()
    for i in map(int, order):
        if documents[i].num_bytes <= room:
            room -= documents[i].num_bytes
            held.add(i)
    if not held:
        i = max(range(len(documents)), key=lambda i: documents[i].num_bytes)
        head, tail = _cut(documents[i], math.ceil(room))
        return [*documents[:i], head, *documents[i + 1 :]], [tail]
    return (
        [document for i, document in enumerate(documents) if i not in held],
        [document for i, document in enumerate(documents) if i in held],
    )


class _Part:
    """The bytes of a document as a stream of their own."""

    def __init__(self, stream: BinaryIO, document: Document):
        self.stream, self.left = stream, document.num_bytes
        self.name = f"{document.path} (from byte {document.start})"

    def read(self, size: int) -> bytes:
        block = self.stream.read(min(size, self.left))
        self.left -= len(block)
        return block


def _files(paths: Sequence[str | Path]) -> Iterator[Path]:
    for path in map(Path, paths):
        try:
            found = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        except OSError as error:  # a name that is too long, a folder that is closed
            raise DataError(_unreadable(path, error)) from None
        if not found:
            raise DataError(f"{path}: a folder without .txt files")
        yield from found


def _in_file(path: Path, separator: bytes) -> Iterator[Document]:
    try:
        if not path.stat().st_size:
            return
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            start = 3 if data[:3] == b"\xef\xbb\xbf" else 0  # Windows' byte order mark
            while start <= len(data):
                stop = data.find(separator, start) if separator else -1
                stop = len(data) if stop < 0 else stop
                if text := _trimmed(data, start, stop):
                    yield Document(path, *text)
                start = stop + len(separator)
    except OSError as error:
        raise DataError(_unreadable(path, error)) from None


def _trimmed(data: mmap.mmap, start: int, stop: int) -> tuple[int, int] | None:
    """The range without ASCII white space around it; None if nothing is left."""
    first = re.compile(rb"\S").search(data, start, stop)
    if first is None:
        return None
    while data[stop - 1 : stop].isspace():
        stop -= 1
    return first.start(), stop


def _cut(document: Document, size: int) -> tuple[Document, Document]:
    """A document in two, the second of at most `size` bytes, little less if it can."""
    at = document.stop - min(size, document.num_bytes - 1)
    with document.path.open("rb") as stream:
        stream.seek(at)
        tail = stream.read(min(BLOCK, document.stop - at))
    # A line's end at best, else before any byte that does not continue a character.
    for gap in (rb"\n\s*\n\s*(?=\S)", rb"\n\s*(?=\S)", rb"(?=[\x00-\x7f\xc0-\xff])"):
        if found := re.search(gap, tail):
            start, stop = at + found.start(), at + found.end()
            return replace(document, stop=start), replace(document, start=stop)
    raise DataError(
        f"{document.path}: {document.num_bytes} bytes are too few to set some of them "
        "apart for validation; give it more text"
    )


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be read ({error.strerror or error})"
