from pathlib import Path

import pytest

from saekit.core.errors import ConfigError, UnknownNameError
from saekit.locality.presets.base import names, preset


def test_there_are_the_published_six_and_the_embedded_model():
    six = {"pythia-70m", "gpt2-small", "gemma-2-2b", "llama-3.2-1b", "llama-3-8b", "qwen2-0.5b"}
    assert set(names()) == six | {"smollm2-135m"}


@pytest.mark.parametrize("name", names())
def test_a_preset_is_whole(name):
    found = preset(name)
    assert found.key == name and all(0 <= i < found.n_layers for i in found.layers)
    assert str(found.site(found.layers[-1])) == f"L{found.layers[-1]}.resid_post"
    assert found.published_site(3).endswith("_layer3")
    assert "{" not in str(found.sae_folder(Path("root"), found.layers[0]))
    assert type(found).from_dict(found.to_dict()) == found


def test_layers_of_llama_3_8b_go_by_three():
    assert preset("llama-3-8b").layers == tuple(range(0, 31, 3))


def test_what_there_is_not():
    with pytest.raises(UnknownNameError, match="gpt2-small"):
        preset("gpt2-smal")
    with pytest.raises(ConfigError, match="0..5"):
        preset("pythia-70m").site(6)
