"""Strategies in the loop and on the command line."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import npgpt as npgpt_package
from npgpt import GenerationConfig
from npgpt.bench.rules import cases, time_rules
from npgpt.cli import main
from npgpt.decoding import examples
from npgpt.decoding.catalogue import find, strategies
from npgpt.inside.choice import look, plot_choice

STRATEGIES = strategies()
RULES = [s.name for s in STRATEGIES if s.kind == "rule" and s.code != "B7"]
PROMPTS = ["Once upon a time", "The king", "She said that the old woman was"]


def npgpt(*arguments):
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.mark.parametrize(
    "options",
    [
        dict(mirostat=1),
        dict(mirostat=2, mirostat_tau=3.0),
        dict(adaptive_target=0.3),
        dict(selector="inverse_cdf", xtc_probability=0.5, xtc_threshold=0.05),
        dict(selector="without_replacement", num_return_sequences=2),
        dict(watermark="synthid", dry_multiplier=0.8, repetition_penalty=1.2),
        dict(watermark="gumbel"),
        dict(regex=r" [a-z ]{5,20}\.", top_k=40),
        dict(token_healing=True, typical_p=0.9),
        dict(banned_strings=["the"], mirostat=2),
    ],
    ids=str,
)
def test_a_row_equals_its_unbatched_run(tales, options):
    """State is the row's own: a batch of texts of different length changes nothing."""
    options = {"do_sample": True, "seed": 5, "max_new_tokens": 10, **options}
    together = tales.generate(PROMPTS, **options)
    n = options.get("num_return_sequences", 1)
    for i, prompt in enumerate(PROMPTS):
        alone = tales.generate([prompt], **options)
        for one, other in zip(together[i * n : (i + 1) * n], alone, strict=True):
            assert one.ids == other.ids
            assert one.text == other.text


def test_arithmetic_rows_equal_their_unbatched_run():
    """In float64: a code is divided by p at each token, and its rounding too."""
    tales = npgpt_package.GPT2.from_pretrained("tales", dtype="float64")
    options = dict(
        do_sample=True,
        seed=5,
        max_new_tokens=3,
        selector="arithmetic",
        num_return_sequences=2,
    )
    together = tales.generate(PROMPTS, **options)
    for i, prompt in enumerate(PROMPTS):
        alone = tales.generate([prompt], **options)
        assert [g.ids for g in together[2 * i : 2 * i + 2]] == [g.ids for g in alone]


def test_selector_states_are_values(tales):
    """Two runs of one config do not share a state; a config can be used again."""
    options = dict(do_sample=True, mirostat=2, seed=1, max_new_tokens=8)
    assert tales.generate("The", **options) == tales.generate("The", **options)


def test_config_survives_pickle_and_change():
    import pickle

    config = GenerationConfig(do_sample=True, top_p=0.9, logit_bias={3: -1.0})
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.but(top_p=None) == GenerationConfig(
        do_sample=True, logit_bias={3: -1.0}
    )
    with pytest.raises(AttributeError, match="does not change"):
        config.top_p = 0.5


def test_look_sees_what_generate_does(tales):
    for seed in range(5):
        given = dict(do_sample=True, seed=seed, top_k=50, top_p=0.9)
        options = GenerationConfig(selector="inverse_cdf", **given)
        choice = look(tales, tales.encode("Once upon a"), options)
        g = tales.generate("Once upon a", max_new_tokens=1, **options.given)
        assert [choice.token_id] == g.ids
        low, high = choice.interval
        assert low <= choice.u < high
        noisy = look(tales, tales.encode("Once upon a"), GenerationConfig(**given))
        assert [noisy.token_id] == tales.generate(
            "Once upon a", max_new_tokens=1, **given
        ).ids
        with np.errstate(divide="ignore"):
            sums = np.log(noisy.stages[-1].p) + noisy.noise
        assert sums.argmax() == noisy.token_id
        said = float(re.search("= (.*) is the largest sum", noisy.sentence)[1])
        assert said == pytest.approx(sums.max(), abs=2e-3)
        assert (noisy.u, choice.noise) == (None, None)
        names = [stage.name for stage in choice.stages]
        assert names == ["the model", "top_k(50)", "top_p(0.9)"]
        assert choice.stages[1].left == 50
        assert not choice.stages[1].rescaled
        for before, after in zip(choice.stages, choice.stages[1:], strict=False):
            assert after.cut == pytest.approx(float(before.p[after.p == 0].sum()))
    warm = look(tales, [1], GenerationConfig(do_sample=True, temperature=2.0))
    assert warm.stages[1].rescaled
    assert warm.stages[1].cut == 0


def test_sample_draws_png_and_svg_and_no_formulas(tmp_path):
    for suffix, status in ((".png", 0), (".svg", 0), (".bmp", 1)):
        path = tmp_path / f"figure{suffix}"
        done = npgpt(
            "sample",
            "for $2 or $\\x{",
            "-m",
            "tales-mini",
            "--top-k",
            "5",
            "--figure",
            str(path),
        )
        assert done.exit_code == status
        assert path.exists() == (status == 0)
    assert "a figure is written as .png or .svg" in done.output


def test_sample_shows_the_stages_and_writes_a_figure(tmp_path):
    figure = tmp_path / "figure.png"
    result = npgpt(
        "sample",
        "Once upon a",
        "--show",
        "--top-k",
        "50",
        "--top-p",
        "0.9",
        "--figure",
        str(figure),
    )
    assert result.exit_code == 0
    for part in (
        "the model",
        "top_k(50)",
        "top_p(0.9)",
        "cut",
        "the largest sum",
        "' time'",
    ):
        assert part in result.output
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_figure_of_a_step_marks_cuts_and_shows_u(tales):
    given = dict(do_sample=True, seed=3, temperature=0.7, top_k=2)
    options = GenerationConfig(selector="inverse_cdf", **given)
    choice = look(tales, tales.encode("Once upon a"), options)
    shown = np.argsort(-choice.stages[0].p)[:4].tolist()
    figure = plot_choice(choice, "Once upon a", shown)
    *panels, strip = figure.axes
    assert len(panels) == 3
    assert len({axis.get_xlim() for axis in panels}) == 1  # one scale
    cuts = [sum(t.get_text() == " cut" for t in axis.texts) for axis in panels]
    assert cuts == [0, 0, 2]
    outlined = [bar.get_width() for bar in panels[2].patches[4:]]  # as it was before
    np.testing.assert_allclose(outlined, choice.stages[1].p[shown])
    assert strip.lines[0].get_xdata()[0] == choice.u
    noisy = look(tales, tales.encode("Once upon a"), GenerationConfig(**given))
    *panels, race = plot_choice(noisy, "Once upon a", shown).axes
    assert len(panels) == 3
    ends = [bar.get_x() + bar.get_width() for bar in race.patches]
    assert max(ends) == pytest.approx(race.lines[0].get_xdata()[0])
    assert len(ends) == 2  # what was cut has no noise
    greedy = look(tales, [1], GenerationConfig())
    assert len(plot_choice(greedy, "x", shown).axes) == 1  # nothing was drawn


def test_sample_as_json():
    command = ("sample", "Once upon a", "--min-p", "0.1", "--json", "--seed", "3")
    fields = json.loads(npgpt(*command).stdout)
    assert [stage["name"] for stage in fields["stages"]] == ["the model", "min_p(0.1)"]
    last = fields["stages"][-1]["tokens"]
    sums = [
        math.log(one["p"]) + noise if one["p"] else -math.inf
        for one, noise in zip(last, fields["noise"], strict=True)
    ]
    assert fields["token_id"] == last[int(np.argmax(sums))]["id"]
    assert fields["u"] is None
    sliced = json.loads(npgpt(*command, "--selector", "inverse_cdf").stdout)
    low, high = sliced["interval"]
    assert low <= sliced["u"] < high
    assert sliced["noise"] is None


def test_strategies_lists_every_one():
    output = npgpt("strategies").output
    for strategy in STRATEGIES:
        assert f"{strategy.code:<4} {strategy.name}: {strategy.line}" in output
    listed = json.loads(npgpt("strategies", "--json").stdout)
    assert sum(map(len, listed.values())) == len(STRATEGIES)


@pytest.mark.parametrize(
    "name", ["min-p", "top_k", "D8", "mirostat", "regex", "SynthID"]
)
def test_strategies_explains_one(name):
    output = npgpt("strategies", name).output
    strategy = find(name)
    for part in (strategy.name, strategy.formula, strategy.paper, "npgpt/decoding/"):
        assert part in output
    several = npgpt("strategies", "F6").output
    assert all(f"{what} (F6)" in several for what in ("DExperts", "ensemble"))
    fields = json.loads(npgpt("strategies", "F6", "--json").stdout)["F6"]
    assert [field["name"] for field in fields] == ["DExperts", "ensemble", "anti-LM"]
    assert (
        "Example: " in json.loads(npgpt("strategies", name, "--json").stdout)["example"]
    )
    assert npgpt("strategies", "no such thing").exit_code == 1


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.name)
def test_strategies_explains_every_one_with_five_tokens(strategy):
    result = npgpt("strategies", strategy.name)
    assert result.exit_code == 0
    head, _, example = result.output.partition("\nExample: ")
    assert f"{strategy.name} ({strategy.code})" in head
    assert strategy.formula
    assert strategy.formula in head
    file, line = re.search(r"source +(\S+):(\d+)", head).groups()
    source = (Path(examples.__file__).parents[3] / file).read_text("utf-8")
    assert source.splitlines()[int(line) - 1].startswith(("def ", "class ", "@"))
    assert len(example.splitlines()) >= 4
    assert any(word in example for word in ("cat", "queen", "time", "ab", "x", "16"))


@pytest.mark.parametrize("name", RULES)
def test_worked_examples_show_a_change(name):
    text = examples.worked_example(find(name))
    rows = [line.split() for line in text.splitlines()[3:]]
    assert len(rows) == 5
    if name != "logit normalisation":  # log-softmax changes no probability
        assert any(before != after for _, before, after, *_ in rows)
    if name != "FSD":  # scores
        assert sum(float(row[2]) for row in rows) == pytest.approx(1, abs=0.003)


def test_the_model_of_five_words_is_worth_a_search():
    beam = examples.worked_example(find("beam search")).splitlines()
    greedy, found = (
        (
            len(re.search(r"'(.+)'", line)[1].split()),
            re.search(r"log p (-[\d.]+)", line),
        )
        for line in beam[2:4]
    )
    assert float(found[1][1]) > float(greedy[1][1])
    assert float(found[1][1]) / found[0] > float(greedy[1][1]) / greedy[0]  # a token
    # of three drafted words one stands, and the model's own follows it
    assert (
        "  'cat the'"
        in examples.worked_example(find("H2")).partition("'cat old queen'")[2]
    )
    drawn = examples.worked_example(find("E19")).splitlines()[3:]
    for row in drawn:  # 300 draws of the law, five standard deviations
        law, masked, share = map(float, row.split()[-3:])
        assert abs(share - law) < 5 * math.sqrt(law * (1 - law) / 300)
        assert abs(masked - law) > 0.5


def test_every_parameter_is_an_option_of_generate():
    text = npgpt("generate", "--help-all").output
    for strategy in STRATEGIES:
        for parameter in strategy.parameters:
            if parameter.kind != "function" and parameter.name != "do_sample":
                assert "--" + parameter.name.replace("_", "-") in text, parameter.name


@pytest.mark.parametrize(
    ("arguments", "figures"),
    [
        (["--min-p", "0.05", "--dry-multiplier", "0.8", "--chain",
          "dry;min_p;temperature"],
         "dry(0.8) min_p(0.05) temperature(0.8) gumbel_max"),
        (["--mirostat", "2"], "temperature(0.8) mirostat_v2(5.0, 0.1)"),
        (["--chain", "llama.cpp", "--top-k", "40"],
         "top_k(40) top_p(0.95) temperature(0.8)"),
        (["--greedy", "--bad-words-ids", "[[5, 7]]", "--no-repeat-ngram-size", "3"],
         "no_repeat_ngram(3) bad_words(((5, 7),)) greedy"),
        (["--banned-strings", "little"], "temperature(0.8) top_p(0.95)"),
    ],
)  # fmt: skip
def test_generate_prints_its_chain(arguments, figures):
    result = npgpt(
        "generate", "Once", "--max-new-tokens", "3", "--seed", "1", *arguments
    )
    assert result.exit_code == 0
    assert figures in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--min-p", "much"], "--min-p must be a number"),
        (["--min-p", "3"], "--min-p must be in [0, 1]"),
        (["--bad-words-ids", "[[1"], "--bad-words-ids must be lists of token ids"),
        (["--dry-base", "2"], "--dry-base changes nothing without --dry-multiplier"),
        (["--chain", "top_k;nonsense"], "no rule of a chain is called 'nonsense'"),
    ],
)
def test_generate_refuses_in_one_sentence(arguments, sentence):
    result = npgpt("generate", "Once", *arguments)
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.output


GRAMMAR = 'root ::= "yes"\n'


def test_a_grammar_can_stand_in_a_file(tmp_path):
    file = tmp_path / "rules.gbnf"
    file.write_text(GRAMMAR, encoding="utf-8")
    arguments = ["generate", "Is it?", "--max-new-tokens", "8", "--seed", "1"]
    found = npgpt(*arguments, "--grammar", f"@{file}")
    assert found.exit_code == 0
    assert found.stdout == "Is it?yes\n"
    assert 'grammar(root ::= "yes")' in found.stderr  # on one line
    assert "note:" not in found.stderr
    without = npgpt(*arguments, "--grammar", str(file))
    assert without.exit_code == 2
    assert f"write --grammar @{file}" in without.stderr
    missing = npgpt(*arguments, "--json-schema", f"@{tmp_path}/none.json")
    assert missing.exit_code == 2
    assert "cannot be read: No such file" in missing.stderr


def test_generate_says_that_a_constrained_text_was_cut():
    arguments = ["generate", "One", "--greedy", "--regex", "(ab)+c"]
    cut = npgpt(*arguments, "--max-new-tokens", "2")
    assert "cut at --max-new-tokens 2, perhaps before the regex" in cut.stderr
    more = npgpt("generate", "One", "--max-new-tokens", "2", "--seed", "1")
    assert "note:" not in more.stderr


def test_every_case_of_the_benchmark_runs():
    timings = list(time_rules(runs=1))
    assert [timing.name for timing in timings] == list(cases())
    assert all(np.isfinite(timing.milliseconds) for timing in timings)
