"""Models and what belongs to them, pickled, copied and sent to other processes."""

import copy
import pickle

import numpy as np
import pytest
from helpers import CASES, tiny_params, token_ids

from npgpt import GPT2
from npgpt.backend import NUMPY, Backend, get_backend

COPIES = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "oldest pickle": lambda x: pickle.loads(pickle.dumps(x, protocol=2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
NEAR = dict(rtol=0, atol=1e-5)  # logits of 10 in float32, sums in another order
IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module", params=["numpy", "numba"])
def models(request):
    """The small bundled model in every dtype of a backend, each used before."""
    if request.param != "numpy":
        pytest.importorskip(request.param)
    backend = get_backend(request.param)
    found = [GPT2.from_pretrained("tales-mini", backend, x) for x in backend.dtypes]
    for model in found:
        model.generate("Once", max_new_tokens=2)  # which leaves scratch behind
    return found


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_the_same_model(models, how):
    for model in models:
        again = COPIES[how](model)
        assert again is not model
        assert again.backend is model.backend
        assert (again.config, again.dtype) == (model.config, model.dtype)
        # Only BLAS may do its sums in another order where numbers lie elsewhere.
        near = NEAR if model.backend is NUMPY else dict(rtol=0, atol=0)
        np.testing.assert_allclose(again.logits(IDS), model.logits(IDS), **near)
        a, b = (m.next_logits([IDS], m.new_cache()) for m in (again, model))
        np.testing.assert_allclose(a, b, **near)
        text = model.generate("Once upon", max_new_tokens=12).text
        assert again.generate("Once upon", max_new_tokens=12).text == text


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_a_deep_copy_has_numbers_of_its_own_once(models, how):
    for model in models:
        again = COPIES[how](model)
        weights, own = model.params.wte.weight, again.params.wte.weight
        assert again.params.lm_head.weight is own  # tied, as it was
        first, second = getattr(weights, "data", weights), getattr(own, "data", own)
        assert not np.shares_memory(first, second)
    size = len(pickle.dumps(models[-1]))
    stored = sum(x.nbytes for x in arrays_of(models[-1].params))
    assert size < 1.1 * stored + len(pickle.dumps(models[-1].tokenizer))


def arrays_of(params):
    """The arrays of a model, each once."""
    buffers = getattr(params, "buffers", None)
    if buffers is not None:
        return [buffers]
    from npgpt.support.leaves import leaves

    return list({id(x): x for x in leaves(params).values()}.values())


def test_kernels_are_not_compiled_anew_for_a_map_of_a_file(tmp_path):
    pytest.importorskip("numba")
    joblib = pytest.importorskip("joblib")
    from npgpt.kernels.forward import run

    model = GPT2.from_pretrained("tales-mini", "numba", "int8")
    text = model.generate("Once", max_new_tokens=5).text
    known = len(run.signatures)
    joblib.dump(model, tmp_path / "model")
    again = joblib.load(tmp_path / "model", mmap_mode="r")  # of read-only arrays
    assert again.generate("Once", max_new_tokens=5).text == text
    assert len(run.signatures) == known


@pytest.mark.parametrize("case", CASES)
def test_every_architecture(case, backend):
    model = GPT2(tiny_params(CASES[case]), backend=backend)
    again = COPIES["pickle"](model)
    ids = token_ids(CASES[case], 2, 7)
    np.testing.assert_allclose(again.logits(ids), model.logits(ids), **NEAR)


def test_fewer_blocks_than_were_packed():
    pytest.importorskip("numba")
    model = GPT2.from_pretrained("tales-mini", "numba")
    model.params = model.params._replace(h=model.params.h[:1])
    again = COPIES["pickle"](model)
    np.testing.assert_array_equal(again.logits(IDS), model.logits(IDS))


def test_a_cache_goes_on_where_it_was(models):
    for model, how in zip(models, ["pickle", "deepcopy", "pickle"], strict=False):
        cache = model.new_cache()
        model.next_logits([IDS], cache)
        again = COPIES[how](cache)
        assert again.xp is cache.xp
        a, b = (model.next_logits([[7]], c) for c in (cache, again))
        np.testing.assert_array_equal(a, b)
        assert again.ids == cache.ids


def test_a_tokenizer(tales):
    for how in COPIES:
        again = COPIES[how](tales.tokenizer)
        text = "Once upon a time, 漢 <|endoftext|>"
        assert again.encode(text) == tales.tokenizer.encode(text)
        assert again.decode([5, 300]) == tales.tokenizer.decode([5, 300])
        assert again.pipeline == tales.tokenizer.pipeline


def gelu(x):
    return NUMPY.gelu(x)


def test_a_backend_of_ones_own():
    mine = Backend("mine", np, gelu=gelu)
    again = COPIES["pickle"](mine)
    assert again == mine
    named = Backend("numpy", np, gelu=gelu)  # a name does not make it the known one
    assert COPIES["deepcopy"](named).gelu is gelu
    assert COPIES["pickle"](NUMPY) is NUMPY


def logits(model):
    return model.logits(IDS)


def test_joblib_sends_models_to_other_processes(models):
    joblib = pytest.importorskip("joblib")
    model = models[-1]
    # Arrays of a megabyte and more, here of a kilobyte, go as read-only maps of files.
    workers = joblib.Parallel(n_jobs=2, max_nbytes="1K")
    for found in workers(joblib.delayed(logits)(model) for _ in range(2)):
        np.testing.assert_allclose(found, model.logits(IDS), **NEAR)


def test_joblib_keeps_a_model_in_a_file(models, tmp_path):
    joblib = pytest.importorskip("joblib")
    for model in models:
        joblib.dump(model, tmp_path / "model")
        for mode in (None, "r"):
            again = joblib.load(tmp_path / "model", mmap_mode=mode)
            found = again.logits(IDS)
            np.testing.assert_allclose(found, model.logits(IDS), **NEAR)
        assert joblib.hash(model) == joblib.hash(COPIES["pickle"](model))  # a cache's
