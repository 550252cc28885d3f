"""Figures of events: what they drew is in their CSV, and pages hold no foreign markup."""

import csv
import html.parser
import json
import math
import re

import numpy as np
import pytest
import torch

from saekit.analysis.autocorrelation import Autocorrelation
from saekit.core.errors import ConfigError, DataError, FormatError, ShapeError
from saekit.studies.locality.event_pages import draw_all, entropies, write_cards, write_table
from saekit.studies.locality.events.event_files import Row
from saekit.studies.locality.events.quality import Quality
from saekit.studies.locality.figures import (
    autocorrelation,
    case_studies,
    clusters3d,
    continuum,
    corners,
    feature_sparsity,
    feature_table,
    h_pos_context,
    h_pos_frequency,
    h_pos_overview,
    profile_contrast,
)
from tests.analysis.running_text import random_text, store

pytest.importorskip("matplotlib")


def row(latent, rank, H, n=8, status="ok", said=""):
    J = torch.arange(1.0, n + 1) if status == "ok" else None
    return Row(latent, rank, H, 5.0, n, status, said, "x", J)


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


ROWS = [
    row(7, 0, 1.0),
    row(7, 1, 2.0),
    row(3, 0, 0.5),
    row(3, 1, 0.25),
    row(3, 2, 0.75),
    row(9, 0, math.nan, status="off"),
]


def test_continuum_orders_latents_and_leaves_out_what_has_no_entropy(tmp_path):
    continuum.draw(ROWS, 8, tmp_path / "c.png")
    found = read(tmp_path / "c.csv")
    assert [(r["feature_id"], r["n_events"]) for r in found] == [("3", "3"), ("7", "2")]
    assert float(found[1]["mean"]) == 1.5
    assert float(found[1]["std"]) == pytest.approx(0.5**0.5)
    assert found[0]["low"] == found[0]["high"] == ""  # 3 events bound no mean
    many = [row(3, i, 0.5 + 0.1 * (i % 2)) for i in range(8)]
    drawn = continuum.table(many, 8).columns
    assert drawn["low"][0] < drawn["mean"][0] < drawn["high"][0]
    with pytest.raises(DataError, match="none has"):
        continuum.draw([ROWS[-1]], 8, tmp_path / "d.png")
    continuum.draw([row(a, 0, 1.0 + a % 5) for a in range(200)], 64, tmp_path / "many.png")


def test_profiles_are_shares_of_the_largest_and_aligned_at_the_peak(tmp_path):
    rows = [*ROWS, row(3, 3, 0.5, n=4)]
    profile_contrast.draw(rows, 8, tmp_path / "p.png", (3, 7))
    found = read(tmp_path / "p.csv")
    assert len(found) == 16 and found[7]["position"] == "0" and float(found[7]["mean"]) == 1.0
    assert [r["n_events"] for r in found[:8]] == ["3"] * 4 + ["4"] * 4
    # at -1: 7/8 of the whole windows, 3/4 of the short one
    assert float(found[6]["mean"]) == pytest.approx((3 * 7 / 8 + 3 / 4) / 4)
    assert profile_contrast.extremes(rows, 2) == (3, 7)
    with pytest.raises(DataError, match="2 latents"):
        profile_contrast.extremes(rows, 3)


def test_overview_draws_every_event(tmp_path):
    h_pos_overview.draw(ROWS, 8, tmp_path / "o.png")
    found = read(tmp_path / "o.csv")
    assert [(r["feature_id"], r["place"]) for r in found] == [("3", "0")] * 3 + [("7", "1")] * 2


def test_sparsity_counts_every_latent_once(tmp_path):
    density = torch.tensor([0.0, 0.0, 1e-4, 1e-4, 1e-3, 0.01, 0.01, 0.01, 0.1])
    feature_sparsity.draw(density, tmp_path / "s.png", 10_000, 0.0)
    found = read(tmp_path / "s.csv")
    bins = [r for r in found if r["mark"] == "bin"]
    assert len(bins) == 200 and sum(int(r["latents"]) for r in bins) == 7
    wide = [math.log(float(r["high"]) / float(r["low"])) for r in bins]
    assert max(wide) == pytest.approx(min(wide), rel=1e-5)
    filled = {int(r["latents"]) for r in bins if int(r["latents"])}
    assert filled == {1, 2, 3} and [int(bins[i]["latents"]) for i in (0, -1)] == [2, 1]
    for r in bins:
        inside = (density.double() >= float(r["low"])) & (density.double() < float(r["high"]))
        assert r is bins[-1] or int(inside.sum()) == int(r["latents"])
    (never,), (median,) = ([r for r in found if r["mark"] == m] for m in ("never on", "median"))
    assert never["latents"] == "2" and median["latents"] == "7"
    assert [float(median[k]) for k in ("density", "low", "high")] == pytest.approx(
        [0.01, 1e-4, 0.1]
    )
    edge = feature_sparsity.table(torch.tensor([2.0**-8, 2.0**-5, 2.0**-2])).columns["latents"]
    assert (edge[0], edge[99], edge[100], edge[199]) == (1, 0, 1, 1)  # a bin has its lower end
    feature_sparsity.draw(torch.full((3,), 0.25), tmp_path / "same.png", 8, 0.0)
    found = read(tmp_path / "same.csv")
    assert sum(int(r["latents"]) for r in found if r["mark"] == "bin") == 3
    assert found[-1]["low"] == ""  # 3 latents bound no median
    with pytest.raises(DataError, match="ever on"):
        feature_sparsity.draw(torch.zeros(3), tmp_path / "none.png", 8, 0.0)


def test_frequency_has_latents_and_means_of_equal_bins(tmp_path):
    found = {a: ([a / 10, a / 10 + 0.2] * 4, 1e-4 * 2.0**-a) for a in range(16)}
    found |= {90: ([], 0.1), 91: ([1.0], 0.0)}
    h_pos_frequency.draw(found, tmp_path / "f.png", "t")
    drawn = read(tmp_path / "f.csv")
    latents, bins = ([r for r in drawn if r["mark"] == m] for m in ("latent", "bin"))
    assert [int(r["feature_id"]) for r in latents] == list(range(15, -1, -1))  # rarest first
    assert float(latents[0]["mean_H_pos"]) == pytest.approx(1.6)
    assert 1.5 < float(latents[0]["low"]) < 1.6
    assert [(int(r["n_latents"]), int(r["n_events"])) for r in bins] == [(8, 64), (8, 64)]
    assert [float(r["mean_H_pos"]) for r in bins] == pytest.approx([1.25, 0.45])
    assert float(bins[0]["density"]) == pytest.approx(1e-4 * 2.0**-11.5)
    for r in bins:
        assert float(r["low"]) < float(r["mean_H_pos"]) < float(r["high"])
    assert h_pos_frequency._said(torch.arange(9.0), torch.arange(9.0)).startswith(
        "; Spearman 1.000, p = 0.001"
    )
    with pytest.raises(DataError, match="density"):
        h_pos_frequency.draw({1: ([1.0], 0.0)}, tmp_path / "g.png")


def test_populations_of_the_context_figure(tmp_path):
    found = {8: ROWS, 16: [row(7, 0, 3.0, n=16), row(3, 0, 1.0, n=9), row(9, 0, 2.0, n=16)]}
    h_pos_context.draw(found, tmp_path / "n.png")
    table = {(r["population"], r["n_ctx"]): r for r in read(tmp_path / "n.csv")}
    assert table["all", "8"]["n_events"] == "5" and table["every", "8"]["n_events"] == "2"
    assert float(table["all", "8"]["mean"]) == pytest.approx(0.9)
    assert float(table["every", "8"]["mean"]) == pytest.approx(0.75)
    assert float(table["all", "16"]["mean"]) == pytest.approx(2.0)
    assert float(table["every", "16"]["mean"]) == pytest.approx(2.0)
    assert table["all", "16"]["n_full"] == "2" and table["all", "8"]["n_full"] == "5"


def test_autocorrelation_states_its_population(tmp_path):
    acts, docs, kept = random_text()
    curves = Autocorrelation(lags=6).curves(store(tmp_path, acts, docs, kept=kept))
    autocorrelation.draw(curves, [0, 2, 4], tmp_path / "a.png")
    found = read(tmp_path / "a.csv")
    assert len(found) == 7 and {r["n_latents"] for r in found} == {"2"}  # 0 is never on
    mean = (curves.acts[2] + curves.acts[4]) / 2
    assert [float(r["mean"]) for r in found] == pytest.approx(mean.tolist())
    with pytest.raises(DataError, match="never on"):
        autocorrelation.draw(curves, [0], tmp_path / "b.png")


def test_corners_leave_out_what_never_falls(tmp_path):
    corners.draw({1: ([1.0, 2.0], 0.5), 2: ([3.0], 40.0), 3: ([1.0], math.nan)}, tmp_path / "c.png")
    assert [r["feature_id"] for r in read(tmp_path / "c.csv")] == ["1", "2"]
    with pytest.raises(DataError):
        corners.draw({3: ([1.0], math.nan)}, tmp_path / "d.png")


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


NASTY = "<script>alert(1)</script>\"'&"


def card(**changes):
    event = case_studies.CardEvent(["a", NASTY, "c\n"], [1, 2, 3], [4.0, 1.0, 0.0], 7.0, 1.2, 3)
    settings = {
        "latent": 5,
        "description": NASTY,
        "H": [1.0, 2.0],
        "events": [event],
        "notes": (NASTY,),
        "trace": [0.0, None, 0.5, 1.0, float("nan"), 0.2],
    }
    return case_studies.Card(**(settings | changes))


def test_cards_are_self_contained_and_escaped(tmp_path):
    path = case_studies.write(
        tmp_path / "c.html",
        [card(), card(events=[], H=[], link="javascript:alert(1)")],
        n_ctx=64,
        title=NASTY,
        facts={NASTY: NASTY},
    )
    text = path.read_text()
    tags = Tags()
    tags.feed(text)
    assert "script" not in tags.tags and "javascript:" not in text
    assert not {a for a in tags.attributes if a.startswith("on") or a == "style"}
    assert not re.search(r'(src|href)="http', text)
    assert "default-src 'none'" in text
    assert tags.text.count(NASTY) >= 3
    # sqrt(4/4), sqrt(1/4), sqrt(0/4) of 20 shades; the peak is framed
    assert re.findall(r'class="t (s\d+(?: peak)?)"', text) == ["s20", "s10", "s0 peak"]
    assert text.count("<polyline") == 2 * 3  # a trace breaks where it is not known
    assert read(tmp_path / "c.csv")[0]["text"] == f"a{NASTY}c\n"
    linked = case_studies.write(
        tmp_path / "l.html", [card(link="https://x.org/?a=1&b=2")], n_ctx=8, title="t", facts={}
    )
    assert 'href="https://x.org/?a=1&amp;b=2"' in linked.read_text()


def test_clusters_hold_their_points_and_no_markup(tmp_path):
    H = {4: [1.0, 3.0, 2.0], 8: [0.5]}
    path = clusters3d.draw(
        torch.tensor([[0.0, 2.0], [4.0, -2.0]]),
        H,
        tmp_path / "c.html",
        n_ctx=16,
        title="t",
        about={4: "</script><b>"},
    )
    text = path.read_text()
    assert text.count("</script>") == 2 and "\\u003c/script\\u003e" in text
    found = read(tmp_path / "c.csv")
    assert [float(r["H_pos_median"]) for r in found] == [2.0, 0.5]
    with pytest.raises(ShapeError):
        clusters3d.draw(torch.zeros(3, 2), H, tmp_path / "d.html", n_ctx=16, title="t")


def test_folders_of_published_data_are_drawn_and_lack_texts(tmp_path):
    (tmp_path / "ctx8.csv").write_text(
        "feature_id,event_idx,H_pos,peak_token_idx,peak_value,sum_J\n1,0,1.5,3,2,1\n2,0,1,3,2,1\n"
    )
    drawn, missing = draw_all(tmp_path)
    assert len(drawn) == 3 and len(missing) == 2 and "profile" in missing[0]
    assert missing[1] == (
        "h_pos_vs_frequency_ctx8.png: no manifest here says how often latents are on"
    )
    with pytest.raises(FormatError, match="top_contexts"):
        write_cards(tmp_path, tmp_path / "c.html")
    with pytest.raises(FormatError, match="latents 5"):
        write_cards(tmp_path, tmp_path / "c.html", latents=[5])
    with pytest.raises(FormatError, match="length 9"):
        draw_all(tmp_path, 9)
    assert entropies(ROWS) == {3: [0.5, 0.25, 0.75], 7: [1.0, 2.0]}
    with pytest.raises(ConfigError, match="suffix|ending"):
        continuum.draw(ROWS, 8, tmp_path / "c.bmp")


def test_a_table_has_a_row_a_latent_with_the_peak_in_bold(tmp_path):
    same = [case_studies.CardEvent(["x", NASTY], [1, 7], [1.0, 2.0], 3.0, 1.0, 2)] * 2
    cards = [card(), card(latent=6, events=same), card(latent=7, events=[], H=[])]
    path = feature_table.write(tmp_path / "t.html", cards, n_ctx=16, title=NASTY, facts={"of": 1})
    text, tags = path.read_text(), Tags()
    tags.feed(text)
    assert "script" not in tags.tags and text.count("<tr>") == 4
    assert text.count("<b>c⏎</b>") == 1 and text.count("<b>&lt;script&gt;") == 2
    rows = read(tmp_path / "t.csv")
    assert [r["frac_unique"] for r in rows] == ["1.0", "0.5", ""]
    assert float(rows[0]["mean_h_pos"]) == 1.5 and float(rows[0]["std_h_pos"]) == 0.5
    assert not rows[0]["low"] and not rows[2]["low"]  # too few events
    known = {5: Quality(0.875, 0.25, 0.75)}
    path = feature_table.write(
        tmp_path / "q.html", cards, n_ctx=16, title="t", facts={}, quality=known
    )
    assert "<th>recall</th>" in path.read_text() and "BOS 75%" in path.read_text()
    assert "recall" not in text
    rows = read(tmp_path / "q.csv")
    assert [r["recall_alt"] for r in rows] == ["0.875", "", ""]
    assert [r["frac_unique"] for r in rows] == ["0.25", "0.5", ""]


def test_published_texts_end_at_the_peak_and_need_no_ids(tmp_path):
    (tmp_path / "ctx8.csv").write_text(
        "feature_id,event_idx,H_pos,peak_token_idx,peak_value,sum_J\n1,0,1.5,2,3,1\n1,1,1,2,2,1\n"
    )
    np.savez(tmp_path / "influences_ctx8.npz", **{"1_0": np.ones(8), "1_1": np.ones(8)})
    one = {"activation": 3.0, "token_idx": 2, "tokens": ["a", "b", "<bos>", "after"]}
    two = one | {"tokens": ["a", "b", "c", "after"]}
    (tmp_path / "top_contexts_layer0.json").write_text(
        json.dumps({"1": {"max_activation": 3.0, "examples": [one, two]}})
    )
    page = write_cards(tmp_path, tmp_path / "c.html").read_text()
    assert "after" not in page and page.count(" peak") == 2 + page.count("the peak")
    write_table(tmp_path)
    (row,) = read(tmp_path / "figures/feature_table_ctx8.csv")
    assert (row["frac_unique"], row["frac_bos"], row["n_events"]) == ("1.0", "0.5", "2")
