"""Matches of two dictionaries against all their cosines."""

import dataclasses

import pytest
import torch

from saekit.analysis.matching import matches
from saekit.core.errors import ConfigError, ShapeError
from saekit.hub.card import Card
from saekit.hub.trained import TrainedSAE
from saekit.saes.topk import TopK


def sae(seed, d_sae=64, d_in=16, name="m"):
    made = TopK(d_in=d_in, d_out=d_in, d_sae=d_sae, k=4).build(torch.Generator().manual_seed(seed))
    model = {"name": name, "revision": name, "family": "x", "dtype": "float32", "tokenizer": ""}
    from saekit.activations.pairs import Pair

    card = Card(
        model=model,
        pair=Pair(read=("L1.resid_post",)),
        rules={},
        corpus={},
        n_ctx=16,
        bos=True,
        tokens=1,
    )
    return TrainedSAE(made, card)


@pytest.mark.parametrize("cells", [2**24, 70])
def test_the_nearest_by_all_cosines(monkeypatch, cells):
    monkeypatch.setattr("saekit.metrics.nearest.CHUNK", cells)
    one, other = sae(0), sae(1, d_sae=40)
    cosine = torch.nn.functional.cosine_similarity(
        one.directions[:, None], other.directions[None], dim=-1
    )
    found = matches(one, other)
    torch.testing.assert_close(found.cosines, cosine.amax(1))
    assert torch.equal(found.nearest, cosine.argmax(1))
    assert found.share_over(0.5) == pytest.approx(float((cosine.amax(1) >= 0.5).float().mean()))
    said = found.to_dict(top=5)
    assert len(said["pairs"]) == 5 and sum(said["histogram"]["counts"]) == 64
    assert [c for _, _, c in said["pairs"]] == sorted(
        (c for _, _, c in said["pairs"]), reverse=True
    )


def test_itself_in_another_order():
    one = sae(0)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    other = sae(0)
    with torch.no_grad():
        other.sae.W_dec.copy_(one.sae.W_dec[order])
    found = matches(one, other)
    assert torch.equal(order[found.nearest], torch.arange(64)) and found.share_over(0.999) == 1


def test_latents_without_a_direction_count_in_no_share():
    one, other = sae(0), sae(0)
    with torch.no_grad():
        one.sae.W_dec[:32] = 0
    found = matches(one, other)
    assert found.share_over(0.9) == 1 and found.to_dict()["n"] == 32
    assert sum(found.histogram()["counts"]) == 32


def test_what_cannot_be_compared():
    with pytest.raises(ShapeError, match="16 and 8"):
        matches(sae(0), sae(1, d_in=8))
    with pytest.raises(ConfigError, match="two models"):
        matches(sae(0), sae(1, name="other"))
    unknown = sae(1)
    card = dataclasses.replace(unknown.card, model={**unknown.card.model, "name": "unknown"})
    assert matches(sae(0), dataclasses.replace(unknown, card=card)).to_dict()
