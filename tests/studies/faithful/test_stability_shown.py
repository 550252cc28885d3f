"""What is shown of stability: figures with the numbers they draw, and twins on a latent's page."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from saekit.analysis.index_folder import Contexts
from saekit.core.errors import FormatError
from saekit.core.result import Result, Table
from saekit.report import style
from saekit.report.panels.twins import Twins
from saekit.studies.faithful.figures.stability import _threshold, draw_all
from saekit.studies.faithful.panels import stability
from saekit.studies.faithful.panels.stability import StabilityPanel
from tests.cli.test_cli import call

EDGES = [-0.2, 0.4, 1.0]
DETAILS = {
    "curve": {
        "threshold": [0.0, 0.5, 1.0],
        "matched": [1.0, 0.6, 0.0],
        "random": [0.9, 0.0, 0.0],
        "rotated": [0.9, 0.0, 0.0],
    },
    "histogram": {"edges": EDGES, "matched": [3, 7], "random": [10, 0], "rotated": [9, 1]},
    "top_cosines": {
        "edges": EDGES,
        "decoder": [[1, 9], [10, 0], [10, 0], [10, 0]],
        "encoder": None,
    },
    "clusters": {"1": 4, "3": 2},
}


def result(name="seed_stability"):
    return Result(name=name, version=1, config={}, scores={}, details=DETAILS)


def test_each_figure_has_the_numbers_it_draws(tmp_path, capsys):
    result().write(tmp_path / "r.json")
    out = tmp_path / "out"
    code, line, err = call(
        capsys, "faithful", "stability", tmp_path / "r.json", "--out", out, "--json"
    )
    assert code == 0, err
    figures = [Path(f) for f in json.loads(line)["figures"]]
    assert len(figures) == 4 and all(f.exists() for f in figures)
    with (out / "cluster_sizes.csv").open() as file:
        assert [row["latents"] for row in csv.DictReader(file)] == ["4", "6"]
    with (out / "matched_cosines.csv").open() as file:
        assert [row["matched"] for row in csv.DictReader(file)] == ["3", "7"]
    with pytest.raises(FormatError, match="seed_stability"):
        draw_all(result("core"), out)


def test_the_threshold_that_is_drawn_is_that_of_the_result():
    made = Result(
        name="seed_stability", version=1, config={"threshold": 0.5}, scores={}, details=DETAILS
    )
    figure, axes = style.new(2, 2)
    _threshold(axes[0][0], made)
    (line,) = axes[0][0].get_lines()
    assert line.get_label() == "threshold 0.5" and set(line.get_xdata()) == {0.5}
    assert figure is not None


class Fake(SimpleNamespace):
    """An index of four latents."""

    d_sae, weights = 4, "abc"

    def contexts(self, latent):
        one = {"tokens": ["a", "b"], "acts": [0.0, 2.0], "peak": 1}
        return Contexts(latent, [one] * 3, {"promoted": [("cat", 1.0)], "suppressed": []})


def test_a_latent_is_shown_beside_its_twins(tmp_path, monkeypatch):
    run = tmp_path / "seed0"
    columns = {
        "latent": [0, 1],
        "stability": [0.5, None],
        "stability_low": [0.1, None],
        "stability_high": [0.9, None],
        "stability_found": [1, None],
        "stability_cosine": [0.6, None],
        "stability_cluster": [2, None],
    }
    Table(columns=columns).write_csv(run / "analysis" / "stability.csv")
    listed = {
        "latent": [0, 0, 1, 1],
        "other": ["seed1", "seed2"] * 2,
        "match": [3, 2, None, None],
        "cosine": [0.9, 0.3, None, None],
        "encoder_cosine": [0.8, 0.2, None, None],
        "correlation": [0.7, None, None, None],
        "weights": ["abc"] * 4,
    }
    Table(columns=listed).write_csv(run / "analysis" / "stability_matches.csv")
    there = tmp_path / "seed1" / "index" / "index.json"
    there.parent.mkdir(parents=True)
    there.write_text("{}")
    monkeypatch.setattr(stability, "_index", lambda _: Fake())
    found = StabilityPanel().blocks(run, Fake(), 0)  # pyright: ignore[reportArgumentType]
    assert found is not None
    monkeypatch.setattr("saekit.report.panels.twins.siblings", lambda _: ["seed1", "seed2"])
    assert Twins().blocks(run, Fake(), 0) is None  # pyright: ignore[reportArgumentType]
    (asked,) = Twins().blocks(run, Fake(), 3) or []  # pyright: ignore[reportArgumentType]
    assert asked["kind"] == "missing"
    strips = [block for block in found if block["kind"] == "strip"]
    assert [s["title"] for s in strips if "title" in s] == ["This SAE, latent 0", "seed1, latent 3"]
    assert len(strips) == 4 and "'cat'" in strips[0]["about"]
    dead = StabilityPanel().blocks(run, Fake(), 1)  # pyright: ignore[reportArgumentType]
    assert dead is not None and [block["kind"] for block in dead] == ["text"]
    other = Fake(weights="other")
    other.weights = "other"
    (stale,) = StabilityPanel().blocks(run, other, 0)  # pyright: ignore
    assert stale["kind"] == "missing"
