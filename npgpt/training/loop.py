"""The training loop: ids in, a model that predicts the next of them out.

One 1-D array of ids for training, one for validation (npgpt.training.corpus makes them
from text files). Windows of `context` ids are drawn without replacement, epoch by
epoch, in an order that depends on the seed and the step alone: no generator has a
state, so a run that was interrupted goes on exactly as if it had not been.

The folder of a run:

    config.json, model.safetensors, tokenizer.json   loads like any model, at any time
    checkpoint.safetensors    parameters, moments and step of the last `save_every`
    loss.jsonl                one line a step, and one a validation

Model and checkpoint are replaced as a whole, so a process that is killed loses what
came after the last checkpoint and nothing else. `train` knows nothing of text or
terminals.
"""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.backend import Backend, get_backend, place
from npgpt.config import GPT2Config
from npgpt.errors import TrainingError
from npgpt.gpt2 import GPT2Params
from npgpt.storage import checkpoint
from npgpt.support.arguments import checked, shown
from npgpt.support.leaves import leaves, map_leaves
from npgpt.support.threads import set_threads
from npgpt.taps import no_tap
from npgpt.tokenizer import Tokenizer
from npgpt.training import optim
from npgpt.training.batches import batch, check_data, check_row
from npgpt.training.config import TrainConfig
from npgpt.training.dropout import Dropout
from npgpt.training.engine import Engine, get_engine
from npgpt.training.folder import CURVE, State, begin, fingerprint, save
from npgpt.training.gradients import loss_and_gradients, mean_loss
from npgpt.training.lora import (
    LoraConfig,
    attach,
    collect,
    lora_engine,
    merge,
    new_lora,
)
from npgpt.training.mixed import mixed_engine


@checked(TrainingError)
def train(
    params: GPT2Params,
    train_ids: np.ndarray,
    validation_ids: np.ndarray,
    config: TrainConfig,
    *,
    out: str | Path,
    backend: str | Backend = "numpy",
    tokenizer: Tokenizer | None = None,
    lora: LoraConfig | None = None,
    resume: bool = False,
    report: Callable[[dict[str, Any]], Any] | None = None,
    bits_per_byte: Callable[[float], float] | None = None,
) -> GPT2Params:
    """Train from these parameters and return the result, which `out` holds too.

    The tokenizer is written beside the weights. With `lora` only low-rank additions
    are trained, and merged wherever weights are saved. With `resume` a run that `out`
    holds goes on from its last checkpoint; the arguments must be the same. `report` is
    called with every line of the curve, plus tokens_per_second and seconds_left; after
    a validation also with `params`.
    `bits_per_byte` turns a validation loss into bits per byte of text.

    Raises TrainingError for ids outside the vocabulary, a corpus shorter than one
    window, a loss that is not a number; CheckpointError where a file cannot be written.
    The last checkpoint stays whole in every case.
    """
    backend, out = get_backend(backend), Path(out)
    set_threads()  # NumPy's products are everybody's
    check_data(train_ids, validation_ids, params.config, config.context)
    base = map_leaves(_own, place(params, "float32", backend.xp))
    start = base if lora is None else new_lora(base, lora, config.seed, backend.xp)
    run = fingerprint(train_ids, train=config, model=base.config, lora=lora)
    state = begin(start, out, run, resume, backend)
    if tokenizer is not None:
        _save_tokenizer(tokenizer, out)
    engine = get_engine(backend)
    engine = engine if config.dtype == "float32" else mixed_engine(engine)
    engine = engine if lora is None else lora_engine(engine)
    began, first = time.perf_counter(), state.step
    try:
        with (out / CURVE).open("a", encoding="utf-8") as curve:

            def tell(record: dict[str, Any], **more: Any) -> None:
                print(json.dumps(record), file=curve, flush=True)
                if report is not None:
                    report({**record, **more})

            def validate() -> None:
                full = _whole(base, state.params, lora)
                loss = validation_loss(full, validation_ids, config, backend)
                record = {"step": state.step, "validation_loss": loss}
                if bits_per_byte is not None:
                    record["bits_per_byte"] = bits_per_byte(loss)
                tell(record, params=full)

            if state.step == 0:
                validate()
            while state.step < config.steps:
                record = _step(state, base, train_ids, config, engine, lora)
                state = state._replace(step=state.step + 1)
                took = time.perf_counter() - began
                speed = (state.step - first) * config.tokens_per_step / took
                left = took / (state.step - first) * (config.steps - state.step)
                tell(record, tokens_per_second=speed, seconds_left=left)
                last = state.step == config.steps
                if last or state.step % config.eval_every == 0:
                    validate()
                if last or state.step % config.save_every == 0:
                    checkpoint.save(_whole(base, state.params, lora), out)
                    save(state, out, run, backend)
    except OSError as error:
        raise TrainingError(
            f"{out / CURVE}: cannot be written ({error.strerror or error}); the last "
            "checkpoint is whole, make room and resume"
        ) from None
    return _whole(base, state.params, lora)


def _step(
    state: State,
    base: GPT2Params,
    ids: np.ndarray,
    config: TrainConfig,
    engine: Engine,
    lora: LoraConfig | None,
) -> dict[str, Any]:
    """Gradients of one step's windows, added up, then AdamW; the line of the curve."""
    number = state.step + 1
    model = state.params if lora is None else attach(base, state.params)
    total, grads = 0.0, None
    for part in range(config.accumulate):
        index = state.step * config.accumulate + part
        x, y = batch(ids, index, config.batch_size, config.context, config.seed)
        tap = Dropout(config.dropout, config.seed, index) if config.dropout else no_tap
        loss, found = loss_and_gradients(
            model,
            x,
            y,
            backend=engine,
            tap=tap,
            tables=lora is None,
            count=config.tokens_per_step,
        )
        more = found if lora is None else collect(found, state.params)
        total += loss
        if grads is None:
            grads = more
        else:
            for sum_, one in zip(
                leaves(grads).values(), leaves(more).values(), strict=True
            ):
                sum_ += one
    norm = optim.clip_by_global_norm(grads, config.clip_norm)
    if not math.isfinite(total) or not math.isfinite(norm):
        kept = number - 1 - (number - 1) % config.save_every
        raise TrainingError(
            f"the loss of step {number} is {total:.4g}, its gradient's norm "
            f"{norm:.4g}; lower the learning rate (what step {kept} saved is kept)"
        )
    rate = optim.learning_rate(
        number,
        peak=config.learning_rate,
        warmup=config.warmup_steps,
        steps=config.steps,
        floor=config.final_fraction,
    )
    optim.adamw(
        state.params,
        grads,
        state.moments,
        number,
        learning_rate=rate,
        update=engine.update,
        betas=config.betas,
        epsilon=config.epsilon,
        weight_decay=config.weight_decay,
        decay_all=config.decay_all,
    )
    return {"step": number, "loss": total, "learning_rate": rate, "gradient_norm": norm}


@checked(TrainingError)
def validation_loss(
    params: GPT2Params, ids: np.ndarray, config: TrainConfig, backend: Backend
) -> float:
    """Mean loss in nats of the ids after the first, in windows side by side.

    At most eval_tokens of them. Each window starts without what was before it, so a
    reading with overlapping windows (npgpt score) finds a little less.
    """
    ids = ids[: config.eval_tokens + 1] if ids.ndim else ids
    check_row("validation", ids, 2, params.config)
    T, n = config.context, len(ids) - 1
    whole, total = n // T, 0.0
    for row in range(0, whole, config.batch_size):
        rows = min(config.batch_size, whole - row)
        piece = np.asarray(ids[row * T : (row + rows) * T + 1]).astype(np.int64)
        x, y = piece[:-1].reshape(rows, T), piece[1:].reshape(rows, T)
        total += mean_loss(params, x, y, backend=backend) * rows * T
    if n % T:
        piece = np.asarray(ids[whole * T :]).astype(np.int64)[None]
        total += mean_loss(params, piece[:, :-1], piece[:, 1:], backend=backend) * (
            n % T
        )
    return total / n


def keep_freed_memory() -> bool:
    """Ask the C library to keep what a training step frees for the next; if it does.

    glibc gives arrays of some megabytes back to the system one by one, and gets zeroed
    pages for the next ones. Here it keeps those of up to 32 MB, the most that it can,
    until the process ends; elsewhere (macOS, Windows, musl) nothing happens. For a
    process that does nothing but train, such as `npgpt train`.

    >>> keep_freed_memory()  # doctest: +SKIP
    True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return bool(mallopt(-3, 32 << 20) and mallopt(-1, (1 << 31) - 1))  # mmap, trim


@checked(TrainingError)
def init_params(config: GPT2Config, seed: int = 0) -> GPT2Params:
    """Random parameters to start from, as GPT-2's: normal numbers of deviation 0.02.

    What a block adds is made smaller by sqrt(2 L), since 2 L such additions follow one
    another; biases start at 0, norms at 1. Source: Radford et al. (2019), section 2.3.
    """
    if not 0 <= seed < 2**64:
        raise TrainingError(f"seed must be in [0, 2^64), not {shown(seed)}")
    rng = np.random.Generator(np.random.Philox(key=seed))
    tensors = {}
    for name, shape in checkpoint.expected_shapes(config).items():
        if len(shape) > 1:
            x = rng.standard_normal(shape, dtype=np.float32)
            x *= 0.02 / (2 * config.n_layer) ** 0.5 if "c_proj" in name else 0.02
        else:
            is_scale = "ln_" in name and name.endswith("weight")
            x = np.full(shape, 1.0 if is_scale else 0.0, np.float32)
        tensors[name] = x
    return checkpoint.from_tensors(config, tensors)


def _save_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    try:
        tokenizer.save(out)
    except Exception as error:  # the library has no class of its own for this
        raise TrainingError(f"{out}: cannot be written ({error})") from None


def _own(array: Any) -> Any:
    """A copy that may be written: a loaded file is a map for reading."""
    return array.copy()


def _whole(base: GPT2Params, params: Any, lora: LoraConfig | None) -> GPT2Params:
    return params if lora is None else merge(base, params)
