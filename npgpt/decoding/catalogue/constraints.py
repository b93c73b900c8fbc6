"""Section E. Bias, bans, forced tokens, and constraints on the form of the text."""

from __future__ import annotations

from npgpt.decoding.catalogue.entry import Parameter, Strategy

FINISH = Parameter(
    "finish_in_time", "flag", False,
    "Keep only what can still reach the constraint's end within max_new_tokens.",
)  # fmt: skip

STRATEGIES = (
    Strategy(
        "E1", "logit bias", "Adds a number to chosen logits; -inf bans.",
        "rules.bias.logit_bias", (Parameter("logit_bias", "bias", {}, "{id: bias}."),),
        "OpenAI", element="logit_bias", formula="z_v + b_v",
    ),
    Strategy(
        "E2", "sequence bias", "Adds a number to the last token of a sequence.",
        "rules.bias.sequence_bias",
        (Parameter("sequence_bias", "sequence_bias", (), "[[ids], bias] pairs."),),
        "Hugging Face", takes="z ids", element="sequence_bias",
        formula="if the text ends with seq[:-1]: z[seq[-1]] + b; matches add up",
    ),
    Strategy(
        "E3", "bad words", "Sequences that never occur, as ids.", "rules.bias.bad_words",
        (Parameter("bad_words_ids", "phrases", (), "Lists of ids."),),
        "Hugging Face", takes="z ids", element="bad_words",
        formula="sequence bias with -inf",
    ),
    Strategy(
        "E3", "bad words as text", "Words that never occur, with or without a space "
        "before them.",
        "rules.bias.bad_words", (Parameter("bad_words", "texts", (), "Words."),),
        "vLLM", takes="z ids", element="bad_words_text", prepare="rules.bias.encode_words",
        formula="sequence bias with -inf",
    ),
    Strategy(
        "E4", "suppress tokens", "Tokens that never occur.", "rules.bias.suppress",
        (Parameter("suppress_tokens", "ids", (), "Ids."),),
        "Hugging Face", element="suppress_tokens", formula="z_v = -inf",
    ),
    Strategy(
        "E4", "suppress tokens at begin", "Tokens that do not begin the new text.",
        "rules.bias.begin_suppress",
        (Parameter("begin_suppress_tokens", "ids", (), "Ids."),),
        "Hugging Face", takes="z context", element="begin_suppress_tokens",
        formula="z_v = -inf at the first step",
    ),
    Strategy(
        "E5", "allowed tokens", "Nothing but these tokens.", "rules.bias.allow",
        (Parameter("allowed_token_ids", "ids", None, "Ids."),),
        "vLLM", element="allowed_tokens", formula="z_v = -inf for all others",
    ),
    Strategy(
        "E5", "allowed tokens by function", "A function names the tokens allowed next.",
        "rules.bias.prefix_allowed_tokens",
        (Parameter("prefix_allowed_tokens_fn", "function", None,
                   "(row, ids) -> ids allowed next."),),
        "De Cao et al. 2020 (2010.00904)", takes="z ids context",
        element="prefix_allowed_tokens", formula="z_v = -inf for all others",
    ),
    Strategy(
        "E6", "minimum length", "No end before so many tokens, prompt included.",
        "rules.bias.min_length",
        (Parameter("min_length", "whole", 0, "Tokens, prompt included.", 0),),
        "Hugging Face", takes="z ids eos", element="min_length",
        formula="z_eos = -inf while the text is shorter",
    ),
    Strategy(
        "E6", "minimum new tokens", "No end before so many new tokens.",
        "rules.bias.min_new_tokens",
        (Parameter("min_new_tokens", "whole", 0, "No end of text before so many.",
                   0),),
        "Hugging Face", takes="z context eos", element="min_new_tokens",
        formula="z_eos = -inf while the step is below",
    ),
    Strategy(
        "E7", "forced first token", "The first new token is this one.",
        "rules.bias.forced_bos",
        (Parameter("forced_bos_token_id", "whole", None, "Id.", 0),),
        "Hugging Face", takes="z context", element="forced_bos",
        formula="all but one -inf at the first step",
    ),
    Strategy(
        "E7", "forced last token", "The token at max_new_tokens is this one.",
        "rules.bias.forced_eos",
        (Parameter("forced_eos_token_id", "ids", (), "Id, or ids."),),
        "Hugging Face", takes="z context", also=("max_new_tokens",),
        element="forced_eos", formula="all others -inf at the last step",
    ),
    Strategy(
        "E8", "ignore EOS", "The text never ends by itself.", "rules.bias.ignore_eos",
        (Parameter("ignore_eos", "flag", False, "Ban the end of text."),),
        "llama.cpp", takes="z eos", element="ignore_eos", formula="z_eos = -inf",
    ),
    Strategy(
        "E9", "teacher forcing", "Given tokens, with the model's probabilities.",
        "selectors.forced",
        (Parameter("trace_decode_token_ids", "ids", (), "The tokens to write."),),
        "vLLM", kind="selector", formula="y_t given",
    ),
    Strategy(
        "E10", "exponential length decay", "The end becomes ever more probable.",
        "rules.bias.exponential_decay",
        (Parameter("exponential_decay_length_penalty", "pair", None,
                   "(start, factor): after start new tokens."),),
        "Hugging Face", takes="z context eos", element="length_decay",
        formula="z_eos + |z_eos| (f^(t - start) - 1) for t > start",
    ),
    Strategy(
        "E11", "prefix trie", "The new text is one of a list.", "rules.trie.allow_children",
        (Parameter("choice", "any", (), "Texts, or lists of token ids."),),
        "De Cao et al. 2020 (2010.00904)", takes="z generated", element="choice",
        prepare="rules.trie.build", formula="keep the children of the node reached",
    ),
    Strategy(
        "E12", "regex", "The new text matches a regular expression.",
        "rules.regex.regex",
        (Parameter("regex", "text", "", "Matches the whole new text."), FINISH),
        "Willard and Louf 2023 (2307.09702)", takes="z generated context",
        element="regex", prepare="rules.regex.prepare_regex",
        formula="keep v if the automaton lives on after it; EOS where it accepts",
    ),
    Strategy(
        "E13", "JSON schema", "The new text is JSON of this schema.",
        "rules.grammar.json_schema",
        (Parameter("json_schema", "schema", "", "A dict, or its text."),),
        "llguidance", takes="z generated", element="json_schema",
        also=("trigger_words", "trigger_tokens"),
        prepare="rules.grammar.prepare_schema", formula="keep v if the parser lives on",
    ),
    Strategy(
        "E14", "grammar", "The new text is a sentence of a grammar.",
        "rules.grammar.grammar",
        (Parameter("grammar", "text", "", "GBNF (llama.cpp) or Lark."),
         Parameter("trigger_words", "texts", (),
                   "Free until one of these occurs; the sentence begins with it."),
         Parameter("trigger_tokens", "ids", (), "The same, for tokens.")),
        "llama.cpp, llguidance", takes="z generated", element="grammar",
        prepare="rules.grammar.prepare_grammar",
        formula="keep v if the parser lives on; with triggers, from the first one on",
    ),
    Strategy(
        "E16", "token healing", "The prompt's last token may be re-tokenised.",
        "healing.begin_with_prefix",
        (Parameter("token_healing", "flag", False,
                   "Take back the last token; the new text begins with its bytes."),),
        "guidance", takes="z generated context", element="token_healing",
        prepare="healing.tokenizer_of",
        formula="keep v if its bytes agree with what was cut",
    ),
    Strategy(
        "E17", "phrase ban", "Phrases that never occur, by going back before them.",
        "searches.phrase_ban.sample_without_phrases",
        (Parameter("banned_strings", "texts", (), "Texts, in any case."),),
        "Paech 2024 (AntiSlop)", kind="search",
        formula="when a phrase completes, ban its first token there and draw again",
    ),
    Strategy(
        "E19", "exact constrained sampling",
        "The model's law given the constraint, which masking alone distorts.",
        "searches.exact.exact_sampling",
        (Parameter("exact_constraint", "choice", "off", "How.",
                   choices=("off", "rejection", "asap", "smc")),
         Parameter("exact_rounds", "whole", 1000,
                   "Texts tried by rejection, or learned from by asap.", 1),
         Parameter("smc_particles", "whole", 16, "Particles of smc.", 1)),
        "Park et al. 2024 (2405.21047), Lew et al. 2023 (2306.03081)", kind="search",
        formula="y ~ p(y | y matches)",
    ),
)  # fmt: skip
