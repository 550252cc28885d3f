"""Ways of taking influence: which agree, what is told, the exit code where exact ones do not."""

import json
from pathlib import Path

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.core.result import Result
from saekit.data.corpora.files import Files
from saekit.models.sites import Site
from saekit.models.tiny import save_tiny
from saekit.studies.locality.influence import by_vjp, method_check
from saekit.studies.locality.influence.base import METHODS
from saekit.studies.locality.influence.method_check import MethodCheck, run
from saekit.studies.locality.runs.subjects import LoadedSAE, Subject
from tests import world
from tests.studies.locality import foreign
from tests.studies.locality.test_runs import call
from tests.studies.locality.world import Mixing, sae_of


def config(folder: Path, **changes):
    corpus = Files(paths=(str(world.text_file(folder)),), test_share=0.5, validation_share=0.0)
    return MethodCheck(corpus=corpus, **({"n_ctx": 10, "windows": 8, "latents": 4} | changes))


def subject(sae):
    return [Subject(Site(0, "resid_post"), "planted", lambda: LoadedSAE(sae))]


def test_on_a_linear_model_every_way_has_a_row_and_exact_ones_agree(tmp_path):
    sae = sae_of("relu")
    sae.b_enc.data.fill_(50.0)  # no gate switches
    done = run(Mixing([[1.0, 0.5, 0.25]]), subject(sae), config(tmp_path), shown=False)
    rows = done.methods.columns
    assert sorted(rows["method"]) == sorted([*METHODS, "vjp_bfloat16"]) and not done.disagree
    assert rows["method"][0] == "loop" and rows["n_pairs"] == [32] * 6
    told = dict(zip(rows["method"], rows["agrees"], strict=True))
    assert [told[m] for m in ("loop", "vjp", "jacobian")] == ["yes"] * 3
    assert told["occlusion"] == told["integrated_gradients"] == "in order"
    seconds = rows["seconds_a_window"]
    assert all(s > 0 for s in seconds)
    score = done.result.scores["L0.resid_post/vjp/rank_correlation"]
    assert score.value == pytest.approx(1) and score.n == 8
    assert done.result.details["encodes"] == {}


def test_an_exact_way_that_is_wrong_is_found(tmp_path, monkeypatch):
    real = by_vjp.compute
    monkeypatch.setattr(by_vjp, "compute", lambda job: (real(job)[0] * 1.001, None))
    lm, sae = Mixing([[1.0, 0.5]]), sae_of("relu")
    done = run(lm, subject(sae), config(tmp_path, methods=("vjp",)), shown=False)
    assert done.disagree == ["L0.resid_post/vjp"]
    found = done.methods.columns["largest_difference"][1]
    assert found == pytest.approx(1e-3, rel=1e-2)
    wide = config(tmp_path, methods=("vjp",), tolerance=1e-2)
    assert not run(lm, subject(sae), wide, shown=False).disagree


def test_few_windows_are_never_in_order(tmp_path):
    """Of 3 windows chance alone has every correlation above 0 one time in eight."""
    sae = sae_of("relu")
    sae.b_enc.data.fill_(50.0)
    few = config(tmp_path, windows=3, methods=("occlusion",))
    done = run(Mixing([[1.0, 0.5]]), subject(sae), few, shown=False)
    assert done.methods.columns["agrees"][-1] == "not told"
    score = done.result.scores["L0.resid_post/occlusion/rank_correlation"]
    assert score.value > 0.99 and score.low is None and "8 are needed" in score.reason


def test_what_cannot_be_checked(tmp_path):
    for changes in ({"methods": ("vpj",)}, {"windows": 0}, {"tolerance": 0.0}):
        with pytest.raises(ConfigError):
            config(tmp_path, **changes)
    off = sae_of("relu")
    off.b_enc.data.fill_(-1e3)
    with pytest.raises(ConfigError, match="No latent is above"):
        run(Mixing([[1.0]]), subject(off), config(tmp_path), shown=False)


def test_the_command_tells_of_both_encodes_and_ends_with_3_where_ways_disagree(
    tmp_path, capsys, monkeypatch
):
    save_tiny(tmp_path / "lm", "llama", n_layers=2, d_model=foreign.D)
    foreign.llama_3_8b(tmp_path / "saes", 0)
    world.text_file(tmp_path)
    words = [
        "locality",
        "check",
        "--preset",
        "llama-3-8b",
        "--sae-root",
        tmp_path / "saes",
        "--model",
        tmp_path / "lm",
        "--layer",
        "0",
        "--corpus",
        tmp_path / "text.jsonl",
        "--windows",
        "2",
        "--n-ctx",
        "10",
        "--latents",
        "3",
        "--method",
        "vjp",
        "--method",
        "occlusion",
        "--quiet",
        "--out",
        tmp_path / "out",
    ]
    assert call(*words, "--json")[0] == 0
    record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [r["method"] for r in record["methods"]] == ["loop", "vjp", "vjp_bfloat16", "occlusion"]
    rounded = record["methods"][2]
    assert rounded["kind"] == "check" and 1e-6 < rounded["largest_difference"] < 0.05
    encodes = record["encodes"]["L0.resid_post"]
    assert encodes["forgets"] == ["b_dec"] and encodes["active_own"] == 2 * foreign.K
    assert 0 <= encodes["active_both"] < 2 * foreign.K
    assert Result.read(tmp_path / "out" / "result.json").name == "locality_check"
    assert (tmp_path / "out" / "methods.csv").read_text().startswith("site,method")
    real = by_vjp.compute
    monkeypatch.setattr(by_vjp, "compute", lambda job: (torch.flip(real(job)[0], [1]), None))
    assert call(*words)[0] == 3
    said = capsys.readouterr().out
    assert "no" in said and "forgets b_dec" in said


def test_a_share_has_no_interval_beyond_1():
    shares = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 1, 0.2])
    score = method_check._score(shares, torch.arange(9), "same_top")
    assert score.low is not None and score.high is not None
    assert score.value is not None and score.low < score.value < score.high == 1.0
