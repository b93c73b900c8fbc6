"""Where a model's files come from: bundled, a local folder, or the Hugging Face Hub.

Only finds or fetches the folder; npgpt.storage.checkpoint and npgpt.tokenizer read it.
The Hub is asked through huggingface_hub, whose cache and environment variables hold
here too: HF_HOME and HF_HUB_CACHE (where), HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN.
Fetched are config.json, the tokenizer and safetensors weights, never a pickle. A model
that the cache holds whole is used as it is; `download` alone looks for a newer one.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from npgpt.errors import CheckpointError
from npgpt.storage.weights import INDEX, PICKLES, WEIGHTS, how_to_convert, read_index
from npgpt.support.arguments import checked
from npgpt.tokenizer import FILES, PAIRS

ALIASES = {
    **{
        name: f"openai-community/{name}"
        for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
    },
    "distilgpt2": "distilbert/distilgpt2",
}
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
            f"{name!r} {what}, not a bundled model ({ours}) and not a "
            f"repository of the Hub ({', '.join(ALIASES)}, or owner/name)"
        )
    return _cached(repository, None, weights) or download(name, weights=weights)


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
    info = _ask(
        repository,
        "its list of files",
        HfApi().model_info,
        repository,
        revision=revision,
    )
    files = {sibling.rfilename for sibling in info.siblings or ()}
    folders = set()

    def fetch(file: str) -> Path:
        _ask(repository, file, _fetch_resumably, repository, file, revision)
        path = Path(
            _ask(repository, file, hf_hub_download, repository, file, revision=revision)
        )
        folders.add(path.parent)
        return path

    for file in needed(files, repository, weights):
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
    return folders.pop()


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
    tokenizer = next(
        ([*group] for group in (FILES[:1], *PAIRS) if all(f in files for f in group)),
        [],
    )
    if not weights:
        return ["config.json", *tokenizer]
    for file in (WEIGHTS, INDEX):
        if file in files:
            return ["config.json", *tokenizer, file]
    pickles = [file for file in PICKLES if file in files]
    if pickles:
        raise CheckpointError(how_to_convert(where, where, pickles[0]))
    raise CheckpointError(f"{where}: no {WEIGHTS} in it")


def _cached(repository: str, revision: str | None, weights: bool) -> Path | None:
    """The cache's folder of a repository if it holds all that is needed."""
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
    # The tokenizer comes before the weights, so this misses it only in what another
    # program has put there, or where the repository has none.
    has_tokenizer = any(file in FILES for file in wanted)
    return folder if has_tokenizer and files.issuperset(shards) else None


def _fetch_resumably(repository: str, file: str, revision: str | None) -> None:
    """Put a file's content into the cache, going on with what is there of it.

    huggingface_hub itself starts anew in every process. The content is checked against
    the Hub's SHA-256, so a partial file that is not what it should be does no harm.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    url = hf_hub_url(repository, file, revision=revision)
    remote = get_hf_file_metadata(url)
    if remote.etag is None or re.fullmatch(r"[\w-]+", remote.etag) is None:
        return  # no key to file it under: hf_hub_download says what is wrong
    cache = Path(constants.HF_HUB_CACHE)
    name = repo_folder_name(repo_id=repository, repo_type="model")
    blob = cache / name / "blobs" / remote.etag
    lock = cache / ".locks" / name / f"{remote.etag}.lock"
    for parent in (blob.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        part = blob.with_name(f"{remote.etag}.incomplete")
        if part.exists() and part.stat().st_size > (remote.size or 0):
            part.unlink()
        headers = {**build_hf_headers(), "accept-encoding": "identity"}
        try:
            with part.open("ab") as stream:
                http_get(
                    url,
                    stream,
                    resume_size=stream.tell(),
                    headers=headers,
                    expected_size=remote.size,
                    displayed_filename=file,
                )
        except OSError as error:
            if "Consistency check failed" in str(error):  # no use in going on from it
                part.unlink()
            raise
        if not _is_whole(part, remote.size, remote.etag):
            part.unlink()
            raise CheckpointError(
                f"{repository}: {file} arrived damaged, its content is not what the "
                "Hub describes; download it again"
            )
        os.replace(part, blob)


def _is_whole(path: Path, size: int | None, etag: str) -> bool:
    """Whether a file has this size and, where the etag is one, this SHA-256."""
    if size is not None and path.stat().st_size != size:
        return False
    if re.fullmatch(r"[0-9a-f]{64}", etag) is None:
        return True
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == etag


def _ask(
    repository: str, what: str, function: Callable[..., Any], *args: Any, **kw: Any
) -> Any:
    """Call huggingface_hub; what goes wrong becomes one sentence."""
    try:
        return function(*args, **kw)
    except CheckpointError:
        raise
    except Exception as error:  # two HTTP libraries' errors, by version, and its own
        raise CheckpointError(_sentence(repository, what, error)) from None


def _sentence(repository: str, what: str, error: Exception) -> str:
    from huggingface_hub import constants, errors, get_token

    hub = constants.ENDPOINT
    where = f"{repository}: cannot download {what}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{where}, the repository is gated; accept its terms at "
            f"{hub}/{repository} and set HF_TOKEN to your token"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    unknown = isinstance(error, errors.RepositoryNotFoundError)
    if unknown or (status == 401 and get_token() is None):
        return (
            f"{repository}: no such repository at {hub}, or a private one; check "
            "the name, or set HF_TOKEN to your token"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository}: no such revision; give a branch, a tag or a commit"
    if status == 404:
        return f"{where}, {hub} does not have it"
    if status in (401, 403):
        return f"{where}, {hub} refuses the token in use; check HF_TOKEN"
    if status is not None:
        return f"{where}, {hub} answered with status {status}; try again later"
    reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    if isinstance(error, PermissionError) or getattr(error, "errno", None) is not None:
        return (
            f"{where} into the cache {constants.HF_HUB_CACHE} ({reason}); let "
            "HF_HOME name a folder with room to write"
        )
    if "Consistency check failed" in reason:
        return f"{where}, what arrived is not of the announced size; try again"
    return (
        f"{where} from {hub} ({reason}); check the connection and HF_ENDPOINT, and "
        "call again: it goes on where it stopped"
    )
