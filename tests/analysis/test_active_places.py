import pytest
import torch

from saekit.analysis.active_places import active_places
from saekit.core.errors import ConfigError
from tests.analysis.running_text import random_text, store


@pytest.mark.parametrize("shard_tokens", [16, 10**6])
def test_places_are_active_deep_enough_and_the_same_for_a_seed(tmp_path, shard_tokens):
    acts, docs, kept = random_text()
    made = store(tmp_path, acts, docs, kept=kept, shard_tokens=shard_tokens)
    got = active_places(made, [1, 4], 6, least_doc_pos=10, seed=3)
    assert got.latent.unique().tolist() == [1, 4]
    assert torch.bincount(got.latent).tolist() == [0, 6, 0, 0, 6]
    assert torch.equal(acts[got.place, got.latent], got.value) and (got.value > 0).all()
    for place, doc_pos in zip(got.place.tolist(), got.doc_pos.tolist(), strict=True):
        assert doc_pos >= 10
        begin = int((docs == docs[place]).nonzero()[0])
        assert place - begin == doc_pos
    again = active_places(made, [1, 4], 6, least_doc_pos=10, seed=3)
    other = active_places(made, [1, 4], 6, least_doc_pos=10, seed=4)
    assert torch.equal(got.place, again.place) and not torch.equal(got.place, other.place)


def test_every_active_place_is_equally_likely(tmp_path):
    acts = torch.zeros(60, 1)
    acts[::6, 0] = 1.0  # ten places
    made = store(tmp_path, acts, torch.zeros(60, dtype=torch.int64), n_ctx=15, bos=False)
    hits = torch.zeros(60)
    for seed in range(300):
        hits[active_places(made, [0], 3, seed=seed).place] += 1
    assert hits[::6].sum() == 900 and (hits[::6] - 90).abs().max() < 4 * (300 * 0.3 * 0.7) ** 0.5
    assert len(active_places(made, [0], 50).place) == 10
    with pytest.raises(ConfigError, match="`n`"):
        active_places(made, [0], 0)
