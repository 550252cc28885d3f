"""The panel of locality and the pages of its folders, from files that the commands left."""

import csv
import json
import math
import re
import shutil
import time

import pytest

import saekit
from saekit.cli.main import main
from saekit.core.files import read_object, write_json
from saekit.core.npz import read_npz
from saekit.report.pages import base as pages
from saekit.report.panels import base as panels
from saekit.training.loop import train
from tests import world

pytest.importorskip("matplotlib")


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from saekit.models.tiny import save_tiny

    base = tmp_path_factory.mktemp("locality panels")
    save_tiny(base / "llama", "llama")
    place = str(base / "llama")
    lm = saekit.load_model(place)
    train(world.run(base, tokens=3000, model=place), lm, base / "run", shown=False)
    saekit.index(base / "run", lm, tokens=3000, codes=True, shown=False)
    return base / "run"


@pytest.fixture(scope="module")
def latents(run):
    density = saekit.Index(run / "index").column("density")
    order = sorted(range(len(density)), key=lambda i: -density[i])
    return order[:5]


@pytest.fixture(scope="module")
def events(run, latents):
    chosen = ",".join(map(str, latents))
    lengths = ["--n-ctx", "8", "--n-ctx", "16"]
    read = ["--corpus", run.parent / "text.jsonl", "--tokens", "3000"]
    call("locality", "events", run, "--latents", chosen, "--top", "6", *lengths, *read, "--quiet")
    return run / "locality" / "events"


def shown(run, latent):
    return panels.payload("locality", run, saekit.Index(run / "index"), latent)


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_an_events_folder_becomes_facts_strips_and_distributions(run, events, latents):
    latent = latents[0]
    blocks = shown(run, latent)["blocks"]
    mine = [r for r in rows(events / "ctx16.csv") if int(r["feature_id"]) == latent]
    ok = [r for r in mine if r["status"] == "ok"]
    H = [float(r["H_pos"]) for r in ok]
    facts = {label: value for label, value, *_ in blocks[0]["facts"]}
    assert facts["H_pos, mean over events"] == pytest.approx(sum(H) / len(H))
    assert facts["Events"] == len(H) and facts["Window"] == 16
    strips = [b for b in blocks if b["kind"] == "strip"]
    assert len(strips) == min(4, len(H))
    J = read_npz(events / "influences_ctx16.npz")[ok[0]["npz_key"]].astype(float)
    root, share = (channel["values"] for channel in strips[0]["channels"])
    assert root == pytest.approx(((J / J.max()) ** 0.5).tolist())
    assert share == pytest.approx((J / J.sum()).tolist()) and sum(share) == pytest.approx(1)
    texts = read_object(next(events.glob("top_contexts_layer*.json")))[str(latent)]["examples"]
    words = [strips[0]["strings"][i] for i in strips[0]["tokens"]]
    assert words == texts[0]["tokens"][-len(J) :]
    assert strips[0]["peak"] == len(words) - 1
    distribution, by_length = (b for b in blocks if b["kind"] == "lines")
    assert [sum(s["y"]) for s in distribution["series"]] == pytest.approx([1, 1])
    assert f"({len(H)} events)" in distribution["series"][0]["name"]
    assert by_length["series"][0]["x"] == [8, 16]
    assert by_length["series"][1]["y"] == [3, 4]


def test_it_answers_in_time_once_the_files_are_read(run, events, latents):
    shown(run, latents[0])
    index = saekit.Index(run / "index")
    began = time.monotonic()
    for _ in range(10):
        panels.payload("locality", run, index, latents[1])
    assert (time.monotonic() - began) / 10 < 0.1


def test_a_latent_without_events_gets_the_command_that_makes_them(run, events, latents):
    index = saekit.Index(run / "index")
    density = index.column("density")
    other = next(i for i in range(64) if i not in latents and density[i] > 0)
    (block,) = shown(run, other)["blocks"]
    assert block["kind"] == "missing"
    assert block["command"].startswith("saekit locality events ")
    assert f"--latents {other} --site L1.resid_post --out " in block["command"]
    dead = next((i for i in range(64) if not density[i] > 0), None)
    assert dead is None or shown(run, dead) is None


def test_the_command_that_it_names_makes_what_it_shows(run, events, latents):
    import shlex

    index = saekit.Index(run / "index")
    density = index.column("density")
    other = next(i for i in range(63, -1, -1) if i not in latents and density[i] > 0)
    words = shlex.split(shown(run, other)["blocks"][0]["command"])
    call(*words[1:], "--n-ctx", "8", "--quiet")
    assert shown(run, other)["blocks"][0]["kind"] in ("facts", "text")


def test_events_of_other_weights_are_not_shown(run, events, latents, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "locality" / "events" / "run.json"
    write_json(path, json.loads(path.read_text()) | {"weights": "0" * 64})
    assert shown(tmp_path / "run", latents[0])["blocks"][0]["kind"] == "missing"


def test_a_damaged_table_of_events_is_told(run, events, latents, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "locality" / "events" / "ctx16.csv"
    path.write_text(path.read_text().replace("feature_id", "feature", 1))
    (block,) = shown(tmp_path / "run", latents[0])["blocks"]
    assert block["kind"] == "text" and "ctx16.csv" in block["text"]


def test_events_elsewhere_are_found_where_the_user_names_them(
    run, events, latents, tmp_path, monkeypatch
):
    shutil.copytree(run / "index", tmp_path / "run" / "index")
    assert shown(tmp_path / "run", latents[0])["blocks"][0]["kind"] == "missing"
    monkeypatch.setenv(panels.EVIDENCE, str(run))
    assert shown(tmp_path / "run", latents[0])["blocks"][0]["kind"] == "facts"


@pytest.fixture(scope="module")
def autocorr(run, latents):
    chosen = ",".join(map(str, latents))
    sizes = ["--tokens", "4000", "--window", "128", "--overlap", "32", "--lags", "8"]
    drawn = ["--targets", "3", "--n-ctx", "8", "--top", "2", "--latents", chosen]
    call("locality", "autocorr", run, *sizes, *drawn, "--quiet")
    return run / "locality" / "autocorr"


def test_autocorrelation_is_shown_where_it_was_measured(run, events, autocorr, latents):
    blocks = shown(run, latents[0])["blocks"]
    facts, lines = blocks[-2:]
    assert facts["title"] == "How long it stays on"
    table = [
        r for r in rows(autocorr / "autocorr_curves.csv") if r["feature_id"] == str(latents[0])
    ]
    assert lines["series"][0]["x"] == list(range(9)) or lines["series"][0]["x"] == list(range(8))
    assert lines["series"][0]["y"] == pytest.approx([float(r["autocorr"]) for r in table])
    assert [s["name"] for s in lines["series"]] == ["activation", "whether it is on"]


def page(folder):
    kind = pages.kind_of(folder)
    assert kind is not None
    found = pages.payload(kind, folder)
    assert found["title"].endswith(f": {folder.name}") and found["kind"] == kind
    assert [b["kind"] for b in found["blocks"]] != ["text"], found["blocks"][0]
    return found


def test_the_page_of_events_has_each_latent(events, latents):
    found = page(events)
    assert found["kind"] == "locality_events"
    assert {b["kind"] for b in found["blocks"]} >= {"facts", "lines", "histogram", "table"}
    made = dict(one[:2] for one in found["blocks"][0]["facts"])["Made"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", made)
    table = found["blocks"][-1]
    assert {row[0] for row in table["rows"]} == set(latents) and table["links"]
    means = [row[1] for row in table["rows"] if row[1] is not None]
    assert means == sorted(means)


def test_the_page_of_autocorrelation(autocorr, latents):
    found = page(autocorr)
    assert found["kind"] == "locality_autocorr"
    assert {row[0] for row in found["blocks"][-1]["rows"]} == set(latents)


def test_the_page_of_a_depth_run_draws_every_site(run, tmp_path):
    sizes = ["--n-ctx", "12", "--set", "windows=8", "--null", "random"]
    call(
        "locality",
        "depth",
        run,
        "--corpus",
        run.parent / "text.jsonl",
        *sizes,
        "--out",
        tmp_path / "depth",
        "--quiet",
    )
    found = page(tmp_path / "depth")
    assert found["kind"] == "locality_depth"
    lines = next(b for b in found["blocks"] if b["kind"] == "lines")
    made = read_object(tmp_path / "depth" / "result.json")
    score = made["scores"]["L1.resid_post/entropy_bits_mean_over_windows"]
    series = lines["series"][0]
    assert (series["y"], series["low"], series["high"]) == (
        [score["value"]],
        [score["low"]],
        [score["high"]],
    )
    assert any(s["name"].startswith("null: random") for s in lines["series"])


def test_the_page_of_a_context_run_draws_every_length(run, tmp_path):
    (tmp_path / "prompt.txt").write_text("the cat sat on the mat and then ran quickly " * 8)
    call(
        "locality",
        "context",
        run,
        "--prompt",
        tmp_path / "prompt.txt",
        "--n-ctx",
        "40",
        "--set",
        "step=16",
        "--out",
        tmp_path / "context",
        "--quiet",
    )
    found = page(tmp_path / "context")
    assert found["kind"] == "locality_context"
    lines = next(b for b in found["blocks"] if b["kind"] == "lines")
    made = read_object(tmp_path / "context" / "result.json")
    assert lines["series"][0]["x"] == made["details"]["lengths"] and lines["x"]["log"]
    assert all(y is None or math.isfinite(y) for s in lines["series"] for y in s["y"])


def test_the_page_of_geometry(run, events, tmp_path):
    call(
        "locality",
        "geometry",
        events,
        "--sae",
        run,
        "--out",
        tmp_path / "geometry",
        "--least-events",
        "1",
        "--no-figures",
        "--quiet",
    )
    found = page(tmp_path / "geometry")
    assert found["kind"] == "locality_geometry" and found["blocks"][0]["facts"][0][1] == 5


def test_a_run_is_no_study(run):
    assert pages.kind_of(run) is None
