"""TPP and SCR: planted latents give what arithmetic says, shuffled labels chance."""

import dataclasses
import json

import pytest
import torch

from saekit.core.errors import ConfigError, DataError
from saekit.models.tiny import tiny
from saekit.studies.causal import dictionaries
from saekit.studies.causal.dictionaries import Dictionary
from saekit.studies.causal.evals.scr import SCR
from saekit.studies.causal.evals.tpp import TPP
from saekit.studies.causal.figures import curves
from saekit.studies.faithful.probing import logistic
from saekit.studies.faithful.probing.logistic import Linear
from tests.evals.world import random_topk
from tests.evals.world import subject as ordinary
from tests.studies.causal.world import labelled, subject
from tests.studies.faithful.world import tools

THREE = ["", "####", "%%%%", "&&&&"]  # marks of each class; one has none


def tpp(path, **changes):
    settings = {"latents": (1,), "n_train": 200, "n_test": 200, "folds": 2, "n_draws": 50}
    return TPP(tasks=(path,), n_random=1, **(settings | changes)).run(subject(), tools())


def test_a_planted_latent_of_a_class_costs_its_own_probe_what_arithmetic_says(tmp_path):
    result = tpp(labelled(tmp_path, THREE))
    details = result.details["tasks"]["planted"]
    assert min(details["accuracy"]) == 1
    firsts = [details["latents"][str(i)][0] for i in (1, 2, 3)]
    assert firsts == [ord(m) for m in "#%&"]
    # Without its mark a text of a class is one without a mark: its own probe misses every one, and
    # the probe of texts without a mark takes them for its own.
    after = torch.tensor(details["accuracy_without"]["1"])
    fell = 1 - after
    assert fell.diagonal()[1:].tolist() == pytest.approx([0.5] * 3)
    assert fell[1:, 0].sum().item() == pytest.approx(0.5, abs=0.15)  # letters differ too
    own = fell.diagonal()
    wanted = (own - (fell.sum(1) - own) / 3).mean()
    assert result.scores["planted/tpp_1"].value == pytest.approx(wanted.item(), abs=1e-6)
    assert result.scores["planted/tpp_1"].value == pytest.approx(1 / 3, abs=0.03)
    assert result.scores["planted/random_tpp_1"].value < 0.1
    assert result.scores["planted/reach"].value == pytest.approx(1)


def test_shuffled_labels_give_nothing_and_two_classes_are_undefined(tmp_path):
    score = tpp(labelled(tmp_path, THREE, shuffled=True)).scores["planted/tpp_1"]
    assert abs(score.value) < 0.1
    score = tpp(labelled(tmp_path, ["", "####"])).scores["planted/tpp_1"]
    assert score.value is None and "fall alike" in score.reason


def test_latents_taken_out_are_taken_out_of_the_activation():
    chance = torch.Generator().manual_seed(0)
    codes, directions = torch.rand(5, 6, generator=chance), torch.randn(6, 4, generator=chance)
    x, chosen = torch.randn(5, 4, generator=chance), torch.tensor([4, 1, 2])
    probes = [Linear(torch.randn(4, generator=chance).double(), 0.3, 1.0, True) for _ in range(2)]
    found = dictionaries.without(probes, x, Dictionary(codes, directions), chosen, (2,))[2]
    left = x - codes[:, [4, 1]] @ directions[[4, 1]]
    for i, probe in enumerate(probes):
        assert torch.allclose(found[:, i], probe.logits(left), atol=1e-6)


def test_a_linear_probe_says_what_scikit_learn_says_of_standardised_columns():
    from sklearn.linear_model import LogisticRegression

    chance = torch.Generator().manual_seed(1)
    x = torch.randn(90, 6, generator=chance) * torch.tensor([1.0, 9, 0.1, 1, 1, 1]) + 5
    x[:, 5] = 2.0
    side = (x[:, 0] - 5 + 0.5 * torch.randn(90, generator=chance)) > 0.6
    found = logistic.linear(x, side, folds=3, seed=0)
    scaled = (x - x.mean(0)) / x.std(0, correction=0).where(x.std(0) > 0, torch.tensor(1.0))
    wanted = LogisticRegression(C=found.c, class_weight="balanced", tol=1e-6).fit(
        scaled.numpy(), side.numpy()
    )
    logits = torch.from_numpy(wanted.decision_function(scaled.numpy())).double()
    assert torch.allclose(found.logits(x), logits, atol=0.02)
    with pytest.raises(DataError, match="One side of a probe has 1"):
        logistic.linear(x, torch.arange(90) == 0, folds=2, seed=0)


def test_random_latents_are_of_like_frequency_and_never_the_chosen():
    frequency = torch.linspace(0, 1, 201)
    chosen = torch.tensor([20, 100, 199])
    found = dictionaries.alike(frequency, chosen, torch.Generator().manual_seed(0))
    assert len(found.unique()) == 3 and not torch.isin(found, chosen).any()
    assert (frequency[found] - frequency[chosen]).abs().max() <= 17 / 200
    silent = dictionaries.alike(torch.tensor([0.5, 0.0]), torch.tensor([0]), torch.Generator())
    assert not len(silent)


# The first attribute is a sign that comes twice, the second one that comes eight times.
CELLS = ["##" + "&" * 8, "##" + "@" * 8, "%%" + "&" * 8, "%%" + "@" * 8]


def scr(path, **changes):
    settings = {"latents": (2,), "n_train": 80, "n_test": 80, "folds": 2, "n_draws": 50}
    lm = tiny()
    embedding = lm.module.get_input_embeddings().weight.data
    # The two sides of an attribute lie opposite each other, on half of the axes each.
    for (one, other), axes in {"#%": slice(16), "&@": slice(16, None)}.items():
        embedding[ord(one), axes] = 0
        embedding[ord(other)] = -embedding[ord(one)]
    return SCR(pairs=(path,), seeds=3, **(settings | changes)).run(subject(lm), tools())


def test_taking_out_both_signs_of_the_spurious_attribute_removes_the_whole_bias(tmp_path):
    result = scr(labelled(tmp_path, CELLS, n=480, length=36))
    pair = result.details["pairs"]["planted"]["first"]
    assert all(set(latents[:2]) == {ord("&"), ord("@")} for latents in pair["latents"])
    assert max(pair["accuracy_biased"]) < 0.7 and min(pair["accuracy_clean"]) > 0.9
    biased, clean = (sum(pair[f"accuracy_{k}"]) / 3 for k in ("biased", "clean"))
    score = result.scores["planted/first_scr_2"]
    assert score.value > 0.9 and score.value <= (1 - biased) / (clean - biased) + 1e-9
    assert abs(result.scores["planted/first_random_scr_2"].value) < 0.2
    assert result.scores["planted/first_scr_2_reseed"].value < 0.2
    # The other way round the wanted sign is so strong that there is no bias to remove.
    other = result.scores["planted/second_scr_2"]
    assert other.value is None and "no bias to remove" in other.reason
    assert result.scores["planted/second_scr_2_reseed"].value is None
    curves.draw({"bytes": [result]}, tmp_path / "curves.svg")  # of the first alone
    assert "second" in (tmp_path / "curves.csv").read_text()
    undefined = dataclasses.replace(result, scores={"planted/second_scr_2": other})
    with pytest.raises(DataError, match="nothing to draw"):
        curves.draw({"bytes": [undefined]}, tmp_path / "none.svg")


def test_what_is_no_pair_or_no_autoencoder_is_refused(tmp_path):
    with pytest.raises(DataError, match="Two attributes are A\\+B"):
        scr(labelled(tmp_path, ["", "#", "%"]))
    two = [labelled(tmp_path, ["", "#"]), str(tmp_path / "other.jsonl")]
    (tmp_path / "other.jsonl").write_text((tmp_path / "planted.jsonl").read_text())
    cells = scr("+".join(two)).details["pairs"]["planted+other"]
    assert cells["first"]["wanted"] == "0/1" and cells["second"]["wanted"] == "planted/other"
    with pytest.raises(ConfigError, match="names that differ"):
        TPP(tasks=("ag_news", "ag_news"))
    one = ordinary(random_topk())
    with pytest.raises(ConfigError, match="predict the activation that they read"):
        TPP.example().run(one._replace(write=one.read._replace(layer=1)), tools())
    assert TPP().cautions(one) and not TPP(latents=(2,)).cautions(one)


def test_curves_hold_every_number(tmp_path):
    results = {"bytes": [tpp(labelled(tmp_path, THREE), latents=(1, 3))]}
    table = curves.table(results)
    assert len(table) == 2 * 4 and set(table.columns["of"]) == {"sae", "random", "untrained", "pca"}
    curves.draw(results, tmp_path / "curves.svg")
    assert (tmp_path / "curves.csv").read_text().count("planted") == 8
    assert json.dumps(results["bytes"][0].details)
