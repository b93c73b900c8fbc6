"""`npgpt download`: bring a model from the Hugging Face Hub into the cache."""

from __future__ import annotations

import click

from npgpt.commands._shared import echo_json, json_option, model_option, placed
from npgpt.storage import hub


@click.command()
@placed("MODEL", "name")
@model_option(None)
@click.option("--revision", help="A branch, a tag or a commit  [default: main]")
@json_option
def command(name: str, revision: str | None, as_json: bool) -> None:
    """Download MODEL and print the folder it is in.

    MODEL is gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2, or owner/name on the
    Hub. Only config.json, generation_config.json, the tokenizer's files and safetensors
    weights are fetched, into huggingface_hub's cache (HF_HOME); what is there already
    is not fetched again, and an interrupted download goes on where it stopped.
    HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE hold.

    Example: npgpt download gpt2
    """
    folder = hub.download(name, revision)
    if as_json:
        echo_json({"model": name, "folder": str(folder)})
    else:
        click.echo(folder)
