"""Laws of the optimiser, the training loop and what it leaves on disk."""

import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import ADAMW, FIXTURES, TINY, relative_error, tiny_params, token_ids

from npgpt import GPT2, TrainingError
from npgpt.backend import NUMPY, place
from npgpt.evaluation.score import score
from npgpt.storage import checkpoint
from npgpt.storage.tensorfile import read_metadata
from npgpt.support.leaves import leaves, map_leaves
from npgpt.training import optim
from npgpt.training.batches import batch
from npgpt.training.engine import get_engine
from npgpt.training.gradients import loss_and_gradients
from npgpt.training.loop import TrainConfig, init_params, train, validation_loss
from npgpt.training.lora import LoraConfig, attach, lora_engine, merge, new_lora

IDS = (np.arange(3000) ** 2 % 40).astype(np.uint16)
QUICK = TrainConfig(
    steps=12,
    batch_size=2,
    accumulate=2,
    context=16,
    learning_rate=1e-2,
    warmup_steps=2,
    eval_every=4,
    save_every=5,
    dropout=0.1,
)
FILES = ("loss.jsonl", "checkpoint.safetensors", "model.safetensors", "config.json")


def run(out, config=QUICK, **options):
    return train(init_params(TINY), IDS, IDS[:200], config, out=out, **options)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


class Stop(Exception):
    pass


def stop_at(step):
    def report(record):
        if record["step"] == step:
            raise Stop

    return report


def ten_steps(decay_all, backend, dtype):
    """Losses, norms and final parameters of the ten steps that torch took."""
    params = map_leaves(np.array, tiny_params())
    params = place(params, dtype, backend.xp)
    moments, losses, norms = optim.new_moments(params), [], []
    for step in range(10):
        ids = token_ids(TINY, 2, 8, seed=step)
        loss, grads = loss_and_gradients(
            params, ids[:, :-1], ids[:, 1:], backend=backend
        )
        norms.append(optim.clip_by_global_norm(grads, 1.0))
        optim.adamw(
            params,
            grads,
            moments,
            step + 1,
            decay_all=decay_all,
            update=get_engine(backend).update,
            **ADAMW,
        )
        losses.append(loss)
    return losses, norms, leaves(params)


@pytest.fixture(params=[False, True], ids=["matrices", "all"])
def recorded(request):
    """What torch computed in float64, tools/record_gradient_fixtures.py."""
    with np.load(FIXTURES / "adamw.npz") as file:
        return request.param, {
            name.partition("/")[2]: file[name]
            for name in file.files
            if name.startswith(f"{request.param}/")
        }


def test_ten_steps_are_torchs(recorded):
    decay_all, expected = recorded
    losses, norms, params = ten_steps(decay_all, NUMPY, "float64")
    # torch clips by norm + 1e-6: 2e-7 of a gradient, and as much of what follows
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-6)
    np.testing.assert_allclose(norms, expected["norms"], rtol=1e-6)
    for name, array in params.items():
        assert relative_error(array, expected[name]) < 1e-5, name


def test_ten_steps_of_float32_go_the_same_way(recorded, backend):
    """Losses and norms. A weight may part: AdamW's first steps have the size of the
    rate however small the gradient, and rounding decides the sign of one near 0."""
    decay_all, expected = recorded
    losses, norms, _ = ten_steps(decay_all, backend, "float32")
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-4)
    np.testing.assert_allclose(norms, expected["norms"], rtol=1e-3)


def test_the_rate_goes_up_and_down():
    options = dict(peak=3.0, warmup=10, steps=100, floor=0.1)
    rates = [optim.learning_rate(s, **options) for s in range(1, 101)]
    assert rates[9] == max(rates) == 3.0
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.3)


def test_an_epoch_holds_every_window_once():
    ids, T, B = np.arange(50), 7, 3
    n = len(ids) // T
    x, y = (
        np.concatenate(part)
        for part in zip(*(batch(ids, i, B, T, seed=4) for i in range(14)), strict=True)
    )
    assert (y == (x + 1) % 50).all()
    for epoch in range(14 * B // n):
        starts = x[epoch * n : epoch * n + n, 0]
        assert len(set((starts - starts[0]) % 50 % T)) <= 2  # two where the end joins
        assert len(np.unique(x[epoch * n : epoch * n + n])) == n * T
    again = batch(ids, 5, B, T, seed=4)[0]
    assert (again == x[15:18]).all()
    assert (batch(ids, 5, B, T, seed=5)[0] != again).any()


def test_it_learns_what_can_be_learnt(tmp_path, backend):
    config = replace(QUICK, steps=150, dropout=0.0, batch_size=4)
    params = run(tmp_path, config, backend=backend)
    # id t is t^2 mod 40: known after some ids of a window, of 3.7 nats before
    assert validation_loss(params, IDS[:200], config, backend) < 1
    assert (tmp_path / "model.safetensors").exists()


def test_accumulated_passes_are_one_batch(tmp_path):
    one = replace(QUICK, steps=3, batch_size=4, accumulate=1, dropout=0.0)
    two = replace(one, batch_size=2, accumulate=2)
    a, b = (leaves(run(tmp_path / str(c.batch_size), c)) for c in (one, two))
    for name in a:
        if not name.endswith(
            "c_attn.bias"
        ):  # the keys' bias has no gradient but rounding's
            np.testing.assert_allclose(a[name], b[name], atol=1e-4, err_msg=name)


def test_the_same_seed_is_the_same_run(tmp_path, backend):
    for name in "ab":
        run(tmp_path / name, backend=backend)
    run(tmp_path / "c", replace(QUICK, seed=1), backend=backend)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_interruption_changes_no_bit(tmp_path, dtype, lora, backend):
    options = dict(config=replace(QUICK, dtype=dtype), lora=lora, backend=backend)
    run(tmp_path / "whole", **options)
    for step in (3, 9, 12):  # before, between and after the checkpoints of 5 and 10
        with pytest.raises(Stop):
            run(tmp_path / "cut", resume=True, report=stop_at(step), **options)
    run(tmp_path / "cut", resume=True, **options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")
    run(tmp_path / "cut", resume=True, **options)  # nothing is left
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


HERE = Path(__file__).parent
PATHS = [str(HERE), str(HERE.parent)]  # of this file and of its helpers
PROGRAM = """
import sys
sys.path[:0] = {paths!r}
from test_train import QUICK, run
from dataclasses import replace
run({out!r}, replace(QUICK, steps=60, save_every=7), resume=True)
"""


def test_a_kill_loses_no_more_than_the_last_interval(tmp_path):
    config = replace(QUICK, steps=60, save_every=7)
    run(tmp_path / "whole", config)
    out = tmp_path / "killed"
    program = PROGRAM.format(paths=PATHS, out=str(out))
    for least in (1, 15, 40):
        process = subprocess.Popen([sys.executable, "-c", program])
        deadline = time.monotonic() + 120
        while last_step(out) < least and time.monotonic() < deadline:
            time.sleep(0.005)
        reached = last_step(out)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if reached >= config.save_every:
            kept = GPT2.from_pretrained(out)  # what is there is whole
            assert np.isfinite(kept.logits([1, 2, 3])).all()
            at = int(read_metadata(out / "checkpoint.safetensors")["step"])
            assert reached - at <= config.save_every + 1  # one may have been written
    run(out, config, resume=True)
    assert contents(tmp_path / "whole") == contents(out)


def curve(out):
    lines = []
    for line in (out / "loss.jsonl").read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def last_step(out):
    try:
        return max((record["step"] for record in curve(out)), default=-1)
    except FileNotFoundError:
        return -1


FULL = """
import resource, sys
sys.path[:0] = {paths!r}
from test_train import run
from npgpt import NpgptError
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
try:
    run({out!r}, resume=True)
except NpgptError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits there")
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, report=stop_at(7))
    before = contents(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    program = FULL.format(paths=PATHS, out=str(tmp_path), size=size + 100)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert "cannot be written" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not done.stderr
    after = contents(tmp_path)
    assert after["checkpoint.safetensors"] == before["checkpoint.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FILES)  # no leftovers
    run(tmp_path, resume=True)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, report=stop_at(7))
    kept = contents(tmp_path)
    params = init_params(TINY)
    params.h[0].mlp.c_fc.weight[0, 0] = np.nan
    with pytest.raises(TrainingError, match="step 1 is nan"):
        train(params, IDS, IDS[:200], QUICK, out=tmp_path / "other")
    assert not (tmp_path / "other" / "checkpoint.safetensors").exists()
    assert contents(tmp_path) == kept


@pytest.mark.parametrize(
    ("train_ids", "validation_ids", "message"),
    [
        (IDS[:16], IDS, "training text has 16 tokens, at least 17"),
        (IDS[:0], IDS, "training text has 0 tokens"),
        (IDS, IDS[:1], "validation text has 1 tokens"),
        (IDS + 20, IDS, "token id 56, the model's vocabulary ends at 39"),
        (IDS.astype(np.int32) - 3, IDS, "token id -3"),
        (IDS, IDS.astype(float), "whole numbers"),
    ],
)
def test_wrong_data_are_one_sentence(tmp_path, train_ids, validation_ids, message):
    with pytest.raises(TrainingError, match=message):
        train(init_params(TINY), train_ids, validation_ids, QUICK, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_wrong_settings_are_one_sentence(tmp_path):
    for wrong in ({"steps": 0}, {"dropout": 1.0}, {"learning_rate": 0.0}):
        with pytest.raises(TrainingError, match=next(iter(wrong))):
            replace(QUICK, **wrong)
    with pytest.raises(TrainingError, match="n_positions 24"):
        run(tmp_path, replace(QUICK, context=25))
    with pytest.raises(TrainingError, match="rank"):
        LoraConfig(rank=0)
    with pytest.raises(TrainingError, match="wte"):
        LoraConfig(matrices=("wte",))


def test_a_run_is_neither_overwritten_nor_mixed_with_another(tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, report=stop_at(7))
    kept = contents(tmp_path)
    with pytest.raises(TrainingError, match="resume"):
        run(tmp_path)
    with pytest.raises(TrainingError, match=r"learning_rate was 0\.01, is now 0\.02"):
        run(tmp_path, replace(QUICK, learning_rate=0.02), resume=True)
    with pytest.raises(TrainingError, match="training text"):
        train(init_params(TINY), IDS[1:], IDS, QUICK, out=tmp_path, resume=True)
    assert contents(tmp_path) == kept


def test_the_parameters_that_were_given_are_left_alone(tmp_path):
    params = init_params(TINY)
    before = map_leaves(np.copy, params)
    train(params, IDS, IDS[:200], QUICK, out=tmp_path)
    for a, b in zip(leaves(params).values(), leaves(before).values(), strict=True):
        assert (a == b).all()


def test_validation_is_the_loss_of_score():
    config = replace(QUICK, context=24)
    params = tiny_params()
    loss = validation_loss(params, IDS[:100], config, NUMPY)
    model = GPT2(params)
    expected = score(model, IDS[:100].tolist(), bos=False, window=24)
    assert loss == pytest.approx(-expected.logprob / expected.num_tokens, rel=1e-6)


def test_new_parameters_have_gpt2s_scale():
    config = replace(TINY, n_embd=64, vocab_size=1000, n_positions=500)
    params = init_params(config, seed=3)
    assert params.wte.weight.std() == pytest.approx(0.02, rel=0.02)
    assert params.h[0].mlp.c_proj.weight.std() == pytest.approx(0.01, rel=0.02)
    assert (params.h[1].ln_1.weight == 1).all()
    loss = validation_loss(params, IDS[:200], replace(QUICK, context=16), NUMPY)
    assert loss == pytest.approx(math.log(1000), abs=0.1)


def test_lora_starts_as_the_model_and_merged_equals_unmerged(backend):
    params = place(tiny_params(), "float32", backend.xp)
    lora = new_lora(params, LoraConfig(rank=3), 0, backend.xp)
    ids, targets = token_ids(TINY, 2, 7), token_ids(TINY, 2, 7, seed=3)
    engine = lora_engine(get_engine(backend))

    def loss(of, on):
        return loss_and_gradients(of, ids, targets, backend=on)[0]

    assert loss(attach(params, lora), engine) == pytest.approx(
        loss(params, backend), rel=1e-6
    )
    rng = np.random.default_rng(0)
    for adapters in lora.adapters:
        for adapter in adapters:
            adapter.b[...] = backend.xp.asarray(
                rng.standard_normal(adapter.b.shape).astype(np.float32)
            )
    changed = loss(attach(params, lora), engine)
    assert abs(changed - loss(params, backend)) > 0.1
    assert changed == pytest.approx(loss(merge(params, lora), backend), rel=1e-5)


@pytest.mark.parametrize("matrices", [("attn.c_attn",), ("mlp.c_fc", "attn.c_proj")])
def test_lora_gradients_are_finite_differences(matrices):
    from npgpt.training.lora import collect

    params = place(tiny_params(), "float64", np)
    lora = new_lora(params, LoraConfig(2, 3.0, matrices), 0, np)
    rng = np.random.default_rng(1)
    lora = map_leaves(lambda x: rng.standard_normal(x.shape), lora)
    ids, targets = token_ids(TINY, 2, 7), token_ids(TINY, 2, 7, seed=3)

    def run_(tables=False):
        return loss_and_gradients(
            attach(params, lora),
            ids,
            targets,
            backend=lora_engine(get_engine(NUMPY)),
            tables=tables,
        )

    _, grads = run_()
    assert grads.wte.weight is None
    found = leaves(collect(grads, lora))
    for name, array in leaves(lora).items():
        e, h = rng.standard_normal(array.shape), 1e-6
        array += h * e
        above = run_()[0]
        array -= 2 * h * e
        below = run_()[0]
        array += h * e
        size = np.linalg.norm(found[name])
        expected = (above - below) / (2 * h)
        assert abs((found[name] * e).sum() - expected) < 1e-6 * size, name


def test_lora_leaves_every_other_number_alone(tmp_path):
    base = init_params(TINY)
    config = LoraConfig(rank=2, matrices=("attn.c_attn",))
    run(tmp_path, lora=config)
    after = leaves(checkpoint.load(tmp_path))
    for name, array in leaves(base).items():
        assert (after[name] == array).all() == ("c_attn.weight" not in name), name
    stored = (tmp_path / "checkpoint.safetensors").stat().st_size
    assert stored < (tmp_path / "model.safetensors").stat().st_size


@pytest.mark.skipif(
    not (os.environ.get("NPGPT_GPT2_DIR") and os.environ.get("NPGPT_SHARED")),
    reason="NPGPT_GPT2_DIR and NPGPT_SHARED are not set: no GPT-2 weights, no batch",
)
def test_gpt2_learns_as_in_llm_c(shared, backend):
    """llm.c's test_gpt2.c: ten steps on one batch, all tensors decay; GOLDEN.md."""
    golden = json.loads((shared / "gpt2-golden" / "llmc_debug_batch.json").read_text())
    tokens = np.array(golden["tokens"])
    ids, targets = tokens[:256].reshape(4, 64), tokens[1:257].reshape(4, 64)
    losses = [5.270007133483887, 4.059706687927246, 3.3751230239868164,
              2.8007826805114746, 2.315382242202759, 1.8490285873413086,
              1.3946564197540283, 0.9991465210914612, 0.6240804195404053,
              0.37651097774505615]  # fmt: skip
    params = checkpoint.load(os.environ["NPGPT_GPT2_DIR"])
    params = place(map_leaves(np.array, params), "float32", backend.xp)
    moments = optim.new_moments(params)
    for step, expected in enumerate(losses):
        loss, grads = loss_and_gradients(params, ids, targets, backend=backend)
        assert loss == pytest.approx(expected, abs=1e-2), step  # llm.c's tolerance
        optim.adamw(
            params,
            grads,
            moments,
            step + 1,
            learning_rate=1e-4,
            betas=(0.9, 0.999),
            epsilon=1e-8,
            weight_decay=0.01,
            decay_all=True,
            update=get_engine(backend).update,
        )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_freed_memory_is_kept_once_asked_for():
    code = """
import resource, sys
import numpy as np
from npgpt.training.loop import keep_freed_memory

assert sys.argv[1] == "no" or keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    [np.ones(1 << 18) for _ in range(3)]  # three of 2 MB at a time
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = [
        int(subprocess.check_output([sys.executable, "-c", code, kept]))
        for kept in ("no", "yes")
    ]
    assert faults[1] < faults[0] / 2
