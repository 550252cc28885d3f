"""Two SAEs on the same texts: an SAE and itself, and one that knows half of what the other does."""

import dataclasses

import pytest
import torch

from saekit.core.errors import ConfigError, FormatError
from saekit.models.tiny import tiny
from saekit.studies.sensitivity.audit import write_audit
from saekit.studies.sensitivity.compare import Side, compare, correlations
from saekit.studies.sensitivity.statistics import means_of_groups
from saekit.studies.sensitivity.study import measure
from tests import letters
from tests.studies.sensitivity.test_study import ALL_Z, CFG, HALF, script

REPETITIONS = 300


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


def shares(n, m, means, chance):
    """Shares of m texts that two SAEs fire on, by latent, and the difference.

    Rates of latents are uniform within 0.25 of their mean. Half of the texts have one draw for both
    SAEs, which does not change how often each fires.
    """
    rates = torch.tensor(means) + 0.5 * torch.rand(n, 2, generator=chance) - 0.25
    draws = torch.rand(n, m, 2, generator=chance)
    alike = torch.rand(n, m, generator=chance) < 0.5
    draws[alike] = draws[alike][:, :1]
    x, y = (draws < rates[:, None]).double().mean(1).T
    return torch.stack([x, y, x - y], dim=1)


def held(n, m, lead):
    """How often an interval holds A's lead, 0.05, where each SAE leads by `lead` at home."""
    chance, hits = torch.Generator().manual_seed(n), torch.zeros(REPETITIONS, dtype=torch.bool)
    up = lead / 2
    for seed in range(REPETITIONS):
        homes = [
            shares(n, m, (0.5 + up, 0.5 - up), chance),
            shares(n, m, (0.55 - up, 0.45 + up), chance),
        ]
        _, ends = means_of_groups(homes, seed)
        hits[seed] = ends[2][0] <= 0.05 <= ends[2][1]
    return float(hits.double().mean())


@pytest.mark.parametrize(("n", "m", "lead"), [(20, 10, 0.4), (50, 10, 0.0), (20, 3, 0.4)])
def test_the_interval_of_a_difference_holds_it(n, m, lead):
    assert 0.91 <= held(n, m, lead) <= 0.98


def test_both_saes_and_their_difference_have_the_same_draws():
    x = torch.rand(9, 2, generator=torch.Generator().manual_seed(0)).double()
    same = torch.stack([x[:, 0], x[:, 0], torch.zeros(9).double()], dim=1)
    _, ends = means_of_groups([same, 1 - same], 0)
    assert ends[0] == ends[1] and ends[0][0] < ends[0][1]
    # Homes that differ, and latents of a home that do not, leave nothing to chance.
    apart = [torch.full((5, 1), 0.3), torch.full((9, 1), -0.3)]
    means, ends = means_of_groups(apart, 0)
    assert means[0] == pytest.approx(0) and ends[0] == pytest.approx((0, 0), abs=1e-7)


def test_correlations_are_those_of_the_columns():
    x, y = torch.randn(9, 2), torch.randn(9, 3)
    y[:, 2] = 5.0
    found = correlations(x, y)
    pair = torch.stack([x[:, 1], y[:, 0]]).double()
    assert found[1, 0] == pytest.approx(float(torch.corrcoef(pair)[0, 1]))
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
