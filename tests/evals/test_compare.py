"""Comparing SAEs: differences on planted sums, then the whole of it on a tiny model."""

import dataclasses
import inspect
import json
import math

import pytest
import torch

import saekit
from saekit.cli.main import main
from saekit.core.codes import Codes
from saekit.core.errors import ConfigError
from saekit.core.result import Table
from saekit.core.stats.multiple import holm
from saekit.core.stats.student import t_quantile, two_sided
from saekit.evals._differences import Curve, Point, along, on_front
from saekit.evals.base import Tools
from saekit.evals.compare import CompareSettings, pair_table, words_of
from saekit.evals.core import Core
from saekit.evals.intervals import BlockSums
from saekit.metrics.base import Batch
from saekit.metrics.ce import CERise
from saekit.metrics.l0 import L0
from saekit.models.tiny import save_tiny
from saekit.report import l0_figure
from saekit.report.pages import base as pages
from saekit.training.sweep_loop import sweep_runs as train_all
from tests import world as small
from tests.evals.world import SITE, mirror, subject, text, tools

NOTHING = torch.zeros(0, 1)
OFF = Codes.from_dense(NOTHING)


def rises(values):
    """Sums of CE rise: a row a document, whose tokens lose so much more than clean ones."""
    sums = BlockSums(CERise(), torch.full((len(values),), float(values.shape[1])))
    for b, row in enumerate(values):
        sums.add(
            b, sums.metric.sums(Batch(NOTHING, NOTHING, OFF, {"clean": 0 * row, "spliced": row}))
        )
    return sums


def sparsity(l0, n_blocks):
    sums = BlockSums(L0(), torch.full((n_blocks,), 10.0))
    codes = Codes.from_dense(torch.cat([torch.ones(10, l0), torch.zeros(10, 64 - l0)], 1))
    for b in range(n_blocks):
        sums.add(b, sums.metric.sums(Batch(torch.zeros(10, 1), torch.zeros(10, 1), codes)))
    return sums


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one(name, sae, seed=0):
    return Curve(name, (Point((sae,), (seed,)),))


def test_a_paired_difference_has_students_interval_of_the_documents_differences():
    shared, n = normal(30, 1, seed=0), 30
    values = [2 + shared + 0.1 * normal(n, 8, seed=1), 2.1 + shared + 0.1 * normal(n, 8, seed=2)]
    sums = {"ce_rise": [rises(v) for v in values], "l0": [sparsity(4, n), sparsity(4, n)]}
    (row,) = pair_table([one("a", 0), one("b", 1)], [CERise()], sums).rows()
    gaps = (values[0] - values[1]).double().mean(1)
    half = t_quantile(n - 1) * float(gaps.std()) / math.sqrt(n)
    assert row["difference"] == pytest.approx(float(gaps.mean()), rel=1e-6)
    assert row["high"] - row["difference"] == pytest.approx(half, rel=1e-4)
    assert row["least"] == pytest.approx(half, rel=1e-4)
    assert row["verdict"] == "a better" and row["seeds"] == 0 and "seeds" in row["reason"]
    assert row["words"].startswith("a better, by 0.") and f"{row['least']:.3g}" in row["words"]
    # Each score by itself is known ten times worse than the difference.
    score = sums["ce_rise"][0].score()
    assert score.high - score.low > 10 * 2 * half


def test_seeds_are_left_out_too_and_widen_the_interval():
    n, seeds = 30, 4
    drawn = normal(seeds, seed=3)
    text = [normal(n, 8, seed=s) for s in range(2 * seeds)]
    values = [1 + 0.5 * drawn[s] + 0.01 * text[s] for s in range(seeds)]
    values += [1 + 0.01 * text[seeds + s] for s in range(seeds)]
    sums = {"ce_rise": [rises(v) for v in values], "l0": [sparsity(4, n)] * (2 * seeds)}
    a = Curve("a", (Point(tuple(range(seeds)), tuple(range(seeds))),))
    b = Curve("b", (Point(tuple(range(seeds, 2 * seeds)), tuple(range(seeds))),))
    (row,) = pair_table([a, b], [CERise()], sums).rows()
    gaps = torch.stack([values[s].mean() - values[seeds + s].mean() for s in range(seeds)]).double()
    # The text moves the means so little that the spread of seeds is all there is.
    half = t_quantile(seeds - 1) * float(gaps.std()) / math.sqrt(seeds)
    assert row["seeds"] == seeds
    assert row["high"] - row["difference"] == pytest.approx(half, rel=0.02)
    assert row["verdict"] == "inconclusive" and row["reason"] == ""
    # No verdict below the least difference told, and the row says so.
    assert abs(row["difference"]) < row["least"]
    assert "is below" in row["words"] and "these seeds can tell from 0" in row["words"]


def test_a_difference_that_holms_correction_takes_back_is_said_to_be_one():
    row = {"verdict": "inconclusive", "difference": -0.3, "least": 0.2, "seeds": 0, "reason": ""}
    assert "not among the 12 of this table (Holm)" in words_of(row, 0.02, 12)
    assert (
        words_of(row | {"least": None, "reason": "one document"}, 0, 1)
        == "no verdict: one document"
    )


def test_groups_are_compared_at_the_l0_that_both_have():
    l0 = {0: math.log(4), 1: math.log(16), 2: math.log(8), 3: math.log(32)}
    values = {0: 4.0, 1: 2.0, 2: 2.0, 3: 0.0}
    a = Curve("a", (Point((0,), ()), Point((1,), ())))
    b = Curve("b", (Point((2,), ()), Point((3,), ())))
    # From L0 8 to 16 the first falls from 3 to 2, the second from 2 to 1, straight in log L0.
    span = (math.log(8), math.log(16))
    assert along(a, values, l0, span) == pytest.approx(2.5)
    assert along(b, values, l0, span) == pytest.approx(1.5)
    n = 30
    sums = {
        "ce_rise": [rises(values[i] + 0.1 * normal(n, 8, seed=i)) for i in range(4)],
        "l0": [sparsity(k, n) for k in (4, 16, 8, 32)],
    }
    (row,) = pair_table([a, b], [CERise()], sums).rows()
    assert row["at"] == "L0 8.0 to 16.0" and row["difference"] == pytest.approx(1, abs=0.05)
    assert row["verdict"] == "b better"
    (apart,) = pair_table([one("x", 0), Curve("y", b.points)], [CERise()], sums).rows()
    assert apart["verdict"] == "not comparable" and apart["difference"] is None


def test_equals_are_told_apart_in_hardly_more_than_one_text_in_twenty_and_intervals_hold():
    wrong = hits = 0
    trials, n, true = 150, 40, 0.02
    lengths = torch.randint(4, 40, (n,), generator=torch.Generator().manual_seed(9))
    for trial in range(trials):
        shared = normal(n, 1, seed=3 * trial)
        each = [shared + 0.5 * normal(n, 40, seed=3 * trial + i) for i in (1, 2)]
        saes = []
        for values in (*each, each[1] + true):
            sums = BlockSums(CERise(), lengths.double())
            for b, row in enumerate(values):
                part = row[: lengths[b]]
                batch = Batch(NOTHING, NOTHING, OFF, {"clean": 0 * part, "spliced": 3 + part})
                sums.add(b, sums.metric.sums(batch))
            saes.append(sums)
        sums = {"ce_rise": saes, "l0": [sparsity(4, n)] * 3}
        equal = pair_table([one("a", 0), one("b", 1)], [CERise()], sums).rows()[0]
        other = pair_table([one("a", 0), one("c", 2)], [CERise()], sums).rows()[0]
        wrong += equal["verdict"] not in ("inconclusive", "about equal")
        hits += other["low"] <= -true <= other["high"]
    assert wrong / trials <= 0.09  # 5 % and two standard errors of 150 trials
    assert 0.91 <= hits / trials <= 0.99


def test_p_values_are_students_and_holms():
    scipy = pytest.importorskip("scipy.stats")
    for t, df in ((0.3, 1.0), (-2.5, 7.3), (4.0, 120.0), (1.0, 2e4)):
        assert two_sided(t, df) == pytest.approx(2 * scipy.t.sf(abs(t), df), rel=1e-3, abs=1e-9)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_the_front_is_of_those_that_no_other_beats():
    l0, score = torch.tensor([8.0, 8.0, 16.0, 32.0, 32.0]), torch.tensor([2.0, 3.0, 1.0, 1.5, 1.0])
    assert on_front(l0, score).tolist() == [True, False, True, False, False]


def test_several_saes_share_passes_and_have_the_numbers_of_each_alone(monkeypatch):
    subjects = [subject(mirror(noise=0.1)), subject(mirror(noise=0.4))]
    config = Core(n_tokens=32 * 40, ce_tokens=32 * 16)
    alone = [config.run(one, tools()) for one in subjects]
    lm, passes = subjects[0].lm, []
    before = type(lm).final

    def counted(self, *args, **kwargs):
        passes.append(1)
        return before(self, *args, **kwargs)

    monkeypatch.setattr(type(lm), "final", counted)
    together = config.run_all(subjects, tools())
    assert len(passes) == 2 * (1 + 1 + 1 + 2)  # of 2 batches: clean, zero, mean, and spliced twice
    for one, other in zip(alone, together, strict=True):
        for name, score in one.scores.items():
            assert other.scores[name].value == pytest.approx(score.value, rel=1e-6, nan_ok=True)
        assert one.details["losses"] == pytest.approx(other.details["losses"], rel=1e-6)
    assert text().shape[0] >= 40 and subjects[0].read == SITE and isinstance(tools(), Tools)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")

    run = small.run(folder, tokens=4000, checkpoint_tokens=None)
    runs = {
        f"k{k}-seed{s}": dataclasses.replace(
            run, sae=dataclasses.replace(run.sae, k=k), seed=s, order_seed=0
        )
        for k in (2, 4)
        for s in (0, 1)
    }
    train_all(runs, small.model(), folder / "sweep", shown=False)
    return folder / "sweep"


def test_saes_of_a_sweep_are_compared_in_python_and_on_the_command_line(sweep, tmp_path, capsys):
    groups = {f"k={k}": [sweep / f"k{k}-seed{s}" for s in (0, 1)] for k in (2, 4)}
    found = saekit.compare(groups, small.model(), tokens=8000, out=tmp_path / "py", shown=False)
    rows = {row["metric"]: row for row in found.pairs.rows()}
    assert rows["fvu"]["verdict"] in ("k=4 better", "inconclusive")
    assert rows["fvu"]["difference"] > 0 and rows["fvu"]["seeds"] == 2
    assert "k=2" in str(found) and len(found.saes) == 4
    of_k2 = [row for row in found.saes.rows() if row["group"] == "k=2"]
    ((l0, fvu, ends),) = l0_figure.curve(found.saes, "k=2", "fvu")  # two seeds are one point
    assert (l0, ends) == (2, None) and fvu == pytest.approx(sum(r["fvu"] for r in of_k2) / 2)
    older = Table(columns={k: v for k, v in found.saes.columns.items() if k != "point"})
    assert len(l0_figure.curve(older, "k=2", "fvu")) == 2
    made = json.loads((tmp_path / "py" / "comparison.json").read_text())
    assert made["provenance"]["settings"]["core"]["n_tokens"] == 8000
    folders = [str(sweep / f"k{k}-seed0") for k in (2, 4)]
    given = ["--model", str(save_tiny(tmp_path / "tiny")), "--tokens", "8000", "--quiet", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["compare", *folders, *given, "--out", str(tmp_path / "cli")])
    assert not ended.value.code
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["metric"] for row in said["pairs"]} == {"fvu", "ce_rise", "ce_recovered_zero", "kl"}
    assert "Verdicts" in (tmp_path / "cli" / "report.html").read_text()
    blocks = pages.payload("comparison", tmp_path / "cli")["blocks"]
    dots = [block for block in blocks if block["kind"] == "dots"]  # one L0 each: no line over it
    assert [block["title"] for block in dots][:2] == [
        "variance unexplained (FVU)",
        "cross-entropy rise",
    ]
    assert dots[0]["unit"] == "ratio; lower is better" and None not in dots[0]["low"]


def test_what_cannot_be_compared_is_refused_before_a_pass(sweep):
    lm, a, b = small.model(), sweep / "k2-seed0", sweep / "k4-seed0"
    with pytest.raises(ConfigError, match="at least two SAEs"):
        saekit.compare([a], lm)
    with pytest.raises(ConfigError, match="named twice"):
        saekit.compare([a, a], lm)
    with pytest.raises(ConfigError, match="neither way"):
        saekit.compare([a, b], lm, metrics=("l0",))
    with pytest.raises(ConfigError, match="no interval over text"):
        saekit.compare([a, b], lm, metrics=("dead",))
    with pytest.raises(ConfigError, match="ce_tokens=0"):
        CompareSettings(core=Core(ce_tokens=0))
    with pytest.raises(ConfigError, match="at least two SAEs"):
        saekit.compare(str(a), lm)


def test_an_sae_without_a_place_on_a_curve_leaves_no_number():
    """Points without an L0 were sorted as they came, and what came between them was no score."""
    a = Curve("a", (Point((0,), ()), Point((1,), ()), Point((2,), ())))
    b = Curve("b", (Point((1,), ()), Point((2,), ())))
    sums = {
        "ce_rise": [rises(0.1 * normal(30, 8, seed=i)) for i in range(3)],
        "l0": [sparsity(k, 30) for k in (0, 4, 16)],
    }
    (row,) = pair_table([a, b], [CERise()], sums).rows()
    assert row["verdict"] == "undefined" and row["difference"] is None
    assert "all off" in row["reason"]
    values = torch.tensor([math.nan, 0.5, 0.4], dtype=torch.float64)
    at = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert on_front(at, values).tolist() == [False, True, True]


def test_a_folder_as_text_is_one_sae_and_not_its_letters(sweep, tmp_path):
    groups = {"a": str(sweep / "k2-seed0"), "b": sweep / "k4-seed0"}
    asked = {"metrics": ["fvu"], "ce_tokens": 0, "tokens": 2000, "shown": False}
    found = inspect.unwrap(saekit.compare)(groups, small.model(), **asked)
    assert found.saes.columns["group"] == ["a", "b"]
    with pytest.raises(ConfigError, match="must be a list"):
        inspect.unwrap(saekit.compare)(groups, small.model(), metrics="fvu")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="it is a file"):
        saekit.compare(
            [sweep / "k2-seed0", sweep / "k4-seed0"], small.model(), out=tmp_path / "file"
        )
    assert (tmp_path / "file").read_text() == "mine"
