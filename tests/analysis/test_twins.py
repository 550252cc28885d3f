"""Twins: best matches against a direct computation, files, and which SAEs are compared."""

import csv
import dataclasses
import json

import pytest
import torch

from saekit.analysis.siblings import siblings
from saekit.analysis.twins import best_matches, twins
from saekit.cli.main import main
from saekit.core.errors import ConfigError, ShapeError
from saekit.hub.native import load
from saekit.models.tiny import tiny
from saekit.saes.topk import TopK
from saekit.training.sweep_loop import sweep_runs
from tests import world

SIZES = {"d_in": 32, "d_out": 32, "d_sae": 64}


def random(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk", [1, 64, 2**24])
def test_best_matches_are_those_of_the_whole_matrix_of_cosines(monkeypatch, chunk):
    monkeypatch.setattr("saekit.metrics.nearest.CHUNK", chunk)
    one, other = random(30, 8, 0), random(20, 8, 1)
    one[3], other[5] = 0, 0
    found = best_matches(one, other)
    unit = [torch.nn.functional.normalize(t, dim=1) for t in (one, other)]
    cosine = unit[0] @ unit[1].T
    top = cosine.topk(2, dim=1)
    torch.testing.assert_close(found.cosine, top.values[:, 0])
    torch.testing.assert_close(found.second, top.values[:, 1])
    rows = torch.arange(30)
    torch.testing.assert_close(cosine[rows, found.latent], top.values[:, 0])
    mutual = cosine.argmax(0)[found.latent] == rows
    assert found.mutual.tolist() == mutual.tolist()
    assert 0 < int(mutual.sum()) < 30


def test_a_shuffled_copy_is_matched_whole_and_the_opposite_is_no_match():
    one, order = random(40, 16, 0), torch.randperm(40, generator=torch.Generator().manual_seed(2))
    found = best_matches(one, 3 * one[order])
    assert (order[found.latent] == torch.arange(40)).all()
    assert found.mutual.all() and (found.cosine > 0.9999).all()
    assert (best_matches(one, -one).cosine < 0.99).all()
    assert best_matches(one, one[:1]).second.isnan().all()


def test_widths_must_agree():
    with pytest.raises(ShapeError, match="are 8 wide and those of the other SAE 9"):
        best_matches(random(3, 8, 0), random(3, 9, 0))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    base = tmp_path_factory.mktemp("seeds")
    plain = world.run(base, tokens=3000)
    wide = dataclasses.replace(plain, sae=TopK(**SIZES | {"d_sae": 48}, k=4))
    seeds = {f"seed{i}": dataclasses.replace(plain, seed=i) for i in range(3)}
    sweep_runs(seeds | {"wide": wide}, tiny(), base / "sweep", shown=False)
    return base / "sweep"


def test_siblings_have_the_same_site_and_width(swept, tmp_path):
    assert [p.name for p in siblings(swept / "seed1")] == ["seed0", "seed2"]
    assert siblings(swept / "wide") == []
    assert siblings(tmp_path) == []


def test_the_command_writes_a_row_a_latent_and_one_for_each_pair(swept, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["twins", str(swept / "seed0"), "--json"])
    assert ended.value.code == 0
    said = json.loads(capsys.readouterr().out)
    with (swept / "seed0" / "analysis" / "twins.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["latent"]) for row in rows] == list(range(64))
    mine, *others = (load(swept / f"seed{i}").directions for i in range(3))
    unit = [torch.nn.functional.normalize(d, dim=1) for d in (mine, *others)]
    best = torch.stack([(unit[0] @ other.T).amax(1) for other in unit[1:]])
    stable = torch.tensor([float(row["stable"]) for row in rows])
    torch.testing.assert_close(stable, best.mean(0), atol=1e-5, rtol=0)
    least = torch.tensor([float(row["stable_least"]) for row in rows])
    torch.testing.assert_close(least, best.amin(0), atol=1e-5, rtol=0)
    assert said["others"] == ["seed1", "seed2"] and 0 < said["chance"] < 1
    assert said["stable_mean"] == pytest.approx(float(stable.mean()), abs=1e-5)
    with (swept / "seed0" / "analysis" / "twin_matches.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 128


def test_others_can_be_named_and_none_is_refused(swept, tmp_path):
    found = twins(swept / "seed0", [swept / "wide"])
    assert list(found.matches) == ["wide"] and len(found.stable) == 64
    lone = load(swept / "wide").save(tmp_path / "lone")
    with pytest.raises(ConfigError, match="saekit twins RUN OTHER"):
        twins(lone)
    with pytest.raises(ConfigError, match="named twice"):
        twins(swept / "seed0", [swept / "seed1", swept / "seed1"])
