"""A model takes a text where it takes ids, and gives the text of ids."""

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import tiny_params

from npgpt import GPT2, DecodingError, TokenizerError
from npgpt.cli import main
from npgpt.scaling.sizes import PUBLISHED, describe, find_config


def test_logits_take_a_text(tales):
    z = tales.logits("The king")
    ids = tales.encode("The king")
    assert np.array_equal(z, tales.logits(ids))
    seen = []
    tales.logits("The king", tap=lambda name, x: seen.append(name) or x)
    assert seen[0] == "wte"
    assert tales.decode(z[0, -1].argmax()) == tales.decode([int(z[0, -1].argmax())])


@pytest.mark.parametrize("text", ["The king", "cat 中 cat", " ", "\n\n"])
def test_decode_is_the_way_back(tales, text):
    ids = tales.encode(text)
    assert tales.decode(ids) == tales.decode(np.array(ids)) == text
    assert "".join(tales.decode(id) for id in tales.encode("The king")) == "The king"


def test_special_tokens_can_be_left_out(tales):
    ids = [tales.config.eos_token_id, *tales.encode("The king")]
    assert tales.decode(ids, skip_special_tokens=True) == "The king"
    assert tales.decode(ids) == "<|endoftext|>The king"


def test_what_has_no_text_is_refused(tales):
    for wrong in ("The king", [[1, 2]], [1.5], None):
        with pytest.raises(DecodingError):
            tales.decode(wrong)
    model = GPT2(tiny_params())
    for call in (lambda: model.decode([1]), lambda: model.logits("The king")):
        with pytest.raises(TokenizerError, match="no tokenizer files"):
            call()


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: model.name)
def test_info_knows_the_names_that_scaling_prints(model):
    result = CliRunner().invoke(main, ["info", model.name])
    assert result.exit_code == 0, result.output
    extra = 0 if model.final_norm else 2 * model.width
    assert describe(find_config(model.name)).parameters == model.parameters + extra
    assert ("has no final norm" in result.output) == (not model.final_norm)
