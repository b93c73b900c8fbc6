"""JSON schemas and grammars, by the library llguidance (extra `constraints`).

llguidance (MIT; Rust, wheels of 3 MB) parses along with the text and says which tokens
keep it on the way to a sentence of the grammar: a mask over the vocabulary. Matchers
are made anew or moved on from what the new tokens say; nothing depends on the order of
calls. Grammars are written in GBNF, llama.cpp's format, or in Lark.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.rules.base import Context, Ids, keep
from npgpt.decoding.rules.in_time import Endings
from npgpt.decoding.rules.triggers import LazyMask, behind
from npgpt.decoding.vocabulary import all_bytes, padded
from npgpt.errors import DecodingError
from npgpt.interface import Tokens
from npgpt.shapes import Bool, Logits

MATCHERS = 64  # texts whose matcher is kept: rows and beams take turns
BYTES = tuple(bytes([byte]) for byte in range(255))  # UTF-8 has no 255
# A text may be cut into tokens in any way, not as the tokenizer alone would.
ANY_TOKENS = '\n%llguidance {"no_forcing": true}'


class GrammarMask:
    """The tokens that a grammar allows after each text.

    Behind the V ids of the vocabulary the library knows an end of its own, and then
    every byte, by which any text can be spelt.
    """

    def __init__(
        self,
        grammar: str,
        tokenizer: Tokens,
        V: int | None,
        eos: tuple[int, ...],
        option: str = "grammar",
    ):
        library = _library()
        self.option, self.eos = option, eos
        self.tokens = padded(all_bytes(tokenizer), V)
        self.V = len(self.tokens)
        self.tokens += (b"", *BYTES)
        vocabulary = _vocabulary(tokenizer, V, eos)
        self._root = library.LLMatcher(vocabulary, grammar, log_level=0)
        if self._root.is_error():
            raise DecodingError(f"{option}: {_reason(self._root)}")
        self._known: dict[tuple[int, ...], Any] = {}

    @functools.cached_property
    def endings(self) -> Endings:
        """How few tokens lead to an end."""
        return Endings(self)

    def matcher(self, generated: Ids) -> Any:
        """A matcher that has read these tokens."""
        text = tuple(generated)
        if text in self._known:
            return self._known[text]
        before = self._known.get(text[:-1], self._root) if text else self._root
        matcher = before.deep_copy()
        read = text if before is self._root else text[-1:]
        for id in read:
            if id in self.eos:
                break
            if not matcher.validate_tokens([id]):
                raise DecodingError(
                    f"token {id} leaves the grammar; a rule after it forced it"
                )
            matcher.consume_token(id)
            self._check(matcher, text)
        if len(self._known) >= MATCHERS:
            del self._known[next(iter(self._known))]
        self._known[text] = matcher
        return matcher

    def bits(self, matcher: Any) -> Bool[np.ndarray, " N"]:
        """(N,) True where a token, the end or a byte keeps a sentence possible."""
        bits = np.frombuffer(self.mark(matcher), np.uint8)
        return np.unpackbits(bits, bitorder="little")[: len(self.tokens)].view(bool)

    def mark(self, matcher: Any) -> bytes:
        """Those bits as the library has them."""
        bits = np.zeros((len(self.tokens) + 31) // 32, np.int32)
        if not matcher.is_stopped():
            matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        return bits.tobytes()

    def mask(self, generated: Ids, left: float = np.inf) -> Bool[np.ndarray, " V"]:
        """(V,) True where a token keeps the text on the way to a sentence, which is
        whole with so many tokens more."""
        matcher = self.matcher(generated)
        allowed = self.bits(matcher)[: self.V]
        self._check(matcher, generated)
        if left < np.inf:
            known = self.endings.allowed(generated, left)
            allowed = np.zeros(self.V, bool)
            allowed[known] = True
        allowed[list(self.eos)] |= matcher.is_accepting() or matcher.is_stopped()
        return allowed

    def ended(self, generated: Ids) -> bool:
        """Whether these tokens are a sentence, and nothing can follow."""
        return self.matcher(generated).is_stopped()

    def begins(self, generated: Ids, left: float = np.inf) -> bool:
        """Whether a sentence of the grammar begins with this text, and is known to be
        whole with so many tokens more."""
        if self._root.validate_tokens(list(generated)) < len(generated):
            return False
        if left == np.inf:
            return True
        return self.endings.find(generated, left) is not None

    def spelt(self, text: bytes) -> list[int]:
        """The text byte by byte, in ids that only this grammar knows."""
        return [self.V + 1 + byte for byte in text]

    def _check(self, matcher: Any, generated: Ids) -> None:
        """Raise DecodingError where the parser has given up: it allows nothing more."""
        if matcher.is_error():
            raise DecodingError(
                f"{self.option}: the parser gave up after {len(generated)} tokens "
                f"({_reason(matcher)}); simplify it"
            )


@strategy("E14", "grammar", constrains=True, stage="ban", rank=110)
@parameter("grammar", "", "GBNF (llama.cpp) or Lark.", kind="grammar")
@parameter(
    "trigger_words",
    (),
    "Free until one of these occurs; the sentence begins with it.",
    kind="texts",
)
@parameter("trigger_tokens", (), "The same, for tokens.", kind="ids")
@fields(also=("finish_in_time",))
@fields(prepare=lambda *settings: prepare_grammar(*settings))
@fields(ends=lambda new, c, bound: behind(bound[0], c.prefix).ended(new))
@example(
    lambda show: show.rule(
        {"grammar": 'root ::= "x" | "(" root ")"'}, words=("(", ")", "x", "+", "<end>")
    )
)
def grammar(
    z: Logits, generated: Ids, context: Context, bound: tuple[Mask, float]
) -> Logits:
    """The new text is a sentence of a grammar: keep v if the parser lives on after it,
    the end where a sentence is whole.

    The mask comes before truncation, so top-p and the like see allowed tokens only.
    (llama.cpp draws first and masks only when the token does not fit: the same law
    without truncation, another one with it.) A text may be cut into tokens in any
    way, as under `regex`; a parser that gives up is an error. With trigger_words or
    trigger_tokens the text is free until one occurs, and the sentence begins with it
    (npgpt.decoding.rules.triggers). Lark names special tokens: <|endoftext|>. With
    finish_in_time a token is kept where an end is found that max_new_tokens reaches
    (npgpt.decoding.rules.in_time). Source: llama.cpp; llguidance.
    """
    mask, left = behind(bound[0], context.prefix), bound[1] - context.step
    allowed = mask.mask(generated, left)
    if left < np.inf and not allowed.any():
        raise DecodingError(
            f"finish_in_time: no end is known that {max(left, 0):.0f} more tokens reach"
        )
    return keep(z, allowed)


@strategy("E13", "JSON schema", constrains=True, stage="ban", rank=100)
@parameter("json_schema", "", "A dict, or its text.", kind="schema")
@fields(also=("trigger_words", "trigger_tokens", "finish_in_time"))
@fields(prepare=lambda *settings: prepare_schema(*settings))
@fields(ends=lambda new, c, bound: behind(bound[0], c.prefix).ended(new))
@example(
    lambda show: show.rule(
        {"json_schema": '{"type": "integer"}'}, words=("1", "2", "x", "-", "<end>")
    )
)
def json_schema(
    z: Logits, generated: Ids, context: Context, bound: tuple[Mask, float]
) -> Logits:
    """The new text is JSON of this schema: keep v if the parser lives on after it.

    Keys come in the order that the schema gives. With finish_in_time every document is
    whole. Source: llguidance."""
    return grammar(z, generated, context, bound)


def prepare_grammar(
    text: str, words: Sequence[str], tokens: Ids, finish_in_time: bool, setup: Any
) -> tuple[Mask, float]:
    """The mask of a GBNF grammar (it has "::=") or a Lark grammar."""
    _library()
    if "::=" in text:
        from llguidance.gbnf_to_lark import any_to_lark

        try:
            text = any_to_lark(text)
        except Exception as error:  # the converter has no one type for bad grammars
            raise DecodingError(f"grammar: {_first_line(str(error))}") from None
    return _bound("grammar", text + ANY_TOKENS, words, tokens, finish_in_time, setup)


def prepare_schema(
    schema: str, words: Sequence[str], tokens: Ids, finish_in_time: bool, setup: Any
) -> tuple[Mask, float]:
    """The mask of a JSON schema. Whitespace in the JSON is limited to one space."""
    rules = json.loads(schema)
    if isinstance(rules, dict):
        known = rules.get("x-guidance") or {}
        rules["x-guidance"] = {**known, "whitespace_pattern": " ?"}
    text = f"start: %json {json.dumps(rules)}{ANY_TOKENS}"
    return _bound("json_schema", text, words, tokens, finish_in_time, setup)


def _bound(
    option: str,
    text: str,
    words: Sequence[str],
    tokens: Ids,
    finish_in_time: bool,
    setup: Any,
) -> tuple[Mask, float]:
    if setup.tokenizer is None:
        raise DecodingError(f"{option} needs a tokenizer, and this model has none")
    vocabulary = (setup.tokenizer, setup.vocab_size, setup.eos)
    mask = _cached(text, *vocabulary, option)
    lazy = bool(words or tokens)
    most = float(setup.options.max_new_tokens) if finish_in_time else np.inf
    if finish_in_time and not lazy:
        mask.endings.check(option, most)
    return (_lazy(mask, tuple(words), tuple(tokens)) if lazy else mask), most


Mask = GrammarMask | LazyMask
_cached = functools.lru_cache(maxsize=8)(GrammarMask)
_lazy = functools.lru_cache(maxsize=8)(LazyMask)


@functools.lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokens, V: int | None, eos: tuple[int, ...]) -> Any:
    """Our vocabulary as llguidance wants it: bytes by id, marks named behind 255."""
    library, names = _library(), padded(all_bytes(tokenizer), V)
    for id in {*tokenizer.special_ids(), *eos}.intersection(range(len(names))):
        names[id] = b"\xff" + (b"" if names[id] else tokenizer.token_bytes(id))

    names += (b"\xff<end>", *BYTES)
    vocabulary = SimpleNamespace(
        eos_token_id=len(names) - 1 - len(BYTES), bos_token_id=None, tokens=names
    )
    wrapper = library.TokenizerWrapper(vocabulary)
    return library.LLTokenizer(wrapper, n_vocab=len(names))


def _reason(matcher: Any) -> str:
    """What the library says of an error, in one line."""
    line = _first_line(matcher.get_error())
    return line.rpartition("JSON schema: ")[2].removeprefix("Parser Error: ")


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "not a grammar"


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise DecodingError(
            "json_schema and grammar need llguidance: pip install 'npgpt[constraints]'"
        ) from None
    return llguidance
