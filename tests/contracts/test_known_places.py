"""Dictionaries of which the answer is known take their places in every evaluation.

They stand at the embedding of a tiny model, where the truth is known: an activation is the
embedding of its token and nothing else. So the perfect dictionary has a latent for each token,
one of which is on. The identity has two latents an axis and loses nothing either, but no latent of
it is a token. Principal components keep the largest axes, k-means has a latent for some tokens,
random directions are what chance gives.
"""

import dataclasses

import pytest

from saekit.evals.base import Subject, registry
from saekit.models.tiny import tiny
from saekit.training.fitted.base import Acts
from saekit.training.fitted.base import registry as fits
from tests.evals.world import text, tools
from tests.studies.causal.world import Bytes, labelled
from tests.studies.causal.world import subject as of_bytes

SIZES = {  # latents, and how many are on
    "identity": (64, 32),
    "pca": (64, 8),
    "kmeans": (64, 1),
    "random": (64, 1),
}
N_ORDINARY, N_TOKENS = 256, 258  # bytes; BOS and EOS beside them
LEAST = 1e-5  # a rounding
PLACES = {}


def place(*names):
    """Say that a function knows the places in some evaluations."""

    def known(function):
        PLACES.update(dict.fromkeys(names, function))
        return function

    return known


@pytest.fixture(scope="module")
def subjects() -> dict[str, Subject]:
    lm = tiny()
    perfect = of_bytes(lm)
    tokens = text()
    acts = lm.read(tokens, [perfect.read])[perfect.read]
    x = acts[perfect.rule.keep(tokens, acts)].float()
    found = {}
    for name, (d_sae, k) in SIZES.items():
        method = fits.get(name)()
        cfg = method.sae(x.shape[1], d_sae, k)
        sae = method.fit(cfg, Acts(lambda: iter(x.split(200)), x.shape[1], len(x)), 0).sae
        found[name] = perfect._replace(sae=sae, name=name)
    return found | {"perfect": perfect._replace(sae=Bytes(lm), name="perfect")}


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Return the cheapest instance of each evaluation; texts of classes have marks in them."""
    two, four = (tmp_path_factory.mktemp(name) for name in ("two", "four"))
    marks = ["", "####", "%%%%", "&&&&"]
    sizes = {"n_train": 120, "n_test": 80, "folds": 2, "n_draws": 20}
    changes = {
        "probing": {"tasks": (labelled(two, ["#", "%"]),), "sparse": (1,)} | sizes,
        "tpp": {"tasks": (labelled(four, marks),), "latents": (1,), "n_train": 160} | sizes,
        "scr": {"pairs": (str(four / "planted.jsonl"),), "n_train": 32, "n_test": 16},
        "seed_stability": {"n_effects": 0},
    }
    return {
        name: dataclasses.replace(registry.get(name).example(), **changes.get(name, {}))
        for name in registry.names()
    }


@pytest.mark.parametrize("name", registry.names())
def test_each_takes_its_place(name, subjects, examples):
    assert name in PLACES, (
        f"`{name}` says nothing of identity, PCA, k-means, random directions and a perfect "
        f"dictionary: write their places in it into this file, with the reason."
    )
    example = examples[name]
    if example.joint:
        PLACES[name](subjects, example)
        return
    found = example.run_all(list(subjects.values()), tools())
    PLACES[name]({one: result.scores for one, result in zip(subjects, found, strict=True)})


def values(found, score):
    return {name: scores[score].value for name, scores in found.items()}


@place("core")
def _core(found):
    # What loses nothing has no error and changes no prediction.
    for one in ("identity", "perfect"):
        assert found[one]["fvu"].value < LEAST and abs(found[one]["ce_rise"].value) < LEAST
        assert found[one]["cosine"].value == pytest.approx(1)
        assert found[one]["kl"].value < LEAST
    # Eight of 32 axes keep some, k-means whole tokens, one random direction least of all.
    fvu = values(found, "fvu")
    assert min(fvu["pca"], fvu["kmeans"]) > LEAST and max(fvu["pca"], fvu["kmeans"]) < fvu["random"]
    assert found["random"]["kl"].value == max(values(found, "kl").values())
    # One latent a token is sparser than half of all signs.
    assert values(found, "l0") == pytest.approx(
        {"identity": 32, "pca": 8, "kmeans": 1, "random": 1, "perfect": 1}
    )


@place("cross_data")
def _cross_data(found):
    fvu = values(found, "own/fvu")  # core on each text
    assert max(fvu["identity"], fvu["perfect"]) < LEAST < fvu["kmeans"] < fvu["random"]
    assert abs(found["perfect"]["own/ce_rise"].value) < LEAST


@place("saebench_core")
def _saebench(found):
    explained = values(found, "explained_variance_legacy")
    assert explained["identity"] == pytest.approx(1) == explained["perfect"]
    assert explained["random"] < explained["kmeans"] < 1
    assert found["identity"]["ce_loss_score"].value == pytest.approx(1)
    assert values(found, "l0")["perfect"] == 1


@place("scr", "unlearning", "disentanglement", "steering")
def _interventions(found):
    # What loses nothing holds all that an intervention can move; others leave some in their error.
    scores = [name for name in found["perfect"] if name.endswith("reach")]
    known = [name for name in scores if found["perfect"][name].value is not None]
    assert known
    for score in known:
        reach = values(found, score)
        assert reach["perfect"] == pytest.approx(1, abs=1e-4) == reach["identity"], score
        assert max(reach["pca"], reach["kmeans"], reach["random"]) < 0.999, score
        assert min(reach, key=reach.__getitem__) in ("random", "kmeans"), score


@place("tpp")
def _tpp(found):
    _interventions(found)
    # Without its mark a text of a class is one without a mark: half of the balanced accuracy of
    # three of four probes, and the fourth takes them for its own (tests/studies/causal).
    tpp = values(found, "planted/tpp_1")
    assert tpp["perfect"] == pytest.approx(1 / 3, abs=0.05)
    # An axis or a direction by chance is in every token.
    assert max(tpp["identity"], tpp["pca"], tpp["random"]) < 0.2


@place("probing")
def _probing(found):
    for one in ("identity", "perfect"):  # the same activation, so the same probe
        assert found[one]["planted/recon_less_baseline"].value == 0
        assert found[one]["planted/sae_less_baseline"].value >= 0
    # The one latent of a mark tells the classes, and so does a cluster that has none of one mark.
    assert found["perfect"]["planted/sae_1_accuracy"].value == 1
    assert max(values(found, "planted/recon_less_baseline").values()) <= 0
    assert found["perfect"]["planted/majority_accuracy"].value < 0.7


@place("fake_features")
def _fake_features(found):
    # A token is in a sequence of 31 random ones with a chance of 11 %; its latent is fake where it
    # is in two of 20. What fires on everything is fake too, and dense on text: no excess.
    absent = (1 - 1 / N_ORDINARY) ** 31
    fake = 1 - absent**20 - 20 * (1 - absent) * absent**19
    fakes = values(found, "uniform_tokens/fake")
    assert fakes["perfect"] == pytest.approx(fake * N_ORDINARY / N_TOKENS, abs=0.1)
    assert fakes["identity"] == 1 == found["identity"]["text/dense"].value
    assert found["identity"]["uniform_tokens/excess"].value == 0


@place("absorption")
def _absorption(found):
    # The probe finds the same letters in what loses nothing.
    for one in ("identity", "perfect"):
        assert found[one]["recon_f1"].value == found[one]["probe_f1"].value
    assert found["random"]["recon_f1"].value < found["perfect"]["recon_f1"].value
    # Words of one repeated letter end in its token: its latent is the letter, and no other is.
    perfect, share = found["perfect"], values(found, "main_share")
    assert perfect["main_f1"].value == perfect["split_latents"].value == 1
    assert perfect["absorption_fraction"].value == perfect["full_absorption"].value == 0
    assert share["perfect"] == pytest.approx(1, abs=0.02)
    # An axis carries a part of a letter, and other axes the rest.
    assert max(share["identity"], share["pca"], share["random"]) < 0.5
    assert found["identity"]["absorption_fraction"].value > 0
    assert perfect["main_f1_shuffled"].value < 0.5


@place("meta_structure")
def _meta_structure(found):
    # Axes share nothing: a part of some is in no other, and their mean is the better guess.
    held_out = values(found, "explained_held_out")
    assert held_out["identity"] < 0 < min(held_out["random"], held_out["perfect"])
    # Embeddings of a random model are random directions: explained as far as these are.
    for one in ("random", "perfect"):
        floor = found[one]["explained_held_out_random"].value
        assert held_out[one] == pytest.approx(floor, abs=0.15), one


@place("seed_stability")
def _seed_stability(subjects, example):
    def shared(one, other):
        pair = [one._replace(name="a"), other._replace(name="b")]
        return example.run_together(pair, tools()).scores["shared_feature_ratio"].value

    # Anything agrees with itself; a token's direction is none of the random ones, nor an axis.
    for one in subjects.values():
        assert shared(one, one) == 1
    assert shared(subjects["perfect"], subjects["random"]) < 0.1
    assert shared(subjects["identity"], subjects["random"]) < 0.1
    # Clusters of tokens are tokens where a token fills one.
    assert shared(subjects["perfect"], subjects["kmeans"]) > 0.3
