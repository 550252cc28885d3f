import pytest
import torch

from saekit.core.errors import UnknownNameError
from saekit.models.hf import load
from saekit.models.tiny import ByteTokenizer, model_types, save_tiny, tiny

TEXT = "a: é 日本 👍"


def test_same_arguments_give_the_same_weights_and_another_seed_others() -> None:
    tokens = torch.tensor([list(TEXT.encode())])
    first = tiny("llama", 0).logits(tokens)
    assert torch.equal(first, tiny("llama", 0).logits(tokens))
    assert not torch.allclose(first, tiny("llama", 1).logits(tokens))


def test_making_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    want = torch.rand(4)
    torch.manual_seed(3)
    tiny("llama", 0)
    assert torch.equal(torch.rand(4), want)


def test_sizes_are_those_asked_for() -> None:
    model = tiny("gpt2", n_layers=3, d_model=16, dtype=torch.bfloat16)
    assert (model.n_layers, model.d_model, model.dtype) == (3, 16, torch.bfloat16)
    assert model.vocab_size == model.tokenizer.vocab_size == 258


def test_unknown_family_is_named() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean `llama`"):
        tiny("lama")


@pytest.mark.parametrize("family", model_types())
def test_a_saved_folder_loads_as_the_same_model(tmp_path, family: str) -> None:
    model = tiny(family)
    saved = load(str(save_tiny(tmp_path, family)), dtype="float32")
    assert saved.family == model.family
    ids = model.tokenizer.encode([TEXT])
    assert saved.tokenizer.encode([TEXT]) == ids
    assert saved.tokenizer.pieces(ids[0]) == model.tokenizer.pieces(ids[0])
    assert (saved.tokenizer.bos_id, saved.tokenizer.eos_id) == (256, 257)
    assert saved.tokenizer.special_ids == {256, 257}
    assert torch.equal(saved.logits(torch.tensor(ids)), model.logits(torch.tensor(ids)))


def test_byte_tokenizer_gives_a_character_to_its_first_byte() -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(["é!"])[0]
    assert tokenizer.pieces([256, *ids]) == ["<bos>", "é", "", "!"]
    assert tokenizer.decode(ids) == "é!"
