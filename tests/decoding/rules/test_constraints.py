"""Constraints: every output fits, every mask is what brute force says."""

import itertools
import json
import re

import numpy as np
import pytest
from helpers import shapes_unchecked
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import REJECT, MarkovModel, follows

from npgpt import DecodingError, GenerationConfig
from npgpt.decoding import decode, healing, stopping
from npgpt.decoding.chain import build_chain
from npgpt.decoding.rules import bias, trie
from npgpt.decoding.rules.automaton import Automaton, utf8_ranges
from npgpt.decoding.rules.base import Context
from npgpt.decoding.rules.regex import RegexMask

PATTERNS = [
    "a+b", "(ab|ba)*", "a?b{2,3}", "[^a]b", "a(b|c)*c", "", "(?:a|ab)(?:c|bc)",
    "[a-c]{2}", "a.c", r"\w+\s?", "(a|b|é){1,2}", "c*?a",
    "^a+b$", "^a|^(b|^c)$|ab$", r"\A(a|bc)\Z",
]  # fmt: skip
# a toy vocabulary: an end, letters, pieces, half characters
TOKENS = [b"", b"a", b"b", b"c", b"ab", b"bc", b"aab", b" ", b"\xc3", b"\xa9", b"\xa9a"]
PARTS = [b"a", b"b", b"c", b" ", "é".encode(), "ü".encode()]


def matches(pattern, length):
    """Every text of up to `length` characters of the alphabet that matches."""
    texts = (
        b"".join(x)
        for n in range(length + 1)
        for x in itertools.product(PARTS, repeat=n)
    )
    return [text for text in texts if re.fullmatch(pattern, text.decode())]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_regex_mask_is_brute_force(pattern):
    """A token is allowed where some match begins with the text and the token."""
    mask = RegexMask(pattern, TOKENS, eos=[0])
    found = matches(pattern, 5)
    for n in range(3):
        for ids in itertools.product(range(1, len(TOKENS)), repeat=n):
            text = b"".join(TOKENS[id] for id in ids)
            if not any(match.startswith(text) for match in found):
                continue
            allowed = mask.mask(mask.state(ids))
            for id, token in enumerate(TOKENS[1:], start=1):
                reach = any(match.startswith(text + token) for match in found)
                # a match longer than the enumeration may begin with a long text
                assert allowed[id] == reach or len(text + token) >= 4, (ids, token)
            assert allowed[0] == (text in found)


@given(st.text("abcé \n0", max_size=6), st.sampled_from(PATTERNS))
def test_automaton_is_fullmatch(text, pattern):
    automaton = Automaton(pattern)
    states = automaton.step(automaton.start, text.encode())
    assert automaton.accepts(states) == bool(re.fullmatch(pattern, text))


code_points = st.integers(0, 0x10FFFF)


@given(st.lists(st.tuples(code_points, code_points), max_size=3), code_points)
def test_byte_ranges_are_the_code_points(ranges, code):
    if 0xD800 <= code <= 0xDFFF:
        return
    ranges = [tuple(sorted(pair)) for pair in ranges]
    text = chr(code).encode()
    covered = any(
        len(text) == len(product)
        and all(low <= b <= high for b, (low, high) in zip(text, product, strict=True))
        for product in utf8_ranges(ranges)
    )
    assert covered == any(low <= code <= high for low, high in ranges)


@pytest.mark.parametrize(
    "pattern",
    ["a{", "(?i)a", "(?=a)b", r"(a)\1", "[", r"^a\b", "a^b", "a?^b", "(a$)b", "(^a)*"],
)
def test_regex_that_cannot_constrain_is_refused(pattern):
    if pattern == "a{":  # Python reads it as two characters
        assert Automaton(pattern).start
        return
    with pytest.raises(DecodingError, match="regex"):
        Automaton(pattern)


def generations(tales, n, **options):
    for seed in range(n):
        yield tales.generate(
            "Once upon a time", do_sample=True, seed=seed, max_new_tokens=30, **options
        )


@pytest.mark.parametrize(
    "pattern",
    [
        r" [a-z]+ [a-z]+\.",
        r"[0-9]{3}-[0-9]{4}",
        r" (the|a) (king|queen|cat)!?",
        "é{2,4}",
    ],
)
def test_every_output_matches_its_regex(tales, pattern):
    for generation in generations(tales, 6, regex=pattern, finish_in_time=True):
        assert re.fullmatch(pattern, generation.text), generation


def test_finish_in_time_uses_the_last_token(tales):
    pattern = r" [a-z]+ queen\."
    for budget in range(3, 9):
        g = tales.generate(
            "The",
            regex=pattern,
            finish_in_time=True,
            max_new_tokens=budget,
            do_sample=True,
            seed=budget,
        )
        assert re.fullmatch(pattern, g.text)
    with pytest.raises(DecodingError, match="finish_in_time"):
        tales.generate("The", regex="a{400}", finish_in_time=True, max_new_tokens=3)


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["old", "new"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def test_every_output_is_json_of_its_schema(tales):
    pytest.importorskip("llguidance")
    for seed in range(3):
        g = tales.generate(
            "The king:",
            json_schema=SCHEMA,
            do_sample=True,
            seed=seed,
            max_new_tokens=80,
        )
        value = json.loads(g.text)
        assert list(value) == ["name", "age", "tags"]
        assert isinstance(value["name"], str)
        assert len(value["name"]) <= 8
        assert 0 <= value["age"] <= 99
        assert len(value["tags"]) <= 2
        assert set(value["tags"]) <= {"old", "new"}
        assert g.finish_reason == "eos"


OLD = {
    "type": "object",
    "properties": {"old": {"enum": [1, True]}},
    "required": ["old"],
    "additionalProperties": False,
}
NESTED = 'root ::= "(" root ")" | "[" root "]" | [a-c]'


def balanced(text):
    """A parser of NESTED of its own."""
    while len(text) > 1:
        if text[0] + text[-1] not in ("()", "[]"):
            return False
        text = text[1:-1]
    return text in ("a", "b", "c")


def test_every_output_is_a_sentence_of_its_grammar(tales):
    pytest.importorskip("llguidance")
    ended = 0
    for generation in generations(tales, 6, grammar=NESTED, temperature=2.0):
        if generation.finish_reason == "eos":
            ended += 1
            assert balanced(generation.text)
    assert ended


@pytest.mark.parametrize(
    ("regex", "constraint"),
    [
        (
            "( [a-z]{1,6}){2}[.!]",
            dict(
                grammar="root ::= w w [.!]\n"
                'w ::= " " [a-z] [a-z]? [a-z]? [a-z]? [a-z]? [a-z]?'
            ),
        ),
        (" the queen", dict(grammar='root ::= " the queen"')),
        (" (the|a) queen!", dict(grammar='start: (" the" | " a") " queen!"')),
        ('"the  king # %json }"', dict(json_schema={"const": "the  king # %json }"})),
        ('{ ?"old" ?: ?(1|true) ?}', dict(json_schema=OLD)),
    ],
    ids=["words", "forced", "lark", "text", "object"],
)
def test_grammar_equals_regex_on_a_regular_language(tales, regex, constraint):
    """Two parsers, one of a library and one of ours: the same masks everywhere.

    A text that is forced may be cut into tokens in every way.
    """
    pytest.importorskip("llguidance")
    setup = dict(eos_token_ids=(0,), tokenizer=tales.tokenizer, vocab_size=4096)
    one = build_chain(GenerationConfig(regex=regex), **setup)[0]
    other = build_chain(GenerationConfig(**constraint), **setup)[0]
    rng, flat = np.random.default_rng(0), np.zeros(4096)
    for _ in range(5):
        ids = []
        for step in range(12):
            c = Context(0, step)
            a, b = one.apply(ids, flat, c), other.apply(ids, flat, c)
            np.testing.assert_array_equal(a, b)
            allowed = np.flatnonzero(a > -np.inf)
            ids.append(int(rng.choice(allowed)))
            if ids[-1] == 0:
                break


def test_a_parser_that_gives_up_is_an_error_and_no_end(tales):
    """2,000 ways to read a text are more than the library follows."""
    pytest.importorskip("llguidance")
    options = dict(grammar='start: s{1,3000}\ns: "a" | s "b" s | ""')
    rule = build_chain(GenerationConfig(**options), (0,), tales.tokenizer, 4096)[0]
    a, b = (tales.encode(letter)[0] for letter in "ab")
    flat, ids = np.zeros(4096), []
    for step in range(9):
        z = rule.apply(ids, flat, Context(0, step))
        assert z[b if step % 2 else a] == 0
        ids.append(b if step % 2 else a)
    with pytest.raises(DecodingError, match="grammar: the parser gave up after 10 tok"):
        rule.apply([*ids, b], flat, Context(0, 10))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(grammar='root ::= "a'), "grammar"),
        (dict(grammar="start: missing"), "missing"),
        (dict(json_schema={"type": "nothing"}), "^json_schema: .*nothing"),
        (dict(grammar='root ::= "a"', trigger_words=["b"]), "begins with the trigger"),
        (dict(trigger_words=["b"]), "changes nothing without"),
        (dict(json_schema="{"), "json_schema must be"),
        (dict(regex="("), "regex"),
        (dict(choice=[]), "choice must be a list"),
        (dict(choice="abc"), "choice must be a list"),
    ],
)
def test_bad_constraints_are_refused_before_any_step(tales, options, sentence):
    if any(name in options for name in ("grammar", "json_schema", "trigger_words")):
        pytest.importorskip("llguidance")
    with pytest.raises(DecodingError, match=sentence):
        tales.stream("A", **options)


@given(
    st.lists(
        st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=5
    )
)
def test_trie_reaches_its_sequences_and_nothing_else(sequences):
    root = trie.trie([*s, 0] for s in sequences)
    ended, todo = set(), [()]
    while todo:
        text = todo.pop()
        for id in np.flatnonzero(
            trie.allow_children(np.zeros(4), text, root) > -np.inf
        ):
            if id == 0:
                ended.add(text)
            else:
                todo.append((*text, int(id)))
    assert ended == {tuple(s) for s in sequences}


NO_END = [
    (dict(regex=" (old|new) [a-c]{2}"), " (old|new) [a-c]{2}"),
    (dict(regex="(one|onet)w"), "(one|onet)w"),
    (dict(choice=[" cat", " dog", " a very old man"]), "(?: cat| dog| a very old man)"),
    (dict(grammar='root ::= "(" root ")" | "a"', temperature=0.5), None),
    (dict(json_schema=OLD), '{ ?"old" ?: ?(1|true) ?}'),
    (dict(grammar='start: " king" "!"', trigger_words=[" king"]), None),
]


@pytest.mark.parametrize(("constraint", "pattern"), NO_END)
def test_a_constraint_that_ends_itself_needs_no_end_of_text(tales, constraint, pattern):
    if {"grammar", "json_schema"} & constraint.keys():
        pytest.importorskip("llguidance")
    for ending in (dict(eos_token_id=[]), dict(ignore_eos=True)):
        for search in (dict(do_sample=True, seed=1), dict(num_beams=2)):
            if "temperature" in constraint and "num_beams" in search:
                continue
            options = dict(max_new_tokens=30) | constraint | ending | search
            g = tales.generate("The", **options)
            assert 0 not in g.ids
            if pattern is not None:
                assert g.finish_reason == "stop"
                assert re.fullmatch(pattern, g.text), g
            elif g.finish_reason == "stop":
                assert g.text.endswith("!") or balanced(g.text)


def test_a_choice_that_could_not_end_is_refused(tales):
    for choice in ([" cat", " catfish"], ["", "a"], [""]):
        with pytest.raises(DecodingError, match="is the beginning of another text"):
            tales.stream("The", choice=choice, eos_token_id=[])


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (dict(regex=r"<\|endoftext\|>!"), "<|endoftext|>!"),
        (dict(choice=["<|endoftext|>!"]), "<|endoftext|>!"),
        (dict(grammar='root ::= "<|endoftext|>!"'), "<|endoftext|>!"),
        (dict(json_schema={"const": "<|endoftext|>"}), '"<|endoftext|>"'),
        (dict(grammar='start: "a" <|endoftext|>'), "a"),
        (dict(grammar='start: "a" <[0]>'), "a"),
    ],
)
def test_a_text_may_spell_a_special_token_and_lark_may_name_it(tales, constraint, text):
    if {"grammar", "json_schema"} & constraint.keys():
        pytest.importorskip("llguidance")
    g = tales.generate("The", max_new_tokens=40, **constraint)
    assert (g.text, g.finish_reason) == (text, "eos")


def test_a_schema_may_be_true_or_false(tales):
    pytest.importorskip("llguidance")
    options = dict(do_sample=True, seed=2, max_new_tokens=30)
    found = tales.generate("The", json_schema=True, **options)
    if found.finish_reason == "eos":
        json.loads(found.text)
    with pytest.raises(DecodingError, match="json_schema: Unsatisfiable schema"):
        tales.stream("The", json_schema=False)


def test_choice_writes_one_of_its_texts(tales):
    choice = [" cat", " catfish", " dog", " a very old man"]
    for generation in generations(tales, 10, choice=choice, temperature=3.0):
        assert generation.text in choice
        assert generation.finish_reason == "eos"


@settings(max_examples=25)  # each example runs the model
@given(st.data())
def test_healed_text_begins_with_the_prompt(tales, data):
    text = data.draw(
        st.sampled_from(
            ["Once upon a ti", "The kin", "She said to the qu", "hé", "An old wo", "x"]
        )
    )
    seed = data.draw(st.integers(0, 50))
    g = tales.generate(
        text, token_healing=True, do_sample=True, seed=seed, max_new_tokens=4
    )
    whole = tales.tokenizer.decode(g.prompt_ids + g.ids)
    assert whole.startswith(text)
    assert whole == text + g.text or g.finish_reason == "eos"


def test_healing_takes_back_whole_characters(tales):
    ids = tales.encode("a ü")
    start = healing.heal(ids, tales.tokenizer, GenerationConfig(token_healing=True))
    assert start.prefix.decode()  # decodes: it does not begin inside a character
    assert tales.tokenizer.decode(start.ids) + start.prefix.decode() == "a ü"


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        (dict(regex="(g|dness) [a-z]+!"), "(g|dness) [a-z]+!"),
        (dict(regex="(g|dn) [a-z]+!", finish_in_time=True), "(g|dn) [a-z]+!"),
        (dict(choice=["g", "gs are", " x", "dred spirit"]), "g|gs are| x|dred spirit"),
        (dict(grammar='root ::= ("g" | "d") " "? [a-z] "!"'), "[gd] ?[a-z]!"),
        (dict(json_schema={"enum": [1, 2]}), "[12]"),
        (dict(grammar='root ::= "g" [a-z]', trigger_words=["g"]), "g[a-z]|[^g]*"),
    ],
)
def test_a_constraint_begins_behind_the_healed_bytes(tales, constraint, pattern):
    if {"grammar", "json_schema"} & constraint.keys():
        pytest.importorskip("llguidance")
    for seed in range(4):
        options = dict(max_new_tokens=9, do_sample=True, seed=seed, **constraint)
        g = tales.generate("The kin", token_healing=True, **options)
        read = tales.tokenizer.decode([id for id in g.prompt_ids + g.ids if id])
        assert read == "The kin" + g.text
        if g.finish_reason == "eos" or "finish_in_time" in constraint:
            assert re.fullmatch(pattern, g.text), g


def test_no_constraint_begins_behind_half_a_character(tales):
    whole, options = tales.encode("an \u2042"), dict(token_healing=True)
    at = next(n for n in range(9) if tales.tokenizer.decode(whole[:-n]) == "an \ufffd")
    for constraint in (dict(regex="a"), dict(choice=["a"])):
        with pytest.raises(DecodingError, match="ends inside a character"):
            tales.generate(whole[:-at], **constraint, **options)
    with pytest.raises(DecodingError, match="token ids do not go with token_healing"):
        tales.stream("The kin", choice=[[1]], **options)


def test_a_phrase_is_banned_in_the_new_text_alone(tales):
    """Not in what token healing took back, nor in the name of the end of a text."""
    options = dict(token_healing=True, max_new_tokens=5)
    free = tales.generate("The kin", **options)
    assert tales.generate("The kin", banned_strings=[" kin"], **options) == free
    choice = dict(choice=[" a"], banned_strings=["endoftext"])
    assert tales.generate("The", **choice).finish_reason == "eos"


@pytest.mark.parametrize("phrase", ["\u0130", "i", "STRASSE", "\u03a3A"])
def test_a_phrase_is_banned_whatever_its_case(tales, phrase):
    """Some letters become two in the other case: their places shift."""
    texts = ["\u0130b", "ib", "stra\u00dfe", "\u03c2a", "free"]
    options = dict(choice=texts, banned_strings=[phrase], max_new_tokens=20)
    found = set()
    for seed in range(6):
        g = tales.generate("The", do_sample=True, seed=seed, temperature=3.0, **options)
        found.add(g.text)
    banned = {text for text in texts if phrase.casefold() in text.casefold()}
    assert banned
    assert found <= set(texts) - banned


def test_banned_phrases_never_occur_and_streaming_holds_them_back(tales):
    banned = ["little", "The", "was a", "old man"]
    options = dict(do_sample=True, banned_strings=banned, max_new_tokens=30)
    free = dict(do_sample=True, max_new_tokens=30)
    changed = 0
    for seed in range(4):
        text = ""
        for step in tales.stream("Once upon a time", seed=seed, **options):
            text += step.text
            assert not any(phrase.lower() in text.lower() for phrase in banned)
        changed += text != tales.generate("Once upon a time", seed=seed, **free).text
    assert changed >= 3  # these phrases are common: the ban was put to the test


def test_phrase_ban_without_an_occurrence_changes_nothing(tales):
    for seed in range(2):
        options = dict(do_sample=True, seed=seed, max_new_tokens=12, top_logprobs=2)
        free = tales.generate("Once upon a time", **options)
        assert (
            tales.generate("Once upon a time", banned_strings=["zzz"], **options)
            == free
        )


def test_undecided_end_of_text():
    assert stopping.undecided("it was", ["was a"]) == 3
    assert stopping.undecided("it was b", ["was a"]) == 0
    assert stopping.undecided("", ["was a"]) == 0


def test_phrase_ban_redraws_from_what_is_left():
    """Banning a token after it was drawn has the law of banning it before."""
    p = np.array([0.5, 0.3, 0.2])
    law, draws = {1: 0.6, 2: 0.4}, []
    for seed in range(3000):
        first = Context(1, 0, seed)
        u = first.uniform()
        id = int(np.searchsorted(np.cumsum(p), u, side="right"))
        if id == 0:
            again = Context(1, 0, seed, attempt=1).uniform()
            id = 1 if again < 0.6 else 2
        draws.append(id)
    assert follows(draws, law) > REJECT


class Letters:
    """A tokenizer of one-byte tokens, for exact laws of texts."""

    vocab_size = 3

    def special_ids(self):
        return {2}

    def token_bytes(self, id):
        return b"ab"[id : id + 1]

    def encode(self, text):
        return ["ab".index(c) for c in text]

    def stream(self, after=()):
        return self

    def push(self, id):
        return "ab"[id]

    def flush(self):
        return ""


def constrained_law(model, pattern, length):
    law = {
        text: p
        for text, p in model.law(0, length).items()
        if text[-1] == 2 and re.fullmatch(pattern, "".join("ab"[i] for i in text[:-1]))
    }
    total = sum(law.values())
    return {text: p / total for text, p in law.items()}


EVEN = ("a(a|b)|b+", [[0.1, 0.6, 0.3], [0.7, 0.1, 0.2], [1 / 3] * 3])
# most particles begin with a, which hardly goes on: smc has to resample
UNEVEN = ("abb|b+", [[0.85, 0.1, 0.05], [0.1, 0.5, 0.4], [1 / 3] * 3])


@pytest.mark.parametrize(
    ("how", "runs", "particles", "case"),
    [
        ("rejection", 400, 16, EVEN),
        ("asap", 120, 16, EVEN),
        ("smc", 200, 24, EVEN),
        ("smc", 150, 80, UNEVEN),  # the law of few particles is biased
    ],
)
def test_exact_constrained_sampling_has_the_conditional_law(how, runs, particles, case):
    pattern, p = case
    model = MarkovModel(np.log(p), eos=2)
    model.tokenizer = Letters()
    options = GenerationConfig(
        do_sample=True,
        regex=pattern,
        max_new_tokens=4,
        exact_constraint=how,
        exact_rounds=200 if how == "rejection" else 20,
        smc_particles=particles,
    )
    law = constrained_law(model, pattern, 4)
    draws = []
    with shapes_unchecked():
        for seed in range(runs):
            steps = decode(model, [[0]], options.but(seed=seed))
            draws.append(tuple(step.token_id for step in steps))
    assert follows(draws, law) > REJECT
    # masking alone has another law, and this test would see it
    masked = options.but(exact_constraint=None, exact_rounds=None, smc_particles=None)
    draws = []
    for seed in range(400):
        steps = decode(model, [[0]], masked.but(seed=seed))
        draws.append(tuple(step.token_id for step in steps))
    assert follows(draws, law) < REJECT


def test_a_particle_without_a_way_on_dies_and_the_others_write():
    """Every text that fits and begins with a would go on with b, which is banned."""
    pattern, p = UNEVEN
    model = MarkovModel(np.log(p), eos=2)
    model.tokenizer = Letters()
    smc = dict(exact_constraint="smc", smc_particles=16)
    for seed in range(5):
        ban = dict(do_sample=True, bad_words_ids=[[0, 1]], seed=seed)
        config = GenerationConfig(regex=pattern, **ban, **smc)
        text = [step.token_id for step in decode(model, [[1]], config)]
        assert set(text[:-1]) == {1}
        assert text[-1] == 2


def test_repetition_detection_is_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(0, 2, rng.integers(0, 14)).tolist()
        low, high, count = 1 + int(rng.integers(2)), int(rng.integers(5)), 2
        expected = any(
            len(ids) >= s * count and ids[-s * count :] == ids[-s:] * count
            for s in range(low, high + 1)
        )
        assert stopping.repeats(ids, high, low, count) == expected


def test_repetition_ends_a_text(tales):
    (the,) = tales.tokenizer.encode(" the")
    g = tales.generate(
        "Once upon a time",
        max_new_tokens=60,
        max_pattern_size=6,
        sequence_bias={(the,): 100.0},
    )
    assert g.finish_reason == "repetition"
    assert g.text == " the the the"


def test_teacher_forcing_scores_the_text(tales):
    ids = tales.encode(", a little old woman")
    g = tales.generate(
        "Once upon a time", trace_decode_token_ids=ids, max_new_tokens=len(ids)
    )
    assert g.ids == ids
    prompt = tales.encode("Once upon a time")
    z = tales.logits(prompt + ids)[0, len(prompt) - 1 : -1].astype(np.float64)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    np.testing.assert_allclose(g.logprobs, log_p[range(len(ids)), ids], atol=1e-4)


def test_bad_words_cover_the_word_with_a_space(tales):
    free = tales.generate("Once upon a time", max_new_tokens=12)
    word = re.search(r"(?<= )[A-Za-z]{3,}", free.text)[0]
    g = tales.generate("Once upon a time", max_new_tokens=12, bad_words=[word])
    assert word not in g.text
    assert bias.bad_words(np.zeros(3), [1], [(1, 2)])[2] == -np.inf
