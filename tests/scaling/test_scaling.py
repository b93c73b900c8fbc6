"""Sizes against the papers' figures, and laws of the fit on data whose law is known."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npgpt import DataError, GPT2Config
from npgpt.scaling import fit, laws
from npgpt.scaling.sizes import CHECKPOINTS, PUBLISHED, describe

NPGPT = str(Path(sys.executable).parent / "npgpt")
MODELS = {model.name: model for model in PUBLISHED}
TRUE = laws.Law(2.2, 60.0, 0.42, 300.0, 0.38)

# The sums of the published tensors' shapes: openai/finetune-transformer-lm
# params_shapes.json, llm.c train_gpt2.py; GPT-3 by the formula, with 16 heads in XL
# and width 5120 in 13B (Brown et al. 2020, table D.1, has 12,850 M).
PARAMETERS = {
    "gpt1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-small": 125_226_240,
    "gpt3-medium": 355_871_744,
    "gpt3-large": 760_300_032,
    "gpt3-xl": 1_315_723_264,
    "gpt3-2.7b": 2_651_553_280,
    "gpt3-6.7b": 6_658_404_352,
    "gpt3-13b": 12_853_386_240,
    "gpt3-175b": 174_604_259_328,
}
# Brown et al. 2020, table D.1: total compute in FLOPs, parameters in millions
TABLE_D1 = {
    "small": (2.25e20, 125), "medium": (6.41e20, 356), "large": (1.37e21, 760),
    "xl": (2.38e21, 1320), "2.7b": (4.77e21, 2650), "6.7b": (1.20e22, 6660),
    "13b": (2.31e22, 12850), "175b": (3.14e23, 174600),
}  # fmt: skip


def runs_of(law, sizes=6, budgets=4, noise=0.0, seed=0):
    """Runs as tools/scaling.py writes them, with the losses of a law."""
    rng = np.random.Generator(np.random.Philox(seed))
    return [
        {
            "parameters": N,
            "without_embeddings": 0.8 * N,
            "tokens": D,
            "loss": law.loss(N, D) * math.exp(noise * rng.standard_normal()),
        }
        for N in np.geomspace(1e5, 4e6, sizes)
        for D in np.geomspace(3e5, 9e6, budgets)
    ]


# the published models


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name):
    assert MODELS[name].parameters == PARAMETERS[name]


def test_all_models_are_there():
    assert list(MODELS) == list(PARAMETERS)


@pytest.mark.parametrize("name", [name for name in CHECKPOINTS if name in MODELS])
def test_shapes_agree_with_the_configs(name):
    config, model = CHECKPOINTS[name], MODELS[name]
    info = describe(config, itemsize=2)
    assert model.parameters == info.parameters
    assert model.kv_bytes_per_token() == info.kv_bytes_per_token
    assert (model.layers, model.heads, model.context) == (
        config.n_layer,
        config.n_head,
        config.n_positions,
    )
    embeddings = ("token embeddings", "position embeddings")
    rest = info.parameters - sum(info.parameters_by_part[part] for part in embeddings)
    assert model.without_embeddings == rest


@pytest.mark.parametrize("name", TABLE_D1)
def test_flops_are_the_published_ones(name):
    flops, millions = TABLE_D1[name]
    model = MODELS[f"gpt3-{name}"]
    assert model.flops == pytest.approx(flops, rel=0.006)  # three printed digits
    assert model.parameters == pytest.approx(millions * 1e6, rel=0.004)


def test_heads_divide_the_width():
    assert all(model.width % model.heads == 0 for model in MODELS.values())


def test_training_flops_are_six_per_weight_of_a_matrix():
    config = GPT2Config(
        vocab_size=500,
        n_positions=64,
        n_embd=32,
        n_layer=3,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    tensors = 3 * 12 * 32 * 32 + 500 * 32
    assert laws.training_flops(config, 10, 1) == 10 * (6 * tensors + 12 * 3 * 32)
    # A query sees (T + 1) / 2 keys on average; 2 C for its scores, 2 C for the sum.
    attention = 12 * 3 * 32 * (64 + 1) / 2
    assert laws.training_flops(config, 10, 64) == pytest.approx(
        10 * (6 * tensors + attention)
    )


# the published laws


@pytest.mark.parametrize(
    ("name", "N", "ratio", "chinchilla", "gpt2"),
    [  # at C = 5.76e23: N, D/N; then L(70B, 1.4T) and L(124M, 9B)
        ("approach 3", 32.2e9, 92.6, 1.9366, 3.0802),
        ("approach 3, unrounded", 40.3e9, 59.1, 1.9208, 3.0232),
        ("replication", 72.2e9, 18.4, 1.9739, 3.0317),
    ],
)
def test_published_laws_give_their_figures(name, N, ratio, chinchilla, gpt2):
    law = laws.LAWS[name]
    size, tokens = law.optimum(5.76e23)
    assert size == pytest.approx(N, rel=0.002)
    assert tokens / size == pytest.approx(ratio, rel=0.002)
    assert law.loss(70e9, 1.4e12) == pytest.approx(chinchilla, abs=5e-5)
    assert law.loss(124e6, 9e9) == pytest.approx(gpt2, abs=5e-5)


def test_the_replication_has_half_as_exponent():
    assert laws.LAWS["replication"].exponent == pytest.approx(0.5126, abs=5e-5)


@pytest.mark.parametrize("flops", [1e18, 1e21, 3e24])
def test_the_optimum_is_the_least_loss(flops):
    for law in laws.LAWS.values():
        N, D = law.optimum(flops)
        assert pytest.approx(flops) == 6 * N * D
        sizes = N * np.geomspace(0.1, 10, 2001)
        losses = law.loss(sizes, flops / (6 * sizes))
        assert sizes[losses.argmin()] == pytest.approx(N, rel=0.01)


@pytest.mark.parametrize("flops", [1e19, 1e21, 5.76e23])
def test_answers_spend_the_budget(flops):
    answers = laws.compute_optimal(flops, TRUE)
    assert [a.method for a in answers] == [
        "approach 1",
        "approach 2",
        *laws.LAWS,
        "our runs",
    ]
    for answer in answers:
        assert 6 * answer.parameters * answer.tokens == pytest.approx(flops)


def test_approach_one_goes_through_its_table():
    for N, flops, D in [
        (400e6, 1.92e19, 8e9),
        (10e9, 1.23e22, 205.1e9),
        (67e9, 5.76e23, 1.5e12),
    ]:
        first = laws.compute_optimal(flops)[0]
        assert first.parameters == pytest.approx(N, rel=0.05)
        assert first.tokens == pytest.approx(D, rel=0.06)


@pytest.mark.parametrize("flops", [0, -1e20, math.nan, math.inf])
def test_a_budget_that_cannot_be_is_one_sentence(flops):
    with pytest.raises(DataError, match=r"must be (positive|a number)"):
        laws.compute_optimal(flops)


# our own law


@pytest.mark.parametrize(
    "law", [TRUE, laws.LAWS["replication"], laws.Law(1.0, 9.0, 0.2, 40.0, 0.55)]
)
def test_the_fit_recovers_the_law_of_its_data(law):
    fitted = fit.fit_runs(runs_of(law), bootstraps=20)
    for name in ("E", "A", "alpha", "B", "beta"):
        assert getattr(fitted.law, name) == pytest.approx(getattr(law, name), rel=1e-5)
        low, high = fitted.interval(name)
        assert low == pytest.approx(high, rel=1e-3)  # nothing is uncertain
    assert fitted.residual < 1e-8


def test_intervals_hold_the_truth_and_narrow_with_the_noise():
    widths = []
    for noise in (0.008, 0.002):
        fitted = fit.fit_runs(runs_of(TRUE, 8, 6, noise), bootstraps=200)
        assert fitted.residual == pytest.approx(noise, rel=0.35)
        low, high = fitted.interval("exponent", 0.99)
        assert low < TRUE.exponent < high
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]


def test_one_bad_run_moves_a_huber_fit_little():
    runs = runs_of(TRUE, 8, 6, 0.001)
    runs[11]["loss"] *= 1.2
    fitted = fit.fit_runs(runs, bootstraps=2)
    assert fitted.law.exponent == pytest.approx(TRUE.exponent, abs=0.02)
    assert pytest.approx(TRUE.E, rel=0.03) == fitted.law.E


def test_the_fit_is_deterministic():
    a, b = (fit.fit_runs(runs_of(TRUE, noise=0.003)) for _ in range(2))
    assert a.law == b.law
    np.testing.assert_array_equal(a.samples, b.samples)


def test_the_count_decides_what_n_is():
    fitted = fit.fit_runs(runs_of(TRUE), "without_embeddings", 2)
    assert pytest.approx(TRUE.A * 0.8**TRUE.alpha, rel=1e-4) == fitted.law.A
    with pytest.raises(DataError, match="count"):
        fit.fit_runs(runs_of(TRUE), "some")


@pytest.mark.parametrize(("sizes", "budgets"), [(2, 8), (8, 2), (3, 2), (0, 0)])
def test_too_few_runs_are_one_sentence(sizes, budgets):
    with pytest.raises(DataError, match="cannot be fitted"):
        fit.fit_runs(runs_of(TRUE, sizes, budgets))


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"loss": 1}',
        '{"parameters": 1, "without_embeddings": 1, "tokens": 0, "loss": 2}',
    ],
)
def test_a_damaged_file_of_runs_is_one_sentence(tmp_path, line):
    (tmp_path / "runs.jsonl").write_text(line)
    with pytest.raises(DataError, match=r"runs\.jsonl: not a file"):
        fit.read_runs(tmp_path / "runs.jsonl")
    with pytest.raises(DataError, match=r"none\.jsonl: not a file"):
        fit.read_runs(tmp_path / "none.jsonl")


# the command


@pytest.fixture
def runs_file(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(run) + "\n" for run in runs_of(TRUE)))
    return path


def run(*arguments):
    return subprocess.run(
        [NPGPT, "scaling", *map(str, arguments)], capture_output=True, text=True
    )


def test_the_table_names_every_model():
    done = run()
    assert done.returncode == 0, done.stderr
    for name, parameters in PARAMETERS.items():
        assert any(
            name in line and f"{parameters:,}" in line
            for line in done.stdout.splitlines()
        )


def test_json_holds_models_answers_and_fit(runs_file):
    done = run("--flops", "1e15", "--runs", runs_file, "--json")
    result = json.loads(done.stdout)
    assert [m["parameters"] for m in result["models"]] == list(PARAMETERS.values())
    assert result["answers"][-1]["method"] == "our runs"
    assert result["fit"]["alpha"] == pytest.approx(TRUE.alpha, rel=1e-4)
    assert result["fit"]["intervals_90"]["E"] == pytest.approx([TRUE.E] * 2, rel=1e-3)


@pytest.mark.parametrize("own", [True, False])
def test_a_figure_is_drawn(runs_file, tmp_path, own):
    arguments = ("--runs", runs_file) if own else ()
    done = run(*arguments, "--figure", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_errors_are_one_line(tmp_path):
    for arguments in (("--flops", "-1"), ("--runs", tmp_path / "none")):
        done = run(*arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("npgpt: ")
        assert done.stderr.count("\n") == 1


def test_the_room_has_a_face():
    import npgpt.scaling as room

    assert all(hasattr(room, name) for name in room.__all__)
    assert room.compute_optimal is laws.compute_optimal
    assert room.fit_runs is fit.fit_runs
    assert room.PUBLISHED is PUBLISHED
