"""Section A. How one token is taken, and strategies that take it with a memory."""

from __future__ import annotations

from npgpt.decoding.catalogue.entry import Parameter, Strategy

DO_SAMPLE = Parameter(
    "do_sample", "flag", False, "Draw from the distribution, not its maximum."
)
SELECTOR = Parameter(
    "selector",
    "choice",
    "inverse_cdf",
    "How a token is drawn.",
    choices=("inverse_cdf", "gumbel_max", "arithmetic", "without_replacement"),
)

STRATEGIES = (
    Strategy(
        "A1", "greedy search", "The most probable token; the lowest id wins a tie.",
        "selectors.greedy", (), "", kind="selector", switch="do_sample", equals=False,
        formula="argmax z",
    ),
    Strategy(
        "A2", "ancestral sampling", "A draw from the distribution the chain leaves.",
        "selectors.ancestral", (DO_SAMPLE,), "", kind="selector", equals=True,
        formula="y ~ Categorical(softmax(z))",
    ),
    Strategy(
        "A3", "Gumbel-max", "The largest of the logits plus Gumbel noise: same law.",
        "selectors.gumbel_max", (), "Gumbel 1954", kind="selector", switch="selector",
        equals="gumbel_max", sampling=True,
        formula="argmax (z + g),  g = -log(-log u)",
    ),
    Strategy(
        "A4", "inverse CDF", "One uniform number picks a slice of the distribution.",
        "selectors.inverse_cdf", (SELECTOR,), "", kind="selector", switch="selector",
        equals="inverse_cdf", formula="the first i with F_i > u F_V",
    ),
    Strategy(
        "A5", "arithmetic sampling",
        "n sequences that share one evenly spaced code: diverse, each an exact sample.",
        "selectors.arithmetic", (), "Vilnis et al. 2023 (2210.15457)", kind="selector",
        switch="selector", equals="arithmetic", sampling=True,
        formula="code c_n = (c_0 + n/N) mod 1; take v with F_{v-1} <= c < F_v, then "
        "c = (c - F_{v-1}) / p_v",
    ),
    Strategy(
        "A6", "sampling without replacement",
        "n sequences whose first tokens are drawn without replacement.",
        "selectors.without_replacement", (), "Kool et al. 2019 (1903.06059)",
        kind="selector", switch="selector", equals="without_replacement", sampling=True,
        formula="the k largest of z + g",
    ),
    Strategy(
        "A7", "feedback selectors",
        "Mirostat and adaptive-p (C15, C16, C17) take the token themselves.",
        "selection.build_selector", (), "", kind="part",
        formula="(z, u, state) -> (token, next state)",
    ),
)  # fmt: skip
