"""generation_config.json: what of it becomes a default of generate, and what not."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from helpers import TINY, tiny_params

from npgpt import (
    GPT2,
    CheckpointError,
    ContextOverflowError,
    DecodingError,
    GPT2Config,
)
from npgpt.cli import main
from npgpt.config import WITHOUT_EFFECT as CONFIG_WITHOUT_EFFECT
from npgpt.decoding.defaults import WITHOUT_EFFECT, own_options, with_defaults
from npgpt.decoding.options import OPTIONS
from npgpt.storage import checkpoint
from npgpt.support.notes import Note

PROMPT = [1, 2, 3]


@pytest.fixture
def folder(tmp_path):
    checkpoint.save(tiny_params(), tmp_path)
    return tmp_path


def model(folder, config=None, **generation):
    """The tiny model with this generation_config.json."""
    if config is not None:
        whole = {**json.loads((folder / "config.json").read_text()), **config}
        (folder / "config.json").write_text(json.dumps(whole))
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return GPT2.from_pretrained(folder)


def ids(model, **options):
    return model.generate(PROMPT, **options).ids


PLAIN = GPT2(tiny_params())


@pytest.mark.parametrize(
    "own",
    [
        dict(do_sample=True, temperature=0.7, top_k=5, top_p=0.9),
        dict(repetition_penalty=1.5, no_repeat_ngram_size=2),
        dict(num_beams=3, length_penalty=0.5, early_stopping=True),
        dict(max_new_tokens=4),
        dict(suppress_tokens=[4, 5], begin_suppress_tokens=[6]),
        dict(sequence_bias=[[[3, 4], 2.0]], bad_words_ids=[[7]]),
        dict(penalty_alpha=0.6, top_k=4),
        dict(forced_eos_token_id=3, max_new_tokens=5),
        dict(do_sample=True, min_p=0.1, typical_p=0.9, epsilon_cutoff=0.01),
    ],
)
def test_every_key_that_has_a_meaning_is_a_default(folder, own):
    options = dict(own)
    if "sequence_bias" in own:
        options["sequence_bias"] = [((3, 4), 2.0)]
    asked = model(folder, **own)
    assert ids(asked) == ids(PLAIN, **options)
    assert [step.token_id for step in asked.stream(PROMPT)] == ids(PLAIN, **options)
    assert ids(asked, defaults=False) == ids(PLAIN)


def test_texts_end_at_each_of_several_ends(folder):
    long = ids(PLAIN, max_new_tokens=12)
    end = long[4]
    asked = model(folder, eos_token_id=[39, end])
    for defaults in (True, False):
        found = asked.generate(PROMPT, max_new_tokens=12, defaults=defaults)
        assert found.ids == long[: long.index(end) + 1]
        assert found.finish_reason == "eos"
    assert asked.config.eos_token_ids == (39, end)
    assert asked.config.eos_token_id is None  # config.json stays as it was


def test_the_end_of_config_json_holds_where_no_other_is_named(folder):
    long = ids(PLAIN, max_new_tokens=12)
    end = long[4]
    for generation in (
        {"use_cache": True},
        {"eos_token_id": None},
        {"eos_token_id": 40},
        {"eos_token_id": [-1]},
        {"eos_token_id": []},
    ):
        asked = model(folder, {"eos_token_id": end}, **generation)
        assert ids(asked, max_new_tokens=12) == long[: long.index(end) + 1]
    asked = model(folder, {"eos_token_id": end}, eos_token_id=39)
    assert ids(asked, max_new_tokens=12) == long
    assert ids(asked, max_new_tokens=12, eos_token_id=end)[-1] == end


def test_explicit_arguments_come_first(folder):
    asked = model(folder, do_sample=True, temperature=0.7, top_k=5, max_new_tokens=4)
    assert ids(asked, do_sample=False) == ids(PLAIN, max_new_tokens=4)
    options = dict(do_sample=True, temperature=1.3, top_k=0, max_new_tokens=6)
    assert ids(asked, **options) == ids(PLAIN, **options)
    # what is given needs no do_sample of its own where the model samples anyway
    assert ids(asked, temperature=1.3) == ids(
        PLAIN, do_sample=True, temperature=1.3, top_k=5, max_new_tokens=4
    )


@pytest.mark.parametrize(
    ("own", "given"),
    [
        (dict(temperature=0.7, top_p=0.9, top_k=5), {}),  # nothing samples
        (dict(length_penalty=2.0, early_stopping=True), {}),  # no beams
        (dict(num_beams=4), dict(penalty_alpha=0.6, top_k=4)),  # two searches
        (dict(do_sample=True, top_k=5), dict(temperature=0.0)),
        (dict(min_new_tokens=9), dict(max_new_tokens=3)),
    ],
)
def test_a_default_that_can_have_no_effect_is_left_out(folder, own, given):
    if "temperature" in given:
        own = {"top_k": 5}
    assert ids(model(folder, **own), **given) == ids(PLAIN, **given)


def test_a_length_is_what_the_file_says_and_what_fits(folder):
    asked = model(folder, max_length=10)  # prompt included
    assert len(ids(asked)) == 7
    assert len(ids(asked, max_new_tokens=9)) == 9
    with pytest.raises(
        DecodingError, match=r"has 10 tokens.*max_length 10; give max_new"
    ):
        asked.generate(list(range(10)))
    asked = model(folder, max_new_tokens=500)
    assert len(ids(asked)) == TINY.n_positions + 1 - len(PROMPT)
    assert len(ids(asked, overflow="slide", max_new_tokens=40)) == 40
    asked = model(folder, max_length=10, max_new_tokens=2)
    assert len(ids(asked)) == 2


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({"max_time": 9.0}, "max_time is not known here; it is passed over"),
        ({"my_own": "x"}, "my_own is not known here"),
        ({"watermarking_config": {"bias": 2}}, "watermarking_config is not known here"),
        ({"temperature": "hot"}, "temperature must be a number, not 'hot'"),
        ({"top_p": 2.0}, r"top_p must be in \[0, 1\], not 2.0"),
        ({"max_length": "long"}, "max_length must be a whole number"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be token ids"),
    ],
)
def test_what_has_no_meaning_here_is_named(folder, own, sentence):
    asked = model(folder, **own)
    with pytest.warns(Note, match=sentence):
        assert ids(asked) == ids(PLAIN)


def test_what_is_known_to_be_without_effect_is_passed_over(folder):
    said = dict.fromkeys(WITHOUT_EFFECT, 1) | {"my_own": False, "generation_kwargs": {}}
    assert ids(model(folder, **said)) == ids(PLAIN)


def test_before_generation_config_json_the_options_stood_in_config_json(folder):
    filled_in = {"do_sample": False, "max_length": 20, "top_k": 50, "num_beams": 1}
    assert ids(model(folder, filled_in)) == ids(PLAIN)
    asked = model(folder, {"max_length": 9, "repetition_penalty": 1.5})
    assert ids(asked) == ids(PLAIN, max_new_tokens=6, repetition_penalty=1.5)
    asked = model(folder, bos_token_id=0)  # with such a file it is the one that holds
    assert ids(asked) == ids(PLAIN)


def test_a_start_that_only_generation_config_json_names(folder):
    asked = model(folder, {"bos_token_id": None}, bos_token_id=7)
    assert asked.encode([]) == [7]
    assert asked.config.bos_token_id == 7


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_a_damaged_file_is_one_sentence(folder, text):
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        GPT2.from_pretrained(folder)


def test_the_file_is_kept(folder, tmp_path):
    said = {"temperature": 0.7, "my_own": [1], "eos_token_id": [3, 4]}
    model(folder, **said).save_pretrained(tmp_path / "copy", "float16")
    assert (
        json.loads((tmp_path / "copy" / "generation_config.json").read_text()) == said
    )
    form = ["--dtype", "bfloat16"]
    for more in ([], ["--packed"]):
        if more:
            pytest.importorskip("numba")
        out = tmp_path / f"out{len(more)}"
        done = CliRunner().invoke(
            main, ["convert", str(folder), str(out), *form, *more]
        )
        assert done.exit_code == 0, done.output
        assert json.loads((out / "generation_config.json").read_text()) == said


def test_the_command_puts_the_model_between_its_options_and_its_defaults(tmp_path):
    from npgpt.storage.hub import resolve

    for file in resolve("tales-mini").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def run(*words):
        arguments = ["generate", "Once", "-m", str(tmp_path), "--json", *words]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["options"]

    bare = run("--seed", "1", "--max-new-tokens", "2")
    assert bare["temperature"] == 0.8
    said = {"temperature": 0.5, "top_k": 7, "max_new_tokens": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    own = run("--seed", "1")
    assert {**own, **said} == own
    assert own["do_sample"]
    assert run("--temperature", "0.9", "--top-k", "3")["temperature"] == 0.9
    assert "temperature" not in run("--greedy")
    said = {"do_sample": False, "repetition_penalty": 1.2}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    own = run()
    assert not own["do_sample"]
    assert own["repetition_penalty"] == 1.2
    assert own["max_new_tokens"] == 200


def test_info_says_what_has_no_effect(folder):
    more = {"n_ctx": 99, "eos_token_id": 50256, "alibi": True, "summary_type": "mean"}
    model(folder, more, max_time=3, do_sample=True)
    done = CliRunner().invoke(main, ["info", str(folder), "--json"])
    assert json.loads(done.stdout)["notes"] == [
        "eos_token_id 50256 is outside the vocabulary, 0 to 39: it is none",
        "n_ctx 99 has no effect, n_positions 24 has",
        "config.json: alibi is not known here",
        "generation_config.json: max_time is not known here",
    ]
    lines = CliRunner().invoke(main, ["info", str(folder)]).stdout.splitlines()
    assert sum(line.startswith("note ") for line in lines) == 4


def test_the_catalogue_and_the_lists_do_not_overlap():
    assert not WITHOUT_EFFECT & {*OPTIONS, "max_length"}
    assert not CONFIG_WITHOUT_EFFECT & {*OPTIONS, "max_length"}
    assert own_options(GPT2Config()) == ({}, [])
    config = replace(TINY, generation={"top_k": 3, "do_sample": True})
    assert with_defaults({}, config, [[1]]).given == {"top_k": 3, "do_sample": True}


@pytest.mark.parametrize("n", [100, 121, 127, 128])
def test_a_length_that_nobody_asked_for_is_what_fits(n):
    """The last new token needs no position. What was asked for is refused."""
    model = GPT2(tiny_params(replace(TINY, n_positions=128)))
    ids = [token % 40 for token in range(n)]
    fits = min(20, 129 - n)
    assert len(model.generate([ids])[0].ids) == fits
    assert len(model.generate([ids], num_beams=2)[0].ids) == fits
    assert len(list(model.stream(ids))) == fits
    if fits < 20:
        for asked in ({"max_new_tokens": 20}, {"max_new_tokens": fits + 1}):
            with pytest.raises(ContextOverflowError):
                model.generate([ids], **asked)
    assert len(model.generate([ids], overflow="slide")[0].ids) == 20
