"""Sizes to train from nothing, each with settings that suit it.

A preset is a place to start from; `npgpt train` lets every number be chosen. Widths,
depths and rates follow what small GPTs are trained with (GPT-3's table 2.1, Brown et
al., 2020: smaller models take larger rates).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from npgpt.config import GPT2Config
from npgpt.training.config import TrainConfig


@dataclass(frozen=True)
class Preset:
    """Shape, vocabulary and training settings of a model that begins at random."""

    summary: str
    n_layer: int
    n_embd: int
    n_head: int
    vocabulary: int  # of the tokenizer that is trained, unless one is given
    train: TrainConfig = field(default_factory=TrainConfig)

    def config(self, vocab_size: int, context: int, end: int | None) -> GPT2Config:
        """The model's config with this vocabulary, this context and this end token."""
        return GPT2Config(
            vocab_size=vocab_size,
            n_positions=context,
            n_embd=self.n_embd,
            n_layer=self.n_layer,
            n_head=self.n_head,
            bos_token_id=end,
            eos_token_id=end,
        )


PRESETS = {
    "tiny": Preset(
        "0.8 M parameters; a play's text in two minutes on two cores",
        n_layer=4, n_embd=128, n_head=4, vocabulary=512,
        train=TrainConfig(steps=300, batch_size=16, context=128, learning_rate=4e-3,
                          warmup_steps=30, eval_every=75, save_every=25,
                          eval_tokens=60_000),
    ),
    "small": Preset(
        "6 M parameters; some megabytes of text in hours",
        n_layer=6, n_embd=256, n_head=4, vocabulary=4096,
        train=TrainConfig(steps=5000, batch_size=8, context=512, learning_rate=1e-3,
                          warmup_steps=100, eval_every=250, save_every=250),
    ),
    "medium": Preset(
        "33 M parameters; wants a GPU, or days",
        n_layer=8, n_embd=512, n_head=8, vocabulary=16384,
        train=TrainConfig(steps=20_000, batch_size=16, context=512, warmup_steps=500,
                          learning_rate=6e-4, eval_every=500, save_every=500),
    ),
    "gpt2": Preset(
        "124 M parameters, the published shape; wants a GPU",
        n_layer=12, n_embd=768, n_head=12, vocabulary=50257,
        train=TrainConfig(steps=100_000, batch_size=8, accumulate=8, context=1024,
                          warmup_steps=700, learning_rate=6e-4, eval_every=1000,
                          save_every=1000),
    ),
}  # fmt: skip

# What fine-tuning starts from; LoRA's few numbers take a larger rate.
FINE_TUNE = TrainConfig(
    steps=300,
    batch_size=4,
    context=256,
    learning_rate=1e-4,
    warmup_steps=20,
    weight_decay=0.01,
    eval_every=50,
    save_every=50,
)
LORA_RATE = 1e-3
