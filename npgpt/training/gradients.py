"""The whole model's backward pass: the gradient of the loss for every parameter.

The forward pass is the ordinary one of npgpt.gpt2; a Tape (npgpt.training.tape) keeps
the activations that the derivatives of npgpt.training.backward ask for. Then the same
steps are taken in the opposite order: the loss and the output head together, the last
norm, the blocks from the last to the first, the embeddings. Each residual addition
x + f(x) hands its gradient to both sides, so the gradients of the two paths add up; so
do those of a table that is read as embedding and as output head.

`through_attention` and `through_mlp` are the halves of a block without their norms: a
model that normalises after the addition (BERT) calls them in its own order, and
`ignore_index` leaves targets out of the loss. Dropout is a tap
(npgpt.training.dropout): a tap that changes values has a method `backward(name,
gradient)`, which changes gradients alike. Nothing here updates a parameter; that is
npgpt.training.optim.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npgpt.backend import Backend
from npgpt.block import MLP, Affine, Attention, Block, attention_scale
from npgpt.config import GPT2Config
from npgpt.gpt2 import GPT2Params, Weight, hidden_states
from npgpt.ids import check_ids
from npgpt.ops import merge_heads
from npgpt.shapes import Array, Float, Int
from npgpt.taps import no_tap
from npgpt.training.backward import gelu
from npgpt.training.backward_activations import DERIVATIVES
from npgpt.training.engine import Engine, get_engine
from npgpt.training.tape import Tape

HEAD_ROWS = 1024  # positions whose logits exist at the same time


def loss_and_gradients(
    params: GPT2Params,
    ids: Int[np.ndarray, "B T"],
    targets: Int[np.ndarray, "B T"],
    *,
    backend: Backend | Engine,
    tap: Any = no_tap,
    ignore_index: int | None = None,
    count: int | None = None,
    tables: bool = True,
) -> tuple[float, GPT2Params]:
    """Mean cross-entropy of the targets in nats, and its gradient for every parameter.

    targets[b, t] is the token that should follow ids[b, :t + 1]; those equal to
    ignore_index do not count. The gradients have the structure of the parameters, a
    tied output head included: grads.lm_head is grads.wte. With `count` losses and
    gradients of several calls add up to those of one batch (npgpt.training.backward.
    cross_entropy). tables=False leaves the gradients of embeddings and output head out,
    as None. `backend` may be an Engine, of mixed precision or LoRA for example. Raises
    DecodingError for an id or a target outside the vocabulary.

    Source: Rumelhart, Hinton and Williams, "Learning representations by
    back-propagating errors" (1986).

    >>> from npgpt import GPT2
    >>> from npgpt.backend import NUMPY
    >>> params = GPT2.from_pretrained("tales-mini").params
    >>> ids = np.array([[5, 6, 7]])
    >>> loss, grads = loss_and_gradients(params, ids[:, :-1], ids[:, 1:], backend=NUMPY)
    >>> grads.h[0].mlp.c_fc.weight.shape == params.h[0].mlp.c_fc.weight.shape
    True
    """
    engine, config, tape = get_engine(backend), params.config, Tape(tap)
    ids = check_ids(ids, config)
    hidden = hidden_states(params, ids, backend=engine.backend, tap=tape)
    loss, dx, dhead = through_head(
        hidden,
        params.lm_head.weight,
        targets,
        config,
        engine=engine,
        ignore_index=ignore_index,
        count=count,
        table_too=tables,
    )
    del hidden
    dx = tape.backward("ln_f", dx)
    last = f"h.{config.n_layer - 1}.resid" if config.n_layer else "embed"
    dx, ln_f = _through_norm(dx, tape.take(last), params.ln_f, config, engine)
    blocks = []
    for i in reversed(range(config.n_layer)):
        before = f"h.{i - 1}.resid" if i else "embed"
        dx, block = _through_block(
            dx, tape.take(before), params.h[i], i, config, engine, tape
        )
        blocks.append(block)
    dx = tape.backward("embed", dx)
    wte, wpe = Weight(None), Weight(None)
    if tables:
        xp = engine.backend.xp
        dwte = tape.backward("wte", dx)
        dwte = engine.embedding(dwte, xp.asarray(ids), config.vocab_size)
        dwpe = tape.backward("wpe", xp.sum(dx, axis=0))
        dwpe = engine.embedding(dwpe, xp.arange(ids.shape[1]), config.n_positions)
        if config.tie_word_embeddings:
            dwte += dhead
            dhead = dwte
        wte, wpe = Weight(dwte), Weight(dwpe)
    head = wte if config.tie_word_embeddings else Weight(dhead)
    return loss, GPT2Params(config, wte, wpe, tuple(reversed(blocks)), ln_f, head)


def mean_loss(
    params: GPT2Params,
    ids: Int[np.ndarray, "B T"],
    targets: Int[np.ndarray, "B T"],
    *,
    backend: Backend,
) -> float:
    """The loss of loss_and_gradients, without gradients."""
    hidden = hidden_states(params, ids, backend=backend)
    check_ids(targets, params.config)
    xp = backend.xp
    rows = xp.reshape(hidden, (-1, hidden.shape[-1]))
    flat, total = xp.asarray(targets.reshape(-1)), 0.0
    for start in range(0, flat.shape[0], HEAD_ROWS):
        here = flat[start : start + HEAD_ROWS]
        z = backend.linear(rows[start : start + HEAD_ROWS, :], params.lm_head.weight.T)
        total += backend.cross_entropy(z, here) * here.shape[0]
    return total / flat.shape[0]


def through_head(
    hidden: Float[Array, "B T C"],
    table: Float[Array, "V C"],
    targets: Int[np.ndarray, "B T"],
    config: GPT2Config,
    *,
    engine: Engine,
    ignore_index: int | None = None,
    count: int | None = None,
    table_too: bool = True,
) -> tuple[float, Float[Array, "B T C"], Float[Array, "V C"] | None]:
    """Loss, and the gradients of the last hidden states and of the output head.

    The logits of some positions at a time: all of them, with their probabilities, would
    be the largest arrays of the whole step.
    """
    backend, xp = engine.backend, engine.backend.xp
    counted = np.ones_like(targets, bool)
    if ignore_index is not None:
        counted = targets != ignore_index
    check_ids(np.where(counted, targets, 0), config)
    count = int(counted.sum()) if count is None else count
    B, T, C = hidden.shape
    rows, flat = xp.reshape(hidden, (B * T, C)), xp.asarray(targets.reshape(-1))
    loss, dhidden = 0.0, xp.empty_like(rows)
    total: Array = None  # of the table's gradient, on its side
    for start in range(0, B * T, HEAD_ROWS):
        piece = slice(start, start + HEAD_ROWS)
        z = backend.linear(rows[piece, :], table.T)
        part, dz = engine.cross_entropy(
            z, flat[piece], ignore_index=ignore_index, count=count
        )
        loss += part
        if table_too:
            dx, dweight, _ = engine.linear(dz, rows[piece, :], table.T, has_bias=False)
            if total is None:
                total = dweight
            else:
                total += dweight
        else:
            dx = backend.linear(dz, table)
        dhidden[piece, :] = dx
    dtable = None
    if table_too:
        dtable = xp.zeros_like(table)
        dtable += total.T
    return loss, xp.reshape(dhidden, hidden.shape), dtable


def _through_block(
    dx: Array,
    x: Array,
    block: Block,
    i: int,
    config: GPT2Config,
    engine: Engine,
    tape: Tape,
) -> tuple[Array, Block]:
    """dE/dx and the gradients of block i, from dE/d(its result)."""
    name = f"h.{i}"
    dx = tape.backward(f"{name}.resid", dx)
    normed = tape.take(f"{name}.ln_2")
    dnormed, mlp = through_mlp(dx, normed, block.mlp, name, config, engine, tape)
    dnormed = tape.backward(f"{name}.ln_2", dnormed)
    middle = tape.take(f"{name}.resid_mid")
    dmiddle, ln_2 = _through_norm(dnormed, middle, block.ln_2, config, engine)
    dmiddle += dx  # x + f(x): the gradient goes both ways
    dmiddle = tape.backward(f"{name}.resid_mid", dmiddle)
    normed = tape.take(f"{name}.ln_1")
    dnormed, attn = through_attention(
        dmiddle, normed, block.attn, i, config, engine, tape
    )
    dnormed = tape.backward(f"{name}.ln_1", dnormed)
    dx, ln_1 = _through_norm(dnormed, x, block.ln_1, config, engine)
    dx += dmiddle
    return dx, Block(ln_1, attn, ln_2, mlp)


def through_mlp(
    dy: Float[Array, "B T C"],
    x: Float[Array, "B T C"],
    mlp: MLP,
    name: str,
    config: GPT2Config,
    engine: Engine,
    tape: Tape,
) -> tuple[Float[Array, "B T C"], MLP]:
    """Gradients of x and of the parameters, for y = c_proj(activation(c_fc(x)))."""
    dy = tape.backward(f"{name}.mlp.out", dy)
    act = tape.take(f"{name}.mlp.act")
    dact, *c_proj = engine.linear(dy, act, mlp.c_proj.weight)
    del act
    dact = tape.backward(f"{name}.mlp.act", dact)
    through = DERIVATIVES[config.activation_function]
    through = engine.gelu if through is gelu else through
    dpre = through(dact, tape.take(f"{name}.mlp.pre"))
    dpre = tape.backward(f"{name}.mlp.pre", dpre)
    dx, *c_fc = engine.linear(dpre, x, mlp.c_fc.weight)
    return dx, MLP(Affine(*c_fc), Affine(*c_proj))


def through_attention(
    dy: Float[Array, "B T C"],
    x: Float[Array, "B T C"],
    attn: Attention,
    layer: int,
    config: GPT2Config,
    engine: Engine,
    tape: Tape,
    *,
    causal: bool = True,
    mask: Any = None,
) -> tuple[Float[Array, "B T C"], Attention]:
    """Gradients of x and of the parameters of one attention layer.

    Where a tap looked at the probabilities (dropout), they are on the tape; elsewhere
    npgpt.training.backward.attention computes them again.
    """
    xp, name = engine.backend.xp, f"h.{layer}.attn"
    (B, T, C), H = x.shape, config.n_head
    dy = tape.backward(f"{name}.out", dy)
    context = merge_heads(tape.take(f"{name}.context"))
    dcontext, *c_proj = engine.linear(dy, context, attn.c_proj.weight)
    del context
    dcontext = xp.permute_dims(xp.reshape(dcontext, (B, T, H, C // H)), (0, 2, 1, 3))
    dcontext = tape.backward(f"{name}.context", dcontext)
    q, k, v = (tape.take(f"{name}.{part}") for part in "qkv")
    scale = attention_scale(config, layer)
    if f"{name}.weights" in tape.kept:
        dp, dv = engine.attention_means(dcontext, tape.take(f"{name}.weights"), v)
        dp = tape.backward(f"{name}.weights", dp)
        dscores = engine.softmax(dp, tape.take(f"{name}.weights.before"))
        dscores = tape.backward(f"{name}.scores", dscores)
        dq, dk = engine.attention_scores(dscores, q, k, scale=scale)
    else:
        dq, dk, dv = engine.attention(
            dcontext, q, k, v, causal=causal, mask=mask, scale=scale
        )
    del q, k, v
    parts = zip("qkv", (dq, dk, dv), strict=True)
    dqkv = engine.split_heads(*(tape.backward(f"{name}.{p}", d) for p, d in parts))
    dx, *c_attn = engine.linear(dqkv, x, attn.c_attn.weight)
    return dx, Attention(Affine(*c_attn), Affine(*c_proj))


def _through_norm(
    dy: Array, x: Array, ln: Affine, config: GPT2Config, engine: Engine
) -> tuple[Array, Affine]:
    epsilon = config.layer_norm_epsilon
    dx, *ln_gradients = engine.layer_norm(dy, x, ln.weight, epsilon)
    return dx, Affine(*ln_gradients)
