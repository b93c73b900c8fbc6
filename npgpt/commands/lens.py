"""`npgpt lens`: one question to a model, answered by a table and a law."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

import click

from npgpt.commands._shared import (
    check_figure,
    echo_json,
    figure_option,
    json_option,
    load_model,
    model_options,
    seed_option,
)
from npgpt.support.figure import save

token_option = click.option("--token", help="The next token  [default: the best]")
against_option = click.option(
    "--against", help="Another one: how far the token leads it, instead of alone."
)
at_option = click.option(
    "--at", type=int, default=-1, show_default=True, help="After which token, from 0."
)


def asked(function: Callable) -> Callable:
    """--token, --against and --at."""
    return token_option(against_option(at_option(function)))


def shown(function: Callable) -> Callable:
    """The model, --figure and --json."""
    return model_options(figure_option()(json_option(function)))


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Ask a model one question: who made this logit, what if this head were off?

    Example: npgpt lens attribution "Once upon a time there was a king" --token " who"
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@command.command("logit")
@click.argument("prompt")
@asked
@shown
def logit(prompt: str, token: str, against: str, at: int, **options: Any) -> None:
    """What the model would say if it ended here or there.

    Example: npgpt lens logit "Once upon a time there was a king"
    """
    model = _model(options)
    from npgpt.inside.lenses import logit_lens

    _show([logit_lens(model, prompt, token=token, against=against, at=at)], options)


@command.command("attribution")
@click.argument("prompt")
@asked
@shown
def attribution(prompt: str, token: str, against: str, at: int, **options: Any) -> None:
    """What each head, bias and MLP adds to a logit.

    Example: npgpt lens attribution "Once upon a time there was a king" --token " who"
    --against " and"
    """
    model = _model(options)
    from npgpt.inside.lenses import attribution

    _show([attribution(model, prompt, token=token, against=against, at=at)], options)


@command.command("score")
@click.argument("prompt")
@click.argument("address")
@shown
def score(prompt: str, address: str, **options: Any) -> None:
    """A score of attention: parts of query by parts of key.

    Example: npgpt lens score "Once upon a time" "h.2.attn.scores[h=1,t=3,s=1]"
    """
    model = _model(options)
    from npgpt.inside.lenses import score_parts

    _show([score_parts(model, prompt, address)], options)


@command.command("ablation")
@click.argument("prompt")
@asked
@click.option(
    "--how",
    type=click.Choice(["zero", "mean", "resample"]),
    default="zero",
    show_default=True,
    help="What stands in the place of a head's context, or of an MLP's activations.",
)
@click.option("--other", help="The prompt that mean or resample takes them from.")
@shown
def ablation(
    prompt: str,
    token: str,
    against: str,
    at: int,
    how: str,
    other: str | None,
    **options: Any,
) -> None:
    """What the answer loses without each head and each MLP.

    Example: npgpt lens ablation "Once upon a time there was a king" -m tales-mini
    """
    model = _model(options)
    from npgpt.inside.lenses import ablation

    asked: dict[str, Any] = {"token": token, "against": against, "at": at}
    _show([ablation(model, prompt, how=how, other=other, **asked)], options)


@command.command("patching")
@click.argument("clean")
@click.argument("corrupted")
@token_option
@against_option
@click.option(
    "--what",
    type=click.Choice(["resid", "resid_mid", "attn", "mlp", "heads"]),
    default="resid",
    show_default=True,
    help="What is taken over from the other reading.",
)
@click.option(
    "--direction",
    type=click.Choice(["denoise", "noise"]),
    default="denoise",
    show_default=True,
    help="Put clean numbers into the corrupted reading, or the reverse.",
)
@shown
def patching(
    clean: str,
    corrupted: str,
    token: str,
    against: str,
    what: str,
    direction: str,
    **options: Any,
) -> None:
    """Where the difference of two prompts lives.

    Example: npgpt lens patching "The king went to his" "The queen went to her" -m
    tales-mini
    """
    model = _model(options)
    from npgpt.inside.lenses import patching

    found = patching(
        model,
        clean,
        corrupted,
        token=token,
        against=against,
        what=what,
        direction=direction,
    )
    _show([found], options)


@command.command("heads")
@click.option(
    "--length", type=int, help="Tokens that repeat  [default: 20, or what fits]"
)
@click.option("--rows", default=4, show_default=True, help="Texts to average over.")
@seed_option()
@shown
def heads(length: int | None, rows: int, seed: int, **options: Any) -> None:
    """Heads of three known habits, on repeated tokens.

    Example: npgpt lens heads --length 20
    """
    model = _model(options)
    from npgpt.inside.lenses import head_scores

    _show(head_scores(model, length=length, rows=rows, seed=seed), options)


@command.command("rollout")
@click.argument("prompt")
@click.option("--layers", type=int, help="Only the first so many  [default: all]")
@shown
def rollout(prompt: str, layers: int | None, **options: Any) -> None:
    """Whence a position has what it holds, by attention.

    Example: npgpt lens rollout "Once upon a time there was a king"
    """
    model = _model(options)
    from npgpt.inside.lenses import rollout

    _show([rollout(model, prompt, layers=layers)], options)


@command.command("gradient")
@click.argument("prompt")
@asked
@shown
def gradient(prompt: str, token: str, against: str, at: int, **options: Any) -> None:
    """Gradient x input: the answer's slope, token by token.

    Example: npgpt lens gradient "Once upon a time there was a king"
    """
    model = _model(options)
    from npgpt.inside.lenses import gradient_input

    _show([gradient_input(model, prompt, token=token, against=against, at=at)], options)


@command.command("integrated")
@click.argument("prompt")
@asked
@click.option("--points", default=32, show_default=True, help="Of the path.")
@click.option(
    "--baseline",
    type=click.Choice(["zero", "mean"]),
    default="zero",
    show_default=True,
    help="The embedding that every token begins from.",
)
@shown
def integrated(
    prompt: str,
    token: str,
    against: str,
    at: int,
    points: int,
    baseline: str,
    **options: Any,
) -> None:
    """Integrated gradients: each token's share.

    Example: npgpt lens integrated "Once upon a time there was a king"
    """
    model = _model(options)
    from npgpt.inside.lenses import integrated_gradients

    asked: dict[str, Any] = {"token": token, "against": against, "at": at}
    found = integrated_gradients(
        model, prompt, points=points, baseline=baseline, **asked
    )
    _show([found], options)


def _model(options: dict[str, Any]) -> Any:
    check_figure(options["figure"])
    return load_model(options.pop("name"), options.pop("backend"), options.pop("dtype"))


def _show(grids: Sequence[Any], options: dict[str, Any]) -> None:
    figure: Path | None = options["figure"]
    if options["as_json"]:
        echo_json(
            grids[0].to_json()
            if len(grids) == 1
            else {"grids": [grid.to_json() for grid in grids]}
        )
    else:
        width = get_terminal_size().columns if sys.stdout.isatty() else 100
        click.echo("\n\n".join(grid.text(width) for grid in grids))
    if figure is not None:
        from npgpt.inside.lenses.figure import plot_grids

        save(plot_grids(grids), figure)
        click.echo(f"wrote {figure}", err=True)
