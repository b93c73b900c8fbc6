"""Texts of any length as token ids, in memory that does not grow with them.

Files are read in blocks, split into documents and encoded in pieces. The ids are those
of encoding the whole text: a piece ends before white space that follows other text,
where GPT-2's pre-tokenizer always begins a new word. Where a tokenizer makes no such
promise, the whole text is encoded at once. Nothing here knows about models.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from npgpt.errors import TokenizerError
from npgpt.interface import Model, Tokens
from npgpt.support.arguments import Stream, checked

BLOCK = 2**16  # bytes read and, at least, characters encoded at once
# Python's \s holds all of Unicode's white space, so \S is none for any tokenizer.
_LAST_CUT = re.compile(r".*\S(?=[ \t\r\n])", re.DOTALL)


@checked(TokenizerError)
def read_text(
    file: str | Path | Stream, progress: Callable[[int], object] | None = None
) -> Iterator[str]:
    """The text of a UTF-8 file in pieces, as every verb reads it.

    What Windows adds is no text: a byte order mark at the beginning, and the \\r of a
    line's end. progress is told of every so many bytes read. Raises TokenizerError
    where the file is no UTF-8 or cannot be read.
    """
    if not isinstance(file, str | Path):
        where = getattr(file, "name", "the text")
        yield from _unix(_decoded(file, where, progress))
        return
    try:
        with open(file, "rb") as stream:
            yield from _unix(_decoded(stream, str(file), progress))
    except OSError as error:
        raise TokenizerError(
            f"{file}: cannot be read ({error.strerror or error})"
        ) from None


def _decoded(
    stream: Stream, where: str, progress: Callable[[int], object] | None
) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0
    while True:
        block = stream.read(BLOCK)
        if not isinstance(block, bytes):
            raise TokenizerError(
                f"{where}: does not give bytes; open it with mode 'rb'"
            )
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            at = read - held + error.start
            begins = block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            hint = " (it begins as UTF-16 does)" if begins and not at else ""
            raise TokenizerError(
                f"{where}: byte {at} is not UTF-8{hint}; convert the text to UTF-8 "
                "first"
            ) from None
        read += len(block)
        if progress is not None:
            progress(len(block))
        if text:
            yield text
        if not block:
            return


def _unix(pieces: Iterable[str]) -> Iterator[str]:
    r"""The same without a byte order mark, and with lines that end in \n.

    >>> list(_unix(["\ufeffone\r", "\ntwo\r", "three"]))
    ['one', '\ntwo', '\rthree']
    """
    held, first = "", True
    for piece in pieces:
        text = held + (piece.removeprefix("\ufeff") if first else piece)
        held, first = "\r" * text.endswith("\r"), False
        text = text.removesuffix("\r").replace("\r\n", "\n")
        if text:
            yield text
    if held:
        yield held


def split_documents(
    pieces: Iterable[str], separator: str | None
) -> Iterator[Iterator[str]]:
    """The documents between separators, each in pieces, to be read one after another.

    >>> [list(d) for d in split_documents(["one--t", "wo-", "-three"], "--")]
    [['one'], ['two'], ['thre', 'e']]
    """
    if not separator:
        yield iter(pieces)
        return
    source, rest, more = iter(pieces), "", True

    def document() -> Iterator[str]:
        nonlocal rest, more
        while (at := rest.find(separator)) < 0:
            # A separator may begin in the last characters and end in the next piece.
            sure = max(0, len(rest) - len(separator) + 1)
            if sure:
                yield rest[:sure]
            rest = rest[sure:]
            block = next(source, None)
            if block is None:
                more = False
                at = len(rest)
                break
            rest += block
        piece, rest = rest[:at], rest[at + len(separator) :]
        if piece:
            yield piece

    while more:
        yield document()


def encode_pieces(
    tokenizer: Tokens, pieces: Iterable[str], block: int = BLOCK
) -> Iterator[list[int]]:
    """Ids of the pieces joined, in blocks; the blocks joined are the ids of it all."""
    if not can_be_cut(tokenizer):
        yield tokenizer.encode("".join(pieces))
        return
    for text in join_words(pieces, block):
        yield tokenizer.encode(text)


def join_words(pieces: Iterable[str], block: int = BLOCK) -> Iterator[str]:
    """The same text in other pieces: of `block` characters or more, no word in two.

    >>> list(join_words(["one t", "wo", " three"], block=6))
    ['one', ' two', ' three']
    """
    rest, searched = "", 0
    for piece in pieces:
        rest += piece
        if len(rest) < block:
            continue
        found = _LAST_CUT.match(rest, searched)
        searched = len(rest) - 1
        if found:
            yield rest[: found.end()]
            rest, searched = rest[found.end() :], 0
    if rest:
        yield rest


def following(model: Model, text: Any) -> list[int]:
    """Ids of a text that follows another: nothing is put at its beginning.

    >>> from npgpt import GPT2
    >>> following(GPT2.from_pretrained("tales"), " a time")
    [263, 563]
    """
    if isinstance(text, str) and model.tokenizer is not None:
        text = model.tokenizer.encode(text) or text
    return model.encode(text)


def can_be_cut(tokenizer: Tokens) -> bool:
    """Whether a text may be encoded in parts that begin with white space.

    GPT-2's pattern always begins a token at white space after other text, and looks
    ahead only from within white space, so neither side of the cut sees the other.
    """
    pipeline = tokenizer.pipeline
    splitter = pipeline["pre_tokenizer"] or {}
    return (
        splitter.get("type") == "ByteLevel"
        and splitter.get("use_regex", True)
        and not splitter.get("add_prefix_space")
        and pipeline["normalizer"] is None
        and not any(
            token["rstrip"] or re.search(r"\s", token["content"])
            for token in pipeline["added_tokens"]
        )
    )
