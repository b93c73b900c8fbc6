"""Tables that explain themselves: legends, one scale, plain letters where need be."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from npgpt.bench import report
from npgpt.commands import scaling
from npgpt.scaling import laws

NPGPT = str(Path(sys.executable).parent / "npgpt")
SAMPLE = ("sample", "Once upon a", "-m", "tales-mini", "--top-k", "3", "--tokens", "4")


def run(*args, **variables):
    done = subprocess.run(
        [NPGPT, *args],
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "100", **variables},
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(("encoding", "block"), [("utf-8", "█"), ("ascii", "#")])
def test_bars_have_one_scale_and_letters_that_the_terminal_has(encoding, block):
    text = run(*SAMPLE, PYTHONIOENCODING=encoding).stdout
    bars = {}
    for line in text.partition("the draw")[0].splitlines():
        if line.startswith("' time'"):
            p, bar = line.split()[2], line.count(block)
            bars[float(p)] = bar
    (small, short), (large, long) = sorted(bars.items())
    assert long == 40
    assert short == pytest.approx(40 * small / large, abs=1)
    assert "?" not in text


def test_legends_explain_the_columns():
    found = {
        "machine": "m", "functions": [], "model": "x", "measured": [], "absent": {},
        "read_ceiling": None, "greedy_loop_seconds": {}, "peak_memory": {},
    }  # fmt: skip
    text = "\n".join(report.lines(found))
    for word in ("ceiling: ", "pays after: ", "spread: ", "roofline: ", "unsteady: "):
        assert word in text
    assert max(map(len, text.splitlines())) < 130


def test_columns_do_not_touch():
    row = dict(
        function="cross_entropy", shape="1 12 1024 1024 64", numpy_seconds=123.4567,
        numba_seconds=123.4567, numpy_spread=0.0, numba_spread=0.0, error=1e-7,
        gigabytes_per_second=1234.5, gigaflops_per_second=12345.6, ceiling_share=1.0,
        compile_seconds=123.4, pays_after_calls=10_000.0, note="",
    )  # fmt: skip
    _, line = report.function_lines([row])
    cells = line.split()
    assert cells.count("123,456.70") == 2
    assert cells[:6] == ["cross_entropy", "1", "12", "1024", "1024", "64"]


def test_a_long_name_and_large_numbers_stay_apart(capsys):
    answers = [laws.Answer("a method of a long name, unrounded", 1.0, 1e30, 1.5),
               laws.Answer("short", 1e21, 1e-30, None)]  # fmt: skip
    scaling._echo_answers(answers)
    head, long, short, legend = capsys.readouterr().out.splitlines()
    assert long.split("  ")[-3:][0].strip() == "1e+30"
    assert [len(line) for line in (head, long)] == [len(long)] * 2
    assert short.split() == ["short", "1e+21", "1e-30", "0.0"]
    assert "tokens/N: " in legend


@pytest.mark.parametrize("test", ["lambada", "hellaswag", "cloze"])
def test_eval_says_what_its_figures_are(test):
    lines = run("eval", test, "sample", "-m", "tales-mini").stdout.splitlines()
    assert all(len(re.split("  +", line)) == 3 for line in lines[1:])


def test_warmup_is_silent_in_a_pipe():
    pytest.importorskip("numba")
    assert run("warmup", "--dtype", "float32").stderr == ""


def test_compare_explains_its_columns_and_where_better_is(tmp_path):
    words = ("compare", "Once", "-m", "tales-mini", "--grid", "top_k", "--seeds", "2")
    figure = tmp_path / "c.svg"
    done = run(*words, "--max-new-tokens", "8", "--figure", str(figure))
    text = " ".join(done.stdout.split())
    for word in ("dist-2: ", "rep-4: ", "Zipf: ", "diversity: 1 - self-BLEU"):
        assert word in text
    assert "better" in figure.read_text()


def test_progress_of_bench_is_for_a_terminal_alone():
    pytest.importorskip("numba")
    words = ("bench", "-m", "tales-mini", "--quick", "--rounds", "1", "--no-functions",
             "--engine", "numpy:float32")  # fmt: skip
    assert "\r" not in run(*words).stderr
    here, there = pty.openpty()
    process = subprocess.Popen(
        [NPGPT, *words], stdout=subprocess.DEVNULL, stderr=there, stdin=there
    )
    os.close(there)
    seen = b""
    while True:
        try:
            seen += os.read(here, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    os.close(here)
    assert b"starting numpy:float32" in seen
