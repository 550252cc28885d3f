"""Figures draw what their tables say, and tables say what the runs hold."""

import dataclasses
import json

import pytest

from saekit.core.errors import FormatError
from saekit.core.result import Result, Score
from saekit.data import table_files
from saekit.studies.sensitivity.figure_folder import draw_all
from saekit.studies.sensitivity.figures import against_sparsity
from saekit.studies.sensitivity.study import measure
from tests.studies.sensitivity.test_study import CFG, HALF, detector, lm, script, text  # noqa: F401


def test_each_figure_has_its_numbers_next_to_it(lm, detector, text, tmp_path):  # noqa: F811
    found = measure(detector, lm, script(*HALF), tmp_path / "a/sensitivity", CFG, text=text)
    out = tmp_path / "figures"
    made = draw_all([tmp_path / "a/sensitivity"], out)
    assert [p.suffix for p in made] == [".svg"] * 4 and all(p.stat().st_size > 2000 for p in made)
    rows = list(table_files.rows(out / "generated_against_original.csv"))
    shares = {int(r["latent"]): float(r["generated_sensitivity"]) for r in rows}
    assert shares == dict(
        zip(
            found.latents.columns["feature_index"],
            found.latents.columns["generated_sensitivity"],
            strict=True,
        )
    )
    rows = list(table_files.rows(out / "distribution.csv"))
    for row in rows:  # ends of the bins and shares lie on no common number
        inside = [s for s in shares.values() if float(row["low"]) <= s < float(row["high"])]
        assert float(row["a, latents"]) == pytest.approx(len(inside) / len(shares))
    assert sum(float(row["a, latents"]) for row in rows) == pytest.approx(1)
    rows = list(table_files.rows(out / "thresholds.csv"))
    means = [float(r["mean"]) for r in rows]
    assert means == sorted(means, reverse=True) and means[0] == pytest.approx(
        sum(shares.values()) / 3
    )
    (row,) = table_files.rows(out / "against_sparsity.csv")
    result = json.loads((tmp_path / "a/sensitivity/result.json").read_text())
    assert float(row["l0"]) == pytest.approx(result["details"]["l0"]) and int(row["d_sae"]) == 4
    with pytest.raises(FormatError, match="holds no finished run"):
        draw_all([tmp_path], out)


def test_several_saes_stand_on_one_figure_by_l0_and_by_width(tmp_path):
    """The middle of every point is where its row of the CSV says, on both axes."""
    runs = {"a": (30.0, 4096, 0.7), "b": (60.0, 4096, 0.5), "c": (60.0, 16384, 0.4)}
    results = {}
    for name, (l0, d_sae, value) in runs.items():
        one = Score(
            value=value,
            low=value - 0.1,
            high=value + 0.2,
            n=9,
            unit="share of texts",
            better="higher",
        )
        kept = dataclasses.replace(one, value=0.5)
        results[name] = Result(
            name="sensitivity",
            version=1,
            config={},
            scores={"sensitivity": one, "kept": kept},
            details={"l0": l0, "d_sae": d_sae},
        )
    against_sparsity.draw(results, tmp_path / "f.svg")
    rows = list(table_files.rows(tmp_path / "f.csv"))
    assert [(r["run"], float(r["l0"]), int(r["d_sae"])) for r in rows] == [
        (name, l0, d_sae) for name, (l0, d_sae, _) in runs.items()
    ]
    assert [(float(r["low"]), float(r["high"])) for r in rows] == [
        (v - 0.1, v + 0.2) for *_, v in runs.values()
    ]
    picture = (tmp_path / "f.svg").read_text()
    assert "L0 (latents/token)" in picture and "latents of the SAE" in picture
    # Two of one width are drawn next to each other, and their middle is the width.
    places = against_sparsity.side_by_side([4096, 4096, 16384])
    assert places[0] < 4096 < places[1] and places[2] == 16384
    assert places[0] * places[1] == pytest.approx(4096**2)
