import json

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.core.seeds import generator
from saekit.studies.truth.model import (
    correlation,
    dictionaries,
    firing,
    hierarchy,
    layers,
    profiles,
)
from saekit.studies.truth.model import magnitudes as sizes
from saekit.studies.truth.model.base import TruthConfig
from saekit.studies.truth.model.presets import preset
from saekit.studies.truth.model.sequence import Copy, Sequences
from tests.studies.truth.world import errors, fired, truth

FULL = TruthConfig(
    n_features=40,
    d_model=8,
    firing=firing.Zipf(highest=0.3, lowest=0.02),
    noise=0.1,
    bias=2.0,
    magnitudes=sizes.LogNormal(mean=profiles.Linear(start=2, end=1), std=0.5),
    correlation=correlation.LowRank(rank=3, scale=0.3),
    layers=layers.Spans(count=3, longest=2),
    hierarchy=hierarchy.Grown(roots=4, branching=2, depth=2, exclusive_share=0.5, scaled=True),
)
IN_TURN = TruthConfig(
    n_features=12, d_model=4, sequence=Sequences(n_ctx=8, persistence=0.5, random_copies=3)
)


@pytest.mark.parametrize("cfg", [FULL, IN_TURN, preset("synth_sae_bench_16k")])
def test_config_goes_through_json(cfg):
    assert TruthConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


@pytest.mark.parametrize("n", [1, 7, 20_000])
def test_rows_and_features_of_codes_are_ordered_and_distinct(n):
    acts = FULL.build().sample(n, generator(3)).acts
    keys = acts.rows() * 40 + acts.latents
    assert (keys.diff() > 0).all() and acts.n_rows == n and (acts.values > 0).all()


def test_x_is_what_true_activations_add_up_to():
    made = TruthConfig(n_features=30, d_model=8, bias=1.5).build()
    x, acts = made.sample(500, generator(0))
    torch.testing.assert_close(x, acts.dense() @ made.features + made.bias)
    torch.testing.assert_close(made.decode(acts), x)
    assert made.bias.norm().item() == pytest.approx(1.5)
    torch.testing.assert_close(made.features.norm(dim=-1), torch.ones(30))


def test_x_of_a_layer_has_the_features_of_that_layer():
    made = TruthConfig(n_features=30, d_model=8, layers=layers.Bumps(count=3)).build()
    x, acts = made.sample(100, generator(0))
    assert x.shape == (100, 3, 8)
    for i in range(3):
        torch.testing.assert_close(x[:, i], (acts.dense() * made.layers[:, i]) @ made.features)


def test_noise_has_the_spread_asked_for():
    made = TruthConfig(n_features=3, d_model=8, noise=0.5).build()
    x, acts = made.sample(50_000, generator(0))
    assert (x - made.decode(acts)).std().item() == pytest.approx(0.5, rel=0.01)


def test_independent_rates_and_pairs_are_those_asked_for():
    rates = [0.95, 0.5, 0.1, 0.01, 0.001]
    on = fired(truth(rates), 1_000_000).double()
    assert errors(on.mean(0), rates, 1e6).abs().max() < 4
    wanted = torch.tensor(rates).double()
    together = (on.T @ on / 1e6)[*torch.triu_indices(5, 5, 1)]
    both = torch.outer(wanted, wanted)[*torch.triu_indices(5, 5, 1)]
    assert errors(together, both, 1e6).abs().max() < 4


@pytest.mark.parametrize(
    "law",
    [
        sizes.Constant(mean=2.0),
        sizes.HalfNormal(std=1.5),
        sizes.FoldedNormal(mean=0.7, std=1.0),
        sizes.ReluNormal(mean=0.8, std=1.0),
        sizes.LogNormal(mean=2.0, std=1.5),
    ],
    ids=lambda law: law.name,
)
def test_magnitudes_have_the_averages_they_state(law):
    made = truth([0.5], magnitudes=law)
    values = made.sample(400_000, generator(1)).acts.dense()[:, 0].double()
    average, positive = law.averages(made.tensors["mean"], made.tensors["std"])
    assert values.mean().item() == pytest.approx(0.5 * average.item(), rel=0.01)
    assert (values > 0).double().mean().item() == pytest.approx(0.5 * positive.item(), rel=0.01)
    assert made.rates.item() == pytest.approx(0.5 * positive.item())


def test_log_normal_has_its_own_mean_and_spread():
    law = sizes.LogNormal(mean=2.0, std=1.5)
    two, spread = torch.full((10**6,), 2.0).double(), torch.full((10**6,), 1.5).double()
    values = law.draw(two, spread, generator(0)).double()
    assert values.mean().item() == pytest.approx(2.0, rel=0.01)
    assert values.std().item() == pytest.approx(1.5, rel=0.03)


def test_profiles_and_rates_have_their_ends():
    chance = torch.Generator()
    zipf = firing.Zipf(exponent=1.0, highest=0.3, lowest=0.01).probabilities(3, chance)
    middle = 0.01 + 0.29 * (1 / 2 - 1 / 3) / (1 - 1 / 3)
    torch.testing.assert_close(zipf, torch.tensor([0.3, middle, 0.01]).double())
    assert firing.Zipf().probabilities(1, chance).tolist() == [0.3]
    steep = profiles.Exponential(start=8, end=2).values(3, chance)
    torch.testing.assert_close(steep, torch.tensor([8.0, 4.0, 2.0]).double())
    folded = profiles.FoldedNormal(mean=1, std=2, low=0.5, high=1.5).values(1000, chance)
    assert folded.min() == 0.5 and folded.max() == 1.5


BAD = [
    (dict(n_features=0), "`n_features` must be at least 1; got 0"),
    (dict(d_model=0), "`d_model` must be at least 1; got 0"),
    (dict(noise=-1.0), "`noise`"),
    (dict(firing={"name": "given", "rates": [0.5, 1.5, 0.5]}), r"`rates\[1\]`.*got 1.5"),
    (dict(firing={"name": "given", "rates": [0.5, 0.5]}), "`rates` needs one entry a feature, 3"),
    (dict(firing={"name": "zipf", "highest": 1.5}), "`highest`.*got 1.5"),
    (dict(firing={"name": "constant", "rate": 0}), "`rate`.*got 0"),
    (dict(dictionary={"name": "orthogonal"}, d_model=2), "at most `d_model`=2.*`n_features`=3"),
    (dict(dictionary={"name": "given", "rows": [[1, 0], [0, 1], [1]]}, d_model=2), r"`rows\[2\]`"),
    (
        dict(dictionary={"name": "given", "rows": [[1, 0], [0, 1], [0, 0]]}, d_model=2),
        r"`features\[2\]` must be finite and not zero",
    ),
    (dict(dictionary={"name": "given"}), "no `rows`"),
    (dict(magnitudes={"name": "constant", "mean": -1.0}), "`mean`.*got -1"),
    (
        dict(magnitudes={"name": "constant", "mean": {"name": "linear", "start": -1, "end": 1}}),
        r"`mean\[0\]`.*got -1",
    ),
    (dict(magnitudes={"name": "log_normal", "mean": 0.0}), "`mean` must be above 0"),
    (
        dict(magnitudes={"name": "log_normal", "mean": {"name": "linear", "start": 0, "end": 1}}),
        r"`mean\[0\]`",
    ),
    (
        dict(correlation={"name": "given", "matrix": [[1, 0], [0]]}),
        r"`matrix` must be square.*\[1\]",
    ),
    (
        dict(correlation={"name": "given", "matrix": [[1, 0], [0, 0.5]]}),
        r"`matrix\[1\]\[1\]` must be 1",
    ),
    (dict(correlation={"name": "given", "matrix": [[1, 0.5], [0.4, 1]]}), "symmetric"),
    (dict(correlation={"name": "given", "matrix": [[1, 0], [0, 1]]}), "`matrix` needs one entry"),
    (
        dict(correlation={"name": "pairs", "pairs": [{"a": 0, "b": 7, "correlation": 0.1}]}),
        r"`pairs\[0\].b`.*got 7",
    ),
    (
        dict(correlation={"name": "pairs", "pairs": [{"a": 0, "b": 1, "correlation": 2.0}]}),
        "got 2.0",
    ),
    (dict(hierarchy={"name": "given", "edges": [[5, 0]]}), r"`edges\[0\]`: parent 5 is missing"),
    (dict(hierarchy={"name": "given", "edges": [[0, 5]]}), r"`edges\[0\]`: child 5 is missing"),
    (dict(hierarchy={"name": "given", "edges": [[0, 1], [1, 2], [2, 0]]}), "above itself: "),
    (
        dict(hierarchy={"name": "given", "edges": [[0, 2], [1, 2]]}),
        "feature 2 has two parents, 0 and 1",
    ),
    (dict(hierarchy={"name": "grown", "roots": 9}), "`roots`.*got 9"),
    (dict(sequence={"n_ctx": 1}), "`n_ctx`"),
    (dict(sequence={"n_ctx": 8, "persistence": 1.0}), "`persistence`.*got 1.0"),
    (
        dict(sequence={"n_ctx": 8, "copies": [{"feature": 0, "source": 1, "lag": 8}]}),
        r"`copies\[0\].lag`",
    ),
    (
        dict(sequence={"n_ctx": 8, "copies": [{"feature": 0, "source": 9}]}),
        r"`copies\[0\].source`.*got 9",
    ),
    (dict(sequence={"n_ctx": 8}, correlation={"name": "low_rank"}), "exclude each other"),
    (dict(layers={"name": "spans", "count": 2, "shortest": 3}), "`shortest`"),
    (dict(layers={"name": "given", "rows": [[1.0], [1.0, 2.0]]}), r"`rows\[1\]`"),
]


@pytest.mark.parametrize(("fields", "words"), BAD)
def test_bad_input_is_named(fields, words):
    with pytest.raises(ConfigError, match=words):
        TruthConfig.from_dict({"n_features": 3, "d_model": 4} | fields).build()


def test_given_directions_come_as_a_tensor_too():
    cfg = TruthConfig(n_features=3, d_model=2, dictionary=dictionaries.GivenDirections())
    made = cfg.build(features=torch.tensor([[3.0, 4.0], [0.0, 1.0], [1.0, 0.0]]))
    torch.testing.assert_close(made.features[0], torch.tensor([0.6, 0.8]))
    with pytest.raises(ConfigError, match=r"\[3, 2\].*\[2, 2\]"):
        cfg.build(features=torch.eye(2))
    with pytest.raises(ConfigError, match="got them with `random`"):
        TruthConfig(n_features=3, d_model=2).build(features=torch.ones(3, 2))


def test_copies_that_cannot_be_are_named():
    def sequences(*copies):
        return Sequences(n_ctx=8, copies=copies)

    for copies, words in (
        ((Copy(feature=0, source=1, strength=0.9),), "copies alone would be 0.45"),
        ((Copy(feature=1, source=0), Copy(feature=1, source=2)), "repeats two features, 0 and 2"),
        (
            (Copy(feature=1, source=2, strength=0.1), Copy(feature=2, source=1, strength=0.1)),
            "repeats itself",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            truth([0.3, 0.5, 0.5], sequence=sequences(*copies))
