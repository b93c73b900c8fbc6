"""Train a ladder of models and record what each reached, for `npgpt scaling`.

    python tools/train_bundled.py clean --out build/tales
    python tools/scaling.py plan
    python tools/scaling.py run --text build/tales/text --out build/scaling

Seven sizes, each for several numbers of tokens, every run with its own warm-up and
cosine down to nearly nothing, none longer than one pass over the text: a loss read off
the middle of a longer schedule is too high, and bends the law (Hoffmann et al. 2022).
One JSON line a run goes to OUT/runs.jsonl; runs that are there are not done again, and
a run that was stopped goes on. Copied to npgpt/scaling/runs.jsonl it is the project's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npgpt import GPT2Config, Tokenizer, __version__
from npgpt.backend import BACKENDS
from npgpt.scaling.laws import training_flops
from npgpt.scaling.sizes import describe
from npgpt.training import corpus
from npgpt.training.folder import CHECKPOINT
from npgpt.training.loop import TrainConfig, init_params, keep_freed_memory, train

# A small vocabulary: embeddings are most of a small model, and no part of its depth.
VOCABULARY, CONTEXT = 1024, 256
SIZES = ((2, 32), (2, 48), (3, 64), (3, 96), (4, 128), (5, 160), (5, 224))  # L, width
MOST = {128: 1e6, 160: 1e6, 224: 1e6}  # tokens; else 2e6
TOKENS = (125_000, 250_000, 500_000, 1_000_000, 2_000_000)
HEAD = 16  # width of a head, 32 from width 128 on


@dataclass(frozen=True)
class Rung:
    """One run of the ladder."""

    layers: int
    width: int
    tokens: int  # wanted; the steps are whole

    @property
    def shape(self) -> GPT2Config:
        """The model's config."""
        head = HEAD if self.width < 128 else 2 * HEAD
        return GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=CONTEXT,
            n_embd=self.width,
            n_layer=self.layers,
            n_head=self.width // head,
            bos_token_id=0,
            eos_token_id=0,
        )

    def recipe(self, seed: int = 0) -> TrainConfig:
        """The schedule: 5 % warm-up, a rate that falls with the width, and a batch
        that grows with the root of the tokens (what is fixed for all sizes bends the
        law: Porian et al. 2024).
        """
        batch = max(1, round(2 * (self.tokens / 125_000) ** 0.5))
        steps = round(self.tokens / (batch * CONTEXT))
        return TrainConfig(
            steps=steps,
            batch_size=batch,
            context=CONTEXT,
            warmup_steps=steps // 20,
            learning_rate=3e-3 * (96 / self.width) ** 0.5,
            final_fraction=0.01,
            seed=seed,
            eval_every=steps,
            eval_tokens=60_000,
            save_every=200,
            dtype="bfloat16",
        )

    @property
    def flops(self) -> float:
        """Of the training, attention counted."""
        recipe = self.recipe()
        tokens = recipe.steps * recipe.tokens_per_step
        return training_flops(self.shape, tokens, CONTEXT)


def ladder(sizes: int | None = None) -> Iterator[Rung]:
    """All runs, the cheap ones first; of the smallest so many sizes."""
    rungs = [
        Rung(layers, width, tokens)
        for layers, width in SIZES[:sizes]
        for tokens in TOKENS
        if tokens <= MOST.get(width, 2e6)
    ]
    return iter(sorted(rungs, key=lambda rung: rung.flops))


def key(record: dict[str, Any]) -> tuple:
    """What makes two runs the same."""
    return tuple(record[name] for name in ("layers", "width", "wanted_tokens", "seed"))


def run(rung: Rung, data: corpus.Corpus, out: Path, backend: str, seed: int) -> dict:
    """Train one rung and say what it reached."""
    recipe, shape = rung.recipe(seed), rung.shape
    tokens = recipe.steps * recipe.tokens_per_step
    if tokens > len(data.train):
        raise SystemExit(
            f"{tokens:,} tokens are more than one pass over the text, "
            f"{len(data.train):,}; give it more text"
        )
    folder = out / f"run-{rung.layers}-{rung.width}-{rung.tokens}-{seed}"
    last: dict[str, Any] = {}
    keep_freed_memory()
    start = time.perf_counter()
    train(
        init_params(shape, seed),
        data.train,
        data.validation,
        recipe,
        out=folder,
        backend=backend,
        resume=(folder / CHECKPOINT).exists(),
        report=last.update,
        bits_per_byte=data.bits_per_byte,
    )
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    sizes = describe(shape)
    parts = sizes.parameters_by_part
    tables = parts["token embeddings"] + parts["position embeddings"]
    return {
        "parameters": sizes.parameters,
        "without_embeddings": sizes.parameters - tables,
        "tokens": tokens,
        "flops": training_flops(shape, tokens, CONTEXT),
        "loss": last["validation_loss"],
        "bits_per_byte": last["bits_per_byte"],
        "layers": rung.layers,
        "width": rung.width,
        "heads": shape.n_head,
        "vocabulary": VOCABULARY,
        "context": CONTEXT,
        "batch": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "dtype": recipe.dtype,
        "wanted_tokens": rung.tokens,
        "seed": seed,
        "seconds": round(seconds, 1),
        "backend": backend,
        "command": " ".join(["python", *sys.argv]),
        "npgpt": __version__,
    }


def load(text: Path, out: Path) -> corpus.Corpus:
    """The ids, with a vocabulary of the ladder's own."""
    tokenizer = Tokenizer.from_folder(out) if out.exists() else None
    data = corpus.prepare(
        [text],
        tokenizer or VOCABULARY,
        validation=0.01,
        window=CONTEXT,
        folder=out / "ids",
    )
    data.tokenizer.save(out)
    return data


def plan(speed: float, sizes: int | None) -> None:
    """Print the runs and how long they take.

    Two AVX2 cores did 12 GFLOP/s at width 32, 56 at 224 with the numba backend: about
    as width^0.8. `speed` is this machine's share of theirs.
    """
    total = flops = 0.0
    for rung in ladder(sizes):
        rate = speed * 1.2e10 * (rung.width / 32) ** 0.8
        total += rung.flops / rate
        flops += rung.flops
        parameters = describe(rung.shape).parameters
        print(
            f"{rung.layers} x {rung.width:<4} {parameters:>10,} parameters "
            f"{rung.tokens:>10,} tokens {rung.flops:>9.2e} FLOPs "
            f"{rung.flops / rate / 60:>6.1f} min"
        )
    print(f"{flops:.2e} FLOPs, {total / 60:.0f} minutes, and validation")


def main() -> None:
    """Print the plan, or do what is left of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("step", choices=["plan", "run"])
    parser.add_argument("--text", type=Path, help="a folder of .txt files")
    parser.add_argument("--out", type=Path, default=Path("build/scaling"))
    parser.add_argument("--sizes", type=int, help="only the smallest so many")
    parser.add_argument("--most-tokens", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=BACKENDS, default="numba")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="for the plan: 1 is two AVX2 cores"
    )
    options = parser.parse_args()
    if options.step == "plan":
        return plan(options.speed, options.sizes)
    if options.text is None:
        parser.error("which text? give --text")
    path = options.out / "runs.jsonl"
    data = load(options.text, options.out)
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    done = {key(json.loads(line)) for line in lines}
    for rung in ladder(options.sizes):
        wanted = (rung.layers, rung.width, rung.tokens, options.seed)
        if wanted in done or rung.tokens > options.most_tokens:
            continue
        record = run(rung, data, options.out, options.backend, options.seed)
        with path.open("a", encoding="utf-8") as stream:
            print(json.dumps(record), file=stream, flush=True)
        print(
            f"{record['parameters']:>10,} parameters {record['tokens']:>10,} tokens: "
            f"{record['loss']:.4f} nats, {record['seconds']:.0f} s, "
            f"{record['flops'] / record['seconds']:.1e} FLOP/s"
        )


if __name__ == "__main__":
    main()
