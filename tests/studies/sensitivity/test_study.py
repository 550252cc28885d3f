"""The whole study on latents whose truth is known, with generators that write what is planned."""

import dataclasses
import json
import sys
import types

import pytest

from saekit.core.errors import ConfigError, DataError, FormatError, UnknownNameError
from saekit.core.files import read_object, sha256_of
from saekit.core.result import Table
from saekit.data import table_files
from saekit.generators.limits import Limits
from saekit.generators.local import Local
from saekit.generators.scripted import Scripted
from saekit.models.tiny import tiny
from saekit.studies.sensitivity import floors, manifest
from saekit.studies.sensitivity.examples import ExampleConfig
from saekit.studies.sensitivity.prompts import SEPARATOR
from saekit.studies.sensitivity.study import Sensitivity, estimate, measure
from tests import letters

CFG = Sensitivity(
    n_latents=3,
    tokens=6000,
    texts=6,
    examples=ExampleConfig(around=6, top=4, weighted=2, random=40, least_count=3),
)


@pytest.fixture(scope="module")
def lm():
    return tiny("llama")


@pytest.fixture(scope="module")
def detector(lm):
    return letters.detector(lm)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return letters.documents(tmp_path_factory.mktemp("text"))


def script(*texts):
    return Scripted(answers=(("", f"\n{SEPARATOR}\n".join(texts)),))


ALL_Z = [f"a zoo with number {w}" for w in ("one", "two", "six", "ten", "four", "nine", "more")]
NONE = [f"a town with human {w}" for w in ("hats", "cats", "rats", "bats", "mats", "pots", "cots")]
HALF = [a if i % 2 else b for i, (a, b) in enumerate(zip(ALL_Z, NONE, strict=True))]


@pytest.mark.parametrize(("texts", "share"), [(ALL_Z, 1.0), (NONE, 0.0), (HALF, 0.5)])
def test_a_detector_fires_on_its_texts_and_on_no_others(lm, detector, text, tmp_path, texts, share):
    found = measure(detector, lm, script(*texts), tmp_path / "s", CFG, text=text, latents=[0])
    line = found.latents.rows()[0]
    assert line["generated_sensitivity"] == share and line["original_sensitivity"] == 1.0
    assert line["heldout_sensitivity"] == 1.0 and line["matched_rate"] == 0.0
    assert line["generated_low"] <= share <= line["generated_high"]
    assert line["random_rate"] < 0.4 and line["n_generated"] == 6
    assert found.result.scores["sensitivity"].value == share


def test_a_latent_that_is_on_everywhere_has_no_excess(lm, detector, text, tmp_path):
    found = measure(detector, lm, script(*ALL_Z), tmp_path / "s", CFG, text=text, latents=[2])
    line = found.latents.rows()[0]
    assert line["generated_sensitivity"] == 1.0 and line["random_rate"] == 1.0
    assert line["excess"] is None  # no room above a rate of 1
    assert line["auroc_random"] is not None


def test_dead_latents_and_refusals_are_counted(lm, detector, text, tmp_path):
    refusing = script("I'm sorry, I cannot help with that request.")
    found = measure(detector, lm, refusing, tmp_path / "s", CFG, text=text)
    assert found.result.details["left_out"] == {"3": "on at 0 tokens, at most 3"}
    assert found.latents.columns["status"] == ["no usable text"] * 3
    assert found.result.details["texts"]["refusal"] >= 3
    assert found.result.scores["sensitivity"].value is None
    with pytest.raises(DataError, match="None of 1 latents has 4 examples"):
        measure(detector, lm, refusing, tmp_path / "d", CFG, text=text, latents=[3])


def test_a_run_goes_on_where_it_stopped_and_asks_for_nothing_twice(lm, detector, text, tmp_path):
    whole = measure(detector, lm, script(*HALF), tmp_path / "whole", CFG, text=text)
    cut = tmp_path / "cut"
    part = measure(detector, lm, script(*HALF), cut, CFG, text=text, limits=Limits(requests=1))
    assert part.stopped == "budget" and part.latents.columns["status"].count("ok") == 1
    again = measure(detector, lm, script(*HALF), cut, CFG, text=text)
    assert not again.stopped and again.latents == whole.latents
    assert (cut / "texts.json").read_bytes() == (tmp_path / "whole/texts.json").read_bytes()
    lines = [json.loads(x) for x in (cut / "journal.jsonl").read_text().splitlines()]
    keys = [x["key"] for x in lines if x["kind"] == "reply"]
    assert len(keys) == len(set(keys)) == 3
    with pytest.raises(ConfigError, match=r"holds a run with another sensitivity \(texts\)\."):
        measure(detector, lm, script(*HALF), cut, dataclasses.replace(CFG, texts=5), text=text)
    with pytest.raises(ConfigError, match="another generator"):
        measure(detector, lm, script(*NONE), cut, CFG, text=text)


def test_every_table_is_the_same_as_csv_and_as_parquet(lm, detector, text, tmp_path):
    run = tmp_path / "s"
    found = measure(
        detector,
        lm,
        script(*HALF, "I cannot help with that"),
        run,
        CFG,
        text=text,
        limits=Limits(usd_in=1.0, usd_out=2.0),
    )
    made = read_object(run / "manifest.json")
    csvs = sorted(p.stem for p in run.glob("*.csv"))
    assert len(csvs) == 7 and sorted(p.stem for p in run.glob("parquet/*")) == csvs
    for name in csvs:
        one, other = run / f"{name}.csv", run / "parquet" / f"{name}.parquet"
        rows = list(table_files.rows(one))
        assert rows == list(table_files.rows(other))
        for path in (one, other):
            record = made["files"][path.relative_to(run).as_posix()]
            assert record == {"rows": len(rows), "sha256": sha256_of(path)}
    table = table_files.read(run / "parquet/feature_stats.parquet")
    assert table == found.latents  # with types and units
    usage = made["usage"]
    cost = (usage["tokens_read"] + 2 * usage["tokens_written"]) / 1e6
    assert usage["requests"] == usage["replies"] == 3 and usage["usd"] == pytest.approx(cost)


def test_without_pyarrow_the_manifest_says_that_there_is_no_parquet(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    table = Table(columns={"a": [1, 2]})
    made = manifest.write_tables(tmp_path, {"one": table})
    assert list(made["files"]) == ["one.csv"] and not (tmp_path / "parquet").exists()
    assert "pyarrow" in made["parquet"] and "pip install" in made["parquet"]


def test_a_writer_sees_no_special_tokens_of_the_corpus(lm, detector, text, tmp_path):
    sae = dataclasses.replace(detector, card=dataclasses.replace(detector.card, bos=True))
    wide = dataclasses.replace(CFG, examples=dataclasses.replace(CFG.examples, around=31))
    measure(sae, lm, script(*ALL_Z), tmp_path / "s", wide, text=text, latents=[2])
    record = read_object(tmp_path / "s/examples.json")["latents"]["2"]
    special = lm.tokenizer.special_ids
    assert any(i in special for one in record["shown"] for i in one["tokens"])
    asked = read_object(tmp_path / "s/audit.json")["2"]["asked"]
    words = " ".join(content for one in asked for _, content in one["messages"])
    assert not any(lm.tokenizer.pieces([i])[0] in words for i in special)


def test_a_plan_costs_nothing_and_knows_what_is_answered(lm, detector, text, tmp_path):
    prices = Limits(usd_in=1.0, usd_out=2.0)
    asked = script(*ALL_Z)
    before = estimate(detector, lm, asked, tmp_path / "p", CFG, text=text, limits=prices)
    assert before["latents"] == before["requests"] == 3 and before["known"] == 0
    cost = (before["tokens_read"] + 2 * before["tokens_written"]) / 1e6
    assert before["usd"] == pytest.approx(cost)
    assert not (tmp_path / "p/journal.jsonl").exists()
    measure(detector, lm, asked, tmp_path / "p", CFG, text=text)
    after = estimate(detector, lm, asked, tmp_path / "p", CFG, text=text, limits=prices)
    assert (after["requests"], after["known"], after["usd"]) == (0, 3, 0.0)


def test_a_local_model_writes_the_same_text_again(lm, detector, text, tmp_path):
    tiny_folder = tmp_path / "model"
    from saekit.models.tiny import save_tiny

    save_tiny(tiny_folder)
    local = Local(model=str(tiny_folder))
    cfg = dataclasses.replace(CFG, texts=2, rounds=1, tokens=3000)
    runs = [measure(detector, lm, local, tmp_path / n, cfg, text=text, latents=[0]) for n in "ab"]
    assert runs[0].texts == runs[1].texts and len(runs[0].texts[0]) == 2
    assert "chat" in runs[0].result.config["generator"]


@pytest.mark.parametrize("latents", [[], [0, 0], [9], [-1]])
def test_latents_that_are_none_are_refused(lm, detector, text, tmp_path, latents):
    with pytest.raises(ConfigError, match=r"distinct numbers in 0\.\.3"):
        measure(detector, lm, script("x"), tmp_path / "s", CFG, text=text, latents=latents)


def test_floors_are_saes_that_learned_nothing(lm, detector, text, tmp_path):
    every = dict.fromkeys(floors.NAMES)
    cfg = dataclasses.replace(CFG, n_latents=2, floor_latents=1)
    found = measure(
        detector, lm, script(*ALL_Z), tmp_path / "s", cfg, text=text, floors=every, latents=[0, 1]
    )
    made = found.result.details["floors"]
    assert list(made) == list(floors.NAMES)
    # A detector of a letter's embedding finds nothing of it where embeddings are shuffled.
    shuffled = made["shuffled_model"]
    assert shuffled["reason"] or shuffled["sensitivity_all"]["value"] < 0.5
    assert "--arch frozen" in made["random_decoder"]["reason"]
    # As many random directions are on at a token as latents of the detector.
    assert made["random_encoder"]["latents"] == 1
    assert made["random_encoder"]["l0"] == max(1, round(found.result.details["l0"]))
    table = (tmp_path / "s/summary.csv").read_text()
    assert [line.split(",")[0] for line in table.splitlines()[1:]] == [
        "this SAE",
        *(name.replace("_", " ") for name in floors.NAMES),
    ]


def test_a_run_with_a_frozen_decoder_beside_it_is_found(detector, tmp_path):
    card = dataclasses.replace(detector.card, run={"model": "m"})
    sae = dataclasses.replace(detector, card=card)
    for name, half, d_sae in (("a", "encoder", 4), ("b", "decoder", 8), ("c", "decoder", 4)):
        run = {
            "model": "m",
            "pair": {"read": ["embed"]},
            "sae": {"name": "frozen", "half": half, "d_sae": d_sae},
        }
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(run))
    assert floors.sibling(tmp_path / "mine", sae) == tmp_path / "c"
    assert floors.sibling(tmp_path / "none/mine", sae) is None
    with pytest.raises(UnknownNameError, match=r"Floors are .*random_decoder; got 'decoder'"):
        floors.named(["decoder=x"], tmp_path / "mine", sae)
    with pytest.raises(FormatError, match="There is no run"):
        floors.named(["random_decoder=nowhere"], tmp_path / "mine", sae)


def test_the_page_of_a_latent_shows_each_text_and_whether_it_fires(lm, detector, text, tmp_path):
    from saekit.studies.sensitivity.panels.sensitivity import SensitivityPanel

    found = measure(
        detector, lm, script(*HALF), tmp_path / "run/sensitivity", CFG, text=text, latents=[0]
    )
    index = types.SimpleNamespace(d_sae=4)
    facts, texts = SensitivityPanel().blocks(tmp_path / "run", index, 0)
    rates = {label: value for label, value, *_ in facts["facts"]}
    assert rates["Fires on new texts"] == 0.5 and rates["Fires on its own examples"] == 1.0
    assert {one["text"]: one["mark"] for one in texts["texts"]} == {
        t: "hit" if "z" in t else "miss" for t in HALF[:6]
    }
    (other,) = SensitivityPanel().blocks(tmp_path / "run", index, 1)
    assert other["kind"] == "missing" and "--latent 1" in other["command"]
    assert SensitivityPanel().blocks(tmp_path, index, 0) is None
    columns = found.columns().columns
    assert list(columns) == ["latent", "generated_sensitivity", "random_rate", "excess"]
    assert columns["latent"] == [0] and columns["generated_sensitivity"] == [0.5]
