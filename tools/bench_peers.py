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

from npgpt import checkpoint, hub
from npgpt.info import describe
from npgpt.peers import Engine, alternate, medians, random_ids

CODE_TO_FIRST_TOKEN = {
    "npgpt": "from npgpt import GPT2; import sys; "
    "next(GPT2.from_pretrained(sys.argv[1]).stream([1, 2, 3], max_new_tokens=1))",
    "transformers": "import sys, torch; from transformers import GPT2LMHeadModel; "
    "GPT2LMHeadModel.from_pretrained(sys.argv[1]).generate(torch.tensor([[1, 2, 3]]), "
    "max_new_tokens=1, do_sample=False, pad_token_id=0)",
}


def shell_seconds(*command: str, rounds: int = 5) -> float:
    """Median seconds from the shell to the end of a command."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(
    what: str, values: dict[str, float], scale: float, unit: str, wanted: str
) -> None:
    """One line of the table: values, and every engine's ratio to npgpt."""
    ours = next(iter(values.values()))
    cells = "  ".join(
        f"{name.split(':')[0]} {value * scale:.4g} {unit} ({value / ours:.2f})"
        for name, value in values.items()
    )
    print(f"{what:<34} {cells}   [{wanted}]", flush=True)


def peak_beyond_weights(folder: str, config) -> float:
    """MB above weights and KV cache after reading 1,024 tokens, in a fresh process."""
    code = (
        "import sys; from npgpt import GPT2; from npgpt.peers import peak_memory;"
        "m = GPT2.from_pretrained(sys.argv[1]); ids = eval(sys.argv[2]);"
        "m.next_logits([ids], m.new_cache()); print(peak_memory())"
    )
    ids = repr(random_ids(config.n_positions, config.vocab_size))
    command = [sys.executable, "-c", code, folder, ids]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    info = describe(config)
    return (int(done.stdout) - info.weight_bytes - info.kv_bytes) / 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    folder, rounds = options.folder, options.rounds
    names = ["npgpt:numpy:float32", "transformers:float32"]
    if importlib.util.find_spec("llama_cpp"):
        names.append("llama.cpp:F32")
    else:
        print("llama-cpp-python is not installed: its column is left out")
    print(
        f"{len(os.sched_getaffinity(0))} cores, medians of {rounds} rounds; ratios to npgpt"
    )
    engines = [Engine(name, folder) for name in names]
    decode = medians(alternate(engines, "decode", 64, 24, rounds=rounds))
    rates = {name: 1 / seconds for name, seconds in decode.items()}
    row("decode at context 64", rates, 1, "tok/s", "npgpt >= 1.0 and 0.95")
    for T in (128, 512, 1024):
        seconds = medians(alternate(engines, "prefill", T, rounds=max(3, rounds // 2)))
        wanted = "npgpt <= 2.0 x transformers" if T == 1024 else ""
        row(f"prefill {T} tokens", seconds, 1e3, "ms", wanted)
    for engine in engines:
        engine.close()
    first = {
        name: shell_seconds(sys.executable, "-c", code, folder)
        for name, code in CODE_TO_FIRST_TOKEN.items()
    }
    row("shell to first token, folder", first, 1, "s", "npgpt <= 1.0")
    npgpt = str(Path(sys.executable).parent / "npgpt")
    tale = shell_seconds(npgpt, "generate", "Once", "--max-new-tokens", "1")
    print(f"{'shell to first token, tales':<34} {tale:.2f} s   [<= 0.8]")
    beyond = peak_beyond_weights(folder, checkpoint.load(hub.resolve(folder)).config)
    print(f"{'peak beyond weights and KV cache':<34} {beyond:.0f} MB   [<= 150]")
