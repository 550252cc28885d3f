"""Latents of a text of one's own."""

import dataclasses

import pytest
import torch

import saekit
from saekit.core.errors import ConfigError
from saekit.models.tiny import tiny
from tests.hub.test_splicing import an_sae


@pytest.fixture(scope="module")
def lm():
    return tiny("llama")


def test_each_token_shows_its_strongest_latents(lm):
    sae = an_sae(lm)
    found = saekit.prompt(lm, sae, "cat", top=2)
    codes = sae.encode(lm.read(sae.tokens("cat", lm), sae.site))
    assert found.top() == codes.top(2)
    assert "'c'" in str(found) and len(str(found).splitlines()) == len(found.pieces)
    latent, act = found.top()[-1][0]
    assert found.latent(latent)[-1] == pytest.approx(act, rel=1e-4)
    assert found.to_dict()["tokens"][-1]["text"] == "t"


def test_it_begins_as_training_rows_did(lm):

    sae = an_sae(lm)
    for bos, n in ((True, 4), (False, 3)):
        one = dataclasses.replace(sae, card=dataclasses.replace(sae.card, bos=bos))
        assert saekit.prompt(lm, one, "cat").tokens.shape == (1, n)


def test_wrong_numbers_are_refused(lm):
    with pytest.raises(ConfigError, match="at least 1"):
        saekit.prompt(lm, an_sae(lm), "cat", top=0)
    with pytest.raises(ConfigError, match="no latent 48"):
        saekit.prompt(lm, an_sae(lm), "cat").latent(48)
    assert torch.is_grad_enabled()
