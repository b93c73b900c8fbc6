"""Lazy grammars: free until a trigger, then what brute force allows."""

import re

import numpy as np
import pytest

from npgpt import GenerationConfig
from npgpt.decoding.chain import build_chain
from npgpt.decoding.rules.base import Context

pytest.importorskip("llguidance")


class Pieces:
    """A tokenizer of letters and pieces; id 0 ends a text."""

    pieces = (
        b"",
        *(bytes([c]) for c in b"abc()"),
        b"(a",
        b"b(",
        b"ab(c",
        b"(b)",
        b")c",
    )
    vocab_size = len(pieces)

    def special_ids(self):
        return {0}

    def token_bytes(self, id):
        return self.pieces[id]

    def encode(self, text):
        return [self.pieces.index(c.encode()) for c in text]


LAZY = 'root ::= "(" [ab] [ab]? ")" | "b(" "c"+ | "aca"'
SENTENCES = ["(" + x + ")" for x in ("a", "b", "aa", "ab", "ba", "bb")]
SENTENCES += ["b(" + "c" * n for n in range(1, 9)] + ["aca"]


def sentence_so_far(ids, words, tokens):
    """What llama.cpp's grammar has been given, token by token; None while it waits."""
    buffer = b""
    for n, id in enumerate(ids):
        if id in tokens:
            return b"".join(Pieces.pieces[id] for id in ids[n:])
        buffer += Pieces.pieces[id]
        for word in words:
            if word in buffer:
                rest = b"".join(Pieces.pieces[id] for id in ids[n + 1 :])
                return buffer[buffer.index(word) :] + rest
    return None


@pytest.mark.parametrize(
    ("words", "tokens"),
    [
        (["("], ()),
        (["b("], ()),
        (["b(", "("], ()),
        (["aca"], (7,)),
        (["("], (7,)),
        ((), (4, 7)),
    ],
)
def test_lazy_grammar_is_brute_force(words, tokens):
    """A token is allowed where there is no trigger yet, or a sentence goes on so."""
    options = GenerationConfig(grammar=LAZY, trigger_words=words, trigger_tokens=tokens)
    rule = build_chain(options, (0,), Pieces(), Pieces.vocab_size)[0]
    words, flat = [word.encode() for word in words], np.zeros(Pieces.vocab_size)
    front, waited, bound = [()], 0, 0
    for _ in range(4):
        longer = []
        for ids in front:
            expected = np.zeros(Pieces.vocab_size, bool)
            so_far = sentence_so_far(ids, words, tokens)
            expected[0] = so_far is None or so_far.decode() in SENTENCES
            for id in range(1, Pieces.vocab_size):
                new = sentence_so_far((*ids, id), words, tokens)
                expected[id] = new is None or any(
                    sentence.encode().startswith(new) for sentence in SENTENCES
                )
            found = rule.apply(ids, flat, Context(0, len(ids))) > -np.inf
            assert found.tolist() == expected.tolist(), ids
            longer += [
                (*ids, int(id)) for id in np.flatnonzero(expected)[1 - expected[0] :]
            ]
            waited, bound = waited + (so_far is None), bound + (so_far is not None)
        front = [ids for ids in longer if ids[-1]]
    assert waited > 10
    assert bound > 10


def test_lazy_grammar_lets_the_text_begin_freely(tales):
    bound = free = 0
    for seed in range(6):
        g = tales.generate(
            "Once upon a time",
            grammar='root ::= " the " [a-z]+ "!"',
            trigger_words=[" the "],
            max_new_tokens=60,
            do_sample=True,
            seed=seed,
        )
        before, trigger, after = g.text.partition(" the ")
        if trigger and g.finish_reason == "eos":
            bound += 1
            free += bool(before)  # the first words may be the trigger
            assert re.fullmatch(r"[a-z]+!", after), g.text
    assert bound
    assert free
