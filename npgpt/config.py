"""GPT2Config: the numbers of config.json that decide what a GPT-2 computes.

Field names are Hugging Face's. Options that would change the result are honoured or
refused by name; other keys are kept for the next config.json. Published sizes are in
npgpt.scaling.sizes. Nothing here reads weights.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeGuard

from npgpt.activations import ACTIVATIONS
from npgpt.errors import CheckpointError
from npgpt.support.arguments import checked, shown
from npgpt.support.files import check_readable


@dataclass(frozen=True)
class GPT2Config:
    """Shape and options of a GPT-2 (Radford et al. 2019); by default gpt2's, 124M.

    unused: what else config.json said; without effect here, and saved again.
    generation: generation_config.json, None without one; see npgpt.decoding.defaults.
    notes: sentences on what was passed over.

    >>> GPT2Config().head_dim, GPT2Config().inner_dim
    (64, 3072)
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | tuple[int, ...] | None = 50256
    unused: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    generation: dict[str, Any] | None = field(default=None, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            value = getattr(self, name)
            self._need(
                _is_int(value) and 0 < value < 2**31, name, "a whole number above 0"
            )
        inner = self.n_inner
        self._need(
            inner is None or (_is_int(inner) and 0 < inner < 2**31),
            "n_inner",
            "a whole number above 0, or null",
        )
        self._need(
            self.n_embd % self.n_head == 0,
            "n_embd",
            f"a multiple of n_head {self.n_head}",
        )
        epsilon = self.layer_norm_epsilon
        self._need(
            isinstance(epsilon, float) and 0 < epsilon < 1,
            "layer_norm_epsilon",
            "a number between 0 and 1",
        )
        self._need(
            isinstance(self.activation_function, str)
            and self.activation_function in ACTIVATIONS,
            "activation_function",
            f"one of {', '.join(ACTIVATIONS)}",
        )
        for one in fields(self):
            if one.type == "bool":
                value = getattr(self, one.name)
                self._need(isinstance(value, bool), one.name, "true or false")
        if isinstance(self.eos_token_id, list):
            object.__setattr__(self, "eos_token_id", tuple(self.eos_token_id))
        bos = [] if self.bos_token_id is None else [self.bos_token_id]
        for name, ids in (
            ("bos_token_id", bos),
            ("eos_token_id", _list(self.eos_token_id)),
        ):
            self._need(
                all(_is_int(id) and 0 <= id < self.vocab_size for id in ids),
                name,
                f"within the vocabulary, 0 to {self.vocab_size - 1}",
            )

    def _need(self, holds: bool, name: str, what: str) -> None:
        if not holds:
            raise CheckpointError(
                f"config: {name} must be {what}, not {shown(getattr(self, name))}"
            )

    @property
    def head_dim(self) -> int:
        """Width D of one attention head."""
        return self.n_embd // self.n_head

    @property
    def inner_dim(self) -> int:
        """Width of the MLP's hidden layer, 4 C unless n_inner says otherwise."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """All ids that end a text, possibly none.

        Those of generation_config.json, if it names any; they count in transformers.
        """
        said = (self.generation or {}).get("eos_token_id")
        ids = [id for id in _list(said) if _is_int(id) and 0 <= id < self.vocab_size]
        return tuple(ids or _list(self.eos_token_id))

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "config.json") -> GPT2Config:
        """The config that a decoded config.json describes; raises CheckpointError.

        An id outside the vocabulary never occurs: it becomes none.

        >>> data = {"vocab_size": 40, "eos_token_id": [3, 50256]}
        >>> config = GPT2Config.from_dict(data)
        >>> config.eos_token_ids, config.notes
        ((3,), ('eos_token_id 50256 is outside the vocabulary, 0 to 39: it is none',))
        """
        if not isinstance(data, dict):
            raise CheckpointError(f"{where}: not a JSON object")
        _refuse_unsupported(data, where)
        data = _by_one_name(data, where)
        names = {one.name for one in fields(cls)} - _BESIDE
        given = {name: data[name] for name in names & set(data)}
        notes, V = [], data.get("vocab_size", 50257)
        for name in ("bos_token_id", "eos_token_id"):
            given[name], strange = _within(data.get(name, 50256), V)
            if strange and name in data:  # else it is what Hugging Face fills in
                ids = ", ".join(map(str, strange))
                notes.append(
                    f"{name} {ids} is outside the vocabulary, 0 to {V - 1}: it is none"
                )
        try:
            config = cls(**given)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace("config", where, 1)) from None
        if data.get("n_ctx") not in (None, config.n_positions):
            notes.append(
                f"n_ctx {shown(data['n_ctx'])} has no effect, n_positions "
                f"{config.n_positions} has"
            )
        unused = {k: v for k, v in data.items() if k not in names | _WRITTEN_ANEW}
        return replace(config, unused=unused, notes=tuple(notes))

    @classmethod
    @checked(CheckpointError)
    def from_file(cls, path: str | Path) -> GPT2Config:
        """Read config.json, and generation_config.json if it stands beside it.

        Raises CheckpointError for what cannot be used.
        """
        path = Path(path)
        config = cls.from_dict(_read_json(path, "; a model needs one"), str(path))
        beside = path.parent / GENERATION
        if not os.path.lexists(beside):
            return config
        generation = _read_json(beside, "")
        if not isinstance(generation, dict):
            raise CheckpointError(f"{beside}: not a JSON object")
        bos, V = generation.get("bos_token_id"), config.vocab_size
        if config.bos_token_id is None and _is_int(bos) and 0 <= bos < V:
            config = replace(config, bos_token_id=bos)
        return replace(config, generation=generation)

    def to_dict(self) -> dict[str, Any]:
        """What config.json should hold, for npgpt and for transformers."""
        settings = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in _BESIDE:
            del settings[name]
        return {
            **self.unused,
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            **settings,
        }


GENERATION = "generation_config.json"
_BESIDE = {"unused", "generation", "notes"}  # fields that are no key of config.json

_ALIASES = {  # other names of the same keys, as transformers reads them
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
}

_WRITTEN_ANEW = {"model_type", "architectures", "dtype", "torch_dtype"}

# Of what transformers 2 to 5 wrote into config.json for a "gpt2", these keys change no
# number: training, other heads, what a call returns, memory, where a file came from.
# n_ctx was the size of the mask, which a model needs no more.
_WORDS = """
resid_pdrop embd_pdrop attn_pdrop initializer_range gradient_checkpointing
summary_type summary_use_proj summary_activation summary_proj_to_labels
summary_first_dropout num_labels _num_labels id2label label2id problem_type
finetuning_task task_specific_params tokenizer_class prefix n_ctx n_special
predict_special_tokens is_decoder cross_attention_hidden_size tie_encoder_decoder
output_attentions output_hidden_states output_past return_dict use_return_dict
use_cache chunk_size_feed_forward tie_last_hidden_states torchscript use_bfloat16
xla_device tf_legacy_loss attn_implementation _attn_implementation
_attn_implementation_autoset _attn_implementation_internal experts_implementation
_experts_implementation_internal transformers_version name_or_path _name_or_path
_commit_hash auto_map keys_to_ignore_at_inference add_cross_attention
is_encoder_decoder quantization_config pruned_heads per_layer_config
"""
WITHOUT_EFFECT = frozenset(_WORDS.split())

_UNSUPPORTED = {  # each changes the numbers, none belongs to a plain GPT-2
    "add_cross_attention": "cross-attention",
    "is_encoder_decoder": "an encoder",
    "quantization_config": "quantized weights",
    "pruned_heads": "pruned heads",
    "per_layer_config": "layers that differ",
}


def _read_json(path: Path, hint: str) -> Any:
    try:
        check_readable(path)
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file{hint}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from None


def _refuse_unsupported(data: dict[str, Any], where: str) -> None:
    model_type = data.get("model_type", "gpt2")
    if model_type != "gpt2":
        raise CheckpointError(
            f"{where}: model_type is {model_type!r}; npgpt reads models of type 'gpt2'"
        )
    for key, what in _UNSUPPORTED.items():
        if data.get(key):
            raise CheckpointError(
                f"{where}: {key} asks for {what}, which npgpt does not have"
            )


def _by_one_name(data: dict[str, Any], where: str) -> dict[str, Any]:
    """The same with aliases under their field's name; null is as if left out."""
    data = dict(data)
    for alias, name in _ALIASES.items():
        value = data.pop(alias, None)
        if value is not None and data.setdefault(name, value) != value:
            raise CheckpointError(
                f"{where}: {alias} {shown(value)} and {name} {shown(data[name])} "
                "disagree"
            )
    return data


def _within(ids: Any, V: Any) -> tuple[Any, list[int]]:
    """Ids without those that no token has, and these."""
    if not _is_int(V):
        return None, []  # the config will be refused for it
    each = _list(ids)
    strange = [id for id in each if _is_int(id) and not 0 <= id < V]
    if not strange:
        return ids, []
    return tuple(id for id in each if id not in strange) or None, strange


def _list(ids: Any) -> list[Any]:
    """One id, several or none as a list."""
    return [] if ids is None else list(ids) if isinstance(ids, list | tuple) else [ids]


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
