"""Two SAEs on the same texts: an SAE and itself, and one that knows half of what the other does."""

import dataclasses

import pytest
import torch

from saekit.core.errors import ConfigError, FormatError
from saekit.models.tiny import tiny
from saekit.studies.sensitivity.audit import write_audit
from saekit.studies.sensitivity.compare import Side, compare, correlations
from saekit.studies.sensitivity.study import measure
from tests import letters
from tests.studies.sensitivity.test_study import ALL_Z, CFG, HALF, script


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    lm, folder = tiny("llama"), tmp_path_factory.mktemp("runs")
    sae, text = letters.detector(lm), letters.documents(folder)
    for name, texts in (("all", ALL_Z), ("half", HALF)):
        measure(sae, lm, script(*texts), folder / name, CFG, text=text, latents=[0, 1])
    return lm, sae, folder


def test_an_sae_is_as_good_as_itself_and_finds_itself_again(made, tmp_path):
    lm, sae, folder = made
    a, b = Side(sae, folder / "all", "a"), Side(sae, folder / "half", "b")
    found = compare(a, b, lm, tmp_path, shown=False)
    rows = found.latents.rows()
    assert [(r["home"], r["latent"]) for r in rows] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert all(r["counterpart"] == r["latent"] and r["correlation"] > 0.999 for r in rows)
    assert rows[0]["sensitivity_a"] == rows[0]["sensitivity_b"] == 1.0
    assert rows[2]["sensitivity_a"] == 0.5
    one = found.result.scores["sensitivity_difference"]
    assert (one.value, one.low, one.high) == (0.0, 0.0, 0.0)
    assert (tmp_path / "compare.csv").exists() and (tmp_path / "compare.json").exists()


def test_an_sae_that_hardly_fires_is_behind_on_the_same_texts(made, tmp_path):
    lm, sae, folder = made
    deaf = dataclasses.replace(sae, sae=sae.cfg.build(torch.Generator().manual_seed(0)))
    state = {k: v.clone() for k, v in sae.sae.state_dict().items()}
    state["b_enc"][0] = -1e3  # the latent of z never fires
    deaf.sae.load_state_dict(state)
    a, b = Side(sae, folder / "all", "a"), Side(deaf, folder / "half", "b")
    found = compare(a, b, lm, tmp_path, shown=False)
    row = found.latents.rows()[0]
    assert row["counterpart"] != 0 and row["sensitivity_a"] == 1.0
    assert found.result.scores["sensitivity_difference_home_a"].value > 0


def test_what_cannot_be_compared_is_refused(made, tmp_path):
    lm, sae, folder = made
    own, none = Side(sae, folder / "all", "a"), Side(sae, folder / "none", "b")
    with pytest.raises(FormatError, match="holds no finished run"):
        compare(own, none, lm, tmp_path, shown=False)
    card = dataclasses.replace(sae.card, model={"name": "another"})
    other = Side(dataclasses.replace(sae, card=card), folder / "half", "b")
    with pytest.raises(ConfigError, match="one language model; these are of"):
        compare(own, other, lm, tmp_path, shown=False)


def test_correlations_are_those_of_the_columns():
    x, y = torch.randn(9, 2), torch.randn(9, 3)
    y[:, 2] = 5.0
    found = correlations(x, y)
    assert found[1, 0] == pytest.approx(
        float(torch.corrcoef(torch.stack([x[:, 1], y[:, 0]]))[0, 1])
    )
    assert found[:, 2].tolist() == [-1.0, -1.0]


def test_a_page_shows_every_text_and_nothing_in_it_is_markup(tmp_path):
    lm = tiny("llama")
    text = letters.documents(tmp_path)
    evil = ["a zoo <script>alert(1)</script> <b>here</b>", *ALL_Z]
    run = tmp_path / "s"
    measure(letters.detector(lm), lm, script(*evil), run, CFG, text=text, latents=[0, 1])
    page = write_audit(run, tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count('<h2 id="l') == 2 and all(t in page for t in ALL_Z[:5])
    assert "Passages are data" in page and page.count(">hit, ") > 6
    only = write_audit(run, tmp_path / "one.html", [1]).read_text(encoding="utf-8")
    assert 'id="l1"' in only and 'id="l0"' not in only
    with pytest.raises(FormatError, match="holds no finished run"):
        write_audit(tmp_path, tmp_path / "x.html")
