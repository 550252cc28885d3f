import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.core.seeds import generator
from saekit.studies.truth.model.hierarchy import GivenHierarchy
from saekit.studies.truth.model.profiles import GivenProfile as Numbers
from saekit.studies.truth.model.sequence import Copy, Sequences
from tests.studies.truth.world import errors, fired, truth

N_CTX, N_SEQ = 16, 40_000
RATES, STAY = (0.3, 0.05, 0.6, 0.01), (0.9, 0.5, 0.0, 0.8)


@pytest.fixture(scope="module")
def on():
    law = Sequences(n_ctx=N_CTX, persistence=Numbers(entries=STAY))
    made = truth(RATES, sequence=law)
    return fired(made, N_SEQ * N_CTX).view(N_SEQ, N_CTX, 4).double()


def test_rates_hold_at_every_position(on):
    assert errors(on.mean(0), torch.tensor(RATES).expand(N_CTX, 4), N_SEQ).abs().max() < 4


@pytest.mark.parametrize("lag", [1, 2, 5])
def test_autocorrelation_is_a_power_of_persistence(on, lag):
    p = torch.tensor(RATES).double()
    both = (on[:, lag:] * on[:, :-lag]).mean(1)  # [n_seq, 4]: independent over sequences
    found = (both.mean(0) - p * p) / (p * (1 - p))
    error = both.std(0) / N_SEQ**0.5 / (p * (1 - p))
    assert ((found - torch.tensor(STAY).double() ** lag) / error).abs().max() < 4


def test_features_and_sequences_are_independent_of_each_other(on):
    mean = on.mean(1)  # [n_seq, 4]
    corr = torch.corrcoef(mean.T) - torch.eye(4)
    assert corr.abs().max() < 4 / N_SEQ**0.5
    assert torch.corrcoef(torch.stack([on[:-1, -1, 0], on[1:, 0, 0]]))[0, 1].abs() < 0.02


def test_copies_have_the_influence_asked_for_and_keep_rates():
    law = Sequences(
        n_ctx=N_CTX,
        persistence=0.4,
        copies=(
            Copy(feature=0, source=1, lag=3, strength=0.8),
            Copy(feature=2, source=0, lag=1, strength=0.5),
        ),
    )
    rates = torch.tensor([0.3, 0.2, 0.4]).double()
    on = fired(truth(rates.tolist(), sequence=law), N_SEQ * N_CTX).view(N_SEQ, N_CTX, 3).double()
    assert errors(on.mean(0), rates.expand(N_CTX, 3), N_SEQ).abs().max() < 4
    for feature, source, lag, strength in ((0, 1, 3, 0.8), (2, 0, 1, 0.5)):
        later, before = on[:, lag:, feature], on[:, :-lag, source]
        base = 1 - (1 - rates[feature]) / (1 - strength * rates[source])
        given = (later * before).sum() / before.sum()
        without = (later * (1 - before)).sum() / (1 - before).sum()
        assert given.item() == pytest.approx(1 - (1 - base.item()) * (1 - strength), abs=0.005)
        assert without.item() == pytest.approx(base.item(), abs=0.005)


def test_random_copies_are_known_and_keep_rates():
    rates = torch.linspace(0.3, 0.05, 10).tolist()
    made = truth(rates, sequence=Sequences(n_ctx=N_CTX, random_copies=6, strength=0.7))
    copies = made.tensors["copies"]
    assert len(copies) == 6 and copies[:, 2].min() >= 1 and copies[:, 2].max() <= 8
    on = fired(made, N_SEQ * N_CTX).double()
    assert errors(on.view(N_SEQ, N_CTX, 10)[:, 9].mean(0), rates, N_SEQ).abs().max() < 4


def test_sequences_with_a_hierarchy_keep_both():
    tree = GivenHierarchy(edges=((0, 1), (0, 2)), exclusive=(0,), compensate="exact")
    rates = [0.5, 0.2, 0.2, 0.1]
    made = truth(rates, sequence=Sequences(n_ctx=N_CTX, persistence=0.7), hierarchy=tree)
    on = fired(made, N_SEQ * N_CTX).view(N_SEQ, N_CTX, 4)
    assert not (on[..., 1:3] & ~on[..., :1]).any() and not (on[..., 1] & on[..., 2]).any()
    assert errors(on[:, 7].double().mean(0), rates, N_SEQ).abs().max() < 4


def test_samples_are_whole_sequences():
    made = truth(RATES, sequence=Sequences(n_ctx=N_CTX))
    x, acts = made.sample(3 * N_CTX, generator(0))
    assert acts.batch == (3, N_CTX) and len(x) == 48 and acts.dense().shape == (3, N_CTX, 4)
    with pytest.raises(ConfigError, match="whole sequences of `n_ctx`=16; got 10"):
        made.sample(10, generator(0))
    with pytest.raises(ConfigError, match="`batch_tokens` must be a multiple of `n_ctx`=16"):
        made.stream(tokens=160, batch_tokens=10, seed=0)
