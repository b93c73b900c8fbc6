"""The files beside a tokenizer change ids as in transformers, or are refused."""

import json

import pytest
from helpers import FIXTURES
from tokenizer_cases import BASE, CASES, GPT2, TEXT, USER, write

from npgpt import GPT2 as Model
from npgpt import Tokenizer, TokenizerError
from npgpt.storage.hub import resolve
from npgpt.support.notes import Note

EXPECTED = json.loads((FIXTURES / "tokenizers.json").read_text())


def ids(tokenizer):
    return [*tokenizer.begin, *tokenizer.encode(TEXT)]


@pytest.mark.filterwarnings("ignore:.* asks for a space before a text")
@pytest.mark.parametrize("case", CASES)
def test_ids_are_those_of_transformers(tmp_path, case):
    tokenizer = Tokenizer.from_folder(write(tmp_path, case))
    assert ids(tokenizer) == EXPECTED[case]
    stream = tokenizer.stream()
    text = "".join(map(stream.push, EXPECTED[case])) + stream.flush()
    assert text == tokenizer.decode(EXPECTED[case])


@pytest.mark.filterwarnings("ignore:.* asks for a space before a text")
@pytest.mark.parametrize("case", CASES)
def test_saved_with_all_its_files_it_is_the_same(tmp_path, case):
    folder, copy = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    copy.mkdir()
    Tokenizer.from_folder(write(folder, case)).save(copy)
    assert ids(Tokenizer.from_folder(copy)) == EXPECTED[case]
    for name in CASES[case][1]:
        assert (copy / f"{name}.json").read_bytes() == (
            folder / f"{name}.json"
        ).read_bytes()


def folder_of(tmp_path, **files):
    (tmp_path / "tokenizer.json").write_text(json.dumps(BASE))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / f"{name}.json").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens": {"<|user|>": 4100}},
        {"tokenizer_config": {**GPT2, "added_tokens_decoder": {"4097": USER}}},
        {"added_tokens": {"<|user|>": 7}},
    ],
)
def test_an_added_token_with_another_id_than_its_own_is_refused(tmp_path, files):
    with pytest.raises(TokenizerError, match=r"<\|user\|>' has the id .* get 4096"):
        Tokenizer.from_folder(folder_of(tmp_path, **files))


@pytest.mark.parametrize("name", ["added_tokens", "special_tokens_map"])
@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "[" * 100_000])
def test_damaged_files_are_named(tmp_path, name, text):
    with pytest.raises(TokenizerError, match=f"{name}.json: "):
        Tokenizer.from_folder(folder_of(tmp_path, **{name: text}))


@pytest.mark.parametrize(
    "settings",
    [
        {"added_tokens_decoder": [1]},
        {"added_tokens_decoder": {"x": USER}},
        {"added_tokens_decoder": {"4096": "<|user|>", "4097": 3}},
        {"added_tokens_decoder": {"4096": {"special": True}}},
        {"additional_special_tokens": 3},
        {"pad_token": [3]},
    ],
)
def test_wild_settings_are_refused_in_one_sentence(tmp_path, settings):
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json") as refusal:
        Tokenizer.from_folder(folder_of(tmp_path, tokenizer_config=settings))
    assert len(str(refusal.value).splitlines()) == 1


def test_settings_that_change_no_id_are_passed_over(tmp_path):
    settings = {
        "model_max_length": 10**30,
        "clean_up_tokenization_spaces": True,
        "padding_side": "left",
        "errors": "replace",
        "chat_template": "{{ messages }}",
        "unk_token": None,
        "add_bos_token": False,
        "extra_special_tokens": {},
    }
    tokenizer = Tokenizer.from_folder(folder_of(tmp_path, tokenizer_config=settings))
    assert ids(tokenizer) == EXPECTED["alone"]


def test_a_prompt_begins_with_what_the_tokenizer_puts_there(tmp_path):
    for file in resolve("tales-mini").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    plain = Model.from_pretrained(tmp_path)
    write(tmp_path, "bos by template")
    (tmp_path / "config.json").write_bytes(
        (resolve("tales-mini") / "config.json").read_bytes()
    )
    model = Model.from_pretrained(tmp_path)
    words = plain.encode("Once upon")
    assert model.encode("Once upon") == [0, *words]
    assert model.encode(words) == words  # ids are taken as they are
    assert model.generate("Once upon", max_new_tokens=3).prompt_ids == [0, *words]
    # what stands after <|endoftext|> anyway is not begun twice
    assert model.score("Once upon") == plain.score("Once upon")
    assert model.encode("") == [0]


def test_what_ends_a_text_does_not_end_a_prompt(tmp_path):
    settings = {**GPT2, "add_bos_token": True, "add_eos_token": True}
    write(tmp_path, "bos of a pair")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.warns(Note, match=r"ends texts with <\|endoftext\|>; a prompt"):
        tokenizer = Tokenizer.from_folder(tmp_path)
    assert ids(tokenizer) == EXPECTED["bos of a pair"]


def test_a_prefix_that_only_tokenizer_json_asks_for_is_named(tmp_path):
    write(tmp_path, "prefix, not gpt2's")
    with pytest.warns(Note, match=r"tokenizer\.json: asks for a space before a text"):
        tokenizer = Tokenizer.from_folder(tmp_path)
    assert ids(tokenizer) == EXPECTED["alone"]


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.model", "spiece.model"])
def test_a_tokenizer_of_another_kind_is_named(tmp_path, name):
    (tmp_path / name).write_text("a\nb\n")
    with pytest.warns(
        Note, match=f"its tokenizer is {name}, which npgpt does not read"
    ):
        assert Tokenizer.from_folder(tmp_path) is None


def test_a_pair_of_another_class_is_named(tmp_path):
    write(tmp_path, "a pair")
    settings = {"tokenizer_class": "RobertaTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.warns(Note, match="names a 'RobertaTokenizer'; its vocabulary and"):
        Tokenizer.from_folder(tmp_path)


def test_ids_may_have_gaps():
    import tokenizers

    data = json.loads(json.dumps(BASE))
    data["model"]["vocab"]["extra"] = 5000
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(data)))
    assert tokenizer.vocab_size == 5001
    assert tokenizer.token_bytes(5000) == b"extra"
    assert tokenizer.token_bytes(4500) == b""
