"""Side-by-side timing of engines on the same weights, each in a process of its own.

An engine is "npgpt:BACKEND:DTYPE", "transformers:DTYPE" or "llama.cpp:FILETYPE"; its
process answers one request at a time and sleeps in between, so that idle thread pools
disturb nobody. Rounds alternate between the engines. transformers, torch,
llama-cpp-python and gguf are needed only for the engines of those names; nothing here
is used by the rest of the package.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.errors import BackendError

REST = 0.3  # seconds between two requests: spinning threads of the last engine sleep


class Engine:
    """A process that holds one model and times what it is asked to do."""

    def __init__(self, name: str, folder: str | Path):
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "npgpt.peers", name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()  # when it has loaded

    def ask(self, task: str, *arguments: int) -> float:
        """Seconds (or, for "memory", bytes) that a task of WORKERS took."""
        time.sleep(REST)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([task, *arguments]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> float:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BackendError(f"engine {self.name} ended; its message stands above")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def alternate(
    engines: Sequence[Engine], task: str, *arguments: int, rounds: int = 7
) -> dict[str, list[float]]:
    """Answers of every engine, asked in turn; the first round is left out."""
    answers: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for turn in range(rounds + 1):
        for engine in engines:
            answer = engine.ask(task, *arguments)
            if turn:
                answers[engine.name].append(answer)
    return answers


def medians(answers: dict[str, list[float]]) -> dict[str, float]:
    """Median answer of each engine."""
    return {name: statistics.median(values) for name, values in answers.items()}


def random_ids(n: int, vocab_size: int) -> list[int]:
    """n token ids, the same for every engine."""
    return np.random.default_rng(n).integers(0, vocab_size, n).tolist()


# What runs inside an engine's process. A worker reads ids into an empty cache and
# returns with the logits of the last position ready; then it decodes greedily.


def npgpt_worker(folder: str, backend: str, dtype: str) -> tuple[Callable, Callable]:
    """npgpt itself."""
    from npgpt.model import GPT2

    model = GPT2.from_pretrained(folder, backend=backend, dtype=dtype)
    state: dict[str, Any] = {}

    def read(ids: list[int]) -> None:
        state["cache"] = model.new_cache()
        state["z"] = model.next_logits([ids], state["cache"])

    def step() -> None:
        token = int(state["z"][0].argmax())
        state["z"] = model.next_logits([[token]], state["cache"])

    return read, step


def transformers_worker(folder: str, dtype: str) -> tuple[Callable, Callable]:
    """Hugging Face transformers on torch's CPU backend."""
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    state: dict[str, Any] = {}

    def run(ids: list[int], past: Any) -> None:
        with torch.inference_mode():
            out = model(
                torch.tensor([ids]), past_key_values=past, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
        state.update(past=out.past_key_values, token=int(out.logits[0, -1].argmax()))

    return lambda ids: run(ids, None), lambda: run([state["token"]], state["past"])


def llama_worker(folder: str, filetype: str) -> tuple[Callable, Callable]:
    """llama.cpp through llama-cpp-python, on a GGUF file written beside the weights."""
    import llama_cpp

    path = write_gguf(Path(folder), filetype)
    n_positions = json.loads((Path(folder) / "config.json").read_text())["n_positions"]
    model = llama_cpp.Llama(
        str(path), n_ctx=n_positions, n_batch=n_positions, n_ubatch=n_positions,
        logits_all=False, verbose=False, n_threads=_cores(), n_threads_batch=_cores(),
    )  # fmt: skip
    state: dict[str, Any] = {}

    def best() -> int:
        logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        return int(np.ctypeslib.as_array(logits, shape=(model.n_vocab(),)).argmax())

    def read(ids: list[int]) -> None:
        model.reset()
        model.eval(ids)
        state["token"] = best()

    def step() -> None:
        model.eval([state["token"]])
        state["token"] = best()

    return read, step


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def write_gguf(folder: Path, filetype: str) -> Path:
    """The checkpoint of a folder as GGUF (F32, F16 or Q8_0), written once."""
    import gguf

    from npgpt import checkpoint

    path = folder / f"{filetype}.gguf"
    if path.exists():
        return path
    params = checkpoint.load(folder)
    config = params.config
    kind = gguf.GGMLQuantizationType[filetype]
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.inner_dim)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    names = {
        "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm",
        "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    }  # fmt: skip
    for name, x in checkpoint.named_tensors(params).items():
        part, suffix = name.rsplit(".", 1)
        prefix = ""
        if part.startswith("h."):
            _, layer, part = part.split(".", 2)
            prefix = f"blk.{layer}."
        matrix = x.ndim == 2 and part != "wpe"
        if x.ndim == 2 and part not in ("wte", "wpe"):
            x = x.T  # GGUF stores (outputs, inputs)
        data = np.ascontiguousarray(x, dtype=np.float32)
        stored = kind if matrix else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(data, stored)
        writer.add_tensor(f"{prefix}{names[part]}.{suffix}", data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


WORKERS = {
    "npgpt": npgpt_worker,
    "transformers": transformers_worker,
    "llama.cpp": llama_worker,
}


def main(name: str, folder: str) -> None:
    """Answer requests from stdin until it ends."""
    kind, *arguments = name.split(":")
    vocab_size = json.loads((Path(folder) / "config.json").read_text())["vocab_size"]
    read, step = WORKERS[kind](folder, *arguments)
    read(random_ids(8, vocab_size))
    step()
    print(0.0, flush=True)
    for line in sys.stdin:
        task, *numbers = json.loads(line)
        if task == "memory":
            answer = peak_memory()
        elif task == "prefill":
            ids = random_ids(numbers[0], vocab_size)
            answer = _seconds(read, ids)
        else:  # decode: the median of n steps behind a context
            context, n = numbers
            read(random_ids(context, vocab_size))
            answer = statistics.median(_seconds(step) for _ in range(n))
        print(json.dumps(answer), flush=True)


def peak_memory() -> int:
    """Largest resident size of this process so far in bytes, mapped files included."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _seconds(work: Callable, *arguments: Any) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*sys.argv[1:])
