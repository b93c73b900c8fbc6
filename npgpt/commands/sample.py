"""`npgpt sample`: one step of decoding under the lens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from npgpt.commands._shared import echo_json, json_option, load_model, model_options
from npgpt.commands._strategies import StrategyCommand, chain_option, parsed
from npgpt.decoding import GenerationConfig
from npgpt.inside.choice import Choice, draw, look, taken, token_text
from npgpt.model import GPT2


@click.command(cls=StrategyCommand)
@click.argument("prompt")
@model_options
@click.option("--temperature", type=float, help="Divides the logits; 0 is greedy.")
@click.option("--top-k", type=int, help="Keep the k most probable tokens.")
@click.option("--top-p", type=float, help="Keep the nucleus of this probability.")
@click.option("--min-new-tokens", type=int, help="No end of text before so many.")
@click.option("--max-new-tokens", type=int, help="For rules that count to the end.")
@click.option("--greedy", is_flag=True, help="Take the most probable token.")
@click.option("--seed", default=0, show_default=True, help="Names the draw.")
@click.option("--show/--no-show", default=True, help="Bars before and after each rule.")
@click.option("--tokens", default=10, show_default=True, help="Tokens shown.")
@click.option("--figure", type=click.Path(path_type=Path), help="Write it as a figure.")
@chain_option
@json_option
def command(
    prompt: str,
    name: str,
    backend: str,
    dtype: str,
    as_json: bool,
    greedy: bool,
    seed: int,
    show: bool,
    tokens: int,
    figure: Path | None,
    **options: Any,
) -> None:
    """The next-token distribution after PROMPT, before and after each element.

    What was cut, what was rescaled, the uniform number drawn, the token taken. Nothing
    is on unless asked for.

    Example: npgpt sample "Once upon a" --show --top-k 50 --top-p 0.9
    """
    config = GenerationConfig(do_sample=not greedy, seed=seed, **parsed(options))
    model = load_model(name, backend, dtype)
    choice = look(model, model.encode(prompt), config)
    shown = choice.best(tokens)
    if as_json:
        echo_json(_fields(model, choice, shown))
    elif show:
        _print(model, choice, shown)
    else:
        click.echo(prompt + token_text(model, choice.token_id))
    if figure is not None:
        from npgpt.inside.attention import save

        save(draw(model, prompt, choice, shown), figure)
        click.echo(f"wrote {figure}", err=True)


def _sentence(stage: Any) -> str:
    words = [f"{stage.left:,} tokens", f"entropy {stage.entropy:.2f} nats"]
    if stage.cut > 0:
        words.append(f"cut {stage.cut:.1%} of the probability")
    words.append("rescaled" if stage.rescaled else "")
    return ", ".join(word for word in words if word)


def _print(model: GPT2, choice: Choice, shown: list[int]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for stage in choice.stages:
        table = Table.grid(padding=(0, 1))
        top = max(float(stage.p[shown].max()), 1e-9)
        for id in shown:
            p = float(stage.p[id])
            bar = "█" * max(round(40 * p / top), 1) if p > 0 else "[dim]cut[/dim]"
            mark = "[bold green]◀[/bold green]" if id == choice.token_id else ""
            table.add_row(escape(repr(token_text(model, id))), f"{p:.4f}", bar, mark)
        rest = 1 - float(stage.p[shown].sum())
        table.add_row("[dim]all others[/dim]", f"{max(rest, 0):.4f}", "", "")
        console.print(f"[bold]{escape(stage.name)}[/bold]  {_sentence(stage)}")
        console.print(table)
    console.print(escape(taken(model, choice)))


def _fields(model: GPT2, choice: Choice, shown: list[int]) -> dict[str, Any]:
    return {
        "stages": [
            {
                "name": stage.name,
                "left": stage.left,
                "entropy": stage.entropy,
                "cut": stage.cut,
                "rescaled": stage.rescaled,
                "tokens": [
                    {"id": id, "text": token_text(model, id), "p": float(stage.p[id])}
                    for id in shown
                ],
            }
            for stage in choice.stages
        ],
        "selector": choice.selector,
        "u": choice.u,
        "token_id": choice.token_id,
        "token": token_text(model, choice.token_id),
        "interval": list(choice.interval),
    }
