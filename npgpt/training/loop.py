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

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.backend import Backend, get_backend, place
from npgpt.errors import TrainingError
from npgpt.gpt2 import GPT2Params
from npgpt.support.arguments import checked
from npgpt.support.clock import working_time
from npgpt.support.leaves import leaves, map_leaves
from npgpt.support.notes import note
from npgpt.support.threads import set_threads
from npgpt.taps import no_tap
from npgpt.tokenizer import Tokenizer
from npgpt.training import optim
from npgpt.training.batches import batch, check_data, check_row
from npgpt.training.config import TrainConfig
from npgpt.training.dropout import Dropout
from npgpt.training.engine import Engine, get_engine
from npgpt.training.folder import (
    Curve,
    State,
    begin,
    fingerprint,
    save,
    save_model,
)
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
from npgpt.training.start import init_params as init_params
from npgpt.training.start import keep_freed_memory as keep_freed_memory


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
    stop: Callable[[], object] | None = None,
) -> GPT2Params:
    """Train from these parameters and return the result, which `out` holds too.

    The tokenizer is written beside the weights. With `lora` only low-rank additions
    are trained, and merged wherever weights are saved. With `resume` a run that `out`
    holds goes on from its last checkpoint; steps, eval_every, eval_tokens and
    save_every may be others then, all else must be the same. `report` is called with
    every line of the curve, plus tokens_per_second and seconds_left; after a validation
    also with `params`; after a save with that step and {"saved": True}. `stop` is asked
    between steps: if it says yes, what is done is saved, and the run has ended.
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
    if config.warmup_steps > config.steps:
        note(
            f"warmup_steps {config.warmup_steps} are more than steps {config.steps}: "
            "the learning rate never reaches its peak"
        )
    kept = state.step  # what was saved last; 0: nothing
    engine = get_engine(backend)
    engine = engine if config.dtype == "float32" else mixed_engine(engine)
    engine = engine if lora is None else lora_engine(engine)
    began, first = working_time(), state.step
    # What is no number is found below, and said in one sentence.
    with Curve(out, state.step) as curve, np.errstate(all="ignore"):

        def tell(record: dict[str, Any], **more: Any) -> None:
            curve.add(record)
            if report is not None:
                report({**record, **more})

        def validate() -> None:
            full = _whole(base, state.params, lora)
            loss = validation_loss(full, validation_ids, config, backend)
            if not math.isfinite(loss):
                raise _not_finite(f"the loss before step {state.step + 1}", loss, kept)
            record = {"step": state.step, "validation_loss": loss}
            if bits_per_byte is not None:
                record["bits_per_byte"] = bits_per_byte(loss)
            tell(record, params=full)

        if state.step == 0:
            validate()
        if state.step == config.steps:  # it may have ended before this was written
            save_model(_whole(base, state.params, lora), tokenizer, out)
        stopped = stop is not None and bool(stop())
        while state.step < config.steps and not stopped:
            record = _step(state, base, train_ids, config, engine, lora)
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(record[name]):
                    what = f"the {name.replace('_', ' ')} of step {record['step']}"
                    raise _not_finite(what, record[name], kept)
            state = state._replace(step=state.step + 1)
            took = working_time() - began
            speed = (state.step - first) * config.tokens_per_step / took
            left = took / (state.step - first) * (config.steps - state.step)
            tell(record, tokens_per_second=speed, seconds_left=left)
            last = state.step == config.steps
            if last or state.step % config.eval_every == 0:
                validate()
            stopped = stop is not None and bool(stop())
            if last or stopped or state.step % config.save_every == 0:
                full = _whole(base, state.params, lora)
                _check_finite(full, state.step, kept)
                save(state, full, tokenizer, out, run, backend)
                kept = state.step
                if report is not None:
                    report({"step": kept, "saved": True})
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


def _check_finite(params: GPT2Params, step: int, kept: int) -> None:
    for name, x in leaves(params).items():
        worst = float(abs(x).max())
        if not math.isfinite(worst):
            raise _not_finite(f"{name} after step {step}", worst, kept)


def _not_finite(what: str, value: float, kept: int) -> TrainingError:
    if what.endswith("before step 1"):
        return TrainingError(
            f"{what} is {value:.4g}; the model to start from is broken"
        )
    rest = f"what step {kept} saved is kept" if kept else "nothing had been saved"
    return TrainingError(f"{what} is {value:.4g}; lower the learning rate ({rest})")


def _own(array: Any) -> Any:
    """A copy that may be written: a loaded file is a map for reading."""
    return array.copy()


def _whole(base: GPT2Params, params: Any, lora: LoraConfig | None) -> GPT2Params:
    return params if lora is None else merge(base, params)
