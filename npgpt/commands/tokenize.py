"""`npgpt tokenize`: a text in tokens, and every step on the way."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import click

from npgpt.commands._shared import MODEL, echo_json, json_option
from npgpt.commands._streams import read_stdin
from npgpt.errors import TokenizerError
from npgpt.storage import hub
from npgpt.tokenizer import Tokenizer


@click.command()
@click.argument("text", required=False)
@MODEL
@click.option("--steps", is_flag=True, help="Pre-tokens, and each merge with its rank.")
@json_option
def command(text: str | None, name: str, steps: bool, as_json: bool) -> None:
    """Tokens of TEXT (or of stdin): id, bytes and text of each.

    With --steps: the pre-tokens, which no merge reaches across, and in each of them
    merge after merge, the one that was learned first (the lowest rank) first. A leading
    space belongs to the token, as Ġ: " king" and "king" are other ids.

    Example: npgpt tokenize "The old king" --steps
    """
    if text is None:
        text = "" if sys.stdin.isatty() else read_stdin().removesuffix("\n")
    tokenizer = Tokenizer.from_folder(hub.resolve(name, weights=False))
    if tokenizer is None:
        raise TokenizerError(f"{name} has no tokenizer files")
    ids = tokenizer.encode(text)
    if steps:
        _steps(tokenizer, text, name, as_json)
    elif as_json:
        tokens = [_token(tokenizer, id) for id in ids]
        echo_json({"model": name, "text": text, "ids": ids, "tokens": tokens})
    else:
        _table(tokenizer, ids)


def _token(tokenizer: Tokenizer, id: int) -> dict[str, Any]:
    raw = tokenizer.token_bytes(id)
    return {"id": id, "token": tokenizer.token(id), "bytes": list(raw)}


def _table(tokenizer: Tokenizer, ids: list[int]) -> None:
    tokens = [tokenizer.token(id) for id in ids]
    wide = max(map(len, tokens), default=0)
    for id, token in zip(ids, tokens, strict=True):
        click.echo(f"{id:>7}  {token:<{wide}}  {_hex(tokenizer.token_bytes(id))}")
    click.echo(f"{len(ids)} tokens")


def _steps(tokenizer: Tokenizer, text: str, name: str, as_json: bool) -> None:
    from npgpt.inside.merges import pre_tokens

    parts = pre_tokens(tokenizer, text)
    if as_json:
        found = [{**asdict(part), "bytes": list(part.bytes)} for part in parts]
        echo_json({"model": name, "text": text, "pre_tokens": found})
        return
    for part in parts:
        click.echo(f"{part.text!r}  {len(part.bytes)} bytes: {_hex(part.bytes)}")
        click.echo(f"  {'':>7}  {' '.join(part.symbols)}")
        for merge in part.merges:
            click.echo(f"  {merge.rank:>7}  {' '.join(merge.symbols)}")
        ids = ", ".join(map(str, part.ids))
        click.echo(f"  {'ids':>7}  {ids}")
    total = sum(len(part.ids) for part in parts)
    click.echo(f"{len(parts)} pre-tokens, {total} tokens; numbers are ranks of merges")
    if " " in text:
        click.echo("Ġ stands for a space: it belongs to the token that follows it")


def _hex(raw: bytes) -> str:
    return raw.hex(" ")
