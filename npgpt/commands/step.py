"""`npgpt step`: a text token by token, in lines or on the full screen."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

import click

from npgpt.commands._shared import (
    echo_json,
    json_option,
    load_model,
    model_options,
    out_option,
    sampling_options,
    seed_option,
)
from npgpt.commands._strategies import StrategyCommand, chain_option, parsed
from npgpt.commands._streams import read_stdin
from npgpt.decoding import GenerationConfig
from npgpt.inside.stepper.keys import Stepper, run
from npgpt.inside.stepper.saved import as_json, load, save
from npgpt.inside.stepper.tree import Session
from npgpt.texts import read_text

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(cls=StrategyCommand)
@click.argument("prompt", required=False)
@model_options
@sampling_options()
@seed_option()
@click.option("--tokens", default=10, show_default=True, help="Tokens shown.")
@click.option("--script", type=FILE, help="A file of keys, one a line; ? lists them.")
@click.option("--load", "tree", type=FILE, help="Begin with a tree that s saved.")
@click.option("--lines", is_flag=True, help="No full screen: keys as lines.")
@out_option(
    "Save the tree here at the end; .json or .txt.",
    type=click.Path(dir_okay=False, path_type=Path),
)
@chain_option
@json_option
def command(
    prompt: str | None,
    name: str,
    backend: str,
    dtype: str,
    **options: Any,
) -> None:
    """Step through a text: what could come next, what each rule did, another branch.

    In a terminal it fills the screen (with `pip install -e '.[tui]'`); from a pipe or a
    script it reads keys as lines. An empty line takes the candidate, ? lists the keys.

    Example: printf 'down\\n\\nw\\n' | npgpt step "Once upon a" --top-k 20
    """
    script, tree = options.pop("script"), options.pop("tree")
    lines, out = options.pop("lines"), options.pop("out")
    shown, json_too = options.pop("tokens"), options.pop("as_json")
    if (prompt is None) == (tree is None):
        raise click.UsageError("give a PROMPT, or --load a saved tree")
    if shown < 1:
        raise click.UsageError("--tokens is 1 or more")
    if out is not None and out.suffix not in (".json", ".txt"):
        raise click.UsageError(f"{out}: a tree is written as .json or .txt")
    greedy = options.pop("greedy")
    seed = options.pop("seed")
    config = GenerationConfig(do_sample=not greedy, seed=seed, **parsed(options))
    model = load_model(name, backend, dtype)
    if tree is not None:
        session = load(tree, model, config)
    else:
        session = Session(model, prompt, config)
    stepper = Stepper(session, shown)
    stepper.point()
    typed = script is None and sys.stdin.isatty()
    if typed and not (lines or json_too) and _has_screen():
        from npgpt.inside.stepper.screen import Screen

        screen = Screen(stepper)
        screen.run()
        if screen.interrupted:
            raise KeyboardInterrupt
    else:
        _run(stepper, script, typed, quiet=json_too)
    if out is not None:
        save(session, out)
        click.echo(f"wrote {out}", err=True)
    if json_too:
        echo_json(as_json(session))


def _has_screen() -> bool:
    filled = sys.stdout.isatty() and sys.stderr.isatty()  # textual draws on stderr
    if not filled or os.environ.get("TERM", "dumb") == "dumb":
        return False
    if find_spec("textual") is None:
        click.echo("note: the full screen needs `pip install textual`", err=True)
        return False
    return True


def _run(stepper: Stepper, script: Path | None, typed: bool, quiet: bool) -> None:
    if script is not None:
        with script.open("rb") as file:
            lines: Any = "".join(read_text(file)).splitlines()
    else:
        lines = sys.stdin if typed else read_stdin().splitlines()
    width = get_terminal_size().columns if sys.stdout.isatty() else 100
    say = (lambda text: None) if quiet else click.echo
    run(stepper, lines, say, strict=not typed, width=width)
