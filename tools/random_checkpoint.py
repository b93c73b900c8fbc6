"""Write a folder with a GPT-2-shaped checkpoint of random weights, to measure speed on.

    python tools/random_checkpoint.py gpt2 OUT --seed 0 [--dtype float16]

The scale is that of GPT-2's initialisation: normal with standard deviation 0.02, the
projections into the residual stream divided by sqrt(2 L), norms 1; biases 0.02, so that
a forgotten one shows. Speed depends on shapes alone, so these weights do as well as
trained ones. There is no tokenizer: prompts are token ids. "tiny" has one, and some
60,000 numbers, for whoever wants to try a command or write a test.
"""

import argparse
import math

import numpy as np

from npgpt.config import GPT2Config
from npgpt.gpt2 import GPT2Params
from npgpt.scaling.sizes import CHECKPOINTS
from npgpt.storage import checkpoint
from npgpt.tokenizer import Tokenizer
from npgpt.training.corpus import train_tokenizer
from npgpt.training.documents import find_documents

TINY = GPT2Config(
    vocab_size=300, n_positions=128, n_embd=48, n_layer=2, n_head=2,
    bos_token_id=0, eos_token_id=0,
)  # fmt: skip


def tiny_tokenizer() -> Tokenizer:
    """A vocabulary of 300, trained on this file."""
    return train_tokenizer(find_documents([__file__]), TINY.vocab_size)


def random_params(config: GPT2Config, seed: int = 0) -> GPT2Params:
    """Float32 parameters of this config, the same for the same seed and NumPy."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in checkpoint.expected_shapes(config).items():
        scale = 0.02
        if name.endswith("c_proj.weight"):
            scale /= math.sqrt(2 * config.n_layer)
        x = rng.standard_normal(shape, dtype=np.float32)
        x *= scale
        if "ln_" in name and name.endswith("weight"):
            x += 1
        tensors[name] = x
    return checkpoint.from_tensors(config, tensors)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("size", choices=[*CHECKPOINTS, "tiny"])
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "float16", "bfloat16"]
    )
    options = parser.parse_args()
    tiny = options.size == "tiny"
    config = TINY if tiny else CHECKPOINTS[options.size]
    checkpoint.save(random_params(config, options.seed), options.folder, options.dtype)
    if tiny:
        tiny_tokenizer().save(options.folder)
    print(f"{options.folder}: {options.size}, random weights, seed {options.seed}")
