"""tools/scaling.py: the ladder's plan, and that it goes on where it stopped."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from npgpt.scaling import fit
from npgpt.scaling.sizes import describe

FILE = Path(__file__).parents[2] / "tools" / "scaling.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("scaling_tool", FILE)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["scaling_tool"] = module  # where its dataclass looks for its names
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def text(tmp_path):
    """A folder of text, 30,000 words of 40."""
    words = np.random.Generator(np.random.Philox(1)).choice(40, 30_000)
    body = " ".join(f"w{i}" for i in words)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(body, "utf-8")
    return tmp_path


def test_the_ladder_has_the_sizes_and_budgets_that_a_fit_needs(tool):
    rungs = list(tool.ladder())
    sizes = {}
    for rung in rungs:
        parts = describe(rung.shape).parameters_by_part
        tables = parts["token embeddings"] + parts["position embeddings"]
        sizes[rung.width] = describe(rung.shape).parameters - tables
    assert len(sizes) >= 6
    assert min(sizes.values()) < 30e3
    assert 3e6 < max(sizes.values()) < 3.2e6
    for width in sizes:
        assert len([rung for rung in rungs if rung.width == width]) >= 4
    assert [r.flops for r in rungs] == sorted(r.flops for r in rungs)


def test_every_run_has_its_own_decayed_schedule(tool):
    for rung in tool.ladder():
        recipe = rung.recipe()
        tokens = recipe.steps * recipe.tokens_per_step
        assert tokens == pytest.approx(rung.tokens, rel=0.01)
        assert recipe.warmup_steps == recipe.steps // 20
        assert recipe.final_fraction <= 0.02
        assert recipe.eval_every == recipe.steps  # read at its end alone


def test_runs_are_recorded_once_and_can_be_fitted(tool, text, monkeypatch, capsys):
    monkeypatch.setattr(tool, "VOCABULARY", 300)
    monkeypatch.setattr(tool, "CONTEXT", 16)
    monkeypatch.setattr(tool, "SIZES", ((1, 16), (1, 32), (2, 32)))
    monkeypatch.setattr(tool, "TOKENS", (256, 512, 1024))
    arguments = ["scaling.py", "run", "--text", str(text / "text"), "--out",
                 str(text / "out"), "--backend", "numpy"]  # fmt: skip
    monkeypatch.setattr("sys.argv", [*arguments, "--sizes", "2"])
    tool.main()
    path = text / "out" / "runs.jsonl"
    first = path.read_text().splitlines()
    assert len(first) == 6
    monkeypatch.setattr("sys.argv", arguments)
    tool.main()
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.read_text().splitlines()[:6] == first  # none was done again
    assert len({tool.key(run) for run in runs}) == len(runs) == 9
    for run in runs:
        assert run["parameters"] > run["without_embeddings"] > 0
        assert run["tokens"] == run["wanted_tokens"]
        assert run["loss"] < np.log(300) + 0.1
        assert run["command"].startswith("python scaling.py run")
    assert not list((text / "out").glob("run-*"))
    assert fit.read_runs(path) == runs
    fit.fit_runs(runs, bootstraps=2)


def test_more_than_one_pass_is_refused(tool, text, monkeypatch):
    monkeypatch.setattr(tool, "VOCABULARY", 300)
    data = tool.load(text / "text", text / "out")
    rung = tool.Rung(1, 32, 4_000_000)
    with pytest.raises(SystemExit, match="more than one pass"):
        tool.run(rung, data, text / "out", "numpy", 0)


def test_the_projects_own_runs_are_a_ladder():
    runs = fit.read_runs()
    sizes = {run["without_embeddings"] for run in runs}
    assert len(sizes) >= 6
    assert min(sizes) < 30e3
    assert max(sizes) > 3e6
    for size in sizes:
        own = sorted(
            (run["tokens"], run["loss"])
            for run in runs
            if run["without_embeddings"] == size
        )
        assert len({tokens for tokens, _ in own}) >= 3
        assert own[-1][1] < own[0][1]  # more tokens, less loss
    fitted = fit.fit_runs(runs, bootstraps=10)
    assert fitted.residual < 0.05  # of the logarithm of the loss
    assert 0 < fitted.law.exponent < 1
