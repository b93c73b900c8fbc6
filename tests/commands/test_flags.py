"""One flag for one thing: every flag of every verb, its type and its words, in a table.

A new verb takes the flags that are here for what it needs; a flag that says something
new is added here, once. Rules of decoding are the catalogue's: `generate`, `sample` and
`step` take them all.
"""

import importlib
import json

import click
import pytest
from click.testing import CliRunner

from npgpt.cli import VERBS, main
from npgpt.commands._strategies import StrategyCommand, chain_option

EVERYWHERE = {  # flag: (type, help), the same words in every verb
    "--model": (
        "text",
        "A bundled model, a folder, or one of the Hub: gpt2, owner/name.",
    ),
    "--backend": (
        "choice",
        "What computes; auto takes the fastest one here and names it.",
    ),
    "--json": ("boolean", "One JSON object."),
    "--figure": ("file", "Draw it into this file; .png or .svg."),
    "--seed": ("integer", "Same seed, same result."),
    "--max-new-tokens": ("integer", "New tokens of a text, at most."),
    "--min-new-tokens": ("integer", "No end of text before so many."),
    "--temperature": ("float", "Divides the logits; 0 is greedy search."),
    "--top-k": ("integer", "Keep the k most probable tokens."),
    "--top-p": ("float", "Keep the nucleus of this probability."),
    "--greedy": ("boolean", "The most probable token at every step."),
    "--limit": ("integer range", "Only the first so many items."),
}
ONE_THING = {  # flag: what it means everywhere; the verb says of what
    "--out": "where what was made is kept",
    "--dtype": "which numbers: computed in, stored, or compiled for",
    "--threads": "threads, by default one a physical core",
    "--all": "every row, not a summary of them",
    "--steps": "how many of training, or each on a text's way to ids",
    "--show": "what happens at every token, or the result alone",
    "--window": "how many tokens are seen at once, at most",
    "--tokens": "how many are shown",
    "--token": "which next token",
    "--against": "the other one",
    "--at": "after which token",
    "--assistant-model": "the smaller model, which drafts",
}
OF_ONE_VERB = {
    "generate": "--num-return-sequences --stop --overflow",
    "step": "--script --load --lines",
    "compare": "--grid --judge --seeds --jobs --by --samples --csv",
    "why": "--depth --grad",
    "shapes": "--names --formulas",
    "train": "--preset --tokenizer --init-from --lora-rank --lora-alpha --lora-matrix "
    "--batch-size --accumulate --context --learning-rate --warmup-steps "
    "--weight-decay --clip-norm --dropout --eval-every --save-every --validation "
    "--prompt --sample-tokens --resume",
    "score": "--separator --stride --bos --no-bos",
    "eval hellaswag": "--style",
    "plot mask": "-T -S",
    "plot attention": "--layer --head",
    "lens ablation": "--how --other",
    "lens patching": "--what --direction",
    "lens heads": "--length --rows",
    "lens rollout": "--layers",
    "lens integrated": "--points --baseline",
    "explain": "--weights --cell",
    "download": "--revision",
    "scaling": "--flops --runs --count",
    "bench": "--random --peers --engine --functions --no-functions --end-to-end "
    "--no-end-to-end --decoding --rounds --quick --markdown",
    "convert": "--packed --force",
    "verify": "--ops --published",
}
SHORT = {"-m": "--model", "-o": "--out", "-n": "--num-return-sequences"}
NO = {"--no-show": "--show"}
OLD = {  # hidden, for one version: verb, old spelling, new
    "compare": ("--plot", "--figure"),
    "scaling": ("--plot", "--figure"),
    "plot mask": ("--out", "--figure"),
    "plot attention": ("--out", "--figure"),
    "bench": ("--save", "--out"),
    "score": ("--tokens", "--show"),
}


def commands():
    """Every verb that does something: name and command."""

    def walk(name, command):
        if isinstance(command, click.Group):
            for below, inner in command.commands.items():
                yield from walk(f"{name} {below}", inner)
        else:
            yield name, command

    for verb in VERBS:
        yield from walk(verb, importlib.import_module(f"npgpt.commands.{verb}").command)


COMMANDS = dict(commands())
bare = click.command(cls=StrategyCommand)(chain_option(lambda: None))
RULES = {
    flag for option in bare.get_params(click.Context(bare)) for flag in option.opts
}
WITH_RULES = ("generate", "sample", "step")


def flags(command, hidden=False):
    """Flag: option. By default those that --help shows."""
    return {
        flag: option
        for option in command.params
        if isinstance(option, click.Option) and option.hidden == hidden
        for flag in (*option.opts, *option.secondary_opts)
    }


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_flag_means_what_it_means_everywhere(verb):
    shared = {*EVERYWHERE, *ONE_THING, *SHORT, *NO}
    own = set(OF_ONE_VERB.get(verb, "").split())
    for flag, option in flags(COMMANDS[verb]).items():
        if verb in WITH_RULES and flag in RULES:
            continue
        assert flag in shared | own, f"{verb} {flag}: a spelling of its own"
        if flag in SHORT:
            assert SHORT[flag] in option.opts
        if flag in EVERYWHERE:
            kind, help = EVERYWHERE[flag]
            assert option.type.name == kind, (verb, flag)
            assert option.help.partition("  [default")[0].rstrip() == help, (verb, flag)


def test_the_table_has_no_flag_that_no_verb_has():
    there = {flag for command in COMMANDS.values() for flag in flags(command)}
    assert {*EVERYWHERE, *ONE_THING, *SHORT, *NO} <= there
    for verb, own in OF_ONE_VERB.items():
        assert set(own.split()) <= set(flags(COMMANDS[verb]))
        others = {
            flag
            for name, command in COMMANDS.items()
            if name != verb
            for flag in flags(command)
        }
        assert not set(own.split()) & (others - RULES), verb


def test_files_and_models_have_one_flag_each():
    for verb, command in COMMANDS.items():
        for flag, option in flags(command).items():
            if ".png" in (option.help or ""):
                assert flag == "--figure", (verb, flag)
            if "JSON object" in (option.help or "") and option.is_flag:
                assert flag == "--json", (verb, flag)
            if option.name == "name":
                assert set(option.opts) == {"--model", "-m"}, verb


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_answers_in_json(verb):
    assert "--json" in flags(COMMANDS[verb])


def test_old_spellings_are_hidden_and_no_others_are():
    for verb, command in COMMANDS.items():
        hidden = {flag for flag in flags(command, hidden=True) if flag[:2] == "--"}
        hidden -= RULES
        old, new = OLD.get(verb, ("", ""))
        assert hidden - {f"--no-{old[2:]}"} == ({old} if old else set()), verb
        assert not new or new in flags(command)


def npgpt(*words, status=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result


def test_an_old_spelling_works_and_says_the_new_one(tmp_path):
    for words in (
        ["plot", "mask", "--out"],
        ["plot", "mask", "-o"],
        ["scaling", "--plot"],
    ):
        result = npgpt(*words, tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
        assert "is now --figure" in result.stderr
        assert "note" not in result.stdout
        (tmp_path / "a.png").unlink()
    (tmp_path / "text").write_text("The king")
    arguments = ("score", tmp_path / "text", "-m", "tales-mini", "--json")
    old, new = npgpt(*arguments, "--tokens"), npgpt(*arguments, "--show")
    assert old.stdout == new.stdout
    assert "--tokens is now --show" in old.stderr
    assert "note" not in new.stderr


@pytest.mark.parametrize("verb", ["info", "verify", "download", "convert"])
def test_a_model_is_given_by_its_place_or_by_its_flag(verb):
    def failed(*words):
        result = npgpt(verb, *words, status=1)
        return result.stderr

    more = ["folder"] if verb == "convert" else []
    wanted = failed("no where", *more)
    assert "no where" in wanted
    assert failed("--model", "no where", *more) == wanted
    assert failed("-m", "no where", *more) == wanted
    result = npgpt(verb, "tales", "-m", "no where", *more, status=2)
    assert "unexpected extra argument" in result.stderr


def test_convert_takes_places_and_flags_together(tmp_path):
    for at, words in enumerate(
        (
            ["tales-mini", tmp_path / "0"],
            ["--model", "tales-mini", tmp_path / "1"],
            ["tales-mini", "--out", tmp_path / "2"],
            ["-o", tmp_path / "3", "-m", "tales-mini"],
        )
    ):
        value = json.loads(npgpt("convert", *words, "--json").stdout)
        assert value["folder"] == str(tmp_path / str(at))
        assert (tmp_path / str(at) / "config.json").exists()
    assert "FOLDER" in npgpt("convert", "tales-mini", status=2).stderr
    assert "MODEL" in npgpt("convert", status=2).stderr
    (tmp_path / "file").write_text("")
    result = npgpt("convert", "tales-mini", tmp_path / "file", status=2)
    assert "is a file" in result.stderr
