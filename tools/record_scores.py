"""Record transformers' log-probabilities on a bundled model into tests/fixtures/.

    pip install -e '.[peers]' && python tools/record_scores.py

Float64, the text after <|endoftext|>: once in one pass, once in overlapping windows by
the recipe of transformers' page on perplexity, in which a window of N inputs is a slice
of N + 1 ids.
"""

import json
from pathlib import Path

import torch
import transformers

from npgpt import Tokenizer
from npgpt.storage import hub

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
TEXT = (
    "Long ago a weaver and her two sons lived beside a river. Every evening the elder "
    "son said, “Mother, the river is too loud,” and every evening she answered:\n\n"
    "    Then sing louder.\n\nThe younger one, André, said nothing at all; he counted "
    "boats — 1, 2, 3 — and fell asleep."
)
WINDOW, STRIDE = 32, 12


@torch.no_grad()
def logprobs(model, ids):
    """log P of every id but the first, in nats."""
    z = model(torch.tensor([ids])).logits[0, :-1]
    return z.log_softmax(-1)[range(len(ids) - 1), ids[1:]].tolist()


def strided_nll(model, ids):
    """Sum of -log P over windows, each id counted once."""
    total, previous = 0.0, 0
    for begin in range(0, len(ids), STRIDE):
        end = min(begin + WINDOW + 1, len(ids))
        new = end - previous if begin else end - 1
        total -= sum(logprobs(model, ids[begin:end])[-new:])
        previous = end
        if end == len(ids):
            return total


if __name__ == "__main__":
    folder = hub.resolve("tales-mini")
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).double().eval()
    ids = [model.config.bos_token_id, *Tokenizer.from_folder(folder).encode(TEXT)]
    with torch.no_grad():
        loss = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    record = {
        "versions": f"transformers {transformers.__version__}, torch "
        f"{torch.__version__}",
        "text": TEXT,
        "ids": ids[1:],
        "logprobs": logprobs(model, ids),
        "loss": loss,
        "window": WINDOW,
        "stride": STRIDE,
        "strided_nll": strided_nll(model, ids),
    }
    path = FIXTURES / "scores.json"
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    print(f"{path.name}: {len(ids) - 1} tokens, loss {loss:.6f}")
