"""`npgpt info`: what a model is and what it costs, from its config alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from npgpt.bench.machine import kernels as kernels_here
from npgpt.commands._shared import MODEL, echo_json, json_option, placed
from npgpt.config import GENERATION, WITHOUT_EFFECT, GPT2Config
from npgpt.decoding.defaults import WITHOUT_EFFECT as NO_TOKEN
from npgpt.decoding.defaults import known_option, own_options
from npgpt.errors import BackendError
from npgpt.scaling.sizes import PUBLISHED, describe, find_config


@click.command()
@placed("[MODEL]", "name")
@MODEL
@json_option
def command(name: str, as_json: bool) -> None:
    """Sizes of MODEL: parameters by part, FLOPs a token, KV bytes, memory.

    MODEL is a bundled model, a folder, a repository of the Hub (owner/name, of which
    only the config is fetched), or a published size (distilgpt2, gpt2-xl, gpt3-175b:
    the names that `npgpt scaling` prints), which needs no file at all. The last line
    says which vector instructions the Numba kernels use on this machine, where Numba is
    installed. Notes name what of config.json and generation_config.json has no effect
    here.

    Example: npgpt info gpt2
    """
    config = find_config(name)
    info = describe(config)
    notes = _notes(config)
    if name in {model.name for model in PUBLISHED if not model.final_norm}:
        notes.append(f"{name} has no final norm: {2 * config.n_embd:,} parameters less")
    if as_json:
        sizes = {**asdict(info), "memory_bytes": info.memory_bytes}
        more = {"notes": notes, "kernels": _kernels()}
        echo_json({"model": name, "config": config.to_dict(), **sizes, **more})
        return
    rows = [
        ("layers", f"{config.n_layer}"),
        ("heads", f"{config.n_head} of width {config.head_dim}"),
        ("model width", f"{config.n_embd}"),
        ("positions", f"{config.n_positions:,}"),
        ("vocabulary", f"{config.vocab_size:,}"),
        ("activation", config.activation_function),
        ("parameters", f"{info.parameters:,}"),
        *((f"  {part}", f"{n:,}") for part, n in info.parameters_by_part.items()),
        ("FLOPs a token", f"{_si(info.flops_per_token)} (first) to "
                          f"{_si(info.flops_per_token_full)} (last position)"),
        ("KV cache a token", f"{info.kv_bytes_per_token:,} bytes in float32"),
        ("memory", f"{_mb(info.weight_bytes)} weights + {_mb(info.kv_bytes)} full KV "
                   "cache in float32"),
    ]  # fmt: skip
    if config.tie_word_embeddings:
        at = next(i for i, row in enumerate(rows) if row[0] == "FLOPs a token")
        rows.insert(at, ("  output head", "0 (tied to the token embeddings)"))
    rows += [("note", sentence) for sentence in notes]
    kernels = _kernels()
    if kernels is not None:
        rows.append(
            (
                "kernels",
                f"tier {kernels['tier']}, {kernels['threads']} threads "
                f"(has {', '.join(kernels['tiers'])})",
            )
        )
    for label, value in rows:
        click.echo(f"{label:<22} {value}")


def _notes(config: GPT2Config) -> list[str]:
    """What of the model's files has no effect here, though one might think so."""
    silent = WITHOUT_EFFECT | NO_TOKEN
    unknown = [
        k for k in sorted(config.unused) if k not in silent and not known_option(k)
    ]
    notes = [
        *config.notes,
        *(f"config.json: {key} is not known here" for key in unknown),
    ]
    own = own_options(config).notes
    return [*notes, *(f"{GENERATION}: {sentence}" for sentence in own)]


def _kernels() -> dict[str, Any] | None:
    """What the Numba backend would use here; None where there is none, and why."""
    try:
        return kernels_here()
    except BackendError as error:
        click.echo(f"note: {error}", err=True)
        return None


def _si(x: float) -> str:
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= factor:
            return f"{x / factor:.4g} {unit}FLOP"
    return f"{x} FLOP"


def _mb(x: float) -> str:
    return f"{x / 1e6:,.1f} MB"
