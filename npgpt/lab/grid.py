"""A grid: the settings of `generate` that are compared, from a YAML file or a preset.

A file is a list of settings, each the keyword arguments of `generate` and, if wanted, a
name; `sweep` stands for all combinations of the values listed under it:

    - name: greedy
    - {do_sample: true, temperature: 0.7}
    - sweep: {top_p: [0.5, 0.9], temperature: [0.7, 1]}
      do_sample: true

Or it is a mapping: `common` holds arguments of every setting, `settings` that list.
Every setting is checked here; nothing is generated.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from npgpt.decoding.options import OPTIONS, GenerationConfig
from npgpt.errors import GridError, NpgptError
from npgpt.support.arguments import checked, shown

MODELS = ("model", "models")  # kinds of parameters whose value is the name of a model
TAKEN = {  # arguments that the comparison gives itself
    "seed": "every setting gets the same seeds; say how many with --seeds",
    "num_return_sequences": "one text is written a call; ask for more with --seeds",
    "max_new_tokens": "only texts of one length can be compared; use --max-new-tokens",
    "logits_processor": "a file cannot hold functions",
}


class Setting(NamedTuple):
    """A name and the keyword arguments of `generate`; models by their name."""

    name: str
    options: dict[str, Any]


def _sampled(**options: Any) -> dict[str, Any]:
    return {"do_sample": True, **options}


def _each(name: str, values: Iterable[Any], **common: Any) -> list[dict[str, Any]]:
    return [_sampled(**{name: value}, **common) for value in values]


GREEDY = {"name": "greedy"}
SAMPLING = {"name": "sampling", "do_sample": True}
GRIDS: dict[str, list[dict[str, Any]]] = {
    # the exercise of many a teaching notebook: turn each knob, look at the texts
    "notebook": [
        GREEDY, *_each("temperature", (0.1, 0.5, 1, 2)), *_each("top_k", (5, 50)),
        *_each("top_p", (0.5, 0.9)),
    ],
    "temperature": [
        GREEDY, *_each("temperature", (0.1, 0.3, 0.5, 0.7, 0.9, 1, 1.5, 2)),
    ],
    "top_k": [GREEDY, *_each("top_k", (2, 5, 10, 20, 50, 200)), SAMPLING],
    "top_p": [GREEDY, *_each("top_p", (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)), SAMPLING],
    "truncation": [
        SAMPLING, *_each("top_k", (40,)), *_each("top_p", (0.9,)),
        *_each("min_p", (0.1,)), *_each("typical_p", (0.9,)),
        *_each("epsilon_cutoff", (1e-2,)), *_each("eta_cutoff", (1e-2,)),
        *_each("top_a", (0.2,)), *_each("tfs", (0.95,)), *_each("top_n_sigma", (1.0,)),
        *_each("top_h", (0.4,)), *_each("p_less", ("on",)),
    ],
    "search": [
        GREEDY, {"num_beams": 4},
        {"name": "num_beams=4 drawn", "num_beams": 4, "do_sample": True},
        {"num_beams": 4, "no_repeat_ngram_size": 3},
        {"penalty_alpha": 0.6, "top_k": 4}, _sampled(best_of=4), SAMPLING,
    ],
}  # fmt: skip


@checked(GridError)
def read_grid(
    source: str | Path, find_model: Callable[[str], Any] = str
) -> list[Setting]:
    """The settings of a preset or of a YAML file, checked.

    find_model is called with the name of every second model and raises if there is
    none. Raises GridError, with one sentence that names the setting.

    >>> [setting.name for setting in read_grid("top_p")][:3]
    ['greedy', 'top_p=0.3', 'top_p=0.5']
    """
    if str(source) in GRIDS:
        return make_grid(GRIDS[str(source)], f"preset {source}", find_model)
    return make_grid(_read_yaml(Path(source)), str(source), find_model)


@checked(GridError)
def make_grid(
    items: Any, where: str = "the grid", find_model: Callable[[str], Any] = str
) -> list[Setting]:
    """The settings that a list of dicts (or what a grid file holds) describes.

    >>> make_grid([{"sweep": {"top_k": [5, 50]}, "do_sample": True}])[1]
    Setting(name='top_k=50', options={'top_k': 50, 'do_sample': True})
    """
    common: Any = {}
    if isinstance(items, Mapping):
        unknown = [str(key) for key in items if key not in ("common", "settings")]
        if unknown:
            raise GridError(
                f"{where}: unknown key {unknown[0]!r}; a grid is a list of settings, "
                "or has the keys common and settings"
            )
        common, items = items.get("common") or {}, items.get("settings")
    if not isinstance(items, list) or not items or not isinstance(common, Mapping):
        raise GridError(
            f"{where}: there are no settings in it; a grid is a list such as "
            "'- {do_sample: true, temperature: 0.7}'"
        )
    settings: list[Setting] = []
    for number, item in enumerate(items, 1):
        for setting in _expanded(item, common, f"{where}, setting {number}"):
            _check(setting, f"{where}, {setting.name}", find_model)
            same = [other for other in settings if other.name == setting.name]
            if same:
                raise GridError(
                    f"{where}: two settings are named {setting.name!r}; give each a "
                    "name of its own"
                )
            settings.append(setting)
    return settings


def _expanded(item: Any, common: Mapping, where: str) -> Iterable[Setting]:
    if not isinstance(item, Mapping):
        raise GridError(f"{where} must be 'option: value' pairs, not {shown(item)}")
    own = dict(item)
    name, sweep = own.pop("name", None), own.pop("sweep", {})
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise GridError(f"{where}: name must be a text, not {shown(name)}")
    if not isinstance(sweep, Mapping) or not all(
        isinstance(values, list) and values for values in sweep.values()
    ):
        raise GridError(f"{where}: sweep needs a list of values for each option")
    for values in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, values, strict=True))
        if name is None:
            full = _words({**common, **chosen, **own})
        else:
            full = f"{name} {_words(chosen)}" if chosen else name
        yield Setting(full, {**common, **chosen, **own})


def _words(options: Mapping[str, Any]) -> str:
    """A name made from the options; do_sample is understood.

    >>> _words({"do_sample": True, "top_k": 5, "top_p": 0.9})
    'top_k=5 top_p=0.9'
    """
    shown = {k: v for k, v in options.items() if k != "do_sample"}
    if not shown:
        return "sampling" if options.get("do_sample") else "greedy"
    return " ".join(
        f"{k}={v}" if isinstance(v, str) else f"{k}={json.dumps(v, default=str)}"
        for k, v in shown.items()
    )


def _check(setting: Setting, where: str, find_model: Callable[[str], Any]) -> None:
    for name, why in TAKEN.items():
        if name in setting.options:
            raise GridError(f"{where}: {name} does not belong in a grid: {why}")
    try:
        for name in model_names(setting):
            find_model(name)
        stand_in = SimpleNamespace(next_logits=None)  # models are loaded later
        GenerationConfig.of(with_models(setting, lambda name: stand_in))
    except NpgptError as error:
        raise GridError(f"{where}: {error}") from None


def model_names(setting: Setting) -> list[str]:
    """Names of the second models that a setting asks for."""
    names: list[str] = []
    with_models(setting, names.append)
    return names


def with_models(setting: Setting, load: Callable[[str], Any]) -> dict[str, Any]:
    """The options with load(name) in the place of each second model's name."""
    options = dict(setting.options)
    for key, value in options.items():
        parameter = OPTIONS.get(key) if isinstance(key, str) else None
        if parameter is None:
            if not isinstance(key, str):
                raise GridError(f"{shown(key)} is not the name of an option")
        elif parameter.kind in MODELS:
            names = value if isinstance(value, list) else [value]
            if not all(isinstance(name, str) for name in names):
                raise GridError(
                    f"{key} must be the name of a model, not {shown(value)}"
                )
            loaded = [load(name) for name in names]
            options[key] = loaded if isinstance(value, list) else loaded[0]
        elif parameter.kind == "function":
            raise GridError(f"{key} is a function, which a file cannot hold")
    return options


def _read_yaml(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise GridError(
            f"{path}: neither a preset ({', '.join(GRIDS)}) nor a file that can be "
            f"read ({reason})"
        ) from None
    from npgpt.lab.gridfile import load_yaml

    return load_yaml(text, str(path))
