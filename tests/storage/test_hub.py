"""Models from a server that speaks the Hub's paths, through the installed command."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import COMMIT, FakeHub

from npgpt import CheckpointError
from npgpt.storage import hub

NPGPT = shutil.which("npgpt", path=str(Path(sys.executable).parent)) or "npgpt"
MINI = hub.resolve("tales-mini")
FILES = {path.name: path.read_bytes() for path in MINI.iterdir() if path.is_file()}
WEIGHTS = "model.safetensors"
CHUNK = 10 * 2**20  # huggingface_hub keeps what has arrived in whole chunks of this
LARGE = b"0123456789abcdef" * (CHUNK * 5 // 2 // 16)


@pytest.fixture
def server():
    server = FakeHub()
    server.repositories["openai-community/gpt2"] = {
        "pytorch_model.bin": b"never asked for",
        "README.md": b"nor this",
        "onnx/decoder_model.onnx": b"nor this",
        **FILES,
    }
    server.repositories["me/large"] = {**FILES, WEIGHTS: LARGE}
    yield server
    server.close()


@pytest.fixture
def run(server, tmp_path):
    def run(*arguments, **environment):
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        env |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")}
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
        return subprocess.run(
            [NPGPT, *arguments],
            env=env | environment,
            text=True,
            capture_output=True,
            timeout=120,
            cwd=tmp_path,
        )

    return run


def folder_of(result) -> Path:
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip())


def sentence_of(result) -> str:
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    return result.stderr.strip().splitlines()[-1]


def test_downloads_what_is_needed_and_nothing_else(server, run, tmp_path):
    folder = folder_of(run("download", "gpt2"))
    assert folder.is_relative_to(tmp_path / "hf" / "hub")
    assert folder.name == COMMIT
    wanted = {"config.json", "tokenizer.json", WEIGHTS}
    assert {path.name for path in folder.iterdir()} == wanted
    assert all((folder / name).read_bytes() == FILES[name] for name in wanted)
    asked = {path.rpartition("/")[2] for _, path, _, _ in server.log}
    assert asked == {"gpt2", *wanted}


def test_second_download_fetches_no_content(server, run):
    first = folder_of(run("download", "gpt2"))
    server.log.clear()
    assert folder_of(run("download", "gpt2")) == first
    assert server.fetched(WEIGHTS) == []


def test_a_cached_model_runs_without_asking_the_hub(server, run):
    arguments = ("generate", "Once", "-m", "gpt2", "--greedy", "--max-new-tokens", "3")
    fresh = run(*arguments)
    assert fresh.returncode == 0, fresh.stderr
    assert server.log
    server.log.clear()
    again = run(*arguments)
    assert again.stdout == fresh.stdout
    assert server.log == []
    assert run(*arguments, HF_HUB_OFFLINE="1").stdout == fresh.stdout


SMALL = {
    "generation_config.json": b'{"max_new_tokens": 4}',
    "tokenizer_config.json": b"{}",
    "special_tokens_map.json": b"{}",
    "added_tokens.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
}


def test_small_files_come_with_the_model(server, run):
    server.repositories["me/whole"] = {**FILES, **SMALL}
    folder = folder_of(run("download", "me/whole"))
    wanted = {"config.json", "tokenizer.json", WEIGHTS, *SMALL}
    assert {path.name for path in folder.iterdir()} == wanted
    result = run("generate", "Once", "-m", "me/whole", "--greedy", "--json")
    assert len(json.loads(result.stdout)["generations"][0]["ids"]) == 4


def test_what_the_repository_does_not_have_is_not_asked_for_again(server, run):
    server.repositories["me/bare"] = {
        name: FILES[name] for name in ("config.json", WEIGHTS)
    }
    arguments = ("info", "me/bare", "--json")
    folder = folder_of(run("download", "me/bare"))
    server.log.clear()
    assert run(*arguments).returncode == 0
    assert server.log == []
    assert run(*arguments, HF_HUB_OFFLINE="1").returncode == 0
    assert run("download", "me/bare", HF_HUB_OFFLINE="1").stdout.strip() == str(folder)


def test_a_cache_of_another_program_is_completed(server, run):
    server.repositories["me/whole"] = {**FILES, **SMALL}
    folder = folder_of(run("download", "me/whole"))
    for name in SMALL:
        (folder / name).unlink()
    unreachable = run("info", "me/whole", HF_ENDPOINT="http://127.0.0.1:9")
    assert unreachable.returncode == 0  # what there is, is enough
    server.log.clear()
    assert run("info", "me/whole").returncode == 0
    assert {path.name for path in folder.iterdir()} >= set(SMALL)
    assert server.fetched(WEIGHTS) == []


@pytest.mark.parametrize("redirected", [True, False])
def test_cut_connections_are_resumed_within_a_call(server, run, redirected):
    server.redirected = redirected
    server.cuts[WEIGHTS] = [CHUNK + 1000, CHUNK]
    folder = folder_of(run("download", "me/large"))
    assert (folder / WEIGHTS).read_bytes() == LARGE
    assert server.fetched(WEIGHTS) == [None, f"bytes={CHUNK}-", f"bytes={2 * CHUNK}-"]


def test_an_interrupted_download_is_resumed_by_the_next_process(server, run):
    server.cuts[WEIGHTS] = [CHUNK] + [0] * 5  # it tries so often
    assert "it goes on where it stopped" in sentence_of(run("download", "me/large"))
    server.log.clear()
    folder = folder_of(run("download", "me/large"))
    assert (folder / WEIGHTS).read_bytes() == LARGE
    assert server.fetched(WEIGHTS) == [f"bytes={CHUNK}-"]
    assert not list(folder.parents[1].glob("blobs/*.incomplete"))


def test_a_partial_file_of_other_content_is_noticed(server, run, tmp_path):
    blobs = tmp_path / "hf" / "hub" / "models--openai-community--gpt2" / "blobs"
    blobs.mkdir(parents=True)
    digest = hashlib.sha256(FILES[WEIGHTS]).hexdigest()
    (blobs / f"{digest}.incomplete").write_bytes(bytes(1000))
    assert "arrived damaged" in sentence_of(run("download", "gpt2"))
    folder = folder_of(run("download", "gpt2"))
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_wrong_size_and_wrong_content_are_refused(server, run):
    server.sizes[WEIGHTS] = len(FILES[WEIGHTS]) + 1
    for _ in range(2):
        assert "not of the announced size" in sentence_of(run("download", "gpt2"))
    server.sizes.clear()
    server.sha256[WEIGHTS] = "ab" * 32
    assert "arrived damaged" in sentence_of(run("download", "gpt2"))


def test_shards_are_found_through_the_index(server, run):
    weight_map = {"wte.weight": "a.safetensors", "ln_f.bias": "b.safetensors"}
    files = {
        "config.json": FILES["config.json"],
        "vocab.json": b"{}",
        "merges.txt": b"",
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode(),
        "a.safetensors": b"a" * 10,
        "b.safetensors": b"b" * 10,
        "c.safetensors": b"c" * 10,
    }
    server.repositories["me/sharded"] = files
    folder = folder_of(run("download", "me/sharded"))
    assert {path.name for path in folder.iterdir()} == {*files} - {"c.safetensors"}
    del files["b.safetensors"]
    (folder / "b.safetensors").unlink()
    assert "names b.safetensors, which the repository" in sentence_of(
        run("download", "me/sharded")
    )


def test_a_pickle_that_an_index_names_is_never_fetched(server, run):
    weight_map = {"wte.weight": "pytorch_model.bin"}
    server.repositories["me/sly"] = {
        "config.json": FILES["config.json"],
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode(),
        "pytorch_model.bin": b"never asked for",
    }
    sentence = sentence_of(run("download", "me/sly"))
    assert "'pytorch_model.bin' is not a .safetensors file" in sentence
    assert not any("pytorch_model" in path for _, path, _, _ in server.log)


def test_info_of_a_repository_fetches_no_weights(server, run):
    result = run("info", "openai-community/gpt2", "--json")
    assert json.loads(result.stdout)["config"]["n_layer"] == 3
    assert server.fetched(WEIGHTS) == []


def test_pickles_are_refused_with_the_way_out(server, run):
    server.repositories["me/old"] = {"config.json": b"{}", "pytorch_model.bin": b""}
    result = run("download", "me/old")
    assert result.returncode == 1
    assert "only pytorch_model.bin, which can run code" in result.stderr
    assert 'from_pretrained("me/old").save_pretrained("converted")' in result.stderr
    assert not any("pytorch_model" in path for _, path, _, _ in server.log)


def test_a_missing_repository_is_one_sentence(server, run):
    sentence = sentence_of(run("download", "me/nothing"))
    assert sentence == (
        f"npgpt: me/nothing: no such repository at {server.url}, or a private one; "
        "check the name, or set HF_TOKEN to your token"
    )


def test_a_missing_file_is_one_sentence(server, run):
    server.hidden.add(WEIGHTS)
    sentence = sentence_of(run("download", "gpt2"))
    assert f"cannot download {WEIGHTS}, {server.url} does not have it" in sentence


def test_a_repository_without_config_is_one_sentence(server, run):
    server.repositories["me/bare"] = {WEIGHTS: b""}
    assert "no config.json in it" in sentence_of(run("download", "me/bare"))


def test_a_gated_repository_takes_a_token(server, run):
    server.gated.add("openai-community/gpt2")
    sentence = sentence_of(run("download", "gpt2"))
    assert f"accept its terms at {server.url}/openai-community/gpt2" in sentence
    folder_of(run("download", "gpt2", HF_TOKEN="hf_secret"))
    seen = {(path.startswith("/cdn/"), auth) for *_, path, _, auth in server.log[-9:]}
    assert (False, "Bearer hf_secret") in seen
    assert (True, "Bearer hf_secret") not in seen  # the CDN never sees the token


def test_an_unknown_revision_is_one_sentence(server, run):
    assert "no such revision" in sentence_of(
        run("download", "gpt2", "--revision", "nowhere")
    )


def test_offline_without_cache_is_one_sentence(server, run):
    sentence = sentence_of(run("download", "gpt2", HF_HUB_OFFLINE="1"))
    assert "HF_HUB_OFFLINE is set, and openai-community/gpt2 is not" in sentence
    assert server.log == []


def test_an_unreachable_hub_is_one_sentence(run):
    sentence = sentence_of(run("download", "gpt2", HF_ENDPOINT="http://127.0.0.1:9"))
    assert "from http://127.0.0.1:9 (" in sentence
    assert "check the connection and HF_ENDPOINT" in sentence


def test_a_failing_hub_is_one_sentence(server, run):
    server.status = 503
    assert "answered with status 503" in sentence_of(run("download", "gpt2"))


def test_an_unwritable_cache_is_one_sentence(server, run, tmp_path):
    (tmp_path / "hf").write_text("a file where a folder should be")
    assert "let HF_HOME name a folder" in sentence_of(run("download", "gpt2"))


def test_other_names_never_reach_the_hub():
    for name in ("nosuchmodel", "./me/model", "/no/folder", "a/b/c", "me/", "a b/c"):
        with pytest.raises(CheckpointError, match="not a bundled model"):
            hub.resolve(name)
    with pytest.raises(CheckpointError, match="is a file"):
        hub.resolve(__file__)


def test_the_bundled_model_needs_no_hub_library():
    code = (
        "import sys, npgpt; npgpt.GPT2.from_pretrained('tales');"
        "assert 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
