"""Options and output that several verbs share."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from typing import Any

import click

from npgpt.backend import BACKENDS, get_backend
from npgpt.errors import BackendError
from npgpt.model import GPT2

MODEL = click.option(
    "--model",
    "-m",
    "name",
    default="tales",
    show_default=True,
    help="A bundled model, a folder, or one of the Hub: gpt2, owner/name.",
)
BACKEND = click.option(
    "--backend",
    default="numpy",
    show_default=True,
    type=click.Choice(["auto", *BACKENDS]),
    help="What computes; auto takes the fastest one here and names it.",
)
DTYPE = click.option(
    "--dtype",
    default="float32",
    show_default=True,
    help="What it computes in: float32, float64; numba: float32, bfloat16, int8.",
)


def _set_threads(context: click.Context, option: click.Option, n: int | None) -> None:
    if n is not None:
        os.environ["NPGPT_THREADS"] = str(n)


THREADS = click.option(
    "--threads",
    type=click.IntRange(1),
    expose_value=False,
    callback=_set_threads,
    help="Threads of the numba backend  [default: physical cores]",
)


def model_options(function: Callable) -> Callable:
    """--model, --backend, --dtype and --threads."""
    return MODEL(backend_options(function))


def backend_options(function: Callable) -> Callable:
    """--backend, --dtype and --threads."""
    return BACKEND(DTYPE(THREADS(function)))


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


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
    return name


def _fastest() -> str:
    for name in ("cupy", "numba"):
        try:
            get_backend(name)
        except BackendError:
            continue
        return name
    return "numpy"


def echo_json(value: dict[str, Any]) -> None:
    """One object on stdout; what JSON cannot say (NaN, infinity) becomes null."""
    click.echo(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
