"""Record what transformers' searches find on tiny models into tests/fixtures/.

    python tools/record_search_fixtures.py new          # beam search, transformers 5.23
    pip install --target DIR --no-deps transformers==4.51.3 tokenizers==0.21.4 \
        huggingface-hub==0.36.0
    PYTHONPATH=DIR python tools/record_search_fixtures.py old

Transformers 5 has no diverse, contrastive, constrained or DoLa generation; 4.51.3 has.
`--seeds 0 8 --output FILE` records other models than the suite's.
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent))
import search_cases as cases
from helpers import FIXTURES
from record_fixtures import hf_model

KINDS = {
    "new": {"beam": cases.beam_cases, "forced": cases.forced_cases},
    "old": {
        "diverse": cases.diverse_cases,
        "contrastive": cases.contrastive_cases,
        "dola": cases.dola_cases,
        "constrained": cases.constrained_cases,
    },
}


@torch.no_grad()
def generate(model, seed, options):
    """Sequences (n, NEW) filled up with -1, and their scores (n,)."""
    ids = torch.tensor([cases.prompt(seed)])
    n = options.get("num_beams", 1)
    result = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=cases.NEW,
        num_return_sequences=n,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    rows = np.full((n, cases.NEW), -1, np.int8)
    for row, sequence in zip(rows, result.sequences[:, ids.shape[1] :], strict=True):
        new = sequence.tolist()
        ends = [i for i, id in enumerate(new) if id in cases.eos(seed)]
        end = ends[0] + 1 if ends else len(new)
        row[:end] = new[:end]
    scores = result.sequences_scores.numpy() if n > 1 else np.zeros(1)
    return rows, scores.astype(np.float32)


def record(kind_cases, seeds):
    """All cases of one kind: sequences (cases, widest, NEW) and scores."""
    models, found = {}, []
    for seed, options in kind_cases(seeds):
        if seed not in models:
            models[seed] = hf_model(cases.CONFIG, torch.float32, cases.tensors(seed))
            models[seed].generation_config.eos_token_id = cases.eos(seed)
            models[seed].generation_config.pad_token_id = 0
        try:
            found.append(generate(models[seed], seed, options))
        except RuntimeError as error:
            # Its constrained beams can fall over when they return a text without all
            # words: that one has no beam_indices.
            if "NoneType" not in str(error):
                raise
            found.append((np.full((1, cases.NEW), -1, np.int8), np.full(1, np.nan)))
    widest = max(len(rows) for rows, _ in found)
    sequences = np.full((len(found), widest, cases.NEW), -1, np.int8)
    scores = np.zeros((len(found), widest), np.float32)
    for i, (rows, row_scores) in enumerate(found):
        sequences[i, : len(rows)], scores[i, : len(rows)] = rows, row_scores
    return {"sequences": sequences, "scores": scores}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=KINDS)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 6))
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    path = chosen.output or FIXTURES / f"search_{chosen.which}.npz"
    arrays = {
        f"{kind}/{name}": array
        for kind, kind_cases in KINDS[chosen.which].items()
        for name, array in record(kind_cases, range(*chosen.seeds)).items()
    }
    np.savez_compressed(path, versions=versions, **arrays)
    print(f"{path.name}: {path.stat().st_size:,} bytes, {versions}")
