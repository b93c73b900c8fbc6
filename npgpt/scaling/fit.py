"""One's own scaling law: L(N, D) = E + A / N^alpha + B / D^beta fitted to runs.

Hoffmann et al.'s objective (2022) with a solver of its own, and intervals by bootstrap:
Besiroglu et al. (2024) show what becomes of a fit that stops early or comes without
them. tools/scaling.py trains the runs; nothing is trained here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.errors import DataError
from npgpt.scaling.laws import Law

RUNS = Path(__file__).with_name("runs.jsonl")  # tools/scaling.py made it
COUNTS = ("all", "without_embeddings")
LEAST_RUNS = 8


@dataclass(frozen=True)
class Fit:
    """A law fitted to runs, with samples of the bootstrap: (samples, 5)."""

    law: Law
    samples: np.ndarray
    runs: int
    count: str  # which N: all parameters, or those without embeddings
    residual: float  # root of the mean squared residual of log L

    def __repr__(self) -> str:
        law = self.law
        return (
            f"Fit(L = {law.E:.3g} + {law.A:.3g}/N^{law.alpha:.2f} + "
            f"{law.B:.3g}/D^{law.beta:.2f}, of {self.runs} runs)"
        )

    def summary(self) -> dict[str, Any]:
        """The constants with their intervals of 90 %, for JSON."""
        names = ("E", "A", "alpha", "B", "beta", "exponent")
        return {
            "runs": self.runs,
            "count": self.count,
            "residual": self.residual,
            **{name: getattr(self.law, name) for name in names},
            "intervals_90": {name: self.interval(name) for name in names},
        }

    def interval(self, name: str, level: float = 0.9) -> tuple[float, float]:
        """The bootstrap's middle `level` of a constant, or of the exponent a."""
        E, A, alpha, B, beta = self.samples.T
        values = {
            "E": E,
            "A": A,
            "alpha": alpha,
            "B": B,
            "beta": beta,
            "exponent": beta / (alpha + beta),
        }[name]
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def read_runs(path: str | Path = RUNS) -> list[dict[str, Any]]:
    """The runs of tools/scaling.py, one JSON object a line; [] if there is no file."""
    path = Path(path)
    if not path.exists() and path == RUNS:
        return []
    try:
        lines = path.read_text("utf-8-sig").splitlines()
        runs = [json.loads(line) for line in lines if line.strip()]
        for run in runs:
            for key in ("parameters", "without_embeddings", "tokens", "loss"):
                if not run[key] > 0:
                    raise ValueError(f"{key} is {run[key]}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a file of scaling runs ({error})") from None
    return runs


def fit_runs(
    runs: Iterable[dict[str, Any]],
    count: str = "all",
    bootstraps: int = 400,
    seed: int = 0,
) -> Fit:
    """The law of these runs by the least Huber loss of log residuals, delta 1e-3.

    Hoffmann et al.'s objective, minimised from a grid of starts by damped Gauss-Newton
    steps, and again on runs drawn with replacement. Raises DataError for too few runs.
    """
    if count not in COUNTS:
        raise DataError(f"count is one of {', '.join(COUNTS)}, not {count!r}")
    runs = list(runs)
    key = "parameters" if count == "all" else count
    N, D, L = (
        np.array([run[k] for run in runs], float) for k in (key, "tokens", "loss")
    )
    if len(runs) < LEAST_RUNS or min(len(set(N)), len(set(D))) < 3:
        raise DataError(
            f"{len(runs)} runs cannot be fitted; five constants need at least "
            f"{LEAST_RUNS}, of three sizes and three numbers of tokens"
        )
    starts = _grid(L.min())
    solved, cost = _solve(starts, N, D, L, np.ones((len(starts), len(L))))
    best = solved[cost.argmin()]
    rng = np.random.Generator(np.random.Philox(seed))
    weights = rng.multinomial(len(L), np.full(len(L), 1 / len(L)), bootstraps)
    near = np.repeat(best[None], bootstraps, axis=0)
    samples, _ = _solve(near, N, D, L, weights.astype(float))
    law = Law(*map(float, _constants(best[None], N, D)[0]))
    residual = np.sqrt(np.mean((np.log(law.loss(N, D)) - np.log(L)) ** 2))
    return Fit(law, _constants(samples, N, D), len(runs), count, float(residual))


def _grid(least: float) -> np.ndarray:
    """Starts (S, 5) of (log A', alpha, log B', beta, log E) around the middle run."""
    shares = (0.1, 0.4)  # of each term in the loss there
    exponents = (0.15, 0.35, 0.6)
    return np.array(
        [
            (math.log(least * a), alpha, math.log(least * b), beta, math.log(least * e))
            for a in shares
            for b in shares
            for e in (0.2, 0.7)
            for alpha in exponents
            for beta in exponents
        ]
    )


def _terms(
    x: np.ndarray, N: np.ndarray, D: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log of the law (S, n), each term's share of it (S, n, 3), centred logs (n, 2)."""
    n, d = np.log(N) - np.log(N).mean(), np.log(D) - np.log(D).mean()
    logs = np.stack(
        [x[:, :1] - x[:, 1:2] * n, x[:, 2:3] - x[:, 3:4] * d, x[:, 4:] + 0 * n], axis=-1
    )
    top = logs.max(-1, keepdims=True)
    total = np.exp(logs - top).sum(-1, keepdims=True)
    law = top + np.log(total)
    return law[..., 0], np.exp(logs - law), np.stack([n, d], -1)


def _solve(
    x: np.ndarray,
    N: np.ndarray,
    D: np.ndarray,
    L: np.ndarray,
    weights: np.ndarray,
    delta: float = 1e-3,
    steps: int = 300,
) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg-Marquardt on all starts (S, 5) at once; Huber by reweighting."""

    def evaluate(
        x: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        law, share, logs = _terms(x, N, D)
        r = law - np.log(L)
        size = np.abs(r)
        huber = np.where(size < delta, r * r / 2, delta * (size - delta / 2))
        return (weights * huber).sum(1), r, share, logs

    cost, r, share, logs = evaluate(x)
    damping = np.full(len(x), 1e-2)
    for _ in range(steps):
        n, d = logs[:, 0], logs[:, 1]
        J = np.stack(
            [
                share[..., 0],
                -share[..., 0] * n,
                share[..., 1],
                -share[..., 1] * d,
                share[..., 2],
            ],
            axis=-1,
        )
        w = weights * delta / np.maximum(np.abs(r), delta)
        H = np.einsum("sn,sni,snj->sij", w, J, J)
        g = np.einsum("sn,sni,sn->si", w, J, r)
        diagonal = np.einsum("sii->si", H) + 1e-12
        H = H + damping[:, None, None] * diagonal[:, :, None] * np.eye(5)
        trial = x - np.linalg.solve(H, g[..., None])[..., 0].clip(-1, 1)
        trial[:, [1, 3]] = trial[:, [1, 3]].clip(1e-3, 5)
        new, *rest = evaluate(trial)
        better = new < cost
        x = np.where(better[:, None], trial, x)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
        if not better.any() and damping.min() >= 1e6:
            break
        cost = np.where(better, new, cost)
        r, share = (
            np.where(better.reshape(-1, *[1] * (old.ndim - 1)), fresh, old)
            for fresh, old in zip(rest[:2], (r, share), strict=True)
        )
    return x, cost


def _constants(x: np.ndarray, N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """(E, A, alpha, B, beta) from what was solved for, A and B at N = D = 1."""
    a, alpha, b, beta, e = x.T
    A = np.exp(a + alpha * np.log(N).mean())
    B = np.exp(b + beta * np.log(D).mean())
    return np.stack([np.exp(e), A, alpha, B, beta], axis=1)
