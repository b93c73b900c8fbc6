"""Damaged files and wild arguments end in one NpgptError or in the right result.

A few hundred cases in the suite; `--hypothesis-profile=full` runs 10,000.
"""

import contextlib
import json
import struct
import tempfile

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner
from helpers import TINY, tiny_params, token_ids, unit_tensors
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from npgpt import GPT2, GPT2Config, NpgptError, Tokenizer
from npgpt.cli import VERBS, main
from npgpt.decoding.defaults import own_options
from npgpt.decoding.options import OPTIONS
from npgpt.storage import checkpoint, hub, weights

# One folder serves all cases of a test: every case writes the files it needs anew.
shared_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

TENSORS = unit_tensors(TINY)
EXPECTED = GPT2(tiny_params()).logits(token_ids(TINY, 1, 6))
WHOLE = safetensors.numpy.save(TENSORS)
(HEADER_LENGTH,) = struct.unpack("<Q", WHOLE[:8])
HEADER = json.loads(WHOLE[8 : 8 + HEADER_LENGTH])
DATA = WHOLE[8 + HEADER_LENGTH :]

numbers = st.one_of(
    st.integers(-3, 40), st.sampled_from([2**31, 2**53, 2**63, 2**64, 10**30, -(2**63)])
)
scalars = st.one_of(
    st.none(), st.booleans(), numbers, st.floats(), st.text(max_size=5), st.just("F32")
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=2),
    ),
    max_leaves=5,
)


@st.composite
def damaged(draw, document):
    """A JSON document with one to three of its places changed, removed or added."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        node = document
        while isinstance(node, dict | list) and len(node):
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = draw(st.sampled_from(keys))
            if not isinstance(node[key], dict | list) or draw(st.booleans()):
                break
            node = node[key]
        if not isinstance(node, dict | list) or not len(node):
            continue
        what = draw(st.sampled_from(["change", "remove", "copy", "add"]))
        if what == "change":
            node[key] = draw(values)
        elif what == "remove":
            del node[key]
        elif what == "copy":
            node[key] = json.loads(json.dumps(node[draw(st.sampled_from(keys))]))
        elif isinstance(node, dict):
            node[draw(st.text(max_size=5))] = draw(values)
    return document


def write(folder, header=None, config=None, data=DATA):
    text = (
        WHOLE[8 : 8 + HEADER_LENGTH] if header is None else json.dumps(header).encode()
    )
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + data
    )
    config = TINY.to_dict() if config is None else config
    (folder / "config.json").write_text(json.dumps(config))


def load_or_refuse(folder):
    """The parameters, with every tensor as the config says; None where refused."""
    try:
        params = checkpoint.load(folder)
    except NpgptError:
        return None
    named = checkpoint.named_tensors(params)
    for name, shape in checkpoint.expected_shapes(params.config).items():
        assert named[name].shape == shape
        assert named[name].dtype == np.float32
    return params


@shared_folder
@given(header=damaged(HEADER))
def test_a_damaged_header_is_refused_or_right(tmp_path, header):
    write(tmp_path, header)
    load_or_refuse(tmp_path)


@shared_folder
@given(at=st.integers(0, 8 + HEADER_LENGTH - 1), byte=st.integers(0, 255))
def test_a_changed_byte_of_the_header_is_refused_or_right(tmp_path, at, byte):
    raw = bytearray(WHOLE)
    raw[at] = byte
    write(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(raw)
    load_or_refuse(tmp_path)


@shared_folder
@given(size=st.integers(0, len(WHOLE) - 1), more=st.binary(max_size=20))
def test_a_cut_or_longer_file_is_refused(tmp_path, size, more):
    write(tmp_path)
    for raw in (WHOLE[:size], WHOLE + more):
        (tmp_path / "model.safetensors").write_bytes(raw)
        assert load_or_refuse(tmp_path) is None or raw == WHOLE


@shared_folder
@given(config=damaged(TINY.to_dict()))
def test_a_damaged_config_is_refused_or_right(tmp_path, config):
    write(tmp_path, config=config)
    params = load_or_refuse(tmp_path)
    if params is not None:
        z = GPT2(params).logits(token_ids(TINY, 1, 6))
        assert z.shape == EXPECTED.shape
        same = {**params.config.to_dict(), "bos_token_id": 0, "eos_token_id": None}
        if same == TINY.to_dict():
            assert (z == EXPECTED).all()


@shared_folder
@given(data=st.data())
def test_a_damaged_index_is_refused_or_right(tmp_path, data):
    names = sorted(TENSORS)
    weight_map = {name: f"{i % 2}.safetensors" for i, name in enumerate(names)}
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    for i in range(2):
        part = {name: TENSORS[name] for name in names[i::2]}
        safetensors.numpy.save_file(part, tmp_path / f"{i}.safetensors")
    index = data.draw(
        damaged({"metadata": {"total_size": 1}, "weight_map": weight_map})
    )
    (tmp_path / weights.INDEX).write_text(json.dumps(index))
    params = load_or_refuse(tmp_path)
    if params is not None:
        assert (GPT2(params).logits(token_ids(TINY, 1, 6)) == EXPECTED).all()


TOKENIZER = json.loads((hub.resolve("tales") / "tokenizer.json").read_text())
TOKENIZER["model"]["merges"] = TOKENIZER["model"]["merges"][:60]
TOKENIZER["model"]["vocab"] = {
    token: id for token, id in TOKENIZER["model"]["vocab"].items() if id < 320
}


def use_or_refuse(folder):
    try:
        tokenizer = Tokenizer.from_folder(folder)
        if tokenizer is None:
            return
        ids = tokenizer.encode("Once upon a time <|endoftext|> é 👋")
        text, stream = tokenizer.decode(ids), tokenizer.stream()
        assert "".join(map(stream.push, ids)) + stream.flush() == text
    except NpgptError:
        pass


@shared_folder
@given(tokenizer=damaged(TOKENIZER))
def test_a_damaged_tokenizer_is_refused_or_works(tmp_path, tokenizer):
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    use_or_refuse(tmp_path)


@shared_folder
@given(vocab=damaged(TOKENIZER["model"]["vocab"]), merges=st.text(max_size=60))
def test_a_damaged_vocabulary_is_refused_or_works(tmp_path, vocab, merges):
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8", newline="")
    use_or_refuse(tmp_path)


TOKEN = {"content": "<|user|>", "lstrip": False, "rstrip": True, "single_word": False,
         "normalized": False, "special": True}  # fmt: skip
BESIDE = {
    "tokenizer_config": {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False,
        "added_tokens_decoder": {"320": TOKEN}, "pad_token": "<pad>",
        "additional_special_tokens": ["<|user|>"], "split_special_tokens": False,
    },
    "special_tokens_map": {"pad_token": TOKEN, "bos_token": "<|endoftext|>"},
    "added_tokens": {"<|user|>": 320},
}  # fmt: skip


@shared_folder
@pytest.mark.filterwarnings("ignore::npgpt.support.notes.Note")
@given(name=st.sampled_from(sorted(BESIDE)), data=st.data())
def test_damaged_files_beside_a_tokenizer_are_refused_or_work(tmp_path, name, data):
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    for other in BESIDE:
        (tmp_path / f"{other}.json").unlink(missing_ok=True)
    wild = data.draw(damaged(BESIDE[name]))
    (tmp_path / f"{name}.json").write_text(json.dumps(wild))
    use_or_refuse(tmp_path)


SAID = {
    "do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "max_length": 9,
    "eos_token_id": [3, 39], "bos_token_id": 0, "num_beams": 2, "max_time": 1.0,
    "repetition_penalty": 1.2, "bad_words_ids": [[7]], "sequence_bias": [[[3], 2.0]],
    "transformers_version": "5.0", "min_length": 2, "suppress_tokens": [1],
}  # fmt: skip


@shared_folder
@pytest.mark.filterwarnings("ignore::npgpt.support.notes.Note")
@given(said=damaged(SAID))
def test_damaged_defaults_are_refused_or_work(tmp_path, said):
    write(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    with contextlib.suppress(NpgptError):
        config = GPT2Config.from_file(tmp_path / "config.json")
        assume(own_options(config).options.get("num_return_sequences", 1) < 40)
        model = GPT2(checkpoint.load(tmp_path))
        made = model.generate([1, 2, 3], max_new_tokens=3)
        for one in made if isinstance(made, list) else [made]:
            assert len(one.ids) <= 3


@given(config=st.dictionaries(st.sampled_from(sorted(TINY.to_dict())), values))
def test_a_wild_config_is_refused_or_right(config):
    with contextlib.suppress(NpgptError):
        GPT2Config.from_dict(config)


MODEL = GPT2(tiny_params())
WILD = st.one_of(values, st.lists(numbers, max_size=3), st.just([[1, 2]]))


@given(
    prompt=st.one_of(WILD, st.lists(st.integers(0, 39), min_size=1, max_size=30)),
    options=st.dictionaries(st.sampled_from(sorted(OPTIONS)), WILD, max_size=3),
    sampled=st.booleans(),
)
def test_wild_arguments_of_generate_are_refused_or_right(prompt, options, sampled):
    options = {"max_new_tokens": 3, "do_sample": sampled, **options}
    if isinstance(options["max_new_tokens"], int):
        assume(options["max_new_tokens"] <= 40)  # more takes longer, and is no damage
    if isinstance(options.get("num_return_sequences"), int):
        assume(options["num_return_sequences"] <= 40)
    try:
        results = MODEL.generate(prompt, **options)
    except NpgptError:
        return
    most = options["max_new_tokens"]
    most = TINY.n_positions if most is None else most  # None: until the room ends
    for result in results if isinstance(results, list) else [results]:
        assert len(result.ids) <= most
        assert all(0 <= id < TINY.vocab_size for id in result.ids)
        assert all(x <= 1e-6 for x in result.logprobs)


@given(ids=st.one_of(WILD, st.lists(st.lists(numbers, max_size=3), max_size=3)))
def test_wild_ids_are_refused_or_scored(ids):
    for use in (MODEL.logits, MODEL.encode, MODEL.score):
        with contextlib.suppress(NpgptError):
            use(ids)


@given(lengths=WILD, rows=st.lists(numbers, max_size=3), keep=WILD)
def test_a_wild_use_of_the_cache_is_refused_or_right(lengths, rows, keep):
    cache = MODEL.new_cache(2)
    MODEL.next_logits([[1, 2, 3], [4]], cache)
    for use in (
        lambda: cache.crop(lengths),
        lambda: cache.select(rows),
        lambda: cache.gather(keep),
        lambda: MODEL.next_logits(keep, cache),
    ):
        with contextlib.suppress(NpgptError):
            use()
    assert [row[:1] for row in cache.ids if row] in ([[1], [4]], [[1]], [[4]], [])


WORDS = """
    tales-mini nowhere - Once --json --model --top-p --greedy 1 0 -1 0.5 nan --seed
    --max-new-tokens 2 --stop --backend numpy cupy --dtype float64 --layer --head
    --out --help --ops --stride --window --limit é
"""
words = st.sampled_from([*WORDS.split(), ""])


@given(verb=st.sampled_from(sorted(VERBS)), words=st.lists(words, max_size=4))
def test_wild_command_lines_end_in_one_sentence(verb, words):
    # Long, or a network: these are in tests/fuzzing/test_command_lines.py.
    assume(verb not in ("bench", "warmup", "train", "compare", "download"))
    words = [*words, "--max-new-tokens", "2"] if verb == "generate" else words
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        result = CliRunner().invoke(main, [verb, *words], input="Once upon")
    assert result.exit_code in (0, 1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if result.exit_code:
        assert result.output.strip()
