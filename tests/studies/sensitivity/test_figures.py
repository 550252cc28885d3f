"""Figures draw what their tables say, and tables say what the runs hold."""

import json

import pytest

from saekit.core.errors import FormatError
from saekit.data import table_files
from saekit.studies.sensitivity.figure_folder import draw_all
from saekit.studies.sensitivity.study import measure
from tests.studies.sensitivity.test_study import CFG, HALF, detector, lm, script, text  # noqa: F401


def test_each_figure_has_its_numbers_next_to_it(lm, detector, text, tmp_path):  # noqa: F811
    found = measure(detector, lm, script(*HALF), tmp_path / "a/sensitivity", CFG, text=text)
    out = tmp_path / "figures"
    made = draw_all([tmp_path / "a/sensitivity"], out)
    assert [p.suffix for p in made] == [".svg"] * 3 and all(p.stat().st_size > 2000 for p in made)
    rows = list(table_files.rows(out / "generated_against_original.csv"))
    shares = {int(r["latent"]): float(r["generated_sensitivity"]) for r in rows}
    assert shares == dict(
        zip(
            found.latents.columns["feature_index"],
            found.latents.columns["generated_sensitivity"],
            strict=True,
        )
    )
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
