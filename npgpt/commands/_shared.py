"""Options and output that several verbs share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from npgpt.backend import BACKENDS, get_backend
from npgpt.commands._streams import json_text
from npgpt.commands._words import Choice, complete, models
from npgpt.errors import BackendError, PlotError
from npgpt.model import GPT2
from npgpt.storage import hub
from npgpt.support.figure import check_suffix
from npgpt.support.threads import asked_for, set_threads


def model_option(default: str | None = "tales") -> Callable:
    """--model, -m: the model that the verb is about."""
    return click.option(
        "--model",
        "-m",
        "name",
        default=default,
        show_default=default is not None,
        shell_complete=complete(models),
        help="A bundled model, a folder, or one of the Hub: gpt2, owner/name.",
    )


MODEL = model_option()
DTYPE = click.option(
    "--dtype",
    default="float32",
    show_default=True,
    help="What it computes in: float32, float64; numba: float32, bfloat16, int8.",
)


def backend_option(default: str = "numpy") -> Callable:
    """--backend, with a default of its own."""
    return click.option(
        "--backend",
        default=default,
        show_default=True,
        type=Choice(["auto", *BACKENDS]),
        help="What computes; auto takes the fastest one here and names it.",
    )


BACKEND = backend_option()


def _set_threads(context: click.Context, option: click.Option, n: int | None) -> None:
    if n is not None:
        os.environ["NPGPT_THREADS"] = str(n)


def threads_option(whose: str, **settings: Any) -> Callable:
    """--threads of whatever has some."""
    help = f"Threads of {whose}, at most  [default: idle cores]"
    return click.option("--threads", type=click.IntRange(1), help=help, **settings)


THREADS = threads_option("a product", expose_value=False, callback=_set_threads)


def model_options(function: Callable) -> Callable:
    """--model, --backend, --dtype and --threads."""
    return MODEL(backend_options(function))


def backend_options(function: Callable) -> Callable:
    """--backend, --dtype and --threads."""
    return BACKEND(DTYPE(THREADS(function)))


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


def figure_option(default: str | None = None) -> Callable:
    """--figure: where to draw it."""
    return click.option(
        "--figure",
        default=default,
        show_default=default is not None,
        type=click.Path(path_type=Path, dir_okay=False),
        help="Draw it into this file; .png or .svg.",
    )


def check_figure(path: Path | None) -> None:
    """Refuse a name that no figure can have before the work that it is to show."""
    try:
        if path is not None:
            check_suffix(path)
    except PlotError as error:
        raise click.UsageError(str(error)) from None


def out_option(help: str, **settings: Any) -> Callable:
    """--out, -o: where what the verb makes is kept."""
    return click.option("--out", "-o", help=help, **settings)


def check_model_folder(out: str) -> None:
    """Refuse the name of a bundled model, by which the new one would not be found."""
    if out in hub.bundled():
        raise click.UsageError(
            f"--model {out} means the bundled model and would never read a folder "
            f"{out}; name it otherwise, or ./{out} in both places"
        )


def seed_option(default: int | None = 0) -> Callable:
    """--seed; by default a new one where `default` is None."""
    new = "  [default: a new one]" if default is None else ""
    return click.option(
        "--seed",
        type=int,
        default=default,
        show_default=default is not None,
        help=f"Same seed, same result.{new}",
    )


def length_option(default: int | None = None, otherwise: str = "") -> Callable:
    """--max-new-tokens, with its default, or in words what it is without."""
    otherwise = otherwise and f"  [default: {otherwise}]"
    return click.option(
        "--max-new-tokens",
        type=int,
        default=default,
        show_default=default is not None,
        help=f"New tokens of a text, at most.{otherwise}",
    )


def sampling_options(
    temperature: float | None = None,
    top_p: str | None = None,
    min_new_tokens: int | None = None,
) -> Callable:
    """--temperature, --top-k, --top-p (and what it is without), --greedy and so on."""
    otherwise = "" if top_p is None else f"  [default: {top_p}]"
    options = [
        click.option(
            "--temperature",
            type=float,
            default=temperature,
            show_default=temperature is not None,
            help="Divides the logits; 0 is greedy search.",
        ),
        click.option("--top-k", type=int, help="Keep the k most probable tokens."),
        click.option(
            "--top-p",
            type=float,
            help=f"Keep the nucleus of this probability.{otherwise}",
        ),
        click.option(
            "--min-new-tokens",
            type=int,
            default=min_new_tokens,
            help="No end of text before so many.",
        ),
        click.option(
            "--greedy", is_flag=True, help="The most probable token at every step."
        ),
    ]

    def decorate(function: Callable) -> Callable:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def placed(usage: str, *names: str) -> Callable:
    """Arguments that can also be given by an option: MODEL is --model.

    usage: the arguments as `--help` shows them, "[MODEL]" if it may be left out;
    names: the parameter of each one's option.
    """
    arguments = [click.Argument([word.strip("[]").lower()]) for word in usage.split()]

    def decorate(function: Callable) -> Callable:
        @click.argument(
            "words", nargs=-1, metavar=usage, shell_complete=complete(models)
        )
        @wraps(function)
        def wrapper(*args: Any, words: tuple[str, ...], **options: Any) -> Any:
            context = click.get_current_context()
            kinds = {option.name: option.type for option in context.command.params}
            free = [
                (argument, name)
                for argument, name in zip(arguments, names, strict=True)
                if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE
            ]
            if words[len(free) :]:
                extra = words[len(free)]
                raise click.UsageError(f"Got unexpected extra argument ({extra})")
            for (argument, name), word in zip(free, words, strict=False):
                options[name] = kinds[name].convert(word, argument, context)
            for argument, name in free:
                if options[name] is None:
                    raise click.MissingParameter(ctx=context, param=argument)
            return function(*args, **options)

        return wrapper

    return decorate


def renamed(*old: str, to: str, **settings: Any) -> Callable:
    """The old spellings of an option, for one version more: hidden, with a note."""
    name = f"old_{to}"

    def decorate(function: Callable) -> Callable:
        @click.option(*old, name, hidden=True, default=None, **settings)
        @wraps(function)
        def wrapper(*args: Any, **options: Any) -> Any:
            value = options.pop(name)
            if value is not None:
                flag = old[0].partition("/")[0]
                new = to.replace("_", "-")
                click.echo(
                    f"note: {flag} is now --{new}; the next version forgets the old "
                    "name",
                    err=True,
                )
                options[to] = value
            return function(*args, **options)

        return wrapper

    return decorate


def load_model(name: str, backend: str, dtype: str) -> GPT2:
    """The model that model_options describe."""
    return GPT2.from_pretrained(name, backend=chosen_backend(backend), dtype=dtype)


def chosen_backend(name: str) -> str:
    """The backend of this name; for "auto" the fastest one here, which it prints."""
    if name == "auto":
        name = _fastest()
        click.echo(f"backend: {name}", err=True)
    if name == "numba" and get_backend(name):
        from npgpt.kernels import compiling

        compiling.on_compile(lambda line: click.echo(line, err=True))
    if name == "numpy" and (n := set_threads()) and asked_for() is None:
        click.echo(
            f"note: other processes keep cores busy; a product of NumPy takes {n} of "
            f"{os.cpu_count()} (--threads says how many)",
            err=True,
        )
    return name


def _fastest() -> str:
    for name in ("cupy", "numba"):
        try:
            get_backend(name)
        except BackendError as error:
            if name == "numba" and find_spec(name):  # it is here, and may not be used
                click.echo(f"note: {error}", err=True)
            continue
        return name
    return "numpy"


def echo_json(value: dict[str, Any]) -> None:
    """One object on stdout; what JSON cannot say (NaN, infinity) becomes null."""
    click.echo(json_text(_finite(value)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
