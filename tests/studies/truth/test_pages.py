"""Pages of ground truth and of calibration, from files that the commands left."""

import json

import pytest

from saekit.cli.main import main
from saekit.core.files import read_object
from saekit.report.pages import base as pages

pytest.importorskip("scipy")


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    base = tmp_path_factory.mktemp("truth pages")
    call(
        "truth",
        "make",
        "--set",
        "n_features=16",
        "--set",
        "d_model=8",
        "--set",
        "firing.name=constant",
        "--set",
        "firing.rate=0.1",
        "--out",
        base / "truth",
    )
    return base


def test_the_page_of_what_an_sae_found(truth, capsys):
    run = truth / "run"
    call(
        "truth",
        "train",
        "--truth",
        truth / "truth",
        "--arch",
        "topk",
        "--k",
        "2",
        "--tokens",
        "4000",
        "--out",
        run,
        "--quiet",
    )
    call(
        "truth",
        "eval",
        "--truth",
        truth / "truth",
        "--sae",
        run,
        "--set",
        "n_tokens=2048",
        "--quiet",
    )
    assert pages.kind_of(run / "eval") == "ground_truth"
    found = pages.payload("ground_truth", run / "eval")
    kinds = [b["kind"] for b in found["blocks"]]
    assert kinds[:4] == ["facts", "histogram", "histogram", "table"]
    made = read_object(run / "eval" / "ground_truth.json")
    table = found["blocks"][3]
    names = [c["name"] for c in table["columns"]]
    cosine = [row[names.index("cosine")] for row in table["rows"]]
    assert cosine == made["details"]["by_latent"]["cosine"]
    values = [line[1] for line in found["blocks"][0]["facts"]]
    assert values == [s["value"] for s in made["scores"].values()]
    labels = [line[0] for line in found["blocks"][0]["facts"]]
    assert labels == [s["label"] for s in made["scores"].values()]
    assert not set(labels) & made["scores"].keys() - {"shrinkage"}  # words, no raw names
    capsys.readouterr()
    call(
        "truth",
        "eval",
        "--truth",
        truth / "truth",
        "--sae",
        run,
        "--set",
        "n_tokens=2048",
        "--quiet",
        "--out",
        truth / "again.json",
    )
    printed = capsys.readouterr().out
    assert all(f"  {label}  " in printed for label in labels)
    json.dumps(found, allow_nan=False)


def test_the_page_of_a_calibration(truth):
    out = truth / "calibration"
    call(
        "truth",
        "calibrate",
        "--truth",
        truth / "truth",
        "--arch",
        "topk",
        "--k",
        "1",
        "--k",
        "2",
        "--k",
        "3",
        "--k",
        "4",
        "--tokens",
        "1500",
        "--eval-tokens",
        "1024",
        "--out",
        out,
        "--quiet",
    )
    assert pages.kind_of(out) == "calibration"
    heatmap, ranks, saes = pages.payload("calibration", out)["blocks"]
    assert heatmap["kind"] == "heatmap" and heatmap["signed"]
    assert heatmap["x"][0] == "MCC with true features" and "FVU" in heatmap["y"][0]
    assert ranks["rows"][0][:2] == [heatmap["y"][0], heatmap["x"][0]]
    assert len(ranks["rows"]) == len(heatmap["x"]) * len(heatmap["y"])
    assert len(saes["rows"]) == 4
