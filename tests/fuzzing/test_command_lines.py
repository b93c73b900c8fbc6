"""Wild command lines of the verbs that take long or ask the Hub: one sentence, or done.

What would take long is left out (bench measures nothing, warmup compiles nothing) or
made small (compare writes two texts a setting, train takes one step); the Hub is a
server on 127.0.0.1.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_hub import COMMIT, FakeHub
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from npgpt.cli import main
from npgpt.storage import hub

cheap = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
few = settings(max_examples=max(30, settings().max_examples // 5), parent=cheap)
WORDS = """
    -1 0 1 2 nan inf 1e400 0.5 99999999999999999999 é x {} [1] ~nobody/x no/such.png
    folder text.txt binary grid.yaml broken.yaml tales-mini nowhere me/none
    numpy cupy float64 int8 x.bmp /dev/null
"""
values = st.sampled_from([*WORDS.split(), "", "a" * 300, "two words"])


def options(*names):
    """Some of these options with values; a flag may be given one too many."""
    one = st.tuples(st.sampled_from(names), values) | st.tuples(st.sampled_from(names))
    return st.lists(one, max_size=3).map(
        lambda found: [x for one in found for x in one]
    )


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in; `fill` it anew for every case."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(here):
    """A file of each kind, and no other."""
    for path in here.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (here / "folder").mkdir()
    (here / "text.txt").write_text("Once upon a time\n" * 20)
    (here / "binary").write_bytes(bytes(range(256)))
    (here / "grid.yaml").write_text("- {top_k: 3, do_sample: true}\n- {}\n")
    (here / "broken.yaml").write_text("- {top_k: [3\n")


def check(status, output):
    """One sentence where it failed, no traceback in any case."""
    assert status in (0, 1, 2)
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if line.startswith("npgpt: ")]
    assert len(lines) == (status == 1), output
    if status == 2:
        assert "Error: " in output


def run(*words):
    result = CliRunner().invoke(main, words)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    check(result.exit_code, result.output)
    return result


@few
@given(
    words=options(
        "--model",
        "--engine",
        "--rounds",
        "--threads",
        "--quick",
        "--out",
        "--save",
        "--figure",
        "--markdown",
        "--json",
        "--backend",
        "--no-such",
    )
)
@example(words=["--figure", "speed.bmp"])
def test_bench(here, words):
    pytest.importorskip("numba")
    fill(here)
    result = run("bench", *words, "--no-functions", "--no-end-to-end")
    if result.exit_code == 0 and asks_for_json("bench", words):
        assert "machine" in json_of(result)


def asks_for_json(verb, words):
    """Whether --json is there, and not as the value of another option."""
    command = main.get_command(None, verb)
    context = command.make_context(verb, list(words), resilient_parsing=True)
    return context.params["as_json"] and "--help" not in words


def json_of(result):
    (line,) = (line for line in result.output.splitlines() if line.startswith("{"))
    return json.loads(line)


@cheap
@given(words=options("--dtype", "--json", "--no-such", "float32"))
def test_warmup(here, words):
    kernels = pytest.importorskip("npgpt.kernels.warmup")
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "warm_up", lambda *a: asked.append(a[0]) or (0.0, "x"))
        result = run("warmup", *words)
    assert bool(asked) == (result.exit_code == 0)


@few
@given(
    prompts=st.lists(values, max_size=2),
    words=options(
        "--grid",
        "--model",
        "--judge",
        "--backend",
        "--dtype",
        "--threads",
        "--out",
        "--by",
        "--samples",
        "--csv",
        "--figure",
        "--plot",
        "--json",
    ),
)
@example(prompts=["Once"], words=["--jobs", "100000"])
def test_compare(here, prompts, words):
    for module in ("joblib", "yaml"):
        pytest.importorskip(module)
    fill(here)
    small = ["--seeds", "2", "--max-new-tokens", "4"]
    if "--grid" not in words:
        words = ["--grid", "grid.yaml", *words]
    if "--model" not in words:
        words = ["--model", "tales-mini", *words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        result = run("compare", *prompts, *words, *small)
    if result.exit_code == 0 and asks_for_json("compare", words):
        assert json_of(result)["settings"]


@few
@given(
    words=options(
        "--preset",
        "--tokenizer",
        "--init-from",
        "--lora-rank",
        "--lora-alpha",
        "--lora-matrix",
        "--learning-rate",
        "--warmup-steps",
        "--weight-decay",
        "--clip-norm",
        "--dropout",
        "--dtype",
        "--validation",
        "--seed",
        "--prompt",
        "--resume",
        "--backend",
        "--json",
        "train:300",
        "train:99999999999",
        "folder",
        "c_attn",
    )
)
@example(words=["--tokenizer", "train:2147483647"])
@example(words=["--init-from", "tales-mini", "--tokenizer", "nowhere"])
def test_train(here, words):
    fill(here)
    small = ["--out", "out", "--steps", "1", "--batch-size", "1", "--context", "8",
             "--sample-tokens", "1"]  # fmt: skip
    result = run("train", "text.txt", *words, *small)
    if result.exit_code == 0 and "--help" not in words:
        assert (here / "out" / "model.safetensors").exists()


SHELL = """
import json, sys
from click.testing import CliRunner
from npgpt.cli import main
for line in sys.stdin:
    result = CliRunner().invoke(main, json.loads(line))
    known = result.exception is None or isinstance(result.exception, SystemExit)
    print(json.dumps([result.exit_code, result.output, known]), flush=True)
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """`npgpt` with a Hub of its own, in one process for all cases."""
    server = FakeHub()
    mini = hub.resolve("tales-mini")
    files = {path.name: path.read_bytes() for path in mini.iterdir() if path.is_file()}
    server.repositories["openai-community/gpt2"] = files
    server.repositories["me/sharded"] = {
        "config.json": b"{}",
        "model.safetensors.index.json": b'{"weight_map": {"a": 3}}',
    }
    server.repositories["me/pickle"] = {"config.json": b"{}", "pytorch_model.bin": b""}
    server.repositories["me/gated"] = files
    server.gated.add("me/gated")
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {
        "HF_ENDPOINT": server.url,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(tmp_path_factory.mktemp("hf")),
        "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", SHELL], env=env, stderr=subprocess.DEVNULL, **pipes
    )

    def ask(*words):
        process.stdin.write(json.dumps(words) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.communicate()
    server.close()


NAMES = """
    gpt2 openai-community/gpt2 me/sharded me/pickle me/gated me/none gpt3 a/b/c .. ../..
    me/.. ./me/x -x é/ü me/model@main me/x? me/%2e%2e tales ~nobody/x
"""
names = st.sampled_from([*NAMES.split(), "", "a" * 300, "a/" + "b" * 300])
REVISIONS = ("main", COMMIT, COMMIT[:7], "", "x", "..", "../../x", "refs/pr/1", "a b\n",
             "é", "?x=1#y", "a" * 300)  # fmt: skip


@given(
    name=names,
    revision=st.none() | st.sampled_from(REVISIONS),
    more=st.lists(
        st.sampled_from(["--json", "--json", "extra", "--no-such"]), max_size=1
    ),
)
def test_download(shell, name, revision, more):
    words = [name, *more] if revision is None else [name, "--revision", revision, *more]
    status, output, known = shell("download", *words)
    assert known, output
    if name == "me/pickle" and status == 1:  # it comes with two lines of code
        assert "can run code" in output or "no such revision" in output
        return
    check(status, output)
    good = name in ("gpt2", "openai-community/gpt2") and more in ([], ["--json"])
    assert (status == 0) == (good and revision in (None, "main", COMMIT))
    if status == 0:
        folder = json.loads(output)["folder"] if more else output.strip()
        assert (Path(folder) / "model.safetensors").exists()
