"""`npgpt eval`: zero-shot tests on files of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from npgpt.commands._shared import echo_json, json_option, load_model, model_options
from npgpt.commands._words import Choice
from npgpt.evaluation import formats, zero_shot
from npgpt.support.clock import working_time


@click.group()
def command() -> None:
    """Test a model on LAMBADA, HellaSwag or cloze questions, without training on them.

    FILE is your copy in the published format, or "sample": a few items of npgpt's own,
    to try the verb with. docs/evaluation.md says what the real GPT-2 reaches.

    Example: npgpt eval hellaswag hellaswag_val.jsonl --model gpt2 --limit 100
    """


LEGEND = {
    "items": "",
    "acc": "share of items whose right answer the model puts first",
    "acc_last_token": "the same of the last token alone",
    "acc_norm": "by the mean over an ending, not its sum",
    "norm": "what that mean is over",
    "chance": "what guessing gives",
    "perplexity": "of a last word, not of a token",
}


def _file(context: click.Context, argument: click.Parameter, name: str) -> str:
    """The file of this name; "sample" is npgpt's own where there is no such file."""
    samples = Path(formats.__file__).parent / "samples"
    ours = next(samples.glob(f"{context.command.name}.*"), None)
    if name != "sample" or Path(name).exists() or ours is None:
        return name
    click.echo(f"a sample of the format, no measure of a model: {ours}", err=True)
    return str(ours)


def test_options(function: Callable) -> Callable:
    """FILE, --limit, the model's options and --json."""
    limit = click.option(
        "--limit", type=click.IntRange(1), help="Only the first so many items."
    )
    return click.argument("file", type=click.Path(), callback=_file)(
        model_options(limit(json_option(function)))
    )


@command.command("lambada")
@test_options
def lambada(file: str, limit: int | None, **options: Any) -> None:
    """Last words: accuracy and perplexity. FILE: {"text": ...} or a text a line.

    Example: npgpt eval lambada lambada_test.jsonl --model gpt2
    """
    _run(formats.read_lambada(file, limit), zero_shot.lambada, **options)


@command.command("hellaswag")
@test_options
@click.option(
    "--style",
    type=Choice(formats.STYLES),
    default="llm.c",
    show_default=True,
    help="Whose text and whose acc_norm: per token, or per character.",
)
def hellaswag(file: str, limit: int | None, style: str, **options: Any) -> None:
    """Choose among endings. FILE: HellaSwag's jsonl with ctx, endings and label.

    Example: npgpt eval hellaswag hellaswag_val.jsonl --model gpt2 --limit 100
    """
    norm = "tokens" if style == "llm.c" else "characters"
    questions = formats.read_hellaswag(file, limit, style)
    _run(questions, zero_shot.multiple_choice, norm=norm, **options)


@command.command("cloze")
@test_options
def cloze(file: str, limit: int | None, **options: Any) -> None:
    """Fill XXXXX from candidates. FILE: as the Children's Book Test has it.

    Example: npgpt eval cloze cbtest_CN_test_2500ex.txt --model gpt2
    """
    _run(formats.read_cloze(file, limit), zero_shot.multiple_choice, **options)


def _run(
    items: list[Any],
    test: Callable,
    name: str,
    backend: str,
    dtype: str,
    as_json: bool,
    **options: Any,
) -> None:
    from tqdm import tqdm

    model = load_model(name, backend, dtype)
    start = working_time()
    with tqdm(total=len(items), leave=False, disable=None) as bar:
        result = asdict(test(model, items, progress=bar.update, **options))
    seconds = working_time() - start
    if as_json:
        echo_json(
            {
                "model": name,
                "backend": model.backend.name,
                "dtype": model.dtype,
                **result,
            }
        )
    else:
        for label, value in result.items():
            shown = f"{value:.4f}" if isinstance(value, float) else str(value)
            click.echo(f"{label:<15}  {shown:<12}  {LEGEND[label]}".rstrip())
    click.echo(
        f"[{name}, {model.backend.name} {model.dtype}: {len(items):,} items in "
        f"{seconds:.1f} s]",
        err=True,
    )
