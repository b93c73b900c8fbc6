"""finish_in_time for schemas and grammars: whole texts, or a refusal at the start."""

import json
import random
import re

import numpy as np
import pytest

from npgpt import DecodingError, GenerationConfig
from npgpt.decoding.chain import build_chain
from npgpt.decoding.rules import grammar
from npgpt.decoding.rules.base import Context

pytest.importorskip("llguidance")

LETTERS = [b"", *(bytes([byte]) for byte in range(32, 127))]
PIECES = [
    *LETTERS,
    b"\xc3",
    b"\xa9",
    b'":',
    b'","',
    b"tru",
    b"rue",
    b'{"',
    b"00",
    b"abc",
]


class Spelt:
    """A tokenizer of these tokens; id 0 ends a text."""

    def __init__(self, tokens):
        self.tokens, self.vocab_size = tokens, len(tokens)

    def special_ids(self):
        return {0}

    def token_bytes(self, id):
        return self.tokens[id] or b"<end>"


LETTERS_ALONE, WITH_PIECES = Spelt(LETTERS), Spelt(PIECES)


def rule_of(told, **options):
    options = GenerationConfig(finish_in_time=True, **options)
    return build_chain(options, (0,), told, told.vocab_size)[0]


def allowed(rule, ids, V):
    return np.flatnonzero(rule.apply(ids, np.zeros(V), Context(0, len(ids))) == 0)


def walk(told, tokens, rng, most, **options):
    """A text of random tokens that the rule allows, at most so many."""
    rule, ids = rule_of(told, max_new_tokens=most, **options), []
    while len(ids) < most:
        ids.append(int(rng.choice(allowed(rule, ids, len(tokens)).tolist())))
        if ids[-1] == 0:
            break
    return b"".join(tokens[id] for id in ids).decode()


def schema(rng, depth=2):
    """A random schema, and the number of characters of its shortest document."""
    kinds = ["string", "integer", "enum", "plain"]
    kind = rng.choice(kinds + ["object", "array", "any"] * (depth > 0))
    if kind == "string":
        least = rng.choice([0, 0, 1, 5])
        most = {"maxLength": least + 3} if rng.random() < 0.5 else {}
        return dict(type="string", minLength=least, **most), least + 2
    if kind == "integer":
        least = rng.choice([0, 7, 10, 123])
        return dict(type="integer", minimum=least), len(str(least))
    if kind == "enum":
        values = rng.sample(["red", "green", "a", 12, None, True, "ab ba"], 3)
        return dict(enum=values), min(len(json.dumps(value)) for value in values)
    if kind == "plain":
        name, n = rng.choice([("boolean", 4), ("null", 4)])
        return dict(type=name), n
    if kind == "any":
        parts = [schema(rng, depth - 1) for _ in range(2)]
        return dict(anyOf=[part for part, _ in parts]), min(n for _, n in parts)
    if kind == "array":
        (items, n), least = schema(rng, depth - 1), rng.choice([0, 1, 2])
        found = dict(type="array", items=items, minItems=least, maxItems=3)
        return found, 2 + least * n + max(0, least - 1)
    parts = {name: schema(rng, depth - 1) for name in "abc"[: rng.choice([1, 2, 3])]}
    needed = [name for name in parts if rng.random() < 0.7]
    found = dict(
        type="object",
        properties={name: part for name, (part, _) in parts.items()},
        required=needed,
        additionalProperties=False,
    )
    own = sum(4 + parts[name][1] for name in needed)
    return found, 2 + own + max(0, len(needed) - 1)


def fits(value, schema):
    """Whether a value is of a schema of these."""
    if "anyOf" in schema:
        return any(fits(value, part) for part in schema["anyOf"])
    if "enum" in schema:
        return any(value == x and type(value) is type(x) for x in schema["enum"])
    kind = schema["type"]
    if kind == "string":
        most = schema.get("maxLength", np.inf)
        return isinstance(value, str) and schema["minLength"] <= len(value) <= most
    if kind == "integer":
        return type(value) is int and value >= schema["minimum"]
    if kind in ("boolean", "null"):
        return isinstance(value, bool) if kind == "boolean" else value is None
    if kind == "array":
        short = isinstance(value, list) and schema["minItems"] <= len(value) <= 3
        return short and all(fits(item, schema["items"]) for item in value)
    return (
        isinstance(value, dict)
        and {*schema["required"]} <= value.keys() <= schema["properties"].keys()
        and all(fits(value[name], schema["properties"][name]) for name in value)
    )


@pytest.mark.parametrize("seed", range(40))
def test_every_document_is_whole_or_refused_before_it_begins(seed):
    """With letters alone the least number of tokens is known, and it is found."""
    rng = random.Random(seed)
    rules, least = schema(rng)
    for most in (least, least + 1, least + 9):
        text = walk(LETTERS_ALONE, LETTERS, rng, most, json_schema=rules)
        assert fits(json.loads(text), rules), (rules, text)
        text = walk(WITH_PIECES, PIECES, rng, most, json_schema=rules)
        assert fits(json.loads(text), rules), (rules, text)
    with pytest.raises(DecodingError, match=f"at most {least - 1} tokens") as refused:
        rule_of(LETTERS_ALONE, json_schema=rules, max_new_tokens=least - 1)
    assert "\n" not in str(refused.value)
    assert "the shortest found has" in str(refused.value)


REGULAR = [  # a regular expression, and the same as a grammar
    ("[a-c]*(d|!!true)", 'root ::= [a-c]* ("d" | "!!true")'),
    ('(true|false|"[a-z]{3,6}")', r'root ::= "true" | "false" | "\"" w "\""'
     "\nw ::= [a-z] [a-z] [a-z] [a-z]? [a-z]? [a-z]?"),
    ("(a|bcd)(00|1|true)?!", 'root ::= ("a" | "bcd") ("00" | "1" | "true")? "!"'),
    ("[ab]{2}é{1,2}", 'root ::= [ab] [ab] "é" "é"?'),
    ("[a-z]*é", 'root ::= [a-z]* "é"'),
]  # fmt: skip


@pytest.mark.parametrize(("regex", "text"), REGULAR)
def test_the_same_tokens_as_under_a_regex(regex, text):
    """There the distances are known exactly."""
    rng, V = random.Random(3), len(PIECES)
    for most in range(2, 12):
        try:
            exact = rule_of(WITH_PIECES, regex=regex, max_new_tokens=most)
        except DecodingError:
            with pytest.raises(DecodingError, match="finish_in_time"):
                rule_of(WITH_PIECES, grammar=text, max_new_tokens=most)
            continue
        rule = rule_of(WITH_PIECES, grammar=text, max_new_tokens=most)
        for _ in range(3):
            ids = []
            while len(ids) < most and ids[-1:] != [0]:
                good = allowed(exact, ids, V)
                np.testing.assert_array_equal(allowed(rule, ids, V), good)
                ids.append(int(rng.choice(good.tolist())))


def test_a_text_is_whole_where_the_search_passes_some_over():
    """All beginnings of these texts allow the same: the search cannot part them."""
    rng, named = random.Random(0), dict(grammar='root ::= [a-c]* "abcabc"')
    for most in (6, 7, 9, 12) * 3:
        text = walk(LETTERS_ALONE, LETTERS, rng, most, **named)
        assert re.fullmatch("[a-c]*abcabc", text)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_allowed_does_not_depend_on_other_texts(seed):
    rng = random.Random(seed)
    rules, least = schema(rng, 3)
    options, V = dict(json_schema=rules, max_new_tokens=least + 4), len(PIECES)
    texts = [[]]
    one = rule_of(WITH_PIECES, **options)
    for ids in texts[:40]:
        found = allowed(one, ids, V)
        if len(ids) < least and found.any():
            texts += [[*ids, int(id)] for id in rng.sample(found.tolist(), 1) if id]
    before = [allowed(one, ids, V).tolist() for ids in texts]
    grammar._cached.cache_clear()
    other = rule_of(WITH_PIECES, **options)
    after = [allowed(other, ids, V).tolist() for ids in reversed(texts)]
    assert before == after[::-1]


TALE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 4},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["old", "new"]}},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_a_model_ends_its_documents_in_time(tales):
    for most, how in ((18, dict(do_sample=True, seed=1)), (20, dict(num_beams=2))):
        options = dict(json_schema=TALE, finish_in_time=True, max_new_tokens=most)
        value = json.loads(tales.generate("The king:", **options, **how).text)
        assert [*value][:2] == ["name", "age"]
    with pytest.raises(DecodingError, match="no text of this json_schema is found"):
        tales.stream("A", json_schema=TALE, finish_in_time=True, max_new_tokens=8)
    long = dict(grammar='root ::= "the queen of all cats"', max_new_tokens=2)
    with pytest.raises(DecodingError, match="no text of this grammar is found"):
        tales.stream("A", finish_in_time=True, **long)
    with pytest.raises(DecodingError, match="a match needs 400 more"):
        tales.stream("A", regex="a{400}", finish_in_time=True, max_new_tokens=3)


def test_healed_and_lazy_texts_end_in_time(tales):
    options = dict(finish_in_time=True, do_sample=True, max_new_tokens=9)
    for seed in range(5):
        schema = {"type": "string", "minLength": 3}
        g = tales.generate(
            'He said: "', json_schema=schema, token_healing=True, seed=seed, **options
        )
        assert len(json.loads(g.text)) >= 3
        sentence = dict(grammar='root ::= "king" [a-z ]* "!!"', trigger_words=["king"])
        g = tales.generate("The old", seed=seed, **sentence, **options)
        assert "king" not in g.text or re.search("king[a-z ]*!!$", g.text), g


def test_a_special_token_may_be_what_ends_the_sentence(tales):
    named = dict(grammar='start: /[ab]*/ "c" <|endoftext|>', finish_in_time=True)
    g = tales.generate("The", max_new_tokens=4, do_sample=True, seed=0, **named)
    assert re.fullmatch("[ab]*c", g.text)
    assert g.ids[-1] == 0
