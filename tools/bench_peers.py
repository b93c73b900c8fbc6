"""Time npgpt beside transformers and llama.cpp on the same random 124M weights.

    pip install -e '.[peers]' llama-cpp-python gguf
    python tools/random_checkpoint.py gpt2 build/gpt2-random
    python tools/bench_peers.py build/gpt2-random

Engines run in processes of their own and take turns; medians, and ratios to npgpt.
Without llama-cpp-python its column is left out, with a note.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from npgpt.bench.worker import Worker
from npgpt.config import GPT2Config
from npgpt.scaling.sizes import describe

FIRST_TOKEN = {
    "npgpt": "from npgpt import GPT2; import sys; "
    "next(GPT2.from_pretrained(sys.argv[1]).stream([1, 2, 3], max_new_tokens=1))",
    "transformers": "import sys, torch; from transformers import GPT2LMHeadModel; "
    "GPT2LMHeadModel.from_pretrained(sys.argv[1]).generate(torch.tensor([[1, 2, 3]]), "
    "max_new_tokens=1, do_sample=False, pad_token_id=0)",
}
MEMORY = (
    "import resource, sys; from npgpt import GPT2; "
    "m = GPT2.from_pretrained(sys.argv[1]); "
    "m.next_logits([[7] * m.config.n_positions], m.new_cache());"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
)


def alternate(
    workers: dict[str, Worker], rounds: int, what: str, *numbers: int
) -> dict[str, float]:
    """Median seconds of every engine, asked in turn; the first round is left out."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    for turn in range(rounds + 1):
        for name, worker in workers.items():
            time.sleep(0.3)  # the spinning threads of the last engine go to sleep
            seconds = worker.ask(what, *numbers)
            if turn:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def shell_seconds(*command: str, rounds: int = 5) -> float:
    """Median seconds from the shell to the end of a command."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(what: str, values: dict[str, float], unit: str, wanted: str) -> None:
    """One line of the table: each engine's value and its ratio to the first."""
    ours = next(iter(values.values()))
    cells = "  ".join(
        f"{name} {value:.4g} {unit} ({value / ours:.2f})"
        for name, value in values.items()
    )
    print(f"{what:<32} {cells}   [{wanted}]", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    folder, rounds = options.folder, options.rounds
    cores = len(os.sched_getaffinity(0))
    names = ["numpy:float32", "transformers:float32", "llama.cpp:F32"]
    if not importlib.util.find_spec("llama_cpp"):
        names.remove("llama.cpp:F32")
        print("llama-cpp-python is not installed: its column is left out")
    print(f"{cores} cores, medians of {rounds} rounds; ratios to npgpt in brackets")
    workers = {name: Worker(name, folder, cores) for name in names}
    for worker in workers.values():
        worker.ask("prefill", 8)
        worker.ask("decode", 8, 1, 1)
    steps = alternate(workers, rounds, "decode", 64, 1, 64)
    rates = {name: 1 / seconds for name, seconds in steps.items()}
    wanted = "numpy >= 1.0 x transformers, 0.95 x llama.cpp"
    row("decode, context 64 to 128", rates, "tok/s", wanted)
    for T in (128, 512, 1024):
        seconds = alternate(workers, max(3, rounds // 2), "prefill", T)
        wanted = "numpy <= 2.0 x transformers" if T == 1024 else ""
        row(f"prefill {T} tokens", seconds, "s", wanted)
    for worker in workers.values():
        worker.close()
    first = {
        name: shell_seconds(sys.executable, "-c", code, folder)
        for name, code in FIRST_TOKEN.items()
    }
    row("shell to first token, folder", first, "s", "npgpt <= 1.0")
    npgpt = str(Path(sys.executable).parent / "npgpt")
    tale = shell_seconds(npgpt, "generate", "Once", "--max-new-tokens", "1")
    print(f"{'shell to first token, tales':<32} {tale:.2f} s   [<= 0.8]")
    command = [sys.executable, "-c", MEMORY, folder]
    peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sizes = describe(GPT2Config.from_file(Path(folder) / "config.json"))
    beyond = (int(peak) - sizes.memory_bytes) / 1e6
    print(f"{'peak beyond weights and cache':<32} {beyond:.0f} MB   [<= 150]")
