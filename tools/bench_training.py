"""Time training steps of npgpt beside torch: same model, same batches, own AdamW.

    pip install -e '.[peers,numba]' && python tools/bench_training.py

A model of 6 layers, 256 wide, 512 positions and a vocabulary of 4,096. A step is
forward and backward pass, clipping and AdamW, in float32 (numba:bfloat16 rounds what
products take, npgpt.training.mixed); torch runs eagerly. Every engine lives in a
process of its own and they take turns; medians, ratios to torch, peak memory.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

ENGINES = ("torch", "numpy", "numba", "numba:bfloat16")


def make(engine, B, T):
    """step() -> loss, for one engine."""
    import numpy as np

    from npgpt.config import GPT2Config
    from npgpt.training.batches import batch
    from npgpt.training.loop import init_params

    config = GPT2Config(
        vocab_size=4096,
        n_positions=512,
        n_embd=256,
        n_layer=6,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    params = init_params(config)
    ids = np.random.default_rng(0).integers(0, 4096, 200_000).astype(np.uint16)
    settings = dict(learning_rate=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    if engine == "torch":
        import torch
        from torch_gpt2 import TorchGPT2, parameter_groups

        model = TorchGPT2(params)
        groups = parameter_groups(model, settings.pop("weight_decay"))
        adamw = torch.optim.AdamW(
            groups, lr=settings["learning_rate"], betas=settings["betas"]
        )

        def step(i):
            x, y = (torch.tensor(a) for a in batch(ids, i, B, T, 0))
            adamw.zero_grad(set_to_none=True)
            loss = model(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adamw.step()
            return loss.item()

        return step

    from npgpt.training import optim
    from npgpt.training.engine import get_engine
    from npgpt.training.gradients import loss_and_gradients
    from npgpt.training.loop import keep_freed_memory
    from npgpt.training.mixed import mixed_engine

    keep_freed_memory()  # as `npgpt train` does
    name, _, dtype = engine.partition(":")
    engine = get_engine(name)
    engine = mixed_engine(engine) if dtype else engine
    moments = optim.new_moments(params)

    def step(i):
        x, y = batch(ids, i, B, T, 0)
        loss, grads = loss_and_gradients(params, x, y, backend=engine)
        optim.clip_by_global_norm(grads, 1.0)
        optim.adamw(params, grads, moments, i + 1, update=engine.update, **settings)
        return loss

    return step


def work(engine, B, T):
    """Answer every line of the input with seconds, loss and peak bytes of a step."""
    import npgpt  # before NumPy, whose threads it tells not to spin

    step = make(engine, B, T)
    print(npgpt.__version__, flush=True)
    for i, _ in enumerate(sys.stdin):
        start = time.perf_counter()
        loss = step(i)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps([seconds, loss, peak]), flush=True)


def main():
    """Start the engines, let them take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", action="append", choices=ENGINES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--work", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    B, T = options.batch, options.context
    if options.work:
        work(options.work, B, T)
        return
    engines = options.engine or ENGINES
    workers = {}
    for engine in engines:
        workers[engine] = subprocess.Popen(
            [
                sys.executable,
                __file__,
                "--work",
                engine,
                "--batch",
                str(B),
                "--context",
                str(T),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        workers[engine].stdout.readline()
    times, losses, peaks = ({engine: [] for engine in engines} for _ in range(3))
    for turn in range(options.rounds + 1):
        for engine, worker in workers.items():
            time.sleep(0.2)  # the spinning threads of the last engine go to sleep
            worker.stdin.write("step\n")
            worker.stdin.flush()
            seconds, loss, peak = json.loads(worker.stdout.readline())
            losses[engine].append(loss)
            peaks[engine].append(peak)
            if turn:  # the first step compiles and warms up
                times[engine].append(seconds)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    print(
        f"{len(os.sched_getaffinity(0))} cores, batch {B} x {T}, "
        f"medians of {options.rounds} steps"
    )
    speed = {e: B * T / statistics.median(times[e]) for e in engines}
    for engine in engines:
        first, *_, last = losses[engine]
        line = f"{engine:<14} {speed[engine]:8,.0f} tok/s"
        line += f"  {max(peaks[engine]) / 1e6:6,.0f} MB  loss {first:.6f} -> {last:.6f}"
        if "torch" in engines:
            line += f"  x {speed[engine] / speed['torch']:.2f} of torch's speed"
            line += f", x {max(peaks[engine]) / max(peaks['torch']):.2f} of its memory"
        print(line)


if __name__ == "__main__":
    main()
