"""Section D. Rules against repetition."""

from __future__ import annotations

from npgpt.decoding.catalogue.entry import Parameter, Strategy

IGNORE = Parameter(
    "penalties_ignore_prompt", "flag", False,
    "Presence and frequency count generated tokens only, as OpenAI and vLLM do.",
)  # fmt: skip

STRATEGIES = (
    Strategy(
        "D1", "repetition penalty", "Tokens seen before become less probable, once.",
        "rules.penalties.repetition",
        (Parameter("repetition_penalty", "number", 1.0, "1 is off.", 1e-6),),
        "Keskar et al. 2019 (1909.05858)", takes="z window",
        element="repetition_penalty",
        formula="for v seen: z / r if z > 0, z r otherwise",
    ),
    Strategy(
        "D2", "presence penalty", "A constant off every token seen before.",
        "rules.penalties.presence",
        (Parameter("presence_penalty", "number", 0.0, "0 is off."), IGNORE),
        "OpenAI", takes="z counted", values=("presence_penalty",),
        element="presence_penalty",
        formula="z - alpha [c_v > 0]",
    ),
    Strategy(
        "D3", "frequency penalty", "A constant off for every time a token was seen.",
        "rules.penalties.frequency",
        (Parameter("frequency_penalty", "number", 0.0, "0 is off."),),
        "OpenAI", takes="z counted", element="frequency_penalty",
        formula="z - beta c_v",
    ),
    Strategy(
        "D4", "windowed and decaying penalty",
        "Penalties look at the last tokens only, and may fade.",
        "rules.penalties.windowed_repetition",
        (Parameter("repeat_last_n", "whole", -1,
                   "Window of the penalties; -1 is all, 0 none.", -1),
         Parameter("penalty_decay", "whole", 0,
                   "Tokens over which repetition_penalty fades before the window.",
                   0)),
        "llama.cpp, ExLlamaV2", takes="z ids", also=("repetition_penalty",),
        element="repetition_penalty", replaces=True,
        formula="r full for the last n tokens, then linear to 1 over the decay",
    ),
    Strategy(
        "D5", "no-repeat n-gram", "No n tokens in a row occur twice.",
        "rules.penalties.no_repeat_ngram",
        (Parameter("no_repeat_ngram_size", "whole", 0, "n; 0 is off.", 1),),
        "Paulus et al. 2017 (1705.04304)", takes="z ids", element="no_repeat_ngram",
        formula="ban v if (last n-1 tokens, v) occurred before",
    ),
    Strategy(
        "D6", "encoder repetition penalty", "Tokens of the prompt get a bonus.",
        "rules.penalties.encoder_repetition",
        (Parameter("encoder_repetition_penalty", "number", 1.0,
                   "Above 1 favours the prompt; 1 is off.", 1e-6),),
        "Hugging Face", takes="z prompt", element="encoder_repetition_penalty",
        formula="for v in the prompt: z r if z > 0, z / r otherwise",
    ),
    Strategy(
        "D7", "encoder no-repeat n-gram", "No n tokens in a row of the prompt recur.",
        "rules.penalties.encoder_no_repeat_ngram",
        (Parameter("encoder_no_repeat_ngram_size", "whole", 0, "n; 0 is off.", 1),),
        "Hugging Face", takes="z ids prompt", element="encoder_no_repeat_ngram",
        formula="as D5 with the n-grams of the prompt",
    ),
    Strategy(
        "D8", "DRY", "Don't repeat yourself: the longer the repeat, the dearer.",
        "rules.dry.dry",
        (Parameter("dry_multiplier", "number", 0.0, "Strength; 0 is off.", 0),
         Parameter("dry_base", "number", 1.75, "Growth a token.", 1),
         Parameter("dry_allowed_length", "whole", 2, "Repeats free of charge.", 1),
         Parameter("dry_penalty_last_n", "whole", -1, "Window; -1 is all.", -1),
         Parameter("dry_sequence_breakers", "texts", ("\n", ":", '"', "*"),
                   "Texts that a repeat cannot cross.")),
        "p-e-w 2024 (no paper)", takes="z ids", element="dry",
        prepare="rules.dry.prepare",
        formula="z_v - multiplier base^(m - allowed), m = the repeat that v goes on",
    ),
    Strategy(
        "D9", "penalty decoding",
        "Repetition penalty with a forgetting window, and fewer early ends.",
        "rules.penalties.penalty_decoding",
        (Parameter("penalty_decoding", "number", 1.0, "r; 1 is off.", 1),
         Parameter("forgetting_window", "whole", 100, "w: tokens looked back.", 1),
         Parameter("early_end_penalty", "number", 0.0,
                   "lambda: off z of the end while the text is shorter than w.", 0)),
        "Zhu et al. 2023 (2310.14971)", takes="z generated eos",
        element="penalty_decoding",
        formula="D1 over the last w tokens; z_eos - lambda (1 - t/w) while t < w",
    ),
    Strategy(
        "D10", "FSD", "Frustratingly simple decoding: an n-gram model of the text "
        "itself as the anti-model.",
        "rules.fsd.fsd",
        (Parameter("fsd_alpha", "number", 0.0, "Weight of the penalty; 0 is off.", 0,
                   1),
         Parameter("fsd_k", "whole", 3, "Candidates.", 1),
         Parameter("fsd_n", "whole", 3, "Order of the n-gram model.", 1),
         Parameter("fsd_beta", "number", 0.9, "Weight of the longer context.", 0, 1)),
        "Yang et al. 2023 (2305.12675)", takes="z ids", element="fsd",
        formula="over the top k: (1 - alpha) p_v - alpha ngram(v | text)",
    ),
    Strategy(
        "D11", "repetition detection", "Ends a text that repeats a pattern.",
        "stopping.repeats",
        (Parameter("max_pattern_size", "whole", 0, "Longest pattern; 0 is off.", 1),
         Parameter("min_pattern_size", "whole", 1, "Shortest pattern.", 1),
         Parameter("min_count", "whole", 3, "Repeats that end the text.", 2)),
        "vLLM", kind="stopping", takes="generated",
        formula="the last s * count tokens have period s",
    ),
    Strategy(
        "D12", "Hamming diversity", "A penalty for what earlier groups just chose.",
        "rules.penalties.hamming", (), "Vijayakumar et al. 2016 (1610.02424)",
        kind="part",
        formula="log p_v - lambda (times v was chosen by earlier groups)",
    ),
    Strategy(
        "D13", "degeneration penalty", "Similarity to what the text already said.",
        "rules.penalties.degeneration", (), "Su et al. 2022 (2202.06417)", kind="part",
        formula="max_j cos(h_v, h_j)",
    ),
)  # fmt: skip
