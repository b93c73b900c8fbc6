"""GenerationConfig: what a user may ask of generate and stream, checked as a whole.

Names and meanings are Hugging Face's where it has them, else llama.cpp's. The loop's
own options stand here, a strategy's beside its function (see npgpt.decoding.catalogue).
What is unknown, out of range, without effect or contradictory is an error, never
ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from npgpt.config import GPT2Config
from npgpt.decoding.catalogue import parameters, strategies
from npgpt.decoding.catalogue.entry import Strategy
from npgpt.decoding.catalogue.kinds import Parameter
from npgpt.decoding.names import advice
from npgpt.errors import DecodingError
from npgpt.support.arguments import shown
from npgpt.support.hints import meant

OVERFLOW = ("error", "stop", "slide")

LOOP = (
    Parameter.of("max_new_tokens", 20, "Tokens to add, at most.", 0),
    Parameter.of("num_return_sequences", 1, "Texts per prompt.", 1),
    Parameter.of("seed", 0, "Names the random numbers.", 0, 2**64 - 1),
    Parameter.of("eos_token_id", None, "Ids that end a text; [] for none.", kind="ids"),
    Parameter.of("stop_strings", (), "End before the first of these.", kind="texts"),
    Parameter.of("include_stop_str_in_output", False, "Keep the stop string."),
    Parameter.of("top_logprobs", 0, "Best tokens reported a step.", 0),
    Parameter.of("overflow", OVERFLOW, "Beyond the model's positions."),
    Parameter.of("chain", "hf", "hf, llama.cpp, vllm, or names in any order."),
    Parameter.of(
        "logits_processor", (), "Functions (ids, z, context) -> z.", kind="any"
    ),
)
_LOOP = {p.name: p for p in LOOP}


class _Options(Mapping[str, Parameter]):
    """Every option by its name: the loop's own, and those that are entered by now."""

    def __getitem__(self, name: str) -> Parameter:
        return _LOOP.get(name) or parameters()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_LOOP | parameters())

    def __len__(self) -> int:
        return len(_LOOP | parameters())


OPTIONS: Mapping[str, Parameter] = _Options()


class GenerationConfig:
    """Options of one call; the defaults are greedy search for 20 tokens.

    Every option is an attribute; those not given have their default. `given` holds
    those that were. OPTIONS describes all of them. The loop's own:

    max_new_tokens: tokens to add, at most; 0 adds none.
    num_return_sequences: texts per prompt, of one reading of the prompt.
    seed: names the random numbers. Text depends on (seed, prompt, sequence) alone, but
        where rounding decides (see docs/sampling.md).
    eos_token_id: ids that end a text; None takes the model's, () none at all.
    stop_strings: end when one of these is in the new text, and leave it out.
    include_stop_str_in_output: keep the stop string in the text.
    top_logprobs: so many most probable tokens are reported with every step.
    overflow: what to do beyond the model's positions. "error": refuse before any work;
        "stop": end there; "slide": keep the last half and read it again.
    chain: the order of the rules, see npgpt.decoding.chain.
    logits_processor: functions (ids, z, context) -> z, after the built-in processors.

    >>> config = GenerationConfig(do_sample=True, temperature=0.8, top_p=0.95)
    >>> config.top_p, config.top_k
    (0.95, 0)
    >>> config
    GenerationConfig(do_sample=True, temperature=0.8, top_p=0.95)
    """

    given: dict[str, Any]

    if TYPE_CHECKING:  # the options are attributes, whichever there are by now

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, **options: Any):
        known = {name: _option(name) for name in options}
        given = {
            name: known[name].checked(value)
            for name, value in options.items()
            if value is not None
        }
        # Plain attributes, since they are read several times a token.
        defaults = {name: parameter.default for name, parameter in OPTIONS.items()}
        self.__dict__.update(defaults | given, given=given)
        _check(self)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> GenerationConfig:
        """The config of keyword arguments; an unknown name is a DecodingError."""
        return cls(**options)

    def but(self, **changes: Any) -> GenerationConfig:
        """The same config with these options changed; None drops one."""
        return GenerationConfig(**{**self.given, **changes})

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a GenerationConfig does not change; see `but`")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and self.given == other.given

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in self.given.items())
        return f"GenerationConfig({settings})"

    def __reduce__(self) -> Any:
        return partial(GenerationConfig, **self.given), ()

    @property
    def greedy(self) -> bool:
        """Whether each token is the most probable one."""
        return not self.do_sample or self.temperature == 0

    def is_set(self, name: str) -> bool:
        """Whether an option has another value than the one that changes nothing."""
        return getattr(self, name) != OPTIONS[name].default

    def is_on(self, strategy: Strategy) -> bool:
        """Whether these options ask for a strategy."""
        if strategy.on is not None:
            return strategy.on(self)
        if strategy.when is not None:
            value, wanted = getattr(self, strategy.when[0]), strategy.when[1]
            return value == wanted and type(value) is type(wanted)
        return bool(strategy.parameters) and self.is_set(strategy.switched_by)

    def active(self, kind: str) -> Iterator[Strategy]:
        """The strategies of a kind that these options ask for."""
        return (s for s in strategies() if s.kind == kind and self.is_on(s))

    def eos_ids(self, model: GPT2Config) -> tuple[int, ...]:
        """Ids that end a text of this model."""
        if self.eos_token_id is None:
            return model.eos_token_ids
        for id in self.eos_token_id:
            if id >= model.vocab_size:
                raise DecodingError(
                    f"eos_token_id {shown(id)} is not in the vocabulary, "
                    f"0 to {model.vocab_size - 1}"
                )
        return self.eos_token_id


def _option(name: str) -> Parameter:
    """The option of this name, or a DecodingError that knows a like one."""
    if name in OPTIONS:
        return OPTIONS[name]
    if said := advice(name):
        raise DecodingError(f"unknown option {name!r}; {said}")
    hint = meant(name, OPTIONS)
    raise DecodingError(f"unknown option {name!r}; {hint}`npgpt strategies` lists all")


def _check(options: GenerationConfig) -> None:
    """Raise DecodingError for options that cannot do together what they say."""
    on = [s for s in strategies() if options.is_on(s)]
    _check_used(options, on)
    _check_greedy(options, on)
    for kind, what in (("selector", "select the token"), ("search", "run the search")):
        names = [s.switched_by for s in on if s.kind == kind and not s.default]
        if len(names) > 1:
            raise DecodingError(
                f"{' and '.join(names)} both want to {what}; choose one"
            )
    for strategy in on:
        rivals = [
            s.switched_by
            for s in on
            if s.replaces and strategy.replaces and s.chain_name == strategy.chain_name
        ]
        if len(rivals) > 1:
            raise DecodingError(f"{' and '.join(rivals)} exclude each other")
        if strategy.check is not None:
            strategy.check(options)
    if isinstance(options.logits_processor, str | Mapping):
        raise DecodingError("logits_processor must be a list of functions")
    for function in options.logits_processor:
        if not callable(function):
            raise DecodingError(f"logits_processor: {shown(function)} cannot be called")


def _check_used(options: GenerationConfig, on: list[Strategy]) -> None:
    """Raise DecodingError for a parameter whose strategies are all off."""

    def names(strategy: Strategy) -> tuple[str, ...]:
        own = (p.name for p in strategy.parameters)
        return (*own, *strategy.uses, *strategy.also)

    used = {name for s in on for name in names(s)}
    for name in parameters():
        if name in used or not options.is_set(name):
            continue
        switches = (s.switch for s in strategies() if name in names(s))
        switch = " or ".join(dict.fromkeys(switches))
        if name not in switch:
            raise DecodingError(f"{name} changes nothing without {switch}")


def _check_greedy(options: GenerationConfig, on: list[Strategy]) -> None:
    """Raise DecodingError for what changes nothing where nothing is drawn."""
    if not options.greedy:
        return
    taken = {name for s in on for name in s.uses}  # a search may give them a meaning
    for strategy in on:
        switch = strategy.switched_by
        if not strategy.sampling or switch in taken:
            continue
        if options.temperature != 0:
            raise DecodingError(f"{switch} changes nothing without do_sample=True")
        if strategy.kind != "rule" or not strategy.keeps_top:
            raise DecodingError(f"{switch} needs a temperature above 0")
    searches = any(s.kind == "search" for s in on)
    if options.num_return_sequences > 1 and not searches:
        raise DecodingError(
            "num_return_sequences above 1 needs do_sample=True and a temperature "
            "above 0: greedy search has one result"
        )
