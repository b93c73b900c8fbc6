"""The files of a tokenizer -> one `tokenizers.Tokenizer`, read as transformers does.

tokenizer.json, or GPT-2's pair of vocabulary and merges, is the tokenizer. Beside it
stand tokens that were added later and settings, in tokenizer_config.json and, of older
versions, special_tokens_map.json and added_tokens.json. They change ids, so they are
put into the tokenizer here, or refused by name. Nothing here knows what text is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from npgpt.errors import TokenizerError
from npgpt.support.arguments import shown
from npgpt.support.files import check_readable
from npgpt.support.notes import note

TOKENIZER = "tokenizer.json"
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
SETTINGS, SPECIAL, ADDED = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
BESIDE = (SETTINGS, SPECIAL, ADDED, "chat_template.jinja", "chat_template.json")
OTHERS = ("vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
END_OF_TEXT = "<|endoftext|>"
NAMED = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
GPT2_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast")


class TokenizerFiles(NamedTuple):
    """A tokenizers.Tokenizer, and the files beside it, to be saved with it."""

    backend: Any
    beside: dict[str, bytes]


def read_tokenizer(folder: Path) -> TokenizerFiles | None:
    """The tokenizer in a model's folder; None if there are no files that are read."""
    pair = next((p for p in PAIRS if all(_is_there(folder, f) for f in p)), None)
    if _is_there(folder, TOKENIZER):
        backend, path = _load_json(folder / TOKENIZER), folder / TOKENIZER
    elif pair is not None:
        backend, path = _load_pair(folder, *pair), folder / pair[0]
    else:
        _name_others(folder)
        return None
    beside = {name: _read(folder / name) for name in BESIDE if _is_there(folder, name)}
    settings = _settings(folder, beside)
    with library_errors(f"{folder}: {SETTINGS} and what is beside it cannot be used"):
        _use_prefix_space(backend, settings, path)
        for id, token in sorted(_added(settings).items()):
            _add(backend, token, id, folder)
        _mark_special(backend, settings)
        backend.encode_special_tokens = bool(settings.get("split_special_tokens"))
        if path.name != TOKENIZER:
            _use_template(backend, settings)
            _name_class(folder, settings)
        _name_ends(backend, folder)
    return TokenizerFiles(_with_sound_ids(backend, path), beside)


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """One TokenizerError for whatever the library raises."""
    try:
        yield
    except TokenizerError:
        raise
    except BaseException as error:
        # It raises bare Exception; a panic of its Rust code not even that.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise TokenizerError(f"{what} ({error})") from None
        raise


def _is_there(folder: Path, name: str) -> bool:
    return os.path.exists(folder / name)


def _name_others(folder: Path) -> None:
    found = [name for name in OTHERS if _is_there(folder, name)]
    if found:
        note(
            f"{folder}: its tokenizer is {found[0]}, which npgpt does not read; make a "
            "tokenizer.json with transformers' AutoTokenizer and save_pretrained, or "
            "give token ids"
        )


def _load_json(path: Path) -> Any:
    import tokenizers

    with library_errors(f"{path}: not a tokenizer file"):
        check_readable(path)
        backend = tokenizers.Tokenizer.from_file(str(path))
    backend.no_padding()
    backend.no_truncation()
    return _with_sound_ids(backend, path)


def _load_pair(folder: Path, vocabulary: str, merges: str) -> Any:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    path = folder / vocabulary
    what = f"{path} and {merges}: not a BPE vocabulary and its merges"
    with library_errors(what):
        check_readable(path)
        check_readable(folder / merges)
        vocab, pairs = models.BPE.read_file(str(path), str(folder / merges))
        backend = tokenizers.Tokenizer(models.BPE(vocab, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _with_sound_ids(backend, path)


def _with_sound_ids(backend: Any, path: Path) -> Any:
    """The tokenizer; refused if an id is so large that saving it would fill memory."""
    ids = backend.get_vocab().values()
    if ids and max(ids) > 2 * len(ids) + 1024:
        raise TokenizerError(f"{path}: {len(ids)} tokens, but an id of {max(ids)}")
    return backend


def _read(path: Path) -> bytes:
    try:
        check_readable(path)
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error})") from None


def _settings(folder: Path, beside: Mapping[str, bytes]) -> dict[str, Any]:
    """tokenizer_config.json, and what older versions kept in files of their own."""
    settings = _object(folder, SETTINGS, beside)
    if "added_tokens_decoder" in settings:
        return settings  # it holds all that the other two would say
    special = _object(folder, SPECIAL, beside)
    return {**settings, **special, ADDED: _object(folder, ADDED, beside)}


def _object(folder: Path, name: str, beside: Mapping[str, bytes]) -> dict[str, Any]:
    if name not in beside:
        return {}
    try:
        found = json.loads(beside[name])
    except (ValueError, RecursionError) as error:
        raise TokenizerError(
            f"{folder / name}: cannot be read as JSON ({error})"
        ) from None
    if not isinstance(found, dict):
        raise TokenizerError(f"{folder / name}: not a JSON object")
    return found


def _use_prefix_space(backend: Any, settings: Mapping[str, Any], path: Path) -> None:
    """Let GPT-2's tokenizer put a space before a text, or not, as its settings say.

    Where they say nothing it puts none, whatever tokenizer.json has; a tokenizer of
    another class takes tokenizer.json as it is.
    """
    from tokenizers import pre_tokenizers

    splitter, wanted = backend.pre_tokenizer, settings.get("add_prefix_space")
    if settings.get("tokenizer_class") not in GPT2_CLASSES:
        return
    if not isinstance(splitter, pre_tokenizers.ByteLevel):
        return
    if wanted is None and splitter.add_prefix_space:
        note(
            f"{path}: asks for a space before a text, and {SETTINGS} does not; as in "
            'transformers there is none: say "add_prefix_space" there'
        )
    splitter.add_prefix_space = bool(wanted)


def _added(settings: Mapping[str, Any]) -> dict[int, Any]:
    """Tokens added after training: id -> AddedToken."""
    import tokenizers

    listed = settings.get("added_tokens_decoder", {})
    found = {int(id): _token(token) for id, token in listed.items()}
    special = {token.content for token in _special(settings)}
    for content, id in settings.get(ADDED, {}).items():
        mark = content in special
        found[int(id)] = tokenizers.AddedToken(
            content, normalized=not mark, special=mark
        )
    return found


def _special(settings: Mapping[str, Any]) -> list[Any]:
    """The tokens that have a role: bos_token, pad_token, additional ones."""
    more = settings.get("extra_special_tokens") or settings.get(
        "additional_special_tokens", []
    )
    own = [
        key
        for key, value in settings.items()
        if key.endswith("_token") and key not in NAMED and isinstance(value, str)
    ]
    roles = [settings.get(key) for key in (*NAMED, *own)]
    roles += more.values() if isinstance(more, dict) else more
    return [_token(token, special=True) for token in roles if token is not None]


def _token(token: Any, **more: Any) -> Any:
    """An AddedToken of a name, or of an object that describes it."""
    import tokenizers

    if isinstance(token, str):
        return tokenizers.AddedToken(token, normalized=False, **more)
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    given = {flag: token[flag] for flag in flags if flag in token}
    return tokenizers.AddedToken(token["content"], **{**given, **more})


def _add(backend: Any, token: Any, id: int, folder: Path) -> None:
    """Add a token, or mark one that is there; it must get the id that is its own."""
    backend.add_tokens([token])
    found = backend.token_to_id(token.content)
    if found != id:
        raise TokenizerError(
            f"{folder}: the added token {shown(token.content)} has the id {id} in "
            f"{SETTINGS} or {ADDED}, and would get {found}; list the tokens between, "
            "or put it into tokenizer.json"
        )


def _mark_special(backend: Any, settings: Mapping[str, Any]) -> None:
    """Add or mark the tokens that have a role; how one is found in a text stays."""
    there = {t.content: t for t in backend.get_added_tokens_decoder().values()}
    is_gpt2 = settings.get("tokenizer_class") in GPT2_CLASSES
    if is_gpt2 and backend.token_to_id(END_OF_TEXT) is not None:
        roles = ("bos_token", "eos_token", "unk_token")  # its own, if none is named
        settings = {**settings, **{k: settings.get(k) or END_OF_TEXT for k in roles}}
    for token in _special(settings):
        token = there.get(token.content, token)
        token.special = True
        backend.add_tokens([token])


def _use_template(backend: Any, settings: Mapping[str, Any]) -> None:
    """Put <|endoftext|>, or what stands for it, before and after a text if asked to."""
    from tokenizers import processors

    names = []
    for role in ("bos", "eos"):
        if settings.get(f"add_{role}_token"):
            names.append(_token(settings.get(f"{role}_token") or END_OF_TEXT).content)
        else:
            names.append("")
    if not any(names):
        return
    single = f"{names[0]} $A {names[1]}".split()
    ids = [(name, backend.token_to_id(name)) for name in dict.fromkeys(names) if name]
    backend.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=ids
    )


def _name_class(folder: Path, settings: Mapping[str, Any]) -> None:
    kind = settings.get("tokenizer_class")
    if kind not in GPT2_CLASSES:
        note(
            f"{folder}: {SETTINGS} names a {shown(kind)}; its vocabulary and merges "
            "are read as GPT-2's"
        )


def _name_ends(backend: Any, folder: Path) -> None:
    """Say what the tokenizer puts after a text: what is to go on is not ended."""
    encoding = backend.encode("a")
    if encoding.ids and encoding.special_tokens_mask[-1]:
        note(
            f"{folder}: the tokenizer ends texts with {encoding.tokens[-1]}; a prompt, "
            "which goes on, is read without it"
        )
