"""`npgpt bench`, `warmup` and `convert`: what they print, keep, refuse."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("numba")

from npgpt import GPT2, BackendError, GPT2Config
from npgpt.bench import functions, report, rounds, rules
from npgpt.bench.decoding import Comparison, time_strategies
from npgpt.cli import main
from npgpt.kernels.warmup import warm_up
from npgpt.storage import hub
from npgpt.training.start import init_params

NPGPT = str(Path(sys.executable).parent / "npgpt")
SMALL = ("bench", "--model", "tales-mini", "--quick", "--rounds", "1",
         "--no-functions")  # fmt: skip


def run(*args, status=0, **environment):
    done = subprocess.run(
        [NPGPT, *args],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One small run: its standard output, and the folder of what it saved."""
    folder = tmp_path_factory.mktemp("bench")
    done = run(
        *SMALL,
        "--json",
        "--out",
        str(folder / "kept.json"),
        "--figure",
        str(folder / "speed.png"),
        "--engine",
        "numpy:float32",
        "--engine",
        "numba:float32",
        "--engine",
        "transformers:nonsense",
    )
    return done.stdout, folder


def test_bench_prints_one_object(measured):
    found = json.loads(measured[0])
    assert {m["engine"] for m in found["measured"]} == {
        "numpy:float32",
        "numba:float32",
    }
    assert {m["task"] for m in found["measured"]} == {"prefill", "decode"}
    for m in found["measured"]:
        rate = m["tokens"] if m["task"] == "prefill" else m["batch"]
        assert m["tokens_per_second"] == pytest.approx(rate / m["seconds"])
    # reading its bytes alone takes less time than the step, on any machine
    assert found["read_ceiling"] > 1e8
    assert found["step_bytes"]["numba:float32"] > 1e5


def test_bench_names_the_engine_that_is_absent_and_goes_on(measured):
    absent = json.loads(measured[0])["absent"]
    assert list(absent) == ["transformers:nonsense"]
    assert "transformers:nonsense" in absent["transformers:nonsense"]


def test_bench_saves_what_it_prints_and_draws_it(measured):
    output, folder = measured
    assert json.loads((folder / "kept.json").read_text()) == json.loads(output)
    assert (folder / "speed.png").read_bytes()[:4] == b"\x89PNG"


def test_bench_keeps_every_task_as_it_goes():
    folder = hub.resolve("tales-mini")
    config = GPT2Config.from_file(folder / "config.json")
    counts = []
    rounds.time_engines(
        str(folder),
        config,
        ["numpy:float32"],
        1,
        1,
        quick=True,
        keep=lambda result: counts.append(len(result["measured"])),
    )
    tasks = len(rounds.tasks(config, quick=True))
    assert counts == [*range(1, tasks + 1), tasks]


@pytest.mark.parametrize("room", [2, 8, 30, 100, 1024])
def test_what_is_timed_fits_the_model(room):
    config = replace(GPT2Config(), n_positions=room)
    for quick in (False, True):
        for task, tokens, batch in rounds.tasks(config, quick):
            more = rounds.steps(tokens, batch, room) if task == "decode" else 0
            assert 0 < tokens <= tokens + more <= room


def test_a_short_model_is_timed(tmp_path):
    config = replace(GPT2.from_pretrained("tales-mini").config, n_positions=8)
    GPT2(init_params(config, 0)).save_pretrained(tmp_path)
    found = rounds.time_engines(str(tmp_path), config, ["numpy:float32"], 1, 1)
    assert found["absent"] == {}
    assert len(found["measured"]) == len(rounds.tasks(config, False))
    assert found["greedy_loop_seconds"]["numpy:float32"] > 0
    assert all(
        one.tokens_per_second > 0
        for one in time_strategies(GPT2.from_pretrained(tmp_path))
    )


def test_bench_says_what_it_cannot_do(tmp_path):
    done = run(*SMALL, "--markdown", "--json", status=2)
    assert "exclude" in done.stderr
    done = run(*SMALL, "--out", str(tmp_path / "no" / "file"), status=1)
    assert "cannot be written" in done.stderr
    done = run("bench", "--model", str(tmp_path / "none"), "--quick", status=1)
    assert done.stdout == ""


def test_markdown_holds_every_figure(measured):
    found = json.loads(measured[0])
    lines = list(report.markdown(found))
    assert sum(line.startswith("| num") for line in lines) == len(found["measured"])
    assert all(line.count("|") == 9 for line in lines if line.startswith("| num"))


def test_without_numba_there_is_no_reading_rate(monkeypatch):
    class Engine:
        """NumPy's; asked for another one, it is absent, and `memory` breaks it."""

        def __init__(self, name, *_):
            if name != "numpy:float32":
                raise BackendError("no such engine")

        def ask(self, what, *_):
            if what == "memory":
                raise BackendError("ended")
            return 1000 if what == "step_bytes" else 0.01

        def close(self):
            pass

    monkeypatch.setattr(rounds, "Worker", Engine)
    names = ("numpy:float32", "numpy:float32", "numba:float32")
    found = rounds.time_engines("x", GPT2Config(), names, 1, 2, quick=True)
    lines = "\n".join(report.model_lines(found))
    assert "greedy generation 100 tok/s\n" in lines
    assert "numba:float32           not measured: no such engine" in lines
    assert list(found["absent"]) == ["numba:float32", "numpy:float32"]


def test_a_row_that_wavers_is_marked(measured):
    found = json.loads(measured[0])
    for m in found["measured"]:
        m["spread"] = 0.35 if m["task"] == "decode" else 0.2
    for line in report.model_lines(found):
        assert ("unsteady: spread 35%" in line) == ("decode" in line)
    for line in report.markdown(found):
        assert ("| 35% unsteady |" in line) == ("decode" in line)
    assert str(rules.Timing("a rule", 1.0, 0.21, None)).endswith("spread 21%")
    slow = Comparison("beams", 4.0, 2.0, 0.0, True, 0.5)
    assert str(slow).endswith("agrees  unsteady: spread 50%")


def test_functions_agree_before_they_are_timed():
    config = GPT2Config(
        vocab_size=300,
        n_positions=64,
        n_embd=64,
        n_layer=1,
        n_head=4,
        bos_token_id=0,
        eos_token_id=None,
    )
    rows = list(functions.time_functions(config, seconds=0.01))
    assert {row.function for row in rows} == {
        "layer_norm",
        "gelu",
        "softmax",
        "attention",
        "linear",
        "linear_loops",
        "linear_panels",
        "cross_entropy",
    }
    for row in rows:
        assert row.error < 1e-5, row
        slower = row.numba_seconds >= row.numpy_seconds
        assert (row.pays_after_calls is None) == slower == bool(row.note)


TRAINING = """
import numpy as np
from npgpt import GPT2
from npgpt.backend import get_backend
from npgpt.training.engine import get_engine
from npgpt.training.gradients import loss_and_gradients
from npgpt.kernels.compiling import compile_seconds
from npgpt.training.optim import adamw, new_moments

params, backend = GPT2.from_pretrained("tales-mini").params, get_backend("numba")
ids = np.arange(60).reshape(3, 20)
_, grads = loss_and_gradients(params, ids, ids, backend=backend)
update = get_engine(backend).update
adamw(params, grads, new_moments(params), 1, learning_rate=1e-3, update=update)
print(compile_seconds())
"""


def test_warmup_compiles_once():
    """Twice the same: the second run finds all in the cache."""
    run("warmup", "--dtype", "float32")
    done = run("warmup", "--dtype", "float32", "--json")
    found = json.loads(done.stdout)
    assert found["compile_seconds"] < 1
    assert Path(found["cache"]).is_dir()
    assert done.stderr == ""  # no terminal
    said = []
    warm_up(["float32"], said.append)
    assert any("float32" in line for line in said)
    assert not any("int8" in line for line in said)
    trained = subprocess.run(
        [sys.executable, "-c", TRAINING], capture_output=True, text=True, check=True
    )
    assert float(trained.stdout) == 0
    run("warmup", "--dtype", "float16", status=2)


def test_convert_into_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for form in ((), ("--packed",)):
        done = run(
            "convert", "tales-mini", str(tmp_path / "file" / "x"), *form, status=1
        )
        assert "cannot be written" in done.stderr
    run(
        "convert",
        "tales-mini",
        str(tmp_path / "x"),
        "--packed",
        "--dtype",
        "float16",
        status=2,
    )


def test_a_packed_start_maps_the_file_and_any_tier_reads_it(tmp_path, monkeypatch):
    arguments = ["convert", "tales-mini", str(tmp_path), "--packed", "--json"]
    done = CliRunner().invoke(main, [*arguments, "--dtype", "int8"])
    assert json.loads(done.stdout)["packed"] is True
    path = tmp_path / "packed.safetensors"
    made = path.read_bytes()
    expected = GPT2.from_pretrained("tales-mini", backend="numba", dtype="int8")
    for tier in (b'"portable"', b'"avx512"  '):  # files from other processors
        start = made.index(b'"tier": ') + 8
        end = made.index(b"}", start)
        new = tier.ljust(end - start)[: end - start]
        if len(tier.strip()) > end - start:
            continue  # the header's length stays as it is
        path.write_bytes(made[:start] + new + made[end:])
        model = GPT2.from_pretrained(tmp_path, backend="numba", dtype="int8")
        data = model.params.buffers.data
        while not isinstance(data, np.memmap):
            data = data.base
        assert model.logits([1, 2, 3]) == pytest.approx(expected.logits([1, 2, 3]))
