"""Text files as what a model is trained on: documents, their vocabulary, their ids.

A file is a document, or several with <|endoftext|> between them. Whole documents go
either to training or to validation; the vocabulary is trained on the former alone. A
document is known by its place in a file, and texts are read in blocks, so memory does
not grow with them. Nothing here knows about models; npgpt.training.loop reads the
arrays.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from npgpt.errors import DataError, TokenizerError
from npgpt.support.arguments import checked
from npgpt.texts import BLOCK, encode_pieces, join_words, read_text
from npgpt.tokenizer import END_OF_TEXT, Tokenizer

SPECIAL = (END_OF_TEXT, "[PAD]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
LEAST_VOCABULARY = len(SPECIAL) + 256
MOST_VOCABULARY = 2**24  # memory for all of it is taken before the first merge
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Document:
    """A text: these bytes of a UTF-8 file."""

    path: Path
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        """Its length in UTF-8."""
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


@dataclass(frozen=True)
class Corpus:
    """Ids of the two halves: <|endoftext|> before every document and at the end."""

    tokenizer: Tokenizer
    train: np.ndarray
    validation: np.ndarray
    train_documents: list[Document]
    validation_documents: list[Document]

    def bits_per_byte(self, loss: float) -> float:
        """A mean loss in nats a token on the validation half as bits a UTF-8 byte.

        bits = loss / ln 2 * tokens / bytes, with every id but the first as a target.
        """
        size = sum(document.num_bytes for document in self.validation_documents)
        return loss / math.log(2) * (len(self.validation) - 1) / size


@checked(DataError)
def prepare(
    paths: Sequence[str | Path],
    tokenizer: Tokenizer | int,
    *,
    validation: float = 0.1,
    seed: int = 0,
    window: int = 1,
    folder: str | Path | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Corpus:
    """Files -> training and validation ids, with this tokenizer or one of `int` tokens.

    Each half must hold a window of so many inputs and their targets. In a folder the
    ids are kept as files (train.bin, validation.bin) and mapped, not held in memory.
    progress(what, bytes, total) hears of every block. Raises DataError, TokenizerError.
    """

    def told(what: str, documents: Iterable[Document]) -> Progress | None:
        total = sum(document.num_bytes for document in documents)
        return progress and (lambda n: progress(what, n, total))

    documents = find_documents(paths)
    halves = split(documents, validation, seed)
    if isinstance(tokenizer, int):
        tokenizer = train_tokenizer(halves[0], tokenizer, told("vocabulary", halves[0]))
    ids = []
    for name, half in zip(("train", "validation"), halves, strict=True):
        path = None if folder is None else Path(folder) / f"{name}.bin"
        ids.append(encode(half, tokenizer, path, told(name, half)))
        if len(ids[-1]) <= window:
            raise DataError(
                f"the corpus gives {len(ids[-1]):,} tokens for {name}, fewer than the "
                f"{window + 1:,} of one window; give it more text, or a shorter context"
            )
    return Corpus(tokenizer, ids[0], ids[1], *halves)


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


@checked(TokenizerError)
def train_tokenizer(
    documents: Sequence[Document],
    vocab_size: int,
    progress: Progress | None = None,
) -> Tokenizer:
    """GPT-2's byte-level BPE with a vocabulary of its own, trained on these documents.

    Ids 0 to 4 are <|endoftext|>, [PAD], [CLS], [SEP] and [MASK], then come the 256
    bytes, then merges in the order in which they were found, fewer than asked for where
    the text has no more pairs. (Sennrich et al. 2016; Radford et al. 2019.)
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if not LEAST_VOCABULARY <= vocab_size <= MOST_VOCABULARY:
        raise TokenizerError(
            f"a vocabulary of {vocab_size} cannot be trained; it needs at least "
            f"{LEAST_VOCABULARY}, for {len(SPECIAL)} special tokens and 256 bytes, and "
            f"at most {MOST_VOCABULARY:,}"
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for d in documents for text in join_words(d.pieces(progress)))
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)


@checked(DataError)
def encode(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    path: str | Path | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Ids of the documents, <|endoftext|> before each and at the end.

    uint16 where the vocabulary fits into it, else uint32. With a path they are written
    there and mapped into memory, for a corpus that is larger than it.
    """
    end = tokenizer.token_id(END_OF_TEXT)
    if end is None:
        raise TokenizerError(
            f"the tokenizer has no {END_OF_TEXT}, which parts the documents; use one "
            "of a GPT-2, or train one"
        )
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32

    def blocks() -> Iterator[np.ndarray]:
        for document in documents:
            yield np.array([end], dtype)
            for ids in encode_pieces(tokenizer, document.pieces(progress)):
                yield np.array(ids, dtype)
        yield np.array([end], dtype)

    if path is None:
        return np.concatenate(list(blocks()))
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            for block in blocks():
                block.tofile(stream)
        return np.memmap(path, dtype, mode="r")
    except OSError as error:
        raise DataError(
            f"{path}: the ids cannot be written ({error.strerror or error})"
        ) from None


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
        found = sorted(path.glob("*.txt")) if path.is_dir() else [path]
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
