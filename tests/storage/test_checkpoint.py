"""Reading and writing checkpoints: exact where right, one sentence elsewhere."""

import json
import os
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from helpers import TINY, tiny_params, token_ids, unit_tensors

from npgpt import GPT2, CheckpointError
from npgpt.storage import checkpoint, tensorfile, weights
from npgpt.support.leaves import leaves

IDS = token_ids(TINY, 1, 6)


def write_folder(folder, tensors, config=TINY):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder


def rewrite_header(path, change, pad=0):
    """Change a safetensors file's header; `pad` spaces shift the data behind it."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode() + b" " * pad
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def logits(folder):
    return GPT2.from_pretrained(folder).logits(IDS)


EXPECTED = GPT2(tiny_params()).logits(IDS)


def test_round_trip_keeps_every_bit(tmp_path):
    checkpoint.save(tiny_params(), tmp_path)
    assert (logits(tmp_path) == EXPECTED).all()
    assert checkpoint.load(tmp_path).config == TINY


def rounded(dtype, x):
    """The nearest value of a narrower type, as float32."""
    if dtype == "float16":
        return x.astype(np.float16).astype(np.float32)
    step = 2.0 ** (np.floor(np.log2(np.abs(x.astype(np.float64)))) - 7)  # 8 bits
    return (np.round(x / step) * step).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_are_widened_exactly(tmp_path, dtype):
    checkpoint.save(tiny_params(), tmp_path, dtype)
    for name, x in checkpoint.named_tensors(checkpoint.load(tmp_path)).items():
        assert x.dtype == np.float32
        assert (x == rounded(dtype, unit_tensors(TINY)[name])).all(), name


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_names_with_and_without_prefix(tmp_path, prefix):
    tensors = {prefix + name: x for name, x in unit_tensors(TINY).items()}
    tensors[f"{prefix}h.0.attn.bias"] = np.tril(np.ones((1, 1, 24, 24), np.float32))
    tensors[f"{prefix}h.1.attn.masked_bias"] = np.full((), -1e4, np.float32)
    tensors[f"{prefix}h.1.attn.bias"] = np.ones((1, 1, 24, 24), np.uint8)
    assert (logits(write_folder(tmp_path, tensors)) == EXPECTED).all()


def test_own_head_is_used(tmp_path):
    config = replace(TINY, tie_word_embeddings=False)
    folder = write_folder(tmp_path, unit_tensors(config), config)
    assert (logits(folder) == GPT2(tiny_params(config)).logits(IDS)).all()
    assert not (logits(folder) == EXPECTED).all()


def test_a_stored_copy_of_a_tied_head_is_fine_and_another_one_refused(tmp_path):
    tensors = unit_tensors(TINY)
    tensors["lm_head.weight"] = tensors["wte.weight"].copy()
    assert (logits(write_folder(tmp_path, tensors)) == EXPECTED).all()
    tensors["lm_head.weight"][3, 3] += 1
    with pytest.raises(
        CheckpointError, match=r"lm_head.weight differs from wte.weight"
    ):
        logits(write_folder(tmp_path, tensors))


def test_aligned_float32_is_mapped_and_never_copied(tmp_path):
    write_folder(tmp_path, unit_tensors(TINY))
    for x in checkpoint.named_tensors(checkpoint.load(tmp_path)).values():
        root = x
        while isinstance(root.base, np.ndarray):
            root = root.base
        assert isinstance(root, np.memmap)
        assert not x.flags.writeable


def test_numpy_turns_the_blocks_matrices_and_copies_nothing_else(tmp_path):
    loaded = checkpoint.load(write_folder(tmp_path, unit_tensors(TINY)))
    turned = leaves(GPT2(loaded).params)
    for name, before in leaves(loaded).items():
        assert (turned[name] == before).all(), name
        is_matrix = name.startswith("h.") and before.ndim == 2
        assert np.shares_memory(turned[name], before) != is_matrix, name
        assert turned[name].flags.f_contiguous or not is_matrix, name
        assert turned[name].ctypes.data % 64 == 0 or not is_matrix, name


@pytest.mark.parametrize("pad", range(1, 8))
def test_misaligned_float32_is_copied_once_and_right(tmp_path, pad):
    folder = write_folder(tmp_path, unit_tensors(TINY))
    rewrite_header(folder / "model.safetensors", lambda header: None, pad)
    (length,) = struct.unpack("<Q", (folder / "model.safetensors").read_bytes()[:8])
    for x in checkpoint.named_tensors(checkpoint.load(folder)).values():
        assert x.flags.aligned
        assert x.flags.writeable == (length % 4 != 0)  # a copy is ours to write
    assert (logits(folder) == EXPECTED).all()


def shard(folder, tensors):
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY.to_dict()))
    for file, part in parts.items():
        safetensors.numpy.save_file(
            {name: tensors[name] for name in part}, folder / file
        )
    index = {
        "weight_map": {name: file for file, part in parts.items() for name in part}
    }
    (folder / weights.INDEX).write_text(json.dumps(index))
    return index["weight_map"]


def test_shards_are_one_model(tmp_path):
    shard(tmp_path, unit_tensors(TINY))
    assert (logits(tmp_path) == EXPECTED).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update({"other.weight": "c.safetensors"}), "no such file"),
        (lambda m: m.update({"wte.weight": "c.safetensors"}), "wte.weight"),
        (lambda m: m.update({"wte.weight": "a.safetensors"}), "wte.weight"),
        (
            lambda m: m.update({"wte.weight": "../b.safetensors"}),
            "not a plain file name",
        ),
        (lambda m: m.update({"wte.weight": 3}), "3 is not a plain file name"),
        (
            lambda m: m.update({"other.weight": "a.safetensors"}),
            "other.weight is missing",
        ),
        (lambda m: m.pop("wpe.weight"), "wpe.weight"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path, change, sentence):
    weight_map = shard(tmp_path, unit_tensors(TINY))
    change(weight_map)
    (tmp_path / weights.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=sentence):
        checkpoint.load(tmp_path)


def test_a_folder_with_only_pickles_says_how_to_convert(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(tmp_path)
    assert "from transformers import GPT2LMHeadModel" in str(error.value)
    assert ".save_pretrained(" in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("ln_f.bias"), r"tensor ln_f.bias \(16,\) is missing"),
        (
            lambda t: t.update({"wpe.weight": t["wpe.weight"][:-1]}),
            r"tensor wpe.weight has shape \(23, 16\), the config asks for \(24, 16\)",
        ),
        (
            lambda t: t.update(
                {"h.0.mlp.c_fc.weight": t["h.0.mlp.c_fc.weight"].T.copy()}
            ),
            r"h.0.mlp.c_fc.weight has shape \(64, 16\)",
        ),
        (
            lambda t: t.update({"scores.weight": t["ln_f.bias"]}),
            "tensor scores.weight is not part of this config's GPT-2",
        ),
        (
            lambda t: t.update({"transformer.wte.weight": t["wte.weight"]}),
            "wte.weight is stored twice",
        ),
        (
            lambda t: t.update({"ln_f.bias": t["ln_f.bias"].astype(np.int32)}),
            "ln_f.bias is I32; npgpt reads F32, F16, BF16, F64",
        ),
        (
            lambda t: [t.pop(n) for n in list(t) if n.startswith("h.1.")],
            r"n_layer 2, the weights hold 1 blocks \(h.0 to h.0\)",
        ),
    ],
)
def test_wrong_tensors_are_named(tmp_path, change, sentence):
    tensors = unit_tensors(TINY)
    change(tensors)
    with pytest.raises(CheckpointError, match=sentence):
        checkpoint.load(write_folder(tmp_path, tensors))


def test_a_lying_layer_count_costs_no_memory(tmp_path):
    folder = write_folder(
        tmp_path, unit_tensors(TINY), replace(TINY, n_layer=2**31 - 1)
    )
    with pytest.raises(CheckpointError, match="n_layer 2147483647"):
        checkpoint.load(folder)


def set_shape(name, shape):
    return lambda header: header[name].update(shape=shape)


@pytest.mark.parametrize(
    "change",
    [
        set_shape("wte.weight", [2**40, 2**20]),
        set_shape("wte.weight", [16, 16]),
        lambda header: header["wte.weight"].update(data_offsets=[0, 2**50]),
        lambda header: header["wte.weight"].update(data_offsets=[8, 4]),
        lambda header: header["wte.weight"].update(dtype="F99"),
        lambda header: header["wpe.weight"].update(header["ln_f.bias"]),
        lambda header: header.pop("wte.weight"),
        lambda header: header.update({"wte.weight": 3}),
    ],
)
def test_lying_headers_are_refused(tmp_path, change):
    folder = write_folder(tmp_path, unit_tensors(TINY))
    rewrite_header(folder / "model.safetensors", change)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint.load(folder)


def test_every_truncation_is_refused(tmp_path):
    folder = write_folder(tmp_path, unit_tensors(TINY))
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    for size in (0, 1, 7, 8, 9, 100, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
            checkpoint.load(folder)
    path.write_bytes(struct.pack("<Q", 2**62) + raw[8:])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint.load(folder)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, missing):
    folder = write_folder(tmp_path, unit_tensors(TINY))
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        checkpoint.load(folder)


def test_saving_over_the_mapped_file_keeps_the_model_whole(tmp_path):
    write_folder(tmp_path, unit_tensors(TINY))
    model = GPT2.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path, dtype="float16")
    assert (model.logits(IDS) == EXPECTED).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_link_and_a_pipe_stay_what_they_are(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    for text in ("made", "replaced"):
        tensorfile.write_atomically(
            tmp_path / "link", lambda new, text=text: Path(new).write_text(text)
        )
        assert (tmp_path / "link").is_symlink()
        assert [path.name for path in (tmp_path / "real").iterdir()] == ["file"]
        assert (tmp_path / "real" / "file").read_text() == text
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as cat:
        tensorfile.write_atomically(
            tmp_path / "pipe", lambda new: Path(new).write_text("through")
        )
        assert cat.communicate()[0] == b"through"
    assert (tmp_path / "pipe").is_fifo()
    reader, writer = os.pipe()
    tensorfile.write_atomically(
        Path(f"/dev/fd/{writer}"), lambda new: Path(new).write_text("by number")
    )
    assert os.read(reader, 100) == b"by number"
    os.close(reader)
    os.close(writer)


def test_saving_where_nothing_can_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoint.save(tiny_params(), tmp_path / "file" / "folder")
    with pytest.raises(CheckpointError, match="cannot save as 'int8'"):
        checkpoint.save(tiny_params(), tmp_path, "int8")
