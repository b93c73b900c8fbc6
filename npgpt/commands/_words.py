"""What was typed, or meant: hints, and what a shell can complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from npgpt.storage import hub
from npgpt.support.hints import meant


class PromptCommand(click.Command):
    """A command whose argument is a text: a forgotten quote is what goes wrong."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """What click does, and a hint."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "unexpected extra argument" not in error.message:
                raise
            hint = f'put the text in quotes: {ctx.command_path} "Once upon a time"'
            raise click.UsageError(f"{error.message}; {hint}", ctx) from None


class Choice(click.Choice):
    """One of some names, with the one that may have been meant."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """The name, or a usage error."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            hint = meant(str(value), map(str, self.choices)).strip()
            hint = f" {hint[:1].upper()}{hint[1:]}" if hint else ""
            raise click.BadParameter(error.message + hint, ctx, param) from None


def complete(names: Iterable[str] | Callable[[], Iterable[str]]) -> Callable:
    """Completion by these names, or by folders where none of them begins so."""

    def found(ctx: click.Context, param: click.Parameter, start: str) -> list:
        known = names() if callable(names) else names
        items = [name for name in known if name.startswith(start)]
        return items or [CompletionItem(start, type="dir")]

    return found


def models() -> list[str]:
    """Models that are here or that the Hub is asked for by a short name."""
    return [*hub.bundled(), *hub.ALIASES]
