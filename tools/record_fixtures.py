"""Record what transformers computes: tests/fixtures/, and the weights' reference.npz.

    pip install -e '.[peers]' && python tools/record_fixtures.py

The suite compares npgpt with its tiny models' numbers, `npgpt verify` with those of the
bundled models; neither needs torch or transformers.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.activations import ACT2FN
from transformers.models.gpt2 import modeling_gpt2

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers import CASES, FIXTURES, token_ids, unit_tensors

from npgpt import GPT2
from npgpt.activations import ACTIVATIONS
from npgpt.storage.hub import bundled
from npgpt.verification.checks import REFERENCE, prompt_ids
from npgpt.verification.distance import intermediates, spread


def hf_model(config, dtype, tensors=None):
    """The transformers model with the suite's weights."""
    settings = {k: v for k, v in config.to_dict().items() if k != "architectures"}
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**settings, attn_implementation="eager")
    )
    tensors = {
        name if name.startswith("lm_head") else f"transformer.{name}": torch.tensor(x)
        for name, x in (tensors or unit_tensors(config)).items()
    }
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.to(dtype).eval()


def record_taps(model, ids):
    """Every intermediate under npgpt's tap name."""
    taps, n_head = {}, model.config.n_head
    blocks = model.transformer.h

    def heads(x):
        B, T, C = x.shape
        return x.reshape(B, T, n_head, C // n_head).transpose(1, 2)

    def output(name):
        def hook(module, args, result):
            taps[name] = result[0] if isinstance(result, tuple) else result

        return hook

    handles = [
        model.transformer.wte.register_forward_hook(output("wte")),
        model.transformer.wpe.register_forward_hook(output("wpe")),
        model.transformer.drop.register_forward_hook(output("embed")),
        model.transformer.ln_f.register_forward_hook(output("ln_f")),
    ]
    for i, block in enumerate(blocks):

        def qkv(module, args, result, i=i):
            for name, x in zip("qkv", result.chunk(3, dim=-1), strict=True):
                taps[f"h.{i}.attn.{name}"] = heads(x)

        def context(module, args, i=i):
            taps[f"h.{i}.attn.context"] = heads(args[0])

        def middle(module, args, i=i):
            taps[f"h.{i}.resid_mid"] = args[0]

        handles += [
            block.ln_1.register_forward_hook(output(f"h.{i}.ln_1")),
            block.attn.c_attn.register_forward_hook(qkv),
            block.attn.c_proj.register_forward_pre_hook(context),
            block.attn.c_proj.register_forward_hook(output(f"h.{i}.attn.out")),
            block.ln_2.register_forward_pre_hook(middle),
            block.ln_2.register_forward_hook(output(f"h.{i}.ln_2")),
            block.mlp.c_fc.register_forward_hook(output(f"h.{i}.mlp.pre")),
            block.mlp.act.register_forward_hook(output(f"h.{i}.mlp.act")),
            block.mlp.c_proj.register_forward_hook(output(f"h.{i}.mlp.out")),
            block.register_forward_hook(output(f"h.{i}.resid")),
        ]
    scores = []
    softmax = torch.nn.functional.softmax

    def spy(x, dim):
        scores.append(x)
        return softmax(x, dim=dim)

    modeling_gpt2.nn.functional.softmax = spy
    result = model(ids, output_attentions=True)
    modeling_gpt2.nn.functional.softmax = softmax
    for handle in handles:
        handle.remove()
    for i, weights in enumerate(result.attentions):
        # The mask adds the smallest float; npgpt writes -inf.
        taps[f"h.{i}.attn.scores"] = torch.where(
            scores[i] < -1e30, -torch.inf, scores[i]
        )
        taps[f"h.{i}.attn.weights"] = weights
    taps["logits"] = result.logits
    return taps


@torch.no_grad()
def record_case(config):
    """Logits, taps, greedy and ragged greedy generations of one configuration."""
    # transformers does reorder_and_upcast_attn in float32 only
    dtype = torch.float32 if config.reorder_and_upcast_attn else torch.float64
    model = hf_model(config, dtype)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    ids = torch.tensor(token_ids(config, 2, 7))
    arrays = {f"tap:{k}": v.float().numpy() for k, v in record_taps(model, ids).items()}
    arrays["logits"] = model(ids).logits.numpy()
    arrays["greedy"] = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12
    ).numpy()
    mask = torch.ones_like(ids)
    mask[0, :4] = 0  # a prompt of 3 tokens beside one of 7, padded on the left
    arrays["ragged"] = model.generate(
        torch.where(mask == 0, 0, ids),
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=12,
    ).numpy()
    return arrays


def record_activations():
    """Each activation on a grid, in float64."""
    x = np.linspace(-12, 12, 241)
    y = {name: ACT2FN[name](torch.tensor(x)).numpy() for name in ACTIVATIONS}
    return {"x": x, **y}


@torch.no_grad()
def record_bundled(folder):
    """Samples of a bundled model's intermediates, in float64, for npgpt verify."""
    model = transformers.GPT2LMHeadModel.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    ids = np.array([prompt_ids(GPT2.from_pretrained(folder))])
    taps = record_taps(model, torch.tensor(ids))
    order = [
        name
        for name in intermediates(GPT2.from_pretrained(folder), ids)
        if name in taps
    ]
    return {"ids": ids, **{n: spread(taps[n].float().numpy()) for n in order}}


if __name__ == "__main__":
    FIXTURES.mkdir(exist_ok=True)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    cases = {
        f"{case}/{name}": array
        for case, config in CASES.items()
        for name, array in record_case(config).items()
    }
    np.savez_compressed(FIXTURES / "gpt2_tiny.npz", versions=versions, **cases)
    np.savez_compressed(
        FIXTURES / "activations.npz", versions=versions, **record_activations()
    )
    for folder in bundled().values():
        np.savez_compressed(
            folder / REFERENCE, source=versions.split(",")[0], **record_bundled(folder)
        )
    for path in (*FIXTURES.glob("*.npz"), *(f / REFERENCE for f in bundled().values())):
        print(f"{path}: {path.stat().st_size:,} bytes, {versions}")
