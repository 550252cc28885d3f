"""Suites: arithmetic of what makes a score believable, and what becomes of cells."""

import dataclasses
import inspect
import json
import math
import statistics
from typing import ClassVar

import pytest
import torch

import saekit
from saekit.activations.memo import Memo
from saekit.activations.pairs import Pair
from saekit.activations.rules import TokenRule, fit
from saekit.cli.main import main
from saekit.core.errors import ConfigError, DataError
from saekit.core.result import Score, Table
from saekit.data.corpora.files import Files
from saekit.evals import _evidence, suite
from saekit.evals._cells import Cells, Member, identity, key_of, measure_each
from saekit.evals.base import Eval, registry
from saekit.evals.core import Core
from saekit.evals.floors.base import Ground
from saekit.evals.floors.base import registry as floors
from saekit.evals.suites.base import Part, Suite
from saekit.evals.suites.base import registry as suites
from saekit.hub.card import Card
from saekit.hub.opening import each_of
from saekit.hub.trained import TrainedSAE
from saekit.models.base import check_model
from saekit.models.sites import parse_site
from saekit.models.tiny import save_tiny, tiny
from saekit.saes.topk import TopK
from tests import world as small
from tests.evals.world import SITE, mirror, random_topk, subject, text, tools

SMALL = {"core.n_tokens": 1024, "core.ce_tokens": 512}


def score(value, low=None, high=None, better="lower"):
    return Score(value=value, low=low, high=high, n=30, unit="u", better=better)


def test_the_least_difference_told_is_found_in_80_of_100_texts():
    error = 0.013
    told = _evidence.detectable(score(0.5, 0.5 - 1.959964 * error, 0.5 + 1.959964 * error))
    # Two scores with that error differ by a normal number of error sqrt(2) about the true gap.
    off = 1.959964 - told / (error * math.sqrt(2))
    power = 0.5 * math.erfc(off / math.sqrt(2))
    assert power == pytest.approx(0.8, abs=1e-5)
    assert _evidence.detectable(score(0.5)) is None


@pytest.mark.parametrize(
    ("better", "value", "floor", "above"),
    [
        ("lower", 0.2, 0.5, 0.3),
        ("lower", 0.5, 0.2, -0.3),
        ("higher", 0.2, 0.5, -0.3),
        ("higher", 0.5, 0.2, 0.3),
        ("neither", 0.5, 0.2, 0.3),
        ("higher", None, 0.2, None),
        ("higher", 0.5, None, None),
    ],
)
def test_above_a_floor_is_the_good_side_of_it(better, value, floor, above):
    found = _evidence.above(score(value, better=better), floor)
    assert found is None if above is None else found == pytest.approx(above)


def test_the_spread_of_seeds_is_their_standard_deviation():
    values = [0.1, 0.4, 0.35, None]
    assert _evidence.spread(values) == (pytest.approx(statistics.stdev(values[:3])), 3)
    assert _evidence.spread([0.1, None]) == (None, 1)


def test_none_is_best_by_less_than_can_be_told():
    def rows(*values, told=0.1, reseed=None, ranks=True, better="lower"):
        shared = {"unit": "u", "detectable": told, "reseed": reseed, "ranks": ranks}
        return [{"value": v, "better": better} | shared for v in values]

    assert _evidence.best_of(rows(0.5, 0.2, 0.9)) == {1}
    assert _evidence.best_of(rows(0.5, 0.2, 0.9, better="higher")) == {2}
    assert _evidence.best_of(rows(0.5, 0.41, None)) == set()
    assert _evidence.best_of(rows(0.5, 0.2, told=None)) == set()
    assert _evidence.best_of(rows(0.5, 0.2, reseed=0.1)) == set()  # seeds alone move it by 0.4
    assert _evidence.best_of(rows(0.5, 0.2, ranks=False)) == set()
    assert _evidence.best_of(rows(0.5, 0.2, better="neither")) == set()
    assert _evidence.best_of(rows(0.5)) == set()


def test_validity_points_where_better_scores_mean_more_recovery():
    made = _evidence.calibration()
    mcc = made["ranks"]["fvu"]["mcc"]
    found = _evidence.validity("core", "fvu", "lower")
    assert (found.value, found.low, found.high) == (-mcc["value"], -mcc["high"], -mcc["low"])
    assert found.low < found.value < found.high and f"{made['saes']} SAEs" in found.said
    stable = _evidence.validity("seed_stability", "shared_feature_ratio", "higher")
    assert stable.value == made["ranks"]["stability"]["mcc"]["value"]
    for none in (("core", "kl", "lower"), ("core", "fvu", "neither"), ("x", "fvu", "lower")):
        assert _evidence.validity(*none)[:] == (None, None, None, "not calibrated")
    assert made["command"][:3] == ["saekit", "truth", "calibrate"] and made["time"]


def test_a_key_is_of_all_that_a_number_is_made_of_and_of_no_name():
    one = subject(random_topk())
    others = [
        one._replace(sae=random_topk(seed=1)),
        one._replace(rule=one.rule._replace(median_norm=9.0)),
        one._replace(rule=one.rule._replace(special_ids=(1,))),
        one._replace(lm=tiny(seed=1)),
        one._replace(read=parse_site("L1.resid_post")),
        one._replace(trained={"seed": 3}),
    ]
    assert identity(one._replace(name="other")) == identity(one)
    assert len({identity(s) for s in (one, *others)}) == 1 + len(others)
    who, core = identity(one), Core(n_tokens=64, ce_tokens=0)
    keys = [key_of(core, "text", 0, who), key_of(core, "text", 1, who)]
    keys += [key_of(core, "other", 0, who), key_of(Core(n_tokens=65, ce_tokens=0), "text", 0, who)]
    keys += [key_of(core, "text", 0, identity(others[0])), key_of(core, "text", 0, who, who)]
    assert len(set(keys)) == len(keys) and keys[0] == key_of(core, "text", 0, who)


def test_rows_are_read_once_and_give_the_same_activations():
    lm, memo = tiny(), Memo(10**7)
    watched = memo.model(lm)
    first, second = list(tools().rows(8))[:2]
    sites = [SITE, parse_site("L1.resid_post")]
    plain = lm.read(first.tokens, sites)
    for _ in range(2):
        again = watched.read(first.tokens, sites)
        assert all(torch.equal(again[site], plain[site]) for site in sites)
    assert (memo.n_read, memo.n_known) == (8, 8)
    mixed = torch.cat([first.tokens[:3], second.tokens[:3]])
    assert torch.allclose(watched.read(mixed, SITE), lm.read(mixed, SITE), atol=1e-6)
    assert (memo.n_read, memo.n_known) == (11, 11)
    strange = torch.randint(0, 256, (2, 32))
    assert torch.equal(watched.read(strange, SITE), watched.read(strange, SITE))
    assert (memo.n_read, memo.n_known) == (13, 13)  # noise is known too
    changed = watched.read(first.tokens, SITE, replace={SITE: torch.zeros_like})
    assert not changed.any() and memo.n_read == 13
    assert watched.separated().read(first.tokens, SITE).shape == plain[SITE].shape
    full = Memo(0)
    for _ in range(2):
        full.model(lm).read(first.tokens, SITE)
    assert (full.n_read, full.n_known) == (16, 0)


def test_what_core_reads_is_known_to_the_next_one():
    one, memo = subject(random_topk()), Memo(10**7)
    one.lm.stream_decides(one.write)  # tried now, by reading two rows that are not counted here
    watched = one._replace(lm=memo.model(one.lm))
    found = Core.example().run(watched, tools())
    assert found.scores == Core.example().run(one, tools()).scores
    assert memo.n_read == 8  # 24 of 32 rows went through the whole model, which shows them too
    Core.example().run(watched, tools())
    assert memo.n_read == 8 and memo.n_known == 8


def counted(lm, layer):
    """Return a list that grows with each pass through the attention of a layer."""
    ran = []
    lm.module_at(SITE._replace(layer=layer, point="attn_out")).register_forward_hook(
        lambda *_: ran.append(1)
    )
    return ran


def test_saes_and_floors_share_what_no_sae_changes():
    lm, middle = tiny(n_layers=4), parse_site("L1.resid_post")
    one = subject(random_topk(), lm, middle, middle)
    made = [floors.get(n)().make(one, ground()) for n in ("untrained", "pca", "raw")]
    every, core = [one, *made], Core(n_tokens=512, ce_tokens=512)
    alone = [core.run(each, tools()).scores for each in every]  # and passes may begin at the site
    assert lm.stream_decides(middle)  # tried now, with passes of its own
    below, above = counted(lm, 1), counted(lm, 2)
    together = core.run_all(every, tools())
    assert [r.scores for r in together] == alone
    # Two batches: clean; three spliced, for the raw activation is the activation; zero and mean.
    assert (len(below), len(above)) == (2, 2 * (1 + 3 + 1 + 1))
    assert alone[3]["kl"].value == 0 and alone[3]["ce_rise"].value == 0


def ground(seed=0):
    return Ground(tools().rows, seed, {})


def test_floors_have_their_known_places():
    one = subject(random_topk())
    core = Core(n_tokens=512, ce_tokens=512)
    made = {name: floors.get(name)().make(one, ground()) for name in floors.names()}
    own = core.run(one, tools()).scores
    found = {name: core.run(made[name], tools()).scores for name in made}
    raw = found["raw"]
    assert raw["fvu"].value == pytest.approx(0, abs=1e-6)
    assert raw["ce_recovered_zero"].value == pytest.approx(1, abs=1e-3)
    assert raw["l0"].value == pytest.approx(32, abs=0.1)
    assert found["pca"]["l0"].value <= own["l0"].value == 2
    assert raw["fvu"].value < found["pca"]["fvu"].value < found["untrained"]["fvu"].value
    assert made["untrained"].sae.cfg.d_sae == 1024 and made["untrained"].sae.cfg.k == 2
    assert made["shuffled"].lm.name.endswith("shuffled")
    assert found["shuffled"]["fvu"].value != own["fvu"].value
    again = {name: floors.get(name)().make(one, ground()) for name in made}
    assert {n: identity(s) for n, s in made.items()} == {n: identity(s) for n, s in again.items()}
    # As many components as dimensions are the activation again, whatever they were fitted on.
    every = floors.get("pca")().make(one._replace(sae=mirror()), ground())
    every.sae.cfg = dataclasses.replace(every.sae.cfg, k=32)
    assert core.run(every, tools()).scores["fvu"].value == pytest.approx(0, abs=1e-6)


def test_a_floor_that_cannot_be_made_says_why():
    other = subject(random_topk())._replace(write=parse_site("L1.resid_post"))
    for name in ("pca", "raw"):
        with pytest.raises(ConfigError, match="a transcoder of L0.resid_post predicts L1"):
            floors.get(name)().make(other, ground())
    with pytest.raises(DataError, match="training text"):
        floors.get("pca")().make(other._replace(write=SITE), ground()._replace(rows=lambda _: ()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picky(Eval):
    """Not registered: fails of some SAEs, and is stopped where the test wants it."""

    name: ClassVar[str] = "picky"
    version: ClassVar[int] = 1
    ranks: ClassVar[bool] = False
    stop: ClassVar[bool] = False
    ran: ClassVar[list[str]] = []
    worse: float = 0.0

    @classmethod
    def example(cls):
        return cls()

    def cautions(self, subject):
        return ("the model is tiny",)

    def run(self, subject, tools):
        if Picky.stop:
            raise KeyboardInterrupt
        if "b" in subject.name:
            raise RuntimeError("a bug")
        if "untrained" in subject.name:
            raise DataError("no such text")
        Picky.ran.append(subject.name)
        latents = list(range(subject.sae.cfg.d_sae))
        tools.keep(subject, "picky", Table(columns={"latent": latents, "picked": latents}))
        value = score(0.5 + self.worse, 0.4, 0.6, "higher")
        found = {"good": value, "none": score(None), "aside": value}
        return self.result(found, {}, {"notes": ["the model is tiny", "said once"]})

    headline: ClassVar[tuple[str, ...]] = ("good", "no*", "a*", "-as*")


class Toy(Suite):
    """Three evaluations, one of which there is not."""

    name = "toy"
    parts = (Part("core"), Part("picky"), Part("nothing"), Part("seed_stability"))


@pytest.fixture
def toy(monkeypatch):
    registry.names(), suites.names()
    monkeypatch.setitem(registry._entries, "picky", Picky)
    monkeypatch.setitem(suites._entries, "toy", Toy)
    Picky.ran.clear()
    yield
    Picky.stop = False


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return Files(paths=(str(small.text_file(tmp_path_factory.mktemp("text"), 600)),))


def made(folder, texts, seed=0, weights=None, model="tiny", lm=None):
    """An SAE of random weights in a folder, with the card of a run of that seed."""
    lm = lm or tiny()
    sae = TopK(d_in=32, d_out=32, d_sae=64, k=4)
    sae = sae.build(torch.Generator().manual_seed(seed if weights is None else weights))
    tokens = text(16, seed=9)
    rule = fit(TokenRule(), lm.tokenizer.special_ids, tokens, lm.read(tokens, SITE))
    card = Card(
        model=lm.provenance(),
        pair=Pair(read=(str(SITE),)),
        rules={str(SITE): rule},
        corpus={},
        n_ctx=32,
        bos=True,
        tokens=0,
        run={"model": model, "corpus": texts.to_dict(), "seed": seed},
    )
    return TrainedSAE(sae, card).save(folder)


def run(saes, out, **changes):
    settings = SMALL | {"seed_stability.n_tokens": 512, "seed_stability.n_effects": 0}
    given = {"floors": ["untrained", "raw"], "settings": settings, "shown": False} | changes
    return saekit.evaluate_suite(saes, tiny(), "toy", out=out, **given)


def of(found, **wanted):
    return [r for r in found.rows.rows() if all(r[k] == v for k, v in wanted.items())]


def test_a_cell_that_fails_stops_no_other_and_says_why(toy, texts, tmp_path):
    saes = [made(tmp_path / name, texts, seed) for seed, name in enumerate("ab")]
    found = run(saes, None)
    assert {r["status"] for r in of(found, eval="core")} <= {"ok", "undefined"}
    assert len(of(found, eval="core", sae="b")) == len(Core.headline)
    (bug,) = of(found, eval="picky", sae="b")
    assert bug["status"] == "failed" and bug["reason"] == "RuntimeError: a bug"
    assert any("raise RuntimeError" in one["trace"] for one in found.failures)
    good, none = of(found, eval="picky", sae="a")
    assert (good["score"], none["score"]) == ("good", "none")
    assert (good["status"], none["status"]) == ("ok", "undefined")
    assert good["floors_lacking"] == "untrained: no such text" and good["above_raw"] == 0
    assert good["cautions"] == "the model is tiny" and good["ranks"] is False
    assert len(of(found, eval="nothing", status="failed")) == 2
    assert "no evaluation `nothing`" in of(found, eval="nothing")[0]["reason"]
    (shared,) = of(found, score="shared_feature_ratio")
    assert shared["sae"] == "a, b" and shared["status"] == "ok"
    fvu = of(found, score="fvu")
    spread = statistics.stdev([row["value"] for row in fvu])
    assert [row["reseed"] for row in fvu] == [pytest.approx(spread)] * 2
    assert fvu[0]["above_untrained"] == pytest.approx(fvu[0]["floor_untrained"] - fvu[0]["value"])
    for words in ("failed   picky of b: RuntimeError: a bug", "caution  picky: the model is tiny"):
        assert words in str(found)
    assert str(found).count("the model is tiny") == 1 and "a: said once" in str(found)


def test_a_table_says_once_why_values_and_intervals_are_lacking():
    few = {"eval": "e", "status": "ok", "value": 1.0, "low": None, "reason": "no interval: few"}
    rows = [few | {"score": "a"}, few | {"score": "b"}, few | {"score": "a"}]
    rows += [few | {"score": "c", "low": 0.5, "reason": "over latents"}]
    rows += [few | {"score": "d", "status": "undefined", "value": None, "reason": "no word"}]
    assert suite.bare(rows) == ["a, b of e: no interval: few", "d of e: undefined: no word"]


def test_one_sae_alone_has_no_seeds_and_that_is_no_failure(toy, texts, tmp_path):
    sae = made(tmp_path / "a", texts)
    found = run(sae, None, floors=[], settings={"core.n_tokens": 512})
    (row,) = of(found, eval="seed_stability")
    assert row["status"] == "skipped" and "seed alone" in row["reason"]
    assert "floor_untrained" not in row
    with pytest.raises(ConfigError, match="of core, picky, nothing, seed_stability"):
        run(sae, None, settings={"n_tokens": 3})
    with pytest.raises(ConfigError, match="no setting"):
        run(sae, None, settings={"core.n_token": 3})


def test_a_change_reaches_settings_inside_of_a_setting():
    asked = suite.SuiteSettings(suite="standard", changes=("meta_structure.fit.steps=7",))
    (part,) = (part for part in asked.of.parts if part.eval == "meta_structure")
    assert asked.config(part).fit.steps == 7
    with pytest.raises(ConfigError, match="`fit` has no setting `stepss`"):
        dataclasses.replace(asked, changes=("meta_structure.fit.stepss=7",)).config(part)


def test_the_same_weights_are_no_floor_of_a_score_of_weights(toy, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(Picky, "reads_text", False)
    found = run(made(tmp_path / "a", texts), None, floors=["shuffled", "raw"])
    (good,) = of(found, eval="picky", score="good")
    assert good["floor_shuffled"] is None and "weights of the SAE" in good["floors_lacking"]
    assert good["floor_raw"] == 0.5 and Picky.ran == ["a", "a, raw activation"]
    assert of(found, score="fvu")[0]["floor_shuffled"] > 0
    (kl,) = of(found, score="kl")
    assert kl["floor_shuffled"] is None and "losses tell nothing" in kl["floors_lacking"]


def test_a_suite_goes_on_where_it_was_killed_and_measures_nothing_twice(toy, texts, tmp_path):
    sae, out = made(tmp_path / "a", texts), tmp_path / "suite"
    Picky.stop = True
    with pytest.raises(KeyboardInterrupt):
        run(sae, out)
    cells = [p for p in (out / "cells").iterdir() if not p.name.startswith("floor-")]
    assert len(cells) == 3 and not (out / "suite.json").exists()  # the SAE and two floors
    before = {path: path.stat().st_mtime_ns for path in cells}
    Picky.stop = False
    found = run(sae, out)
    assert found.provenance["measured"] == 2  # picky, of the SAE and of the raw activation
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    again = run(sae, out)
    assert again.provenance["measured"] == 0 and again.rows == found.rows
    changed = run(sae, out, settings=SMALL | {"picky.worse": 0.25})
    assert changed.provenance["measured"] == 2
    assert of(changed, score="good")[0]["value"] == 0.75
    assert run(sae, out).rows == found.rows  # the older cells are still there
    sorted(before)[0].write_text("{")  # damaged: measured anew
    assert run(sae, out).provenance["measured"] == 1


def test_tables_go_where_the_evaluation_alone_puts_them(toy, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "parts", (Part("picky"), Part("seed_stability")))
    names, out = ("a", "c"), tmp_path / "suite"
    saes = [made(tmp_path / name, texts, seed) for seed, name in enumerate(names)]
    one = {"n_tokens": 512, "n_effects": 0}
    for sae in saes:
        saekit.evaluate(sae, tiny(), Picky(), tables=True, shown=False)
    saekit.evaluate(saes, tiny(), "seed_stability", tables=True, shown=False, **one)

    def tables():
        every = sorted(tmp_path.glob("[ac]/analysis/*.csv"))
        return {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in every}

    alone = tables()
    assert [name for name in alone if name.startswith("a")] == [
        f"a/analysis/{name}.csv" for name in ("picky", "stability", "stability_matches")
    ]
    changes = {"settings": {f"seed_stability.{k}": v for k, v in one.items()}}
    run(saes, out, **changes)
    kept = [path for path in (out / "cells").glob("*.csv")]
    assert len(kept) == 6  # none of a floor
    for again in (False, True):  # measured, and then known
        for path in tmp_path.glob("[ac]/analysis/*.csv"):
            path.unlink()
        assert not tables()
        found = run(saes, out if again else None, tables=True, **changes)
        assert tables() == alone and bool(found.provenance["measured"]) is not again


def test_an_evaluation_of_one_site_leaves_a_transcoder_out():
    class Single(Picky):
        one_site = True

    own = subject(random_topk())._replace(name="own")
    other = own._replace(write=parse_site("L1.resid_post"))
    members = {s: Member(s, s, lambda one=one: one) for s, one in (("x", own), ("y", other))}
    found = measure_each(Single(), members, (), tools(), Cells(None))
    assert found["x"].scores["good"].value == 0.5
    assert found["y"].skipped and "predicts L1.resid_post. Use core." in found["y"].reason


def test_other_weights_under_the_same_name_are_measured_anew(toy, texts, tmp_path):
    out, quick = tmp_path / "suite", {"settings": SMALL, "floors": []}
    first = run(made(tmp_path / "a", texts), out, **quick)
    import shutil

    shutil.rmtree(tmp_path / "a")
    other = run(made(tmp_path / "a", texts, weights=7), out, **quick)
    assert other.provenance["measured"] == 2
    one, two = (of(found, score="fvu")[0] for found in (first, other))
    assert one["value"] != two["value"] and one["cell"] != two["cell"]
    text = Files(paths=(str(small.text_file(tmp_path, 600, seed=5)),))
    assert run(tmp_path / "a", out, corpus=text, **quick).provenance["measured"] == 2


def test_a_study_that_lies_in_the_run_is_read_in_if_it_is_of_these_weights(
    toy, texts, tmp_path, monkeypatch
):
    from saekit.core.result import Result
    from saekit.evals.suites.base import StudyResults
    from saekit.hub.trained import weights_digest

    sae = made(tmp_path / "a", texts)
    scores = {"sensitivity": score(0.7, 0.6, 0.8, "higher"), "kept": score(1.0)}
    settings = {"weights": weights_digest(sae.sae)}
    result = Result(name="sensitivity", version=1, config=settings, scores=scores)
    result.write(tmp_path / "a" / "sensitivity" / "result.json")
    monkeypatch.setattr(Toy, "parts", (Part("picky"),))
    monkeypatch.setattr(
        Toy, "studies", (StudyResults("sensitivity", "sensitivity/result.json", ("sens*",)),)
    )
    (row,) = of(run(sae, None, settings={}), eval="sensitivity")
    assert (row["value"], row["status"]) == (0.7, "ok") and "no floor" in row["floors_lacking"]
    dataclasses.replace(result, config={"weights": "other"}).write(
        tmp_path / "a" / "sensitivity" / "result.json"
    )
    (row,) = of(run(sae, None, settings={}), eval="sensitivity")
    assert row["status"] == "skipped" and "other weights" in row["reason"]


def test_the_walk_from_the_command_line(toy, texts, tmp_path, capsys):
    model = str(save_tiny(tmp_path / "llama"))
    lm = saekit.load_model(model)
    saes = [made(tmp_path / n, texts, i, model=model, lm=lm) for i, n in enumerate("ab")]
    sets = [w for k, v in SMALL.items() for w in ("--set", f"{k}={v}")]
    capsys.readouterr()
    words = [
        "eval",
        *(str(s.folder) for s in saes),
        str(tmp_path / "gone"),
        "--suite",
        "toy",
        "--floors",
        "raw",
        *sets,
        "--quiet",
        "--out",
        str(tmp_path / "out"),
        "--figure",
        str(tmp_path / "out.svg"),
    ]
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr().out
    assert ended.value.code == 3, said
    assert "failed   " in said and str(tmp_path / "gone") in said and "validity" in said
    with pytest.raises(SystemExit):
        main([*words, "--json"])
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["measured"] == 0 and record["counts"]["failed"] == 4
    assert (tmp_path / "out.svg").exists() and (tmp_path / "out" / "suite.csv").exists()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "core: fvu" in page and "raw activation" in page
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(saes[0].folder), "--floors", "raw"])
    assert ended.value.code == 2 and "name one, --suite" in capsys.readouterr().err
    from saekit.report.pages import base as pages

    found = pages.payload("suite", tmp_path / "out")["blocks"]
    kinds = [block["kind"] for block in found]
    assert kinds[0] == "facts" and kinds.count("dots") == kinds.count("table") - 1 >= 6
    assert found[1]["marks"][0]["name"] == "raw activation"
    assert suite.FILE in found[0]["source"]
    printed = pages.registry.get("suite")().paper(tmp_path / "out")
    assert [b["kind"] for b in printed] == ["table"] + ["dots"] * kinds.count("dots")
    assert len(printed[0]["rows"]) > kinds.count("dots") and all(b["title"] for b in printed)


def spoiled(kind, cells):
    if kind == "a number edited":
        kept = [(path, json.loads(path.read_text())) for path in cells]
        for path, record in kept:
            for score in record["holds"]["scores"].values():
                score["value"] = 7.0
            path.write_text(json.dumps(record))
    elif kind == "a copy of another":
        for path in cells[1:]:
            path.write_bytes(cells[0].read_bytes())
    else:  # as earlier versions wrote it
        for path in cells:
            path.write_text(json.dumps(json.loads(path.read_text())["holds"]))


@pytest.mark.parametrize("kind", ["a number edited", "a copy of another", "without a checksum"])
def test_no_cell_is_believed_that_was_not_written_for_its_key(kind, toy, texts, tmp_path):
    saes = [made(tmp_path / name, texts, seed) for seed, name in enumerate("ac")]
    core = {"suite": "core", "floors": [], "settings": {"core.n_tokens": 512, "core.ce_tokens": 0}}
    found = saekit.evaluate_suite(saes, tiny(), out=tmp_path / "s", shown=False, **core)
    spoiled(kind, sorted((tmp_path / "s" / "cells").iterdir()))
    again = saekit.evaluate_suite(saes, tiny(), out=tmp_path / "s", shown=False, **core)
    assert again.provenance["measured"] == (1 if kind == "a copy of another" else 2)
    values = [
        [(r["sae"], r["score"], r["value"]) for r in one.rows.rows()] for one in (found, again)
    ]
    assert values[0] == values[1]


def test_wrong_sorts_of_saes_settings_and_floors_are_named(toy, texts, tmp_path):
    sae = made(tmp_path / "a", texts)
    with pytest.raises(ConfigError, match="named twice"):
        run([tmp_path / "a", tmp_path / "a" / ".." / "a"], None)
    with pytest.raises(ConfigError, match="whole number; got nan"):
        saekit.evaluate_suite(sae, tiny(), "core", settings={"core.n_tokens": math.nan})
    with pytest.raises(ConfigError, match='as ..a", "b"..'):
        saekit.evaluate_suite(sae, tiny(), "core", floors="pca")
    with pytest.raises(ConfigError, match="a list of these; got"):
        saekit.evaluate_suite(sae, tiny(), "core", settings={"core.n_tokens": object()})
    for given in (3, [3], None):
        with pytest.raises(ConfigError, match="An SAE is one that saekit.load"):
            inspect.unwrap(each_of)(given)
    with pytest.raises(ConfigError, match="what saekit.load_model returned; got 'tiny'"):
        check_model("tiny")


def test_weights_that_are_not_finite_are_refused_by_every_evaluation():
    sae = random_topk()
    with torch.no_grad():
        sae.W_dec[3, 4] = math.nan
    for name in ("core", "disentanglement", "meta_structure"):
        with pytest.raises(DataError, match="`W_dec` of subject has values that are not finite"):
            registry.get(name).example().check(subject(sae))
