"""One file of the Hub into huggingface_hub's cache, and what can go wrong on the way.

The library itself starts anew in every process; here a file goes on where it stopped.
Which files a model needs is npgpt.storage.hub's business.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npgpt.errors import CheckpointError


def fetch_resumably(repository: str, file: str, revision: str | None) -> None:
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


def ask(
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
