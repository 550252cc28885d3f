"""Every figure is drawn with its numbers beside it, from the tiny model to the file."""

import csv
import math

import pytest

from saekit.core.errors import ConfigError
from saekit.studies.layers.figure_folder import draw_all, embedding
from saekit.studies.layers.survey import SurveyConfig, survey
from tests.studies.layers.world import opened

pytest.importorskip("matplotlib")
FIGURES = {
    "layer_heatmap",
    "layer_std",
    "layer_mean",
    "prompt_heatmap",
    "mmcs",
    "adjacent_cosine",
    "embedding_cosine",
    "layer_distance",
}
CONFIG = SurveyConfig(tokens=640, examples=0)


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    shared, lm, stream = opened()
    found = survey(shared, lm, stream, CONFIG, shown=False)
    out = tmp_path_factory.mktemp("figures")
    made = draw_all(
        found,
        shared,
        lm,
        stream,
        out,
        prompt="the cat $sat$ on",
        tokens=256,
        suffix="svg",
        shown=False,
    )
    return found, made, out


def test_every_figure_has_its_csv(drawn):
    _, made, out = drawn
    assert {p.stem for p in made} == FIGURES
    for path in made:
        assert path.stat().st_size > 1000 and rows(path.with_suffix(".csv"))
        assert "<svg" in path.read_text(encoding="utf-8")[:500]


def test_the_heatmap_is_the_distribution(drawn):
    found, _, out = drawn
    total = {}
    for row in rows(out / "layer_heatmap.csv"):
        total[row["latent"]] = total.get(row["latent"], 0) + float(row["p"])
    assert all(math.isclose(v, 1, abs_tol=1e-9) for v in total.values())
    assert len(total) == int((found.sums.totals.sum(0) > 0).sum())


def test_the_table_has_correct_and_published_figures_apart(drawn):
    row = rows(drawn[2] / "layer_std.csv")[0]
    assert float(row["mean"]) > 0 and row["n_layers"] == "3" and row["n_latents"] == "64"
    parts = sum(float(row[k]) for k in ("between_latents", "between_tokens", "within_token"))
    assert math.isclose(parts, float(row["total"]), rel_tol=1e-9)
    assert {k for k in row if k.startswith("legacy_")} == {
        "legacy_exp_var_l_tf",
        "legacy_exp_var_l_f",
        "legacy_var_l",
        "legacy_rel_var_f",
        "legacy_rel_var_t",
    }


def test_histograms_count_every_latent_and_pair(drawn):
    found, _, out = drawn
    alive = int((found.sums.totals.sum(0) > 0).sum())
    assert sum(int(r["latents"]) for r in rows(out / "layer_mean.csv")) == alive
    pairs = sum(int(r["pairs"]) for r in rows(out / "layer_distance.csv"))
    assert pairs == alive * (alive - 1) // 2


def test_embeddings_are_those_of_the_model():
    _, lm, _ = opened()
    weight = lm.module.get_input_embeddings().weight
    assert embedding(lm).shape == (258, 32) and bool((embedding(lm) == weight).all())
    assert lm.unembedding().shape == (258, 32)


def test_one_layer_has_no_neighbour(tmp_path):
    shared, lm, stream = opened(sites=["L0.resid_post"])
    found = survey(shared, lm, stream, CONFIG, shown=False)
    made = draw_all(
        found, shared, lm, stream, tmp_path, prompt="the cat", tokens=64, suffix="svg", shown=False
    )
    assert {p.stem for p in made} == FIGURES - {"adjacent_cosine"}


def test_another_suffix_is_refused_before_any_work(tmp_path, drawn):
    shared, lm, stream = opened()
    with pytest.raises(ConfigError, match="got gif"):
        draw_all(drawn[0], shared, lm, stream, tmp_path, prompt="a", tokens=1, suffix="gif")
