"""The panel of layers and the page of a survey, from files that the commands left."""

import csv
import json
import shutil

import pytest

import saekit
from saekit.cli.main import main
from saekit.core.files import read_object, write_json
from saekit.models.tiny import save_tiny
from saekit.report.pages import base as pages
from saekit.report.panels import base as panels
from tests.studies.layers import world

SITE = world.SITES[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made, lm, _ = world.trained()
    run = tmp_path_factory.mktemp("layers") / "run"
    shutil.copytree(made, run)
    saekit.index(run, lm, tokens=1500, site=SITE, shown=False)
    return run


@pytest.fixture(scope="module")
def surveyed(run, tmp_path_factory):
    model = save_tiny(tmp_path_factory.mktemp("model") / "llama", "llama")
    words = ["--tokens", "2000", "--model", str(model), "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main(["layers", "analyse", str(run), *words])
    assert ended.value.code == 0
    return run / "layers"


def shown(run, latent):
    return panels.payload("layers", run, saekit.Index(run / "index"), latent)


def test_before_it_is_made_the_command_is_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("layers"))
    (block,) = shown(tmp_path / "run", 0)["blocks"]
    assert block["kind"] == "missing"
    assert block["command"] == f"saekit layers analyse {tmp_path / 'run'}"


def test_the_distribution_is_that_of_the_table(run, surveyed):
    with (surveyed / "latents.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    row = max(rows, key=lambda r: int(r["count"]))
    bars, facts = shown(run, int(row["latent"]))["blocks"]
    assert bars["labels"] == list(world.SITES)
    assert bars["values"] == [float(row[f"p_{site}"]) for site in world.SITES]
    assert sum(bars["values"]) == pytest.approx(1)
    found = {label: value for label, value, *_ in facts["facts"]}
    assert found["Mean layer"] == float(row["layer_mean"])
    dead = next((r for r in rows if not int(r["count"])), None)
    if dead is not None:
        (block,) = shown(run, int(dead["latent"]))["blocks"]
        assert block["kind"] == "text" and "at no layer" in block["text"]


def test_a_survey_elsewhere_must_be_of_these_weights(run, surveyed, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("layers"))
    other = tmp_path / "other" / "layers"
    shutil.copytree(surveyed, other)
    monkeypatch.setenv(panels.EVIDENCE, str(tmp_path / "other"))
    path = other / "survey.json"
    made = json.loads(path.read_text())
    write_json(path, made | {"made_from": made["made_from"] | {"weights": "0" * 64}})
    assert shown(tmp_path / "run", 0)["blocks"][0]["kind"] == "missing"


def test_the_page_of_a_survey(surveyed):
    assert pages.kind_of(surveyed) == "layers"
    found = pages.payload("layers", surveyed)
    kinds = [b["kind"] for b in found["blocks"]]
    assert kinds[:2] == ["facts", "heatmap"] and {"histogram", "lines", "table"} <= set(kinds)
    heatmap = found["blocks"][1]
    assert heatmap["x"] == list(world.SITES)
    assert all(sum(row) == pytest.approx(1) for row in heatmap["values"])
    facts = {label: value for label, value, *_ in found["blocks"][0]["facts"]}
    said = read_object(surveyed / "summary.json")
    assert facts["Latents ever active"] == said["alive"] == len(heatmap["y"])
