"""`npgpt train`: from text files to a model's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from npgpt.commands._shared import (
    BACKEND,
    THREADS,
    check_model_folder,
    chosen_backend,
    echo_json,
    json_option,
    out_option,
    seed_option,
)
from npgpt.commands._training import Show, preset_table
from npgpt.commands._words import Choice
from npgpt.training.presets import FINE_TUNE, LORA_RATE, PRESETS

OVERRIDES = (
    "steps",
    "batch_size",
    "accumulate",
    "context",
    "learning_rate",
    "warmup_steps",
    "weight_decay",
    "clip_norm",
    "dropout",
    "eval_every",
    "save_every",
    "dtype",
)


def _number(name: str, kind: Any, help: str) -> Any:
    return click.option(f"--{name}", type=kind, help=f"{help}  [default: the preset's]")


@click.command(epilog=preset_table())
@click.argument("corpus", nargs=-1, required=True, type=click.Path())
@out_option("The model's folder.", required=True, type=click.Path(file_okay=False))
@click.option(
    "--preset",
    default="tiny",
    show_default=True,
    type=Choice(list(PRESETS)),
    help="Size and settings.",
)
@click.option(
    "--tokenizer",
    metavar="train:N|FOLDER",
    help="Train a vocabulary of N "
    "tokens, or take a model's  [default: train, the preset's "
    "size]",
)
@click.option(
    "--init-from",
    metavar="MODEL",
    help="Fine-tune this model (a bundled "
    "one, a folder, gpt2) instead of starting at random.",
)
@click.option(
    "--lora-rank",
    type=click.IntRange(1),
    help="Train low-rank additions of this rank alone; merged when saved.",
)
@click.option(
    "--lora-alpha",
    type=float,
    help="Their scale, times the rank  [default: twice the rank]",
)
@click.option(
    "--lora-matrix",
    "lora_matrices",
    multiple=True,
    help="Only this matrix of every block: attn.c_attn, attn.c_proj, "
    "mlp.c_fc, mlp.c_proj; may be repeated.",
)
@_number("steps", click.IntRange(1), "Updates of the weights")
@_number("batch-size", click.IntRange(1), "Windows of a pass")
@_number("accumulate", click.IntRange(1), "Passes of a step")
@_number(
    "context", click.IntRange(1), "Tokens of a window, and positions of a new model"
)
@_number("learning-rate", float, "At its peak")
@_number(
    "warmup-steps",
    click.IntRange(0),
    "Steps until the peak; if left out, not more than a tenth of all",
)
@_number("weight-decay", float, "Of the matrices")
@_number("clip-norm", float, "Largest norm of a gradient")
@_number("dropout", float, "Share of numbers that are zeroed")
@_number("eval-every", click.IntRange(1), "Steps between validations, with a sample")
@_number("save-every", click.IntRange(1), "Steps between checkpoints")
@click.option(
    "--dtype",
    type=Choice(["float32", "bfloat16"]),
    help="Of what "
    "products take; bfloat16 is faster where the processor multiplies it "
    "(backend numba)  [default: the preset's]",
)
@click.option(
    "--validation",
    default=0.1,
    show_default=True,
    help="Share of the text that is held out, whole documents.",
)
@seed_option()
@click.option("--prompt", default="", help="What the samples begin with.")
@click.option(
    "--sample-tokens",
    default=60,
    show_default=True,
    type=click.IntRange(0),
    help="Length of the samples; 0: none.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on where the run in this folder stopped; give the same options again. "
    "--steps, --eval-every and --save-every may be new.",
)
@BACKEND
@THREADS
@json_option
def command(
    corpus: tuple[str, ...],
    out: str,
    preset: str,
    tokenizer: str | None,
    init_from: str | None,
    lora_rank: int | None,
    lora_alpha: float | None,
    lora_matrices: tuple[str, ...],
    validation: float,
    seed: int,
    prompt: str,
    sample_tokens: int,
    resume: bool,
    backend: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a model on text files (or folders of .txt); <|endoftext|> parts documents.

    The folder loads in `npgpt generate --model FOLDER` and in transformers; loss.jsonl
    and loss.png in it show the losses.

    Example: npgpt train shakespeare.txt --preset tiny --out shakespeare
    """
    from npgpt.support.figure import save
    from npgpt.support.interrupt import deferred
    from npgpt.training import corpus as corpora
    from npgpt.training import curve
    from npgpt.training.folder import CURVE, check_folder, settings_of
    from npgpt.training.loop import init_params, keep_freed_memory, train
    from npgpt.training.lora import MATRICES, LoraConfig

    lora = None
    if lora_rank is not None:
        if init_from is None:
            raise click.UsageError("--lora-rank fine-tunes a model: give --init-from")
        alpha = 2.0 * lora_rank if lora_alpha is None else lora_alpha
        lora = LoraConfig(lora_rank, alpha, lora_matrices or MATRICES)
    elif lora_alpha is not None or lora_matrices:
        raise click.UsageError("--lora-alpha and --lora-matrix need --lora-rank")
    check_model_folder(out)
    folder = Path(out)
    check_folder(folder, resume)  # before the text is read, which may take long
    params, vocabulary = _beginning(init_from, tokenizer, preset, folder, resume)
    chosen = {name: given[name] for name in OVERRIDES if given[name] is not None}
    settings = replace(_defaults(preset, params, lora), seed=seed)
    stored, step = settings_of(folder)
    kept = {"steps", "eval_every", "save_every", "warmup_steps"} & stored.keys()
    settings = replace(settings, **{name: stored[name] for name in kept})
    settings = replace(settings, **chosen)
    if not stored and "warmup_steps" not in chosen:
        tenth = -(-settings.steps // 10)
        settings = replace(settings, warmup_steps=min(settings.warmup_steps, tenth))

    def draw() -> None:
        lines = curve.read_curve(folder / CURVE)
        figure = curve.plot_curve(lines, f"{folder.name} ({init_from or preset})")
        save(figure, folder / "loss.png")

    show = Show(settings, prompt, sample_tokens, step, draw)
    try:
        data = corpora.prepare(
            corpus,
            vocabulary,
            validation=validation,
            seed=seed,
            window=settings.context,
            end=next(iter(params.config.eos_token_ids), None) if params else None,
            progress=show.reading,
        )
    except KeyboardInterrupt:
        show.say_how_to_go_on()
        raise
    if params is None:
        size = data.tokenizer.vocab_size
        config = PRESETS[preset].config(size, settings.context, data.end)
        params = init_params(config, seed)
    engine = chosen_backend(backend)
    show.begin(params, data)
    keep_freed_memory()
    with show, deferred(show.stopping) as stopped:
        train(
            params,
            data.train,
            data.validation,
            settings,
            out=folder,
            backend=engine,
            tokenizer=data.tokenizer,
            lora=lora,
            resume=resume,
            report=show,
            bits_per_byte=data.bits_per_byte,
            stop=stopped,
        )
    if stopped() and show.saved < settings.steps:
        show.say_how_to_go_on()
        click.get_current_context().exit(128 + stopped())
    draw()
    lines = curve.read_curve(folder / CURVE)
    last = [line for line in lines if "validation_loss" in line][-1]
    result = {
        "folder": out,
        "backend": engine,
        **last,
        "parameters": show.parameters,
        "tokens_per_second": show.speed,
    }
    if as_json:
        echo_json(result)
    else:
        click.echo(
            f"{out}: validation loss {last['validation_loss']:.3f} nats a token, "
            f"{last['bits_per_byte']:.3f} bits per byte after {last['step']} steps"
        )


def _beginning(
    init_from: str | None, tokenizer: str | None, preset: str, out: Path, resume: bool
) -> tuple[Any, Any]:
    """Parameters to start from (None: random ones) and a tokenizer, or its size."""
    from npgpt.storage import checkpoint, hub
    from npgpt.tokenizer import Tokenizer

    if init_from is not None:
        if tokenizer is not None:
            raise click.UsageError("--init-from brings the model's own tokenizer along")
        folder = hub.resolve(init_from)
        return checkpoint.load(folder), _tokenizer_of(folder)
    if resume and (out / "tokenizer.json").exists():
        return None, Tokenizer.from_folder(out)
    if tokenizer is None:
        return None, PRESETS[preset].vocabulary
    if tokenizer.startswith("train:"):
        size = tokenizer.removeprefix("train:")
        if not size.isdigit():
            raise click.UsageError(f"--tokenizer train:N wants a number, not {size!r}")
        return None, int(size)
    return None, _tokenizer_of(hub.resolve(tokenizer, weights=False))


def _tokenizer_of(folder: Path) -> Any:
    from npgpt.errors import TokenizerError
    from npgpt.tokenizer import Tokenizer

    found = Tokenizer.from_folder(folder)
    if found is None:
        raise TokenizerError(f"{folder}: no tokenizer files in it")
    return found


def _defaults(preset: str, params: Any, lora: Any) -> Any:
    if params is None:
        return PRESETS[preset].train
    context = min(FINE_TUNE.context, params.config.n_positions)
    rate = FINE_TUNE.learning_rate if lora is None else LORA_RATE
    return replace(FINE_TUNE, context=context, learning_rate=rate)
