"""Section I. Watermarks: a rule or a selector, and a detector for each."""

from __future__ import annotations

from npgpt.decoding.catalogue.entry import Parameter, Strategy

SCHEMES = ("off", "lefthash", "selfhash", "unigram", "synthid", "gumbel")
KEYS = (654, 400, 836, 123, 340, 443, 597, 160, 57, 29, 590, 639, 13, 715, 468, 990)
WATERMARK = Parameter("watermark", "choice", "off", "The scheme.", choices=SCHEMES)
RATIO = Parameter("greenlist_ratio", "number", 0.25, "Share of green tokens.", 0, 1)
BIAS = Parameter("watermark_bias", "number", 2.0, "Added to green logits.", 0)
KEY = Parameter("hashing_key", "whole", 15485863, "The secret.", 0, 2**63 - 1)
WIDTH = Parameter("context_width", "whole", 1, "Tokens that seed a choice.", 1)

STRATEGIES = (
    Strategy(
        "I1",
        "KGW, left hash",
        "The last token decides which tokens are green.",
        "watermarks.watermark.left_hash",
        (WATERMARK, RATIO, BIAS, KEY, WIDTH),
        "Kirchenbauer et al. 2023 (2301.10226)",
        switch="watermark",
        equals="lefthash",
        takes="z ids",
        values=("greenlist_ratio", "watermark_bias", "hashing_key", "context_width"),
        element="watermark",
        formula="z_v + delta for v green",
    ),
    Strategy(
        "I2",
        "KGW, self hash",
        "The token itself takes part in the hash.",
        "watermarks.watermark.self_hash",
        (),
        "Kirchenbauer et al. 2023 (2306.04634)",
        switch="watermark",
        equals="selfhash",
        takes="z ids",
        also=("greenlist_ratio", "watermark_bias", "hashing_key", "context_width"),
        element="watermark",
        formula="z_v + delta for v green given itself",
    ),
    Strategy(
        "I3",
        "SynthID",
        "A tournament of hash bits between tokens.",
        "watermarks.synthid.synthid",
        (
            Parameter("synthid_keys", "ids", KEYS, "One secret a round."),
            Parameter("ngram_len", "whole", 5, "Tokens a hash reads.", 2),
            Parameter(
                "context_history_size",
                "whole",
                1024,
                "Contexts remembered: a repeated one is not marked.",
                1,
            ),
            Parameter("sampling_table_size", "whole", 65536, "Bits in the table.", 1),
        ),
        "Dathathri et al. 2024 (Nature 634)",
        switch="watermark",
        equals="synthid",
        takes="z generated",
        element="watermark",
        formula="each round: p_v (1 + g_v - sum g p)",
    ),
    Strategy(
        "I4",
        "Gumbel watermark",
        "The noise of Gumbel-max comes from a key.",
        "watermarks.watermark.gumbel",
        (),
        "Aaronson 2022; Kuditipudi et al. 2023 (2307.15593)",
        kind="selector",
        switch="watermark",
        equals="gumbel",
        uses=("hashing_key", "context_width"),
        sampling=True,
        formula="argmax u_v^(1/p_v),  u = PRF(key, last tokens)",
    ),
    Strategy(
        "I5",
        "Unigram",
        "One fixed list of green tokens.",
        "watermarks.watermark.unigram",
        (),
        "Zhao et al. 2023 (2306.17439)",
        switch="watermark",
        equals="unigram",
        takes="z",
        also=("greenlist_ratio", "watermark_bias", "hashing_key"),
        element="watermark",
        formula="z_v + delta for v green",
    ),
)
