"""A model that can be timed: npgpt's own backends, transformers and llama.cpp.

An engine has `prefill(T)` and `decode(context, batch, tokens)`, each giving the seconds
of one run, and `memory()`. The peers are imported only where an engine of theirs is
asked for, in a process of its own; the package needs none of them.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import GPT2Config
from npgpt.errors import BackendError
from npgpt.model import GPT2
from npgpt.storage import checkpoint


class Functions:
    """Not a model: part (a), in a process whose cache of compiled kernels is empty."""

    def __init__(self, folder: str):
        self.config = GPT2Config.from_file(Path(folder) / "config.json")

    def functions(self) -> list[dict[str, Any]]:
        """Every twin at every shape of this config."""
        from npgpt.bench.functions import time_functions

        return [asdict(timing) for timing in time_functions(self.config)]


def _ids(vocab_size: int, B: int, T: int) -> np.ndarray:
    return np.random.default_rng(T).integers(0, vocab_size, (B, T))


class Own:
    """npgpt with a backend and a dtype."""

    def __init__(self, folder: str, backend: str, dtype: str):
        self.model = GPT2(checkpoint.load(folder), backend=backend, dtype=dtype)
        self.held: dict[tuple[int, int], Any] = {}
        self.memory_block = np.empty(0, np.float32)

    def prefill(self, T: int) -> float:
        """Seconds to read T tokens into a new cache of that size, and know the next."""
        ids = _ids(self.model.config.vocab_size, 1, T).tolist()
        start = time.perf_counter()
        self.model.next_logits(ids, self.model.new_cache(1, n_positions=T))
        return time.perf_counter() - start

    def decode(self, context: int, batch: int, tokens: int) -> float:
        """Seconds a step of `batch` rows, from a context of so many tokens."""
        if (context, batch) not in self.held:
            cache = self.model.new_cache(batch)
            ids = _ids(self.model.config.vocab_size, batch, context).tolist()
            self.model.next_logits(ids, cache)
            self.held = {(context, batch): cache}
        cache = self.held[context, batch]
        cache.crop(context)
        start = time.perf_counter()
        for _ in range(tokens):
            z = self.model.next_logits([[1]] * batch, cache)
            z.argmax(-1)
        return (time.perf_counter() - start) / tokens

    def generate(self, tokens: int) -> float:
        """Seconds a token of greedy generation, the sampling loop included."""
        room = self.model.config.n_positions + 1  # the last id is never read
        prompt = [[1] * max(1, min(16, room - tokens))]
        start = time.perf_counter()
        self.model.generate(
            prompt, defaults=False, max_new_tokens=tokens, eos_token_id=()
        )
        return (time.perf_counter() - start) / tokens

    def step_bytes(self) -> int:
        """Bytes of weights that a decoded token reads."""
        buffers = getattr(self.model.params, "buffers", None)
        if buffers is not None:
            return buffers.step_bytes
        params = self.model.params
        blocks = sum(
            affine.weight.nbytes
            for block in params.h
            for affine in (*block.attn, *block.mlp)
        )
        return blocks + params.lm_head.weight.nbytes

    def read(self, bytes_: int) -> float:
        """Seconds to read so many bytes, with the kernels' threads: the ceiling."""
        from npgpt.kernels.ceiling import read_seconds

        if self.memory_block.nbytes != bytes_:
            self.memory_block = np.ones(bytes_ // 4, np.float32)
        return read_seconds(self.memory_block)

    def memory(self) -> int:
        """Largest resident size of this process so far, in bytes."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Transformers:
    """Hugging Face transformers on the same weights, logits of the last position."""

    def __init__(self, folder: str, dtype: str, threads: int):
        import torch
        import transformers

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.model = transformers.GPT2LMHeadModel.from_pretrained(
            folder, dtype=getattr(torch, dtype)
        ).eval()
        self.held: dict[tuple[int, int], Any] = {}

    def _run(self, ids: Any, past: Any = None) -> Any:
        return self.model(
            ids, past_key_values=past, use_cache=True, logits_to_keep=1
        ).past_key_values

    def prefill(self, T: int) -> float:
        """Seconds to read T tokens and know the next."""
        ids = self.torch.tensor(_ids(self.model.config.vocab_size, 1, T))
        start = time.perf_counter()
        self._run(ids)
        return time.perf_counter() - start

    def decode(self, context: int, batch: int, tokens: int) -> float:
        """Seconds a step of `batch` rows, from a context of so many tokens."""
        if (context, batch) not in self.held:
            ids = _ids(self.model.config.vocab_size, batch, context)
            self.held = {(context, batch): self._run(self.torch.tensor(ids))}
        past = self.held[context, batch]
        extra = past.get_seq_length() - context
        if extra:
            past.crop(-extra)  # since 5.x the number of tokens to remove, negative
        one = self.torch.ones((batch, 1), dtype=self.torch.int64)
        start = time.perf_counter()
        for _ in range(tokens):
            self._run(one, past)
        return (time.perf_counter() - start) / tokens


class LlamaCpp:
    """llama.cpp through llama-cpp-python, on the same weights as a GGUF file."""

    def __init__(self, folder: str, kind: str, threads: int):
        import llama_cpp

        path = Path(folder) / f"model-{kind}.gguf"
        if not path.exists():
            write_gguf(folder, path, kind)
        self.model = llama_cpp.Llama(
            str(path),
            n_ctx=0,
            n_threads=threads,
            n_threads_batch=threads,
            n_batch=1024,
            verbose=False,
        )
        self.context = 0

    def prefill(self, T: int) -> float:
        """Seconds to read T tokens and know the next."""
        ids = _ids(self.model.n_vocab(), 1, T)[0].tolist()
        self.model.reset()
        self.context = 0
        start = time.perf_counter()
        self.model.eval(ids)
        return time.perf_counter() - start

    def decode(self, context: int, batch: int, tokens: int) -> float:
        """Seconds a token; a batch of one only."""
        if batch != 1:
            raise BackendError("llama.cpp is timed with a batch of one")
        if self.context != context:
            self.prefill(context)
            self.context = context
        self.model.n_tokens = context
        start = time.perf_counter()
        for _ in range(tokens):
            self.model.eval([1])
        return (time.perf_counter() - start) / tokens


def write_gguf(folder: str, path: Path, kind: str) -> None:
    """The folder's checkpoint as a GGUF file of type F32, F16 or Q8_0."""
    import gguf

    params = checkpoint.load(folder)
    config = params.config
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.inner_dim)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    words = [f"<{i}>" for i in range(config.vocab_size)]
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(words))
    writer.add_token_merges(["<0> <1>"])  # an empty list is refused
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    quantised = getattr(gguf.GGMLQuantizationType, kind)

    def matrix(name: str, array: Any, as_type: Any = quantised) -> None:
        array = np.ascontiguousarray(array)
        data = gguf.quants.quantize(array, as_type)
        writer.add_tensor(name, data, raw_dtype=as_type)

    def affine(name: str, part: Any, is_matrix: bool) -> None:
        if is_matrix:
            matrix(f"{name}.weight", part.weight.T)
        else:
            writer.add_tensor(f"{name}.weight", np.array(part.weight))
        writer.add_tensor(f"{name}.bias", np.array(part.bias))

    matrix("token_embd.weight", params.wte.weight)
    matrix("position_embd.weight", params.wpe.weight, gguf.GGMLQuantizationType.F32)
    for i, block in enumerate(params.h):
        affine(f"blk.{i}.attn_norm", block.ln_1, False)
        affine(f"blk.{i}.attn_qkv", block.attn.c_attn, True)
        affine(f"blk.{i}.attn_output", block.attn.c_proj, True)
        affine(f"blk.{i}.ffn_norm", block.ln_2, False)
        affine(f"blk.{i}.ffn_up", block.mlp.c_fc, True)
        affine(f"blk.{i}.ffn_down", block.mlp.c_proj, True)
    affine("output_norm", params.ln_f, False)
    if params.lm_head is not params.wte:
        matrix("output.weight", params.lm_head.weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(name: str, folder: str, threads: int) -> Any:
    """The engine "kind:type", e.g. "numba:int8", "transformers:float32"."""
    kind, _, dtype = name.partition(":")
    if kind == "transformers":
        return Transformers(folder, dtype, threads)
    if kind == "llama.cpp":
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        return LlamaCpp(folder, dtype, threads)
    if kind == "functions":
        return Functions(folder)
    return Own(folder, kind, dtype)
