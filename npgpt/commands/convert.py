"""`npgpt convert`: a model's folder with the weights in another form."""

from __future__ import annotations

from pathlib import Path

import click

from npgpt.commands._shared import (
    check_model_folder,
    echo_json,
    json_option,
    model_option,
    out_option,
    placed,
)
from npgpt.commands._words import Choice
from npgpt.errors import CheckpointError
from npgpt.storage import checkpoint, hub
from npgpt.storage.folder import held, replace_model
from npgpt.tokenizer import Tokenizer

PLAIN = ("float32", "float16", "bfloat16")
PACKED = ("float32", "bfloat16", "int8")


@click.command()
@placed("MODEL FOLDER", "name", "out")
@model_option(None)
@out_option("The new model's folder.", type=click.Path(file_okay=False))
@click.option(
    "--dtype",
    default="bfloat16",
    show_default=True,
    type=Choice([*PLAIN, "int8"]),
    help="Stored numbers.",
)
@click.option(
    "--packed",
    is_flag=True,
    help="In the order in which the Numba kernels "
    "read them: the next start is a memory map.",
)
@click.option("--force", is_flag=True, help="Replace the model that FOLDER holds.")
@json_option
def command(
    name: str, out: str, dtype: str, packed: bool, force: bool, as_json: bool
) -> None:
    """Write MODEL into FOLDER in another dtype, or packed for the Numba kernels.

    A packed folder loads with --backend numba and the same --dtype only; any other
    folder is read by npgpt and by transformers. The tokenizer's files go along, and so
    do generation_config.json and what else config.json says. A FOLDER that holds a
    model is refused, or with --force replaced when the new one is complete.

    Example: npgpt convert gpt2 gpt2-int8 --dtype int8 --packed
    """
    check_model_folder(out)
    if packed and dtype not in PACKED:
        raise click.UsageError(f"--packed stores {', '.join(PACKED)}, not {dtype}")
    if not packed and dtype not in PLAIN:
        raise click.UsageError("int8 needs --packed")
    if not force and (found := held(Path(out))):
        raise CheckpointError(
            f"{out} holds a model already ({found[0]}); name another folder, or "
            "replace it with --force"
        )
    source = hub.resolve(name)
    params = checkpoint.load(source, dtype if packed else "float32")
    if packed:
        from npgpt.backend import get_backend

        backend = get_backend("numba")
        from npgpt.kernels.packed_file import save_packed

        prepared = backend.prepare(params, dtype, backend.xp)
    tokenizer = Tokenizer.from_folder(source)

    def make(folder: Path) -> None:
        if packed:
            save_packed(prepared, folder)
        else:
            checkpoint.save(params, folder, dtype)
        if tokenizer is not None:
            tokenizer.save(folder)

    replace_model(Path(out), make)
    form = "packed " if packed else ""
    if as_json:
        echo_json({"folder": out, "dtype": dtype, "packed": packed})
    else:
        click.echo(f"{out}: {name} as {form}{dtype}")
