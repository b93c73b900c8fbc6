"""Wild arguments of every public function end in one sentence or in the right result.

`CALLS` holds each function with arguments that are right. A case replaces one to three
of them by values of any type and size, and asks for an NpgptError of one line, or for
a result that `right` finds possible.
"""

import math
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, shapes_unchecked, tiny_params, unit_tensors
from hypothesis import given
from hypothesis import strategies as st

import npgpt
from npgpt import GPT2, GPT2Config, NpgptError, Tokenizer, reader, texts
from npgpt.evaluation import formats, score, zero_shot
from npgpt.inside import attention, lenses
from npgpt.lab import Plan, compare, grid
from npgpt.scaling import laws, sizes
from npgpt.storage import checkpoint, hub, weights
from npgpt.support.arguments import checked
from npgpt.support.figure import save
from npgpt.training import corpus, curve, loop, lora
from npgpt.verification import checks
from npgpt.verification.own import own_functions


class Odd:
    """What no function was made for."""

    def __repr__(self):
        return "odd\nthing"


WILD = st.sampled_from(
    [
        None,
        True,
        False,
        -1,
        0,
        1,
        3,
        2**31,
        2**63,
        2**64,
        10**30,
        -(10**30),
        1.5,
        -0.5,
        1e300,
        math.nan,
        math.inf,
        -math.inf,
        np.int64(2),
        np.float32(0.5),
        "",
        "x",
        "two words",
        "\0",
        "a\ud800",
        "é" * 300,
        "no/such",
        "float64",
        b"x",
        [],
        [None],
        [1],
        [-1],
        [10**30],
        [1.5],
        ["x"],
        ["a b"],
        [[1]],
        [[1], [2]],
        [[1, 2], [3]],
        [[]],
        [[1], []],
        [[1.5], [2]],
        [["x"], ["y"]],
        (),
        (1, 2),
        {},
        {"a": 1},
        {1: 2},
        {1},
        np.array([]),
        np.array([1, 2]),
        np.array(3),
        np.array([[1], [2]]),
        np.zeros((2, 0), int),
        np.array([1.5]),
        np.array(["a"]),
        Odd(),
        Odd,
        iter(()),
    ]
)


@dataclass
class Call:
    """A function, arguments that are right, and what must hold of every result."""

    function: Callable
    arguments: Callable[[], dict]
    right: Callable = lambda result: True


@cache
def mini():
    return GPT2.from_pretrained("tales-mini")


TINY_MODEL = GPT2(tiny_params())
IDS = np.arange(90) % TINY.vocab_size
SETTINGS = loop.TrainConfig(
    steps=1, batch_size=1, context=8, eval_tokens=20, warmup_steps=0
)
QUESTION = formats.Question("Once upon", ["a time", "the king"], 0)


def two_rows():
    rows = TINY_MODEL.new_cache(2)
    TINY_MODEL.next_logits([[1, 2, 3], [4]], rows)
    return rows


def traced(**arguments):
    with TINY_MODEL.trace(**arguments) as trace:
        TINY_MODEL.logits([1, 2])
    return trace


def cache_method(name):
    return lambda **kw: getattr(two_rows(), name)(**kw)


def is_finite(result):
    parts = result if isinstance(result, list | tuple) else [result]
    flat = [part for one in parts for part in (one if isinstance(one, list) else [one])]
    return all(np.isfinite(part).all() for part in flat)


def is_score(result):
    return result.num_tokens > 0 and result.logprob <= 0 and result.loss >= 0


def is_share(result):
    return 0 <= result.acc <= 1 and result.items > 0


def is_ids(result):
    return all(isinstance(id, int) and id >= 0 for id in result)


def is_figure(figure):
    return len(figure.axes) > 0


@cache
def folder():
    """Files that are right, one of each kind."""
    path = Path(tempfile.mkdtemp())
    (path / "text.txt").write_text("Once upon a time there was a king. " * 40)
    (path / "lambada.txt").write_text("Once upon a time\n")
    (path / "hellaswag.jsonl").write_text(
        '{"ctx": "a", "endings": ["b", "c"], "label": 0}'
    )
    (path / "cloze.txt").write_text("1 A.\n2 B XXXXX.\tc\t\tc|d\n")
    (path / "loss.jsonl").write_text('{"step": 0, "validation_loss": 1.0}\n')
    (path / "mine.py").write_text("def gelu(x):\n    return x\n")
    return path


def new_folder():
    return Path(tempfile.mkdtemp(dir=folder())) / "new"


def documents():
    return corpus.find_documents([folder() / "text.txt"])


def plan():
    return dict(
        model="tales-mini",
        settings=grid.make_grid([{"num_beams": 2}]),
        prompts=["a"],
        seeds=2,
        max_new_tokens=4,
        judge=None,
        backend="numpy",
        dtype="float32",
    )


ROWS = dict(ids=[[1], [2, 3]])
CALLS = {
    "model": {
        "GPT2": Call(GPT2, lambda: dict(params=tiny_params(), tokenizer=None,
                                        backend="numpy", dtype="float32", threads=1)),
        "from_pretrained": Call(GPT2.from_pretrained, lambda: dict(
            name_or_folder="tales-mini", backend="numpy", dtype="float32", threads=1)),
        "save_pretrained": Call(TINY_MODEL.save_pretrained, lambda: dict(
            folder=new_folder(), dtype="float32")),
        "encode": Call(TINY_MODEL.encode, lambda: dict(prompt=[1, 2]), is_ids),
        "decode": Call(lambda **kw: mini().decode(**kw), lambda: dict(
            ids=[1, 2], skip_special_tokens=True), lambda text: isinstance(text, str)),
        "logits": Call(TINY_MODEL.logits, lambda: dict(ids=[1, 2]), is_finite),
        "trace": Call(traced, lambda: dict(
            names="h.*.attn.*", patch={"wte": np.zeros(TINY.n_embd, np.float32)},
            max_bytes=10_000)),
        "why": Call(TINY_MODEL.why, lambda: dict(
            address="h.0.attn.scores[h=1,t=1,s=0]", prompt=[1, 2], depth=2, grad=False),
            lambda found: len(found if isinstance(found, list) else [found]) > 0),
        "GPT2Config": Call(GPT2Config, lambda: asdict(TINY)),
        "from_dict": Call(GPT2Config.from_dict, lambda: dict(data={})),
        "from_file": Call(GPT2Config.from_file, lambda: dict(path="config.json")),
        "generate": Call(TINY_MODEL.generate, lambda: dict(
            prompts=[1], cache=None, max_new_tokens=2)),
        "stream": Call(lambda **kw: list(TINY_MODEL.stream(**kw)), lambda: dict(
            prompt=[1], cache=None, max_new_tokens=2)),
    },
    "forward": {
        "next_logits": Call(TINY_MODEL.next_logits, lambda: dict(
            **ROWS, cache=two_rows()), is_finite),
        "first_logits": Call(TINY_MODEL.first_logits, lambda: dict(
            **ROWS, cache=two_rows(), layers=1)),
        "all_logits": Call(TINY_MODEL.all_logits, lambda: dict(
            **ROWS, cache=two_rows(), keep=[1, 1]), is_finite),
        "next_hidden": Call(TINY_MODEL.next_hidden, lambda: dict(
            **ROWS, cache=two_rows()), is_finite),
        "layer_logits": Call(TINY_MODEL.layer_logits, lambda: dict(
            **ROWS, cache=two_rows(), layers=[0, 1], keep=[1, 1], norm=True),
            is_finite),
        "tree_logits": Call(TINY_MODEL.tree_logits, lambda: dict(
            ids=[1, 2], parents=[-1, 0], cache=two_rows()), is_finite),
        "tree_mask": Call(reader.tree_mask, lambda: dict(parents=[-1, 0])),
        "new_cache": Call(TINY_MODEL.new_cache, lambda: dict(batch=1, n_positions=8),
                          lambda rows: rows.batch > 0 and rows.n_positions > 0),
        "crop": Call(cache_method("crop"), lambda: dict(lengths=1)),
        "crop_row": Call(cache_method("crop_row"), lambda: dict(row=0, length=1)),
        "select": Call(cache_method("select"), lambda: dict(rows=[0])),
        "repeat": Call(cache_method("repeat"), lambda: dict(n=2)),
        "copy_row": Call(cache_method("copy_row"), lambda: dict(target=0, source=1)),
        "gather": Call(cache_method("gather"), lambda: dict(positions=[[0], [0]])),
        "put": Call(cache_method("put"), lambda: dict(
            row=0, other=TINY_MODEL.new_cache())),
    },
    "tokenizer": {
        "Tokenizer": Call(Tokenizer, lambda: dict(backend=mini().tokenizer.backend)),
        "from_folder": Call(Tokenizer.from_folder, lambda: dict(folder=folder())),
        "encode": Call(lambda **kw: mini().tokenizer.encode(**kw), lambda: dict(
            text="a"), is_ids),
        "encode_batch": Call(lambda **kw: mini().tokenizer.encode_batch(**kw),
                             lambda: dict(texts=["a"]), lambda all: map(is_ids, all)),
        "decode": Call(lambda **kw: mini().tokenizer.decode(**kw), lambda: dict(
            ids=[1], skip_special_tokens=False)),
        "token": Call(lambda **kw: mini().tokenizer.token(**kw), lambda: dict(id=1)),
        "token_id": Call(lambda **kw: mini().tokenizer.token_id(**kw), lambda: dict(
            token="a")),
        "token_bytes": Call(lambda **kw: mini().tokenizer.token_bytes(**kw),
                            lambda: dict(id=1)),
        "push": Call(lambda **kw: mini().tokenizer.stream().push(**kw),
                     lambda: dict(id=1)),
        "save": Call(lambda **kw: mini().tokenizer.save(**kw), lambda: dict(
            folder=folder())),
    },
    "files": {
        "load": Call(checkpoint.load, lambda: dict(folder=hub.resolve("tales-mini"))),
        "save": Call(checkpoint.save, lambda: dict(
            params=tiny_params(), folder=new_folder(), dtype="float32")),
        "from_tensors": Call(checkpoint.from_tensors, lambda: dict(
            config=TINY, tensors=unit_tensors(TINY), where="x")),
        "expected_shapes": Call(checkpoint.expected_shapes, lambda: dict(config=TINY)),
        "named_tensors": Call(checkpoint.named_tensors, lambda: dict(
            params=tiny_params())),
        "read_index": Call(weights.read_index, lambda: dict(path="index.json")),
        "describe": Call(sizes.describe, lambda: dict(config=TINY, itemsize=4)),
        "resolve": Call(hub.resolve, lambda: dict(name_or_folder="tales", weights=True),
                        lambda path: path.is_dir()),
        "repository_id": Call(hub.repository_id, lambda: dict(name="gpt2")),
        "needed": Call(hub.needed, lambda: dict(
            files=["config.json", "model.safetensors"], where="x", weights=True)),
        "download": Call(hub.download, lambda: dict(
            name="", revision="main", weights=True)),
        "read_curve": Call(curve.read_curve, lambda: dict(
            path=folder() / "loss.jsonl")),
    },
    "score": {
        "score": Call(score.score, lambda: dict(
            model=TINY_MODEL, text=[1, 2, 3], bos=True, window=4, stride=2), is_score),
        "GPT2.score": Call(TINY_MODEL.score, lambda: dict(
            text=[1, 2, 3], bos=True, window=4, stride=2), is_score),
        "score_file": Call(score.score_file, lambda: dict(
            model=mini(), file=folder() / "lambada.txt", separator="x", bos=True,
            window=8, stride=4, progress=None, on_token=None), is_score),
        "last_logprobs": Call(score.last_logprobs, lambda: dict(
            model=TINY_MODEL, ids=[1, 2, 3], n=2), lambda found: sum(found) <= 0),
        "read_text": Call(lambda **kw: list(texts.read_text(**kw)), lambda: dict(
            file=folder() / "lambada.txt", progress=None)),
    },
    "evaluate": {
        "lambada": Call(zero_shot.lambada, lambda: dict(
            model=mini(), texts=["Once upon"], progress=None), is_share),
        "multiple_choice": Call(zero_shot.multiple_choice, lambda: dict(
            model=mini(), questions=[QUESTION], norm="tokens", progress=None),
            is_share),
        "Question": Call(
            lambda norm, **kw: zero_shot.multiple_choice(
                mini(), [formats.Question(**kw)], norm),
            lambda: dict(**QUESTION._asdict(), norm="characters"), is_share),
        "read_lambada": Call(formats.read_lambada, lambda: dict(
            file=folder() / "lambada.txt", limit=1)),
        "read_hellaswag": Call(formats.read_hellaswag, lambda: dict(
            file=folder() / "hellaswag.jsonl", limit=1, style="llm.c")),
        "read_cloze": Call(formats.read_cloze, lambda: dict(
            file=folder() / "cloze.txt", limit=1)),
    },
    "plots": {
        "plot_mask": Call(
            attention.plot_mask, lambda: dict(T=2, S=3, window=1), is_figure),
        "attention_weights": Call(
            attention.attention_weights, lambda: dict(model=TINY_MODEL, ids=[1, 2]),
            lambda weights: np.allclose(weights.sum(-1), 1)),
        "plot_attention": Call(attention.plot_attention, lambda: dict(
            model=TINY_MODEL, text=[1, 2], layer=0, head=0), is_figure),
        "token_labels": Call(attention.token_labels, lambda: dict(
            model=mini(), ids=[1, 2])),
        "save": Call(save, lambda: dict(
            figure=3, path=folder() / "figure.png")),
    },
    "lenses": {
        name: Call(partial(function, TINY_MODEL), partial(dict, **arguments))
        for name, function, arguments in (
            ("logit_lens", lenses.logit_lens, dict(prompt=[1, 2, 3])),
            ("attribution", lenses.attribution, dict(prompt=[1, 2], token=3, at=-1)),
            ("ablation", lenses.ablation, dict(prompt=[1, 2], how="mean", other=None)),
            ("patching", lenses.patching, dict(clean=[1, 2], corrupted=[1, 3],
                                               what="attn", direction="noise")),
            ("head_scores", lenses.head_scores, dict(length=None, rows=1, seed=0)),
            ("rollout", lenses.rollout, dict(prompt=[1, 2], layers=1)),
            ("gradient_input", lenses.gradient_input, dict(prompt=[1, 2], token=3)),
            ("integrated_gradients", lenses.integrated_gradients, dict(
                prompt=[1, 2], points=2, baseline="mean")),
            ("token_id", lenses.token_id, dict(token=3)),
        )
    },
    "verify": {
        "verify": Call(lambda **kw: list(checks.verify(**kw)), lambda: dict(
            params=tiny_params(), backend="numpy", dtype="float32", reference=None,
            published=None)),
        "own_functions": Call(own_functions, lambda: dict(
            path=folder() / "mine.py")),
        "prompt_ids": Call(checks.prompt_ids, lambda: dict(model=TINY_MODEL), is_ids),
    },
    "train": {
        "TrainConfig": Call(loop.TrainConfig, lambda: asdict(SETTINGS)),
        "LoraConfig": Call(lora.LoraConfig, lambda: asdict(lora.LoraConfig())),
        "train": Call(loop.train, lambda: dict(
            params=tiny_params(), train_ids=IDS, validation_ids=IDS, config=SETTINGS,
            out=new_folder(), backend="numpy", tokenizer=None, lora=None, resume=False,
            report=None, bits_per_byte=None)),
        "init_params": Call(loop.init_params, lambda: dict(config=TINY, seed=0)),
        "validation_loss": Call(loop.validation_loss, lambda: dict(
            params=tiny_params(), ids=IDS, config=SETTINGS, backend=TINY_MODEL.backend),
            math.isfinite),
        "prepare": Call(corpus.prepare, lambda: dict(
            paths=[folder() / "text.txt"], tokenizer=300, validation=0.1, seed=0,
            window=2, folder=None, progress=None)),
        "find_documents": Call(corpus.find_documents, lambda: dict(
            paths=[folder() / "text.txt"], separator="z")),
        "split": Call(corpus.split, lambda: dict(
            documents=documents(), validation=0.1, seed=0)),
        "train_tokenizer": Call(corpus.train_tokenizer, lambda: dict(
            documents=documents(), vocab_size=300, progress=None)),
        "encode": Call(corpus.encode, lambda: dict(
            documents=documents(), tokenizer=mini().tokenizer, path=None,
            progress=None)),
        "Plan": Call(Plan, plan),
        "compare": Call(
            lambda out, jobs, progress, **kw: compare(
                Plan(**kw), out, jobs, progress),
            lambda: dict(**plan(), out=None, jobs=1, progress=None)),
        "read_grid": Call(grid.read_grid, lambda: dict(source="top_p")),
        "make_grid": Call(grid.make_grid, lambda: dict(items=[{}], where="x")),
        "compute_optimal": Call(laws.compute_optimal, lambda: dict(flops=1e21)),
    },
}  # fmt: skip
# Their own mistakes: a function that cannot be called so, steps without end.
OWN = {"progress", "on_token", "report", "bits_per_byte"}
LONG = {"steps", "accumulate", "max_new_tokens", "seeds", "num_return_sequences"}


def wild(name, value):
    """Whether a value may stand for an argument here."""
    if name in OWN and callable(value):
        return False
    return not (name in LONG and isinstance(value, int) and value > 3)


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory):
    """A wild folder is made where no one minds."""
    with chdir(tmp_path_factory.mktemp("elsewhere")):
        yield


@pytest.mark.parametrize("area", CALLS)
@given(data=st.data())
def test_wild_arguments_are_refused_in_one_sentence_or_right(area, data):
    name = data.draw(st.sampled_from(sorted(CALLS[area])))
    call = CALLS[area][name]
    arguments = call.arguments()
    for key in data.draw(st.sets(st.sampled_from(sorted(arguments)), max_size=3)):
        value = data.draw(WILD)
        if wild(key, value):
            arguments[key] = value
    try:
        with shapes_unchecked():  # as a user meets it
            result = call.function(**arguments)
    except NpgptError as refusal:
        sentence = str(refusal)
    else:
        assert call.right(result)
        return
    assert 0 < len(sentence.splitlines()) < 2
    assert len(sentence) < 1000


@pytest.mark.parametrize("area", CALLS)
def test_the_right_arguments_are_right(area):
    refused = {"from_file", "read_index", "download", "save"}  # need more than is here
    for name, call in CALLS[area].items():
        if name not in refused:
            assert call.right(call.function(**call.arguments())), name


def test_the_annotation_is_the_rule():
    @checked(NpgptError)
    def use(
        n: int | None,
        *,
        pair: tuple[float, float] = (0.9, 0.95),
        names: "list[str]" = (),
        file: str | Path = "x",
    ) -> int:
        return n

    assert use(None) is None
    assert use(10**5000, pair=[1, 0.5], names=("a",), file=Path()) == 10**5000
    for wrong, shows in (
        (2.5, "2.5"),
        (True, "True"),
        (math.nan, "nan"),
        (Odd(), "odd thing"),
        (np.arange(5000), "array(["),
    ):
        with pytest.raises(NpgptError) as refusal:
            use(wrong)
        sentence = str(refusal.value)
        assert sentence.startswith(f"n must be a whole number, not {shows}")
        assert len(sentence) < 100
    for wrong, sentence in (
        (dict(pair=(0.9,)), "pair must be a list of numbers, not (0.9,)"),
        (dict(pair=(0.9, math.nan)), "pair must be a list of numbers"),
        (dict(names=["a", 1]), "names must be a list of texts, not ['a', 1]"),
        (dict(names="a"), "names must be a list of texts, not 'a'"),
        (dict(file=""), "file must be a path, not ''"),
        (dict(file=3), "file must be a path, not 3"),
    ):
        with pytest.raises(NpgptError, match=re.escape(sentence)):
            use(1, **wrong)


def test_every_public_name_is_tried():
    """A new public function belongs into CALLS, or here with a reason."""
    results = {"Generation", "Score", "Step"}  # are given back, and hold what they hold
    elsewhere = {"GenerationConfig"}  # test_bytes_and_arguments.py, through generate
    names = {name for name in npgpt.__all__ if not name.endswith("Error")}
    tried = {name for area in CALLS.values() for name in area}
    assert names - results - elsewhere <= tried
    for module, area in (
        (zero_shot, "evaluate"),
        (score, "score"),
        (attention, "plots"),
    ):
        public = {
            name
            for name, value in vars(module).items()
            if callable(value)
            and getattr(value, "__module__", "") == module.__name__
            and not name.startswith("_")
            and not isinstance(value, type)
        }
        assert public - {"token_logprobs"} <= set(
            CALLS[area]
        )  # arrays, as in npgpt.ops


class Counted(list):
    """A list that knows how many of its items were looked at."""

    looked = 0

    def __iter__(self):
        for item in super().__iter__():
            self.looked += 1
            yield item


def test_of_ids_the_first_is_looked_at_and_check_ids_reads_the_rest():
    @checked(NpgptError)
    def read(ids: Sequence[int], others: Sequence[int]) -> None:
        pass

    ids, others = Counted([1, "a", 3]), Counted([1, 2, 3])
    read(ids, others)
    assert (ids.looked, others.looked) == (1, 3)
    with pytest.raises(NpgptError, match="others must be"):
        read([1], [1, "a"])
    with pytest.raises(NpgptError, match="ids must be"):
        read(["a", 1], [])
    for wrong in ([1, "a"], [1, 2.5], [1, None], [1, [2]], [1, 10**30]):
        with pytest.raises(NpgptError):
            score.last_logprobs(TINY_MODEL, wrong, 1)
        with pytest.raises(NpgptError):
            attention.attention_weights(TINY_MODEL, wrong)
        with pytest.raises(NpgptError):
            TINY_MODEL.layer_logits([wrong], TINY_MODEL.new_cache(), [1])
        with pytest.raises(NpgptError):
            attention.token_labels(mini(), wrong)
