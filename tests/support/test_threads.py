"""How many threads NumPy's products take: said by the user, or few where that helps."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers import tiny_params

from npgpt import GPT2, BackendError, blocked, ops
from npgpt.support import threads
from npgpt.training import backward, blocked_backward


class Library:
    """A BLAS that remembers what it was told."""

    filepath = "libnumpy"

    def __init__(self, n):
        self.num_threads, self.told = n, []

    def set_num_threads(self, n):
        self.num_threads = n
        self.told.append(n)


@pytest.fixture
def blas(monkeypatch):
    library = Library(8)
    monkeypatch.setattr(threads, "libraries", lambda: (library,))
    monkeypatch.setattr(threads, "_chosen", None)
    monkeypatch.delenv("NPGPT_THREADS", raising=False)
    return library


def some(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("rows", "n", "m", "told"),
    [
        (1, 256, 1024, []),  # BLAS gives it one thread anyway
        (1, 1024, 1024, [1, 8]),  # small
        (4, 1024, 2048, [1, 8]),  # few rows
        (5, 1024, 2048, []),  # large: BLAS's own number
    ],
)
def test_a_small_product_is_one_threads(blas, rows, n, m, told):
    x, weight = some(rows, n), some(n, m)
    assert np.array_equal(blocked.linear(x, weight), ops.linear(x, weight))
    assert blas.told == told
    blas.told.clear()
    dy = some(rows, m)
    found = blocked_backward.linear(dy, x, weight)
    for a, b in zip(found, backward.linear(dy, x, weight), strict=True):
        assert np.array_equal(a, b)
    assert blas.told == told


def test_the_products_of_heads_are_small(blas):
    q = some(2, 3, 128, 64)
    blocked.attention(q, q, q)
    assert blas.told == [1, 8]
    blas.told.clear()
    blocked_backward.attention(q, q, q, q)
    assert blas.told == 2 * [1, 8]


def test_large_products_take_what_was_asked_for(blas):
    x, weight = some(16, 1024), some(1024, 1024)
    GPT2(tiny_params(), threads=3)
    blocked.linear(x, weight)
    assert blas.told == [3, 8]
    GPT2(tiny_params(), threads=9)  # at most: no more than the program around allows
    blocked.linear(x, weight)
    assert blas.told == [3, 8, 8, 8]


@pytest.mark.parametrize("n", [0, -1, True, 1.5, "two"])
def test_what_is_no_number_of_threads_is_refused(blas, n, backend):
    with pytest.raises(BackendError, match="threads must be a whole number"):
        GPT2(tiny_params(), backend=backend, threads=n)


def test_the_variable_is_read_and_checked(blas, monkeypatch):
    monkeypatch.setenv("NPGPT_THREADS", "2")
    assert threads.set_threads() == 2
    assert threads.set_threads(3) == 3
    monkeypatch.setenv("NPGPT_THREADS", "many")
    with pytest.raises(BackendError, match="NPGPT_THREADS is 'many'"):
        threads.set_threads()


def test_idle_cores_count_unless_the_user_has_chosen(blas, monkeypatch):
    for name in threads.CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(threads, "busy_cores", lambda: 0)
    assert threads.set_threads() is None
    monkeypatch.setattr(threads, "busy_cores", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads.set_threads() is None
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads.set_threads() == 1


@pytest.mark.parametrize(
    ("loadavg", "busy"),
    [
        ("0.00 0.01 0.05 1/98 4242", 0),
        ("2.10 1.00 0.50 1/98 4242", 0),  # what ran here before
        ("0.10 1.00 0.50 3/98 4242", 0),  # a moment
        ("1.40 1.00 0.50 2/98 4242", 1),
        ("1.40 1.00 0.50 9/98 4242", 1),
        ("9.40 1.00 0.50 9/98 4242", 3),
        ("nonsense", 0),
    ],
)
def test_busy_cores_are_those_of_others(loadavg, busy, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(threads.Path, "read_text", lambda path: loadavg)
    assert threads.busy_cores() == busy


def test_threads_of_python_leave_what_they_found(blas):
    inside, go = threading.Barrier(2), threading.Event()

    def first():
        with threads.product(threads.SMALL, 1):
            inside.wait()
            go.wait()

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    second = threads.product(threads.SMALL, 1)
    second.__enter__()
    go.set()
    thread.join()
    assert blas.num_threads == 1  # the second one is inside yet
    second.__exit__(None, None, None)
    assert blas.num_threads == 8


def test_an_error_inside_gives_the_threads_back(blas):
    with pytest.raises(ZeroDivisionError), threads.product(threads.SMALL, 1):
        assert blas.num_threads / 0
    assert blas.num_threads == 8


COUNT = """
import sys
from npgpt import GPT2
from npgpt.support import threads
model = GPT2.from_pretrained("tales-mini", backend=sys.argv[1], threads=1)
told = []
libraries = threads.libraries()
assert libraries, "no BLAS found"
kind = type(libraries[0])
set_num_threads = kind.set_num_threads
kind.set_num_threads = lambda self, n: (told.append(n), set_num_threads(self, n))
model.logits(list(range(100)))
if sys.argv[1] == "numba":
    import numba
    assert numba.get_num_threads() == 1
else:
    assert 1 in told and libraries[0].num_threads == 2, (told, libraries)
"""


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_a_real_blas_is_told(name):
    if name == "numba":
        pytest.importorskip("numba")
    done = subprocess.run(
        [sys.executable, "-c", COUNT, name],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
