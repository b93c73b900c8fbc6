"""Where a model's files come from: bundled, a local folder, or the Hugging Face Hub.

Only finds or fetches the folder; npgpt.storage.checkpoint and npgpt.tokenizer read it.
The Hub is asked through huggingface_hub, whose cache and environment variables hold
here too: HF_HOME and HF_HUB_CACHE (where), HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN.
Fetched are config.json, generation_config.json, the tokenizer's files and safetensors
weights, never a pickle. A model that the cache holds whole is used as it is; `download`
alone looks for a newer one.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from pathlib import Path

from npgpt.config import GENERATION
from npgpt.errors import CheckpointError
from npgpt.storage.fetch import ask, fetch_resumably
from npgpt.storage.tokenizer_files import BESIDE, OTHERS, PAIRS, TOKENIZER
from npgpt.storage.weights import INDEX, PICKLES, WEIGHTS, how_to_convert, read_index
from npgpt.support.arguments import checked
from npgpt.support.hints import meant

ALIASES = {
    **{
        name: f"openai-community/{name}"
        for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
    },
    "distilgpt2": "distilbert/distilgpt2",
}
OPTIONAL = (GENERATION, *BESIDE)  # files that a model may have beside its tokenizer
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def bundled() -> dict[str, Path]:
    """The models that ship with npgpt: name and folder.

    >>> "tales" in bundled()
    True
    """
    from importlib import resources

    try:
        root = Path(str(resources.files("npgpt.weights")))
    except ModuleNotFoundError:  # a clone that was not installed with -e
        return {}
    return {
        path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))
    }


@checked(CheckpointError)
def resolve(name_or_folder: str | Path, weights: bool = True) -> Path:
    """The folder of a model: a bundled name, a folder, or a repository of the Hub.

    A folder called like a bundled model is reached as "./tales". A repository is taken
    from the cache, or downloaded; `weights=False` asks for its small files alone.
    Raises CheckpointError.
    """
    name, models = str(name_or_folder), bundled()
    if name in models:
        return models[name]
    # os.path's functions raise nothing, whatever the name.
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):
        return folder
    repository = repository_id(name)
    is_file = os.path.exists(folder)
    if is_file or repository is None:
        what = "is a file, not a model's folder" if is_file else "is not a folder"
        ours = ", ".join(models) or "none here: install with `pip install -e .`"
        raise CheckpointError(
            f"{name!r} {what}, not a bundled model ({ours}) and not a repository of "
            f"the Hub ({', '.join(ALIASES)}, or owner/name){_hint(name)}"
        )
    here = _cached(repository, None, weights)
    if here is None:
        return download(name, weights=weights)
    if not _is_complete(here):
        # Another program put it there, or an older npgpt, and left small files out.
        with contextlib.suppress(CheckpointError):
            return download(name, revision=here.name, weights=weights)
    return here


def _hint(name: str) -> str:
    hint = meant(name, [*bundled(), *ALIASES]).strip()
    return f"; {hint}" if hint else ""


@checked(CheckpointError)
def repository_id(name: str) -> str | None:
    """The Hub's id that a name stands for, or None if it cannot be one.

    >>> repository_id("gpt2"), repository_id("me/model"), repository_id("./me/model")
    ('openai-community/gpt2', 'me/model', None)
    """
    if name in ALIASES:
        return ALIASES[name]
    return name if _REPOSITORY.fullmatch(name) else None


@checked(CheckpointError)
def download(name: str, revision: str | None = None, weights: bool = True) -> Path:
    """Bring a repository's files into the cache and return their folder.

    What is there is not fetched again; an interrupted file goes on where it stopped.
    `revision` is a branch, a tag or a commit. Raises CheckpointError.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download

    repository = repository_id(name)
    if repository is None:
        raise CheckpointError(
            f"{name!r} is not the name of a repository; give one of "
            f"{', '.join(ALIASES)}, or owner/name"
        )
    if constants.HF_HUB_OFFLINE:
        folder = _cached(repository, revision, weights)
        if folder is None:
            raise CheckpointError(
                f"HF_HUB_OFFLINE is set, and {repository} is not, or not wholly, in "
                f"the cache {constants.HF_HUB_CACHE}; unset it, or let HF_HOME name "
                "the folder that holds the cache"
            )
        return folder
    info = ask(
        repository,
        "its list of files",
        HfApi().model_info,
        repository,
        revision=revision,
    )
    files = {sibling.rfilename for sibling in info.siblings or ()}
    folders = set()

    def fetch(file: str) -> Path:
        ask(repository, file, fetch_resumably, repository, file, revision)
        path = Path(
            ask(repository, file, hf_hub_download, repository, file, revision=revision)
        )
        folders.add(path.parent)
        return path

    wanted = needed(files, repository, weights)
    for file in wanted:
        path = fetch(file)
        if file == INDEX:
            for shard in sorted(set(read_index(path).values())):
                if shard not in files:
                    raise CheckpointError(
                        f"{repository}: {INDEX} names {shard}, which the repository "
                        "does not hold"
                    )
                fetch(shard)
    if len(folders) > 1:
        raise CheckpointError(
            f"{repository} was changed while it was downloaded; try again"
        )
    folder = folders.pop()
    _note_absent(folder, [file for file in _small_files(wanted) if file not in files])
    return folder


@checked(CheckpointError)
def needed(files: Collection[str], where: str, weights: bool = True) -> list[str]:
    """Which of a repository's files a model is read from, the weights last.

    >>> needed({"config.json", "merges.txt", "vocab.json", "model.safetensors",
    ...         "pytorch_model.bin"}, "here")
    ['config.json', 'vocab.json', 'merges.txt', 'model.safetensors']
    """
    if "config.json" not in files:
        raise CheckpointError(
            f"{where}: no config.json in it; npgpt reads GPT-2 models as transformers "
            "saves them"
        )
    small = ["config.json", *(file for file in _small_files(files) if file in files)]
    if not weights:
        return small
    for file in (WEIGHTS, INDEX):
        if file in files:
            return [*small, file]
    pickles = [file for file in PICKLES if file in files]
    if pickles:
        raise CheckpointError(how_to_convert(where, where, pickles[0]))
    raise CheckpointError(f"{where}: no {WEIGHTS} in it")


def _small_files(files: Collection[str]) -> list[str]:
    """What a model may have beside config.json and the weights."""
    pair = next((pair for pair in PAIRS if all(f in files for f in pair)), None)
    tokenizer = [TOKENIZER]
    if TOKENIZER not in files:
        tokenizer += pair or (*PAIRS[0], *OTHERS)  # others, to be named
    return [*tokenizer, *OPTIONAL]


def _cached(repository: str, revision: str | None, weights: bool) -> Path | None:
    """The cache's folder of a repository if it holds config.json and the weights."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    files = {path.name for path in folder.iterdir() if path.exists()}
    try:
        wanted = needed(files, repository, weights)
        shards = read_index(folder / INDEX).values() if INDEX in wanted else ()
    except CheckpointError:
        return None
    return folder if files.issuperset(shards) else None


def _absent(folder: Path) -> Path:
    """Where the cache notes which files this commit of a repository does not have."""
    return folder.parents[1] / ".no_exist" / folder.name


def _note_absent(folder: Path, files: Collection[str]) -> None:
    """Note it as huggingface_hub does, so that nobody asks again."""
    if files:
        _absent(folder).mkdir(parents=True, exist_ok=True)
    for file in files:
        (_absent(folder) / file).touch()


def _is_complete(folder: Path) -> bool:
    """Whether each small file is here, or noted as one the repository does not have."""
    here = {path.name for path in folder.iterdir() if path.exists()}
    absent = _absent(folder)
    return all(f in here or (absent / f).exists() for f in _small_files(here))
