"""Published numbers of the real GPT-2 weights, for `npgpt verify gpt2`.

Every value stands as its source printed it; greedy texts whose ids the source does not
give were encoded again, and have the published length. Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


def _ids(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


class Greedy(NamedTuple):
    """A greedy continuation: ids of the prompt, and of the new tokens."""

    model: str
    prompt: tuple[int, ...]
    new: tuple[int, ...]
    source: str


class TopLogits(NamedTuple):
    """The largest logits after a prompt: id and value."""

    prompt: tuple[int, ...]
    logits: dict[int, float]


class Loss(NamedTuple):
    """Mean negative log-probability of ids[1:], given ids[:-1] in this shape, nats."""

    what: str
    ids: tuple[int, ...]
    shape: tuple[int, int]
    value: float
    tolerance: float


class Known(NamedTuple):
    """What is known of one model."""

    greedy: tuple[Greedy, ...] = ()
    top_logits: tuple[TopLogits, ...] = ()
    losses: tuple[Loss, ...] = ()
    wte_corners: Mapping[tuple[int, int], tuple[float, ...]] = MappingProxyType({})


GREEDY = (
    Greedy(
        "gpt2",
        _ids("464 3290"),
        _ids(
            "373 1043 287 257 2214 1474 262 16246 286 2688 290 2688 27262 13 198 198 "
            "464 3290"
        ),
        "transformers tests/models/gpt2/test_modeling_gpt2.py @031e0ac8",
    ),
    Greedy(
        "gpt2",
        _ids("15496 11 616 3290 318 257 1310"),
        _ids("1643 286 257 2085 13 314 1101 407 1654 611 339 338 1016"),
        "transformers tests/models/gpt2/test_modeling_gpt2.py @031e0ac8",
    ),
    Greedy(
        "gpt2",
        _ids("8888 11 314"),
        _ids("1101 1016 284 307 1804 257 1256 286 2267 319 428 13 314"),
        "transformers tests/models/gpt2/test_modeling_gpt2.py @031e0ac8",
    ),
    Greedy(
        "gpt2",
        _ids("464 7348 4572"),
        _ids(
            "318 257 1402 11 18700 11 290 18700 6215 326 460 307 973 329 597 2099 286"
        ),
        "transformers test_modeling_tf_gpt2.py @0a8c149f",
    ),
    Greedy(
        "gpt2",
        _ids("40 2883 6155 351 616 13779 3290"),
        _ids(
            "11 475 314 1101 407 1654 611 314 1183 1683 307 1498 284 2513 351 616 3290 "
            "13 314 1101 407 1654 611 314 1183 1683 307 1498 284 2513 351 616 3290 13 "
            "198 198 40 1101 407 1654 611 314 1183"
        ),
        "huggingface/blog how-to-generate.md @03f0d3b7",
    ),
    Greedy(
        "gpt2",
        _ids("36235 39141 18765 1143 326 9061 561 530 1110 1716"),
        _ids(
            "262 749 3665 8217 319 262 5440 13 198 198 464 3644 318 257 4572 326 460 "
            "1620 3716 16765 11 290 340 460 1620 777 16765 287 257 835 326 318 845 "
            "2092 284 262 1692 3632 13"
        ),
        "jaymody/picoGPT README.md @817292ba",
    ),
    Greedy(
        "gpt2",
        _ids(
            "36235 39141 18765 1143 326 9061 561 530 1110 1716 845 3665 11 475 772 339 "
            "714 407 5967"
        ),
        _ids(
            "703 484 561 307 1498 284 466 523 13 198 198 1 40 892 326 262 749 1593 "
            "1517 318"
        ),
        "certik/fastGPT README.md @7d96ec2e",
    ),
    Greedy(
        "gpt2-medium",
        _ids("2061 318 262 3280 284 1204 11 262 6881 11 290 2279 30"),
        _ids("198 198 464 3280 318 326 356 389 477 530"),
        "tinygrad examples/gpt2.py @a9069c17",
    ),
    Greedy(
        "gpt2-medium",
        _ids("15496 13"),
        _ids("314 1101 257 1310 2739 284 262 2151 11 475"),
        "tinygrad examples/gpt2.py @a9069c17",
    ),
)

# Last position, raw logits: poloclub/transformer-explainer @6e2ec372 (nanoGPT as ONNX)
TOP_LOGITS = (
    TopLogits(
        _ids("6601 32704 795 30132 2985 284"),
        {
            38350: -135.9132,
            2251: -136.6836,
            766: -137.1203,
            787: -137.6474,
            3538: -137.6665,
        },
    ),
    TopLogits(
        _ids("8001 9542 9345 318 25449 262"),
        {
            835: -100.8785,
            995: -101.0488,
            3160: -103.3489,
            2214: -103.855,
            2003: -103.9535,
        },
    ),
    TopLogits(
        _ids("1722 262 40663 373 13885 262"),
        {
            5440: -92.8636,
            4417: -94.1827,
            4429: -94.4171,
            8824: -94.4567,
            3668: -94.4695,
        },
    ),
    TopLogits(
        _ids("2202 262 36043 5440 484 5071 257"),
        {
            6283: -89.0186,
            11428: -89.2613,
            5440: -89.2634,
            1588: -89.2662,
            4858: -89.2989,
        },
    ),
    TopLogits(
        _ids("40 31909 50035 4495 11330 262"),
        {6817: -93.251, 3452: -93.7715, 4034: -94.089, 749: -94.1031, 670: -94.1415},
    ),
)

# Corners of wte.weight: rasbt/LLMs-from-scratch ch05.ipynb @28c65cdf
WTE_CORNERS = {
    (0, 0): (-0.11010301, -0.03926672, 0.03310751),
    (0, -3): (-0.1363697, 0.01506208, 0.04531523),
    (1, 0): (0.04034033, -0.04861503, 0.04624869),
    (-1, 0): (0.05135201, -0.02768905, 0.0499369),
    (-1, -3): (0.00704835, 0.15519823, 0.12067825),
}

_LLMC_TOKENS = _ids(
    "50256 5962 22307 25 198 8421 356 5120 597 2252 11 3285 502 2740 13 628 50256 3237 "
    "25 198 5248 461 11 2740 13 628 50256 5962 22307 25 198 1639 389 477 12939 2138 "
    "284 4656 621 284 1145 680 30 628 50256 3237 25 198 4965 5634 13 12939 13 628 "
    "50256 5962 22307 25 198 5962 11 345 760 327 1872 385 1526 28599 318 4039 4472 284 "
    "262 661 13 628 50256 3237 25 198 1135 760 470 11 356 760 470 13 628 50256 5962 "
    "22307 25 198 5756 514 1494 683 11 290 356 1183 423 11676 379 674 898 2756 13 198 "
    "3792 470 257 15593 30 628 50256 3237 25 198 2949 517 3375 319 470 26 1309 340 307 "
    "1760 25 1497 11 1497 0 628 50256 12211 22307 25 198 3198 1573 11 922 4290 13 628 "
    "50256 5962 22307 25 198 1135 389 17830 3595 4290 11 262 1458 1173 1547 922 13 198 "
    "2061 4934 969 5036 896 319 561 26958 514 25 611 484 198 19188 7800 514 475 262 "
    "48713 414 11 981 340 547 198 1929 4316 462 11 356 1244 4724 484 22598 514 31533 "
    "306 26 198 4360 484 892 356 389 1165 13674 25 262 10904 1108 326 198 2001 42267 "
    "514 11 262 2134 286 674 24672 11 318 355 281 198 24807 284 1948 786 511 20038 26 "
    "674 198 82 13712 590 318 257 4461 284 606 3914 514 15827 428 351 198 454 279"
)

LOSSES = (
    Loss(  # TransformerLens tests/acceptance/test_hooked_transformer.py @4cd36aae
        "<|endoftext|>Hello world!",
        (50256, 15496, 995, 0),
        (1, 3),
        5.331855773925781,
        4e-5,
    ),
    Loss(  # llm.c test_gpt2.c @f1e2ace6, its first batch of tiny Shakespeare
        "llm.c's first batch", _LLMC_TOKENS, (4, 64), 5.270007133483887, 1e-2
    ),
)

MODELS = {
    "gpt2": Known(
        tuple(case for case in GREEDY if case.model == "gpt2"),
        TOP_LOGITS,
        LOSSES,
        WTE_CORNERS,
    ),
    "gpt2-medium": Known(tuple(case for case in GREEDY if case.model == "gpt2-medium")),
}
MODELS |= {f"openai-community/{name}": model for name, model in MODELS.items()}
