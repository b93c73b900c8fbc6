"""Make the bundled models: clean the stories, train, measure, write the model cards.

    python tools/train_bundled.py all --out build/tales [--shared FOLDER]

FOLDER (or NPGPT_SHARED) holds data/stories, the public-domain books, and
data/tales-model/heldout.txt, which stays out of all training. Every step leaves its
files in --out and is not done again; training goes on at its last checkpoint. The steps
one by one: clean, train, measure, card.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from npgpt import GPT2, GPT2Config, Tokenizer
from npgpt.backend import BACKENDS
from npgpt.scaling.sizes import describe
from npgpt.storage import checkpoint
from npgpt.training import corpus
from npgpt.training.corpus import Corpus
from npgpt.training.folder import CHECKPOINT, CURVE
from npgpt.training.loop import TrainConfig, init_params, keep_freed_memory, train

sys.path.insert(0, str(Path(__file__).parent))
import stories

VOCABULARY, SAMPLES = 4096, 100
CARD = Path(__file__).with_name("model_card.md")
MODELS = {  # the small one first: it is soon done
    name: (
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=512,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            bos_token_id=0,
            eos_token_id=0,
        ),
        TrainConfig(
            steps=steps,
            batch_size=batch,
            context=512,
            learning_rate=rate,
            warmup_steps=200,
            final_fraction=0.02,
            dtype="bfloat16",
            eval_every=250,
            eval_tokens=100_000,
            save_every=100,
        ),
    )
    for name, layers, heads, width, steps, batch, rate in (
        ("tales-mini", 3, 3, 96, 4500, 16, 4e-3),
        ("tales", 6, 4, 256, 7500, 8, 1.5e-3),
    )
}
SEPARATOR = f"\n\n{stories.END}\n\n"
FILES = (("tales", "1"), ("novels", "2"))  # and the tier that the manifest gives them


# clean


def clean(shared: Path, out: Path) -> dict:
    """Training text without what the held-out passages share, and what was dropped."""
    source = shared / "data" / "stories"
    heldout = read_passages(shared)
    shingles = stories.Shingles(heldout)
    rows = [
        row.split("\t")
        for row in (source / "MANIFEST.tsv").read_text("utf-8").splitlines()[1:]
    ]
    report: dict = {"heldout_passages": len(heldout)}
    texts: dict[str, list[list[str]]] = {}
    for name, tier in FILES:
        text = (source / f"{name}.txt").read_text("utf-8")
        books = list(stories.books(text, [row[2] for row in rows if row[0] == tier]))
        texts[name] = [tale for book in books for tale in stories.tales_of(book)]
        report[name] = {
            "books": sum(bool(book.paragraphs) for book in books),
            "bytes_of_source": len(text.encode()),
            "bytes_around_the_tales": sum(
                len(paragraph.encode()) for book in books for paragraph in book.dropped
            ),
        }
    text = (source / "fairytaleqa.txt").read_text("utf-8")
    texts["fairytaleqa"] = [stories.unwrapped(part) for part in text.split(stories.END)]
    report["fairytaleqa"] = {"bytes_of_source": len(text.encode())}
    known = stories.Shingles("\n\n".join(tale) for tale in texts["tales"])
    for name, tales in texts.items():
        kept, held_out, repeated = [], 0, 0
        for tale in tales:
            if name == "fairytaleqa" and known.marks("\n\n".join(tale)).mean() > 0.5:
                repeated += 1  # it is among the tales already, word for word
                continue
            parts, words = stories.without(tale, shingles)
            kept += parts
            held_out += words
        path = out / "text" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        body = SEPARATOR.join("\n\n".join(part) for part in kept)
        path.write_text(body, "utf-8")
        report[name] |= {
            "tales": len(tales),
            "tales_known_already": repeated,
            "words_dropped_as_held_out": held_out,
            "documents": len(kept),
            "words": sum(map(stories.words_in, kept)),
            "bytes": len(body.encode()),
        }
    return report


def read_passages(shared: Path) -> list[str]:
    """The held-out passages."""
    text = (shared / "data" / "tales-model" / "heldout.txt").read_text("utf-8")
    return text.split(SEPARATOR)


# train


def load_corpus(out: Path) -> Corpus:
    """Ids of the cleaned text with the vocabulary that both models share."""
    files = [
        out / "text" / f"{name}.txt" for name in ("tales", "novels", "fairytaleqa")
    ]
    tokenizer = Tokenizer.from_folder(out) or VOCABULARY
    with bar("corpus") as tell:
        result = corpus.prepare(
            files,
            tokenizer,
            validation=0.01,
            window=512,
            folder=out / "ids",
            progress=lambda what, n, total: tell(n, total, what),
        )
    if tokenizer is VOCABULARY:
        result.tokenizer.save(out)
    return result


def train_model(
    folder: Path,
    data: Corpus,
    shape: GPT2Config,
    recipe: TrainConfig,
    backend: str,
) -> None:
    """Train, or go on training, in folder/run; folder gets the float16 model."""
    run = folder / "run"
    with bar(folder.name) as tell:

        def report(line: dict[str, Any]) -> None:
            if "validation_loss" in line:
                tell(0, recipe.steps, f"{line['bits_per_byte']:.4f} bits per byte")
            elif line["step"] > tell.at:
                tell(line["step"] - tell.at, recipe.steps)

        keep_freed_memory()
        params = train(
            init_params(shape, recipe.seed),
            data.train,
            data.validation,
            recipe,
            out=run,
            backend=backend,
            resume=(run / CHECKPOINT).exists(),
            report=report,
            bits_per_byte=data.bits_per_byte,
        )
    data.tokenizer.save(folder)
    checkpoint.save(params, folder, "float16")


# measure


def measure(folder: Path, passages: list[str], text: str, backend: str) -> dict:
    """Bits per byte on the held-out passages, and what the model has by heart.

    Every passage follows <|endoftext|> and is read in windows of all positions, without
    overlap, so that each token is predicted once. 100 samples of 200 tokens are looked
    up in the training text, case and punctuation apart.
    """
    model = GPT2.from_pretrained(folder, backend=backend)
    with bar("measure") as tell:
        scores = []
        for passage in passages:
            scores.append(model.score(passage))
            tell(1, len(passages))
    nats = -sum(score.logprob for score in scores)
    tokens = sum(score.num_tokens for score in scores)
    size = sum(len(passage.encode()) for passage in passages)
    with bar("samples") as tell:
        samples = []
        for seed in range(SAMPLES):
            samples.append(
                model.generate(
                    [model.config.bos_token_id],
                    max_new_tokens=200,
                    do_sample=True,
                    temperature=0.8,
                    top_p=0.95,
                    seed=seed,
                    overflow="stop",
                ).text
            )
            tell(1, SAMPLES)
    runs = stories.longest_runs(samples, text)
    longest = max(runs, key=len)
    return {
        "bits_per_byte": nats / math.log(2) / size,
        "loss": nats / tokens,
        "num_tokens": tokens,
        "num_bytes": size,
        "longest_run_words": len(longest),
        "longest_run": " ".join(longest),
        "samples_with_a_run_of_13_words": sum(len(run) >= 13 for run in runs),
        "samples": [sample for sample in samples if sample.strip()][:3],
    }


# card


def card(folder: Path, recipe: TrainConfig, cleaned: dict) -> str:
    """README.md of a model: what it is made of, how, how good, what it cannot do."""
    config = GPT2Config.from_file(folder / "config.json")
    found = json.loads((folder / "measure.json").read_text())
    lines = (folder / "run" / CURVE).read_text().splitlines()
    checks = [line for line in map(json.loads, lines) if "validation_loss" in line]
    step = max(1, (len(checks) - 1) // 10)
    curve = [*checks[::step], *([checks[-1]] if (len(checks) - 1) % step else [])]
    sources = {name: cleaned[name] for name in ("tales", "novels", "fairytaleqa")}
    held = sum(part["words_dropped_as_held_out"] for part in sources.values())
    words = sum(part["words"] for part in sources.values())
    tokens = recipe.steps * recipe.tokens_per_step
    samples = "\n\n".join(
        "> " + sample.strip().replace("\n", "\n> ") for sample in found["samples"]
    )
    rows = "\n".join(
        f"| {line['step']:,} | {line['validation_loss']:.4f} | "
        f"{line['bits_per_byte']:.4f} |"
        for line in curve
    )
    return CARD.read_text("utf-8").format(
        name=folder.name,
        parameters=describe(config).parameters,
        config=config,
        recipe=recipe,
        tokens=tokens / 1e6,
        words=words / 1e6,
        documents=sum(part["documents"] for part in sources.values()),
        held=held,
        passages=cleaned["heldout_passages"],
        found=found,
        curve=rows,
        samples=samples,
    )


class bar:
    """Progress on stderr: tell(n, total, note)."""

    def __init__(self, what: str):
        self.tqdm = tqdm(desc=what, leave=False, disable=None)

    def __enter__(self) -> bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.tqdm.close()

    @property
    def at(self) -> int:
        """How far it is."""
        return self.tqdm.n

    def __call__(self, n: int, total: int, note: str = "") -> None:
        """n more of so many are done."""
        self.tqdm.total = total
        if note:
            self.tqdm.set_postfix_str(note, refresh=False)
        self.tqdm.update(n)


def main() -> None:
    """Do the steps that are asked for and not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("step", choices=["all", "clean", "train", "measure", "card"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=os.environ.get("NPGPT_SHARED"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--backend", choices=BACKENDS, default="numba")
    options = parser.parse_args()
    out, step = options.out, options.step
    if options.shared is None:
        parser.error("where are the stories? give --shared, or set NPGPT_SHARED")
    shared = Path(options.shared)

    def wanted(name: str, result: Path) -> bool:
        return step == name or (step == "all" and not result.exists())

    if wanted("clean", out / "clean.json"):
        write_json(out / "clean.json", clean(shared, out))
    data = None
    for name in options.models:
        folder, (shape, recipe) = out / name, MODELS[name]
        if wanted("train", folder / checkpoint.WEIGHTS):
            data = data or load_corpus(out)
            train_model(folder, data, shape, recipe, options.backend)
        if wanted("measure", folder / "measure.json"):
            text = "\n".join(p.read_text("utf-8") for p in (out / "text").glob("*.txt"))
            found = measure(folder, read_passages(shared), text, options.backend)
            write_json(folder / "measure.json", found)
        if step in ("all", "card"):
            cleaned = json.loads((out / "clean.json").read_text())
            (folder / "README.md").write_text(card(folder, recipe, cleaned), "utf-8")
            found = json.loads((folder / "measure.json").read_text())
            print(
                f"{folder}: {found['bits_per_byte']:.4f} bits per byte, longest run "
                f"{found['longest_run_words']} words"
            )


def write_json(path: Path, value: dict) -> None:
    """A file that appears whole or not at all, since its presence means: done."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
    part.replace(path)


if __name__ == "__main__":
    main()
