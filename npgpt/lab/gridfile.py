"""YAML as a grid file means it: YAML 1.2's true, false and numbers; no key twice.

PyYAML reads YAML 1.1, where `on` is True, 3e-4 a text, and of equal keys the last one
counts without a word. This module needs the extra `lab`.
"""

from __future__ import annotations

import re
from typing import Any

from npgpt.errors import GridError

try:
    import yaml
except ImportError:
    raise GridError(
        "a grid file needs PyYAML: pip install 'npgpt[lab]', or use a preset"
    ) from None

_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_FLOAT = re.compile(
    r"[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN)"
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (PyYAML's own way)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        """A dict; a key that stands twice is an error."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for at, key in enumerate(keys):
            if key in keys[:at]:
                line = node.value[at][0].start_mark.line + 1
                raise GridError(f"line {line}: {key!r} stands there twice")
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", _BOOL, "tTfF"),
    ("int", re.compile(r"[-+]?\d+"), "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
):
    # resolvers are asked by `match`, so the pattern has to reach the end itself
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern.pattern})$"), _first
    )


def load_yaml(text: str, where: str) -> Any:
    """What the text holds. Raises GridError with the line of the first mistake.

    >>> load_yaml("- {p_less: on, epsilon_cutoff: 3e-4}", "grid.yaml")
    [{'p_less': 'on', 'epsilon_cutoff': 0.0003}]
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader: it makes no objects
    except GridError as error:
        raise GridError(f"{where}, {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise GridError(f"{where}{line}: not YAML ({problem})") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise GridError(f"{where}: not YAML that a grid can hold ({error})") from None
