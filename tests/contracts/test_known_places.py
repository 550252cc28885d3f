"""Dictionaries of which the answer is known take their places in every evaluation.

They stand at the embedding of a tiny model, where the truth is known: an activation is the
embedding of its token and nothing else. So the perfect dictionary has a latent for each token,
one of which is on. The identity has two latents an axis and loses nothing either, but no latent of
it is a token. Principal components keep the largest axes, k-means has a latent for some tokens,
random directions are what chance gives.
"""

import pytest

from saekit.evals.base import Eval, Subject, registry
from saekit.models.tiny import tiny
from saekit.training.fitted.base import Acts
from saekit.training.fitted.base import registry as fits
from tests.evals.world import text, tools
from tests.studies.causal.world import Bytes
from tests.studies.causal.world import subject as of_bytes

SIZES = {  # latents, and how many are on
    "identity": (64, 32), "pca": (64, 8), "kmeans": (64, 1), "random": (64, 1)
}  # fmt: skip
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
def measured(subjects):
    """Return a way to the scores of each dictionary: all are measured together."""

    def scores_of(name):
        found = registry.get(name).example().run_all(list(subjects.values()), tools())
        return {one: result.scores for one, result in zip(subjects, found, strict=True)}

    return scores_of


@pytest.mark.parametrize("name", registry.names())
def test_each_takes_its_place(name, subjects, measured):
    assert name in PLACES, (
        f"`{name}` says nothing of identity, PCA, k-means, random directions and a perfect "
        f"dictionary: write their places in it into this file, with the reason."
    )
    if issubclass(registry.get(name), Eval) and registry.get(name).joint:
        PLACES[name](subjects)
    else:
        PLACES[name](measured(name))


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


@place("tpp", "scr", "unlearning", "disentanglement", "steering")
def _interventions(found):
    # What loses nothing holds all that an intervention can move; others leave some in their error.
    for score in (name for name in found["perfect"] if name.endswith("reach")):
        reach = values(found, score)
        if reach["perfect"] is None:
            continue
        assert reach["perfect"] == pytest.approx(1, abs=1e-4), score
        assert reach["identity"] == pytest.approx(1, abs=1e-4), score
        assert max(reach["pca"], reach["kmeans"], reach["random"]) < 0.999, score
        assert reach["random"] == min(reach.values()), score


@place("probing")
def _probing(found):
    names = [name for name in found["perfect"] if name.endswith("recon_less_baseline")]
    assert names
    for name in names:  # the same activation, so the same probe
        assert found["identity"][name].value == found["perfect"][name].value == 0
        assert found["random"][name].value < 0
    accuracy = values(found, "code_or_prose/sae_accuracy")
    majority = found["random"]["code_or_prose/majority_accuracy"].value
    # Code has brackets and prose has none: how often each token comes tells them apart.
    assert majority < accuracy["random"] < accuracy["perfect"] and accuracy["perfect"] > 0.9


@place("fake_features")
def _fake_features(found):
    # A sequence of 31 random tokens has a given one in 1 - (1 - 1 / 256)^31 = 11 % of cases: every
    # latent of a token fires on noise, and so does whatever fires on everything.
    fake = values(found, "uniform_tokens/fake")
    assert fake["perfect"] == pytest.approx(N_ORDINARY / N_TOKENS, abs=0.15)
    assert fake["identity"] > 0.95
    # What fires on everything fires on text too, so that none of it is noise alone.
    assert found["identity"]["uniform_tokens/excess"].value < 0.05


@place("absorption")
def _absorption(found):
    # The probe finds the same letters in what loses nothing.
    for one in ("identity", "perfect"):
        assert found[one]["recon_f1"].value == found[one]["probe_f1"].value
    assert found["random"]["recon_f1"].value < found["perfect"]["recon_f1"].value
    # Words of one repeated letter end in its token: its latent is the letter, and no other is.
    perfect = found["perfect"]
    assert perfect["main_f1"].value == perfect["split_latents"].value == 1
    assert perfect["absorption_fraction"].value == perfect["full_absorption"].value == 0
    assert perfect["main_share"].value == pytest.approx(1, abs=0.05)
    assert perfect["main_f1_shuffled"].value < 0.5
    assert values(found, "main_f1")["identity"] < 1


@place("meta_structure")
def _meta_structure(found):
    # Axes share nothing, and neither do random directions: no part of one is in another.
    for one in ("identity", "random", "perfect"):
        assert abs(found[one]["above_rotated"].value) < 0.2, one
    # The random directions are the same ones' floor.
    own, floor = found["random"]["explained_held_out"], found["random"]["explained_held_out_random"]
    assert own.value == pytest.approx(floor.value, abs=0.2)


@place("seed_stability")
def _seed_stability(subjects):
    example = registry.get("seed_stability").example()

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
