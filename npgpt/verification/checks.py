"""Is this model computed right, on this machine? Checks that need no other library.

Each check compares tensors in the order of the forward pass, so the first one that
diverges names the place. What is compared with other libraries was recorded by
tools/record_fixtures.py, or is published (npgpt.verification.published).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby, zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from npgpt import gpt2, ops
from npgpt.backend import BACKENDS, Backend
from npgpt.errors import BackendError, CheckpointError
from npgpt.model import GPT2
from npgpt.storage import checkpoint
from npgpt.support.arguments import checked
from npgpt.support.files import check_readable
from npgpt.verification.distance import (
    Scales,
    conditions,
    intermediates,
    spread,
    vector_error,
)
from npgpt.verification.published import Known

REFERENCE = "reference.npz"  # beside a bundled model's weights
ROUNDING = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "bfloat16": 2.0**-8,
    "int8": 2.0**-7,
}


class Check(NamedTuple):
    """One tensor compared: its error, what is tolerated and why."""

    check: str
    tensor: str
    error: float
    tolerance: float
    why: str

    @property
    def ok(self) -> bool:
        """Whether the error is tolerated; NaN is not."""
        return self.error <= self.tolerance


@checked(CheckpointError)
def verify(
    params: gpt2.GPT2Params,
    backend: str | Backend = "numpy",
    dtype: str = "float32",
    reference: str | Path | None = None,
    published: Known | None = None,
) -> Iterator[Check]:
    """All checks of a model on a backend and dtype, as they are made.

    `reference` is a file that tools/record_fixtures.py wrote for these weights,
    `published` what others printed of them.

    >>> from npgpt.storage import checkpoint, hub
    >>> checks = list(verify(checkpoint.load(hub.resolve("tales-mini"))))
    >>> all(check.ok for check in checks)
    True
    """
    model = GPT2(params, backend=backend, dtype=dtype)
    ids = prompt_ids(model)
    yield from check_weights(params)
    if reference is not None:
        yield from check_recorded(model, reference)
    if published is not None:
        yield from check_published(model, params, published)
    double = GPT2(params, dtype="float64")
    exact = intermediates(double, ids)
    scales = conditions(exact, double, ids, ROUNDING[dtype])
    yield from check_precision(model, ids, exact, scales)
    yield from check_cache(model, ids)
    yield from check_batch(model, ids)
    yield from check_backends(model, params, ids, scales)


def first_divergence(checks: list[Check]) -> Check | None:
    """The first tensor that differs too much, in the order of the forward pass."""
    return next((check for check in checks if not check.ok), None)


def worst_of_each(checks: list[Check]) -> list[Check]:
    """Of each check the tensor closest to, or furthest beyond, what is tolerated."""

    def badness(check: Check) -> tuple[bool, float]:
        return not check.ok, check.error / (check.tolerance or 1.0)

    groups = groupby(checks, key=lambda check: check.check)
    return [max(group, key=badness) for _, group in groups]


@checked(CheckpointError)
def prompt_ids(model: GPT2) -> list[int]:
    """Twelve ids for the checks: spread over the vocabulary, the same every time."""
    T = min(12, model.config.n_positions)
    bits = np.random.Philox(key=0).random_raw(T)
    return (bits % np.uint64(model.config.vocab_size)).astype(int).tolist()


def tolerance(model: GPT2) -> float:
    """Relative error that rounding explains: unit * 8 * sqrt(2 L) * sqrt(C).

    Each of the 2 L sublayers adds an error of its own; a sum of C rounded products is
    off by sqrt(C) units; 8 for the spread between vectors.
    """
    growth = 8 * math.sqrt(2 * model.config.n_layer) * math.sqrt(model.config.n_embd)
    return ROUNDING[model.dtype] * growth


def compare_tensors(
    check: str,
    arrays: dict[str, np.ndarray],
    references: dict[str, np.ndarray],
    tolerated: float,
    why: str,
    scales: Scales = MappingProxyType({}),
) -> Iterator[Check]:
    """One Check for every tensor that both sides have, in order."""
    for name, reference in references.items():
        if name in arrays:
            scale = scales.get(name, 0.0)
            error = vector_error(arrays[name], reference, scale)
            yield Check(check, name, error, tolerated, why)


def check_weights(params: gpt2.GPT2Params) -> Iterator[Check]:
    """No weight is NaN or infinite: the number of tensors that hold one."""
    bad = [
        name
        for name, x in checkpoint.named_tensors(params).items()
        if not np.isfinite(np.sum(x))
    ]
    label = bad[0] if bad else "all"
    yield Check("weights are finite", label, float(len(bad)), 0.0, "a count of tensors")


def check_recorded(model: GPT2, path: str | Path) -> Iterator[Check]:
    """Samples of every tensor against what transformers computed."""
    try:
        check_readable(path)
        with open(path, "rb") as stream, np.load(stream) as file:
            recorded = {name: file[name] for name in file.files}
        ids, source = recorded.pop("ids"), str(recorded.pop("source"))
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        BadZipFile,
        MemoryError,
    ) as error:
        raise CheckpointError(f"{path}: not a recording of a model ({error})") from None
    arrays = {name: spread(array) for name, array in intermediates(model, ids).items()}
    yield from compare_tensors(
        f"as {source}",
        arrays,
        recorded,
        tolerance(model),
        f"{model.dtype}, {model.config.n_layer} layers",
    )


def check_precision(
    model: GPT2, ids: list[int], exact: dict[str, np.ndarray], scales: Scales
) -> Iterator[Check]:
    """This backend and dtype against plain NumPy in float64, which is `exact`."""
    label = f"{model.backend.name} {model.dtype}, NumPy float64"
    why = f"{model.dtype}, {model.config.n_layer} layers"
    yield from compare_tensors(
        label, intermediates(model, ids), exact, tolerance(model), why, scales
    )


def check_cache(model: GPT2, ids: list[int]) -> Iterator[Check]:
    """Logits with the cache, in two parts and token by token, against none."""
    whole = model.logits(ids)[0]
    why = "order of sums"
    for split in sorted({1, len(ids) // 2, len(ids) - 1} - {0, len(ids)}):
        cache = model.new_cache()
        model.next_logits([ids[:split]], cache)
        z = model.next_logits([ids[split:]], cache)[0]
        error = vector_error(z, whole[-1])
        label = f"logits[{len(ids) - 1}], split at {split}"
        yield Check("cached, uncached", label, error, 2 * tolerance(model), why)
    cache = model.new_cache()
    for t, id in enumerate(ids):
        error = vector_error(model.next_logits([[id]], cache)[0], whole[t])
        label = f"logits[{t}], token by token"
        yield Check("cached, uncached", label, error, 2 * tolerance(model), why)


def check_batch(model: GPT2, ids: list[int]) -> Iterator[Check]:
    """Rows of different length together, against each alone."""
    rows = [ids, ids[: (len(ids) + 1) // 2], ids[-3:]]
    together = model.next_logits(rows, model.new_cache(len(rows)))
    why = "order of sums"
    for i, row in enumerate(rows):
        alone = model.next_logits([row], model.new_cache())[0]
        error = vector_error(together[i], alone)
        yield Check(
            "batch, single", f"logits, row {i}", error, 2 * tolerance(model), why
        )


def check_backends(
    model: GPT2, params: gpt2.GPT2Params, ids: list[int], scales: Scales
) -> Iterator[Check]:
    """Every other backend of this machine against NumPy, in float32."""
    expected = intermediates(GPT2(params), ids)
    why = "order of sums"
    for name in BACKENDS:
        if name in ("numpy", model.backend.name):
            continue
        try:
            other = GPT2(params, backend=name)
        except BackendError:
            continue
        tolerated = 2 * tolerance(other)
        arrays = intermediates(other, ids)
        yield from compare_tensors(
            f"{name}, NumPy", arrays, expected, tolerated, why, scales
        )


def check_published(
    model: GPT2, params: gpt2.GPT2Params, published: Known
) -> Iterator[Check]:
    """Values that others printed of these weights; the sources are in published."""
    for (row, column), values in published.wte_corners.items():
        corner = params.wte.weight[row]
        corner = corner[column : column + 3 if column >= 0 else None]
        error = float(np.abs(corner - values).max())
        why = "printed with 8 decimals"
        yield Check("published weights", f"wte[{row}, {column}:]", error, 1e-7, why)
    for prompt, logits in published.top_logits:
        z = model.logits(prompt)[0, -1]
        error = max(abs(float(z[id]) - value) for id, value in logits.items())
        why = "the source ran ONNX, perhaps in reduced precision"
        yield Check("published logits", f"after {prompt[0]}...", error, 1e-2, why)
    for what, tokens, shape, loss, tolerated in published.losses:
        ids = np.array(tokens)
        z = model.logits(ids[:-1].reshape(shape))
        error = abs(ops.cross_entropy(z, ids[1:].reshape(shape)) - loss)
        why = "the tolerance of the source's own test"
        yield Check("published loss", what, error, tolerated, why)
    for case in published.greedy:
        own: Any = dict(defaults=False, max_new_tokens=len(case.new))
        (result,) = model.generate([list(case.prompt)], **own)
        pairs = zip_longest(result.ids, case.new)
        error = float(sum(a != b for a, b in pairs))
        why = "the same tokens"
        yield Check("published greedy text", case.source, error, 0.0, why)
