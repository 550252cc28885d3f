import math
from collections import Counter

import pytest
import torch

from saekit.analysis.cofiring import Cofiring, by_token
from saekit.analysis.firing import Firing
from saekit.core.errors import ConfigError
from tests.analysis.running_text import random_text, store


@pytest.mark.parametrize("shard_tokens", [16, 100, 10**6])
@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_counts_positions_documents_and_triggers(tmp_path, shard_tokens, threshold):
    acts, docs, kept = random_text()
    made = store(tmp_path, acts, docs, kept=kept, shard_tokens=shard_tokens)
    table = Firing(threshold=threshold, min_count=1).run(made).columns
    tokens = torch.arange(600) % 50
    for latent in range(5):
        on = acts[:, latent] > threshold
        assert table["count"][latent] == int(on.sum())
        assert table["n_docs"][latent] == len(docs[on].unique())
        if not on.any():
            assert math.isnan(table["mean_pos"][latent])
            continue
        pos = (torch.arange(600) % 15 + 1)[on].double()
        assert table["mean_pos"][latent] == pytest.approx(float(pos.mean()))
        assert table["std_pos"][latent] == pytest.approx(float(pos.std(correction=0)))
        found = Counter(tokens[on].tolist())
        best = sorted(found.items(), key=lambda e: (-e[1], e[0]))[:5]
        assert table["top_tokens"][latent] == " ".join(f"{t}:{c}" for t, c in best)
        assert table["n_trigger_tokens"][latent] == len(found)
        p = torch.tensor(list(found.values())).double() / int(on.sum())
        assert table["trigger_bits"][latent] == pytest.approx(float(-(p * p.log2()).sum()))
    assert table["density"][4] == int((acts[:, 4] > threshold).sum()) / int(kept.sum())


@pytest.mark.parametrize("shard_tokens", [16, 10**6])
def test_cofiring_equals_the_dense_computation(tmp_path, shard_tokens):
    acts, docs, kept = random_text()
    made = store(tmp_path, acts, docs, kept=kept, shard_tokens=shard_tokens)
    found = Cofiring(threshold=0.1).count(made)
    on = (acts[kept][:, found.latents] > 0.1).double()
    expected = torch.cov(on.T, correction=0)
    torch.testing.assert_close(found.covariance(), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(found.phi(), torch.corrcoef(on.T), atol=1e-12, rtol=1e-12)
    assert 0 not in found.latents.tolist()  # never on


def test_planted_partners_come_first(tmp_path):
    g = torch.Generator().manual_seed(0)
    acts = (torch.rand(600, 6, generator=g) < 0.2).float()
    acts[:, 4] = acts[:, 1]  # always together
    acts[:, 5] = acts[:, 2] * 0 + (acts[:, 2] == 0)  # never together
    made = store(tmp_path, acts, torch.zeros(600, dtype=torch.int64))
    table = Cofiring(pairs=2).run(made).columns
    assert set(zip(table["latent"], table["other"], strict=True)) == {(1, 4), (2, 5)}
    assert sorted(table["phi"]) == pytest.approx([-1.0, 1.0])


def test_token_conditional_covariance_is_another_thing(tmp_path):
    # Two latents on at the same token ids, never at the same token.
    tokens = torch.arange(600) % 3
    acts = torch.zeros(600, 2)
    first = (torch.arange(600) // 3) % 2 == 0
    acts[(tokens == 0) & first, 0] = 1.0
    acts[(tokens == 0) & ~first, 1] = 1.0
    made = store(tmp_path, acts, torch.zeros(600, dtype=torch.int64), tokens=tokens)
    fired = Firing().measure(made)
    latents = torch.tensor([0, 1])
    conditional = by_token(fired, latents)
    # N(a, v) = 100 at id 0 for both, N(v) = 200, T = 600.
    assert conditional[0, 1] == pytest.approx(100 * 100 / 200 / 600 - (100 / 600) ** 2)
    assert Cofiring().count(made).covariance()[0, 1] == pytest.approx(-((100 / 600) ** 2))


def test_refuses_what_it_cannot_do():
    with pytest.raises(ConfigError, match="threshold"):
        Firing(threshold=-1.0)
    with pytest.raises(ConfigError, match="most"):
        Cofiring(most=1)
