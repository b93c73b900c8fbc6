"""Every lens against plain torch in float64, on its own feet: `pytest -m peers`."""

import math

import numpy as np
import pytest
from helpers import CASES, TINY, tiny_params, token_ids

from npgpt import GPT2
from npgpt.inside import lenses
from npgpt.storage.checkpoint import named_tensors

pytestmark = pytest.mark.peers
IDS, OTHER = (token_ids(TINY, 1, 9, seed)[0].tolist() for seed in (0, 5))
ASKED = dict(token=3, against=5)
CLOSE = dict(rtol=1e-9, atol=1e-9)  # float64 on both sides


class Plain:
    """GPT-2 in torch; `edit(name, tensor)` sees what the lenses of npgpt patch."""

    def __init__(self, config):
        import torch
        from torch.nn import functional as F

        self.config, self.F, self.torch = config, F, torch
        self.w = {
            name: torch.tensor(array, dtype=torch.float64)
            for name, array in named_tensors(tiny_params(config)).items()
        }
        self.head = self.w.get("lm_head.weight", self.w["wte.weight"])
        self.kept = {}

    def norm(self, x, name):
        w, b = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return self.F.layer_norm(x, x.shape[-1:], w, b, self.config.layer_norm_epsilon)

    def affine(self, x, name):
        return x @ self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def scale(self, i):
        D = self.config.n_embd // self.config.n_head
        scale = 1 / math.sqrt(D) if self.config.scale_attn_weights else 1.0
        by_layer = self.config.scale_attn_by_inverse_layer_idx
        return scale / (i + 1) if by_layer else scale

    def activation(self, x):
        kind = self.config.activation_function
        if kind == "relu":
            return self.F.relu(x)
        return self.F.gelu(x, approximate="tanh" if kind == "gelu_new" else "none")

    def __call__(self, ids, edit=lambda name, x: x, wte=None):
        torch, H = self.torch, self.config.n_head
        keep, T = self.kept, len(ids)
        C = self.config.n_embd

        def see(name, x):
            keep[name] = edit(name, x)
            return keep[name]

        wte = self.w["wte.weight"][ids] if wte is None else wte
        keep["wte"], keep["wpe"] = wte, self.w["wpe.weight"][:T]
        x = see("embed", wte + keep["wpe"])
        hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
        for i in range(self.config.n_layer):
            h, keep[f"h.{i}.x"] = f"h.{i}", x
            qkv = self.affine(self.norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn")
            q, k, v = (
                part.reshape(T, H, C // H).transpose(0, 1) for part in qkv.split(C, -1)
            )
            scores = q @ k.transpose(1, 2) * self.scale(i)
            weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
            keep[f"{h}.scores"], keep[f"{h}.weights"] = scores, weights
            context = see(f"{h}.attn.context", weights @ v)
            merged = context.transpose(0, 1).reshape(T, C)
            x = see(f"{h}.resid_mid", x + self.affine(merged, f"{h}.attn.c_proj"))
            pre = self.affine(self.norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")
            act = see(f"{h}.mlp.act", self.activation(pre))
            keep[f"{h}.mlp.out"] = self.affine(act, f"{h}.mlp.c_proj")
            x = see(f"{h}.resid", x + keep[f"{h}.mlp.out"])
        keep["last"] = x
        return self.norm(x, "ln_f") @ self.head.T

    def written(self, layers, t):
        """What each part adds to the stream of a token: every part by itself."""
        D = self.config.n_embd // self.config.n_head
        parts = [self.kept["wte"][t], self.kept["wpe"][t]]
        for i in range(layers):
            proj = self.w[f"h.{i}.attn.c_proj.weight"]
            for h in range(self.config.n_head):
                context = self.kept[f"h.{i}.attn.context"][h, t]
                parts.append(context @ proj[h * D : (h + 1) * D])
            parts.append(self.w[f"h.{i}.attn.c_proj.bias"])
            parts.append(self.kept[f"h.{i}.mlp.out"][t])
        return self.torch.stack(parts)

    def frozen(self, parts, x, name):
        """The parts through a norm whose deviation is that of x."""
        std = (x.var(unbiased=False) + self.config.layer_norm_epsilon).sqrt()
        centred = parts - parts.mean(-1, keepdim=True)
        return centred / std * self.w[f"{name}.weight"]


@pytest.fixture(params=CASES)
def both(request):
    config = CASES[request.param]
    return GPT2(tiny_params(config), dtype="float64"), Plain(config)


def measure(z, asked=ASKED):
    if "against" in asked:
        return z[asked["token"]] - z[asked["against"]]
    return z.log_softmax(-1)[asked["token"]]


def test_logit_lens(both):
    ours, plain = both
    plain(IDS)
    found = lenses.logit_lens(ours, IDS, token=3)
    for name, row in zip(found.rows, found.values, strict=True):
        z = plain.norm(plain.kept[name], "ln_f") @ plain.head.T
        np.testing.assert_allclose(row, z.softmax(-1)[:, 3], **CLOSE)


def test_attribution(both):
    ours, plain = both
    z = plain(IDS)
    found = lenses.attribution(ours, IDS, at=6, **ASKED)
    lead = plain.head[3] - plain.head[5]
    each = plain.frozen(
        plain.written(plain.config.n_layer, 6), plain.kept["last"][6], "ln_f"
    )
    np.testing.assert_allclose(found.values[:-1, 0], each @ lead, **CLOSE)
    np.testing.assert_allclose(
        found.values[-1, 0], plain.w["ln_f.bias"] @ lead, **CLOSE
    )
    assert found.values.sum() == pytest.approx(float(z[6, 3] - z[6, 5]), abs=1e-9)


def test_score_parts(both):
    ours, plain = both
    plain(IDS)
    i, h, t, s = plain.config.n_layer - 1, 1, 7, 3
    found = lenses.score_parts(ours, IDS, f"h.{i}.attn.scores[h={h},t={t},s={s}]")
    C = plain.config.n_embd
    D = C // plain.config.n_head
    sides = []
    for token, first in ((t, h * D), (s, C + h * D)):
        x, here = plain.kept[f"h.{i}.x"][token], slice(first, first + D)
        w = plain.w[f"h.{i}.attn.c_attn.weight"][:, here]
        b = plain.w[f"h.{i}.attn.c_attn.bias"][here]
        each = plain.frozen(plain.written(i, token), x, f"h.{i}.ln_1") @ w
        rest = plain.w[f"h.{i}.ln_1.bias"] @ w + b
        sides.append(plain.torch.vstack([each, rest]))
    table = sides[0] @ sides[1].T * plain.scale(i)
    np.testing.assert_allclose(found.values, table, **CLOSE)
    score = float(plain.kept[f"h.{i}.scores"][h, t, s])
    assert found.values.sum() == pytest.approx(score, abs=1e-9)


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_ablation(both, how):
    ours, plain = both
    other = OTHER if how == "resample" else None
    plain(OTHER if other else IDS)
    source = dict(plain.kept)
    base = measure(plain(IDS)[-1], dict(token=3))
    found = lenses.ablation(ours, IDS, how=how, other=other, token=3)
    put = {
        "zero": lambda x: 0 * x,
        "mean": lambda x: x.mean(-2, keepdim=True).expand(x.shape),
        "resample": lambda x: x,
    }[how]

    def without(place, head):
        def edit(name, x):
            if name != place:
                return x
            x = x.clone()
            x[head] = put(source[place])[head]
            return x

        return float(measure(plain(IDS, edit)[-1], dict(token=3)) - base)

    for i in range(plain.config.n_layer):
        expected = [
            without(f"h.{i}.attn.context", h) for h in range(plain.config.n_head)
        ]
        expected.append(without(f"h.{i}.mlp.act", slice(None)))
        np.testing.assert_allclose(found.values[i], expected, **CLOSE)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_patching(both, direction):
    ours, plain = both
    clean, corrupted = (float(measure(plain(ids)[-1])) for ids in (IDS, OTHER))
    to, source = (OTHER, IDS) if direction == "denoise" else (IDS, OTHER)
    plain(source)
    there = dict(plain.kept)
    found = lenses.patching(ours, IDS, OTHER, direction=direction, **ASKED)
    for name, row in zip(found.rows, found.values, strict=True):
        for t, share in enumerate(row):

            def edit(here, x, name=name, t=t):
                if here != name:
                    return x
                x = x.clone()
                x[t] = there[name][t]
                return x

            m = float(measure(plain(to, edit)[-1]))
            expected = (m - corrupted) / (clean - corrupted)
            assert share == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_habits_of_heads(both):
    ours, plain = both
    n, rng = 7, np.random.default_rng(4)
    halves = [rng.choice(TINY.vocab_size, n, replace=False).tolist() for _ in range(3)]
    grids = lenses.head_scores(ours, length=n, rows=3, seed=4)
    weights = []
    for half in halves:
        plain([0, *half, *half])
        layers = range(plain.config.n_layer)
        weights.append(
            plain.torch.stack([plain.kept[f"h.{i}.weights"] for i in layers])
        )
    weights = plain.torch.stack(weights).mean(0)  # (L, H, T, T)
    backs = (1, n, n - 1)
    for grid, back in zip(grids, backs, strict=True):
        diagonal = weights.diagonal(-back, -2, -1)
        skip = {1: 0, n: 1, n - 1: 2}[back]  # from bos, and the first half's last
        np.testing.assert_allclose(grid.values, diagonal[..., skip:].mean(-1), **CLOSE)


def test_rollout(both):
    ours, plain = both
    plain(IDS)
    eye = plain.torch.eye(len(IDS), dtype=plain.torch.float64)
    rolled = eye
    for i in range(plain.config.n_layer):
        a = plain.kept[f"h.{i}.weights"].mean(0) + eye
        rolled = (a / a.sum(-1, keepdim=True)) @ rolled
    np.testing.assert_allclose(lenses.rollout(ours, IDS).values, rolled, **CLOSE)


def slope(plain, wte, asked):
    wte = wte.clone().requires_grad_()
    measure(plain(IDS, wte=wte)[6], asked).backward()
    return wte.grad


@pytest.mark.parametrize("asked", [dict(token=3), ASKED])
def test_gradients(both, asked):
    ours, plain = both
    x = plain.w["wte.weight"][IDS]
    found = lenses.gradient_input(ours, IDS, at=6, **asked)
    expected = (x * slope(plain, x, asked)).sum(-1)
    np.testing.assert_allclose(found.values[:, 0], expected, rtol=1e-8, atol=1e-9)
    found = lenses.integrated_gradients(
        ours, IDS, at=6, points=20, baseline="mean", **asked
    )
    y = plain.w["wte.weight"].mean(0)
    total = plain.torch.zeros_like(x)
    for place, weight in zip(*np.polynomial.legendre.leggauss(20), strict=True):
        u = (place + 1) / 2
        total += weight / 2 * slope(plain, y + u * (x - y), asked)
    expected = ((x - y) * total).sum(-1)
    np.testing.assert_allclose(found.values[:, 0], expected, rtol=1e-8, atol=1e-9)
