"""Panels: evidence next to an SAE becomes blocks; what is missing, damaged or another's is told."""

import dataclasses
import json
import shutil
import time

import pytest

import saekit
from saekit.analysis.twins import twins
from saekit.core.errors import UnknownNameError
from saekit.core.files import write_json
from saekit.core.result import Table
from saekit.data import table_files
from saekit.models.tiny import tiny
from saekit.report.panels import base
from saekit.training.sweep_loop import sweep_runs
from tests import world


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a sweep of two seeds, with an index."""
    folder = tmp_path_factory.mktemp("panels")
    plain = world.run(folder, tokens=3000)
    lm = tiny()
    seeds = {f"seed{i}": dataclasses.replace(plain, seed=i) for i in range(2)}
    sweep_runs(seeds, lm, folder / "sweep", shown=False)
    saekit.index(folder / "sweep" / "seed0", lm, tokens=2000, shown=False)
    return folder / "sweep" / "seed0"


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run, in a copy of its sweep, which a test may change."""
    shutil.copytree(run.parent, tmp_path / "sweep")
    return tmp_path / "sweep" / "seed0"


def opened(run):
    return saekit.Index(run / "index")


def alive(index):
    return int(index.column("density").argmax())


def of(name, run, latent=None):
    index = opened(run)
    return base.payload(name, run, index, alive(index) if latent is None else latent)


def kinds(payload):
    return [block["kind"] for block in payload["blocks"]]


def test_every_panel_says_what_it_is():
    assert {"locality", "layers", "truth", "twins"} <= set(base.registry.names())
    for name in base.registry.names():
        panel = base.registry.get(name)
        assert panel.title and panel.about.endswith(".")
        assert (panel.__doc__ or "").partition("\n")[0].endswith(".")


def test_twins_that_could_be_made_are_missing_with_their_command(run):
    block = of("twins", run)["blocks"][0]
    assert block["kind"] == "missing" and block["command"] == f"saekit twins {run}"
    assert block["text"] == "1 other SAEs of its sweep have its site and width."


def test_an_sae_of_no_sweep_has_no_such_panel(run, tmp_path):
    shutil.copytree(run, tmp_path / "lone")
    assert of("twins", tmp_path / "lone") is None


def test_twins_are_shown_once_they_are_made(copy):
    found = twins(copy)
    found.write(copy / "analysis")
    shown = of("twins", copy, 3)
    assert kinds(shown) == ["facts", "table"]
    facts = {label: value for label, value, *_ in shown["blocks"][0]["facts"]}
    assert facts["Stable"] == pytest.approx(float(found.stable[3]))
    assert facts["By chance"] == pytest.approx(found.chance)
    ((other, latent, cosine, _, mutual),) = shown["blocks"][1]["rows"]
    matched = found.matches["seed1"]
    assert (other, latent) == ("seed1", int(matched.latent[3]))
    assert cosine == pytest.approx(float(matched.cosine[3]))
    assert mutual == ("yes" if matched.mutual[3] else "no")


def test_twins_of_other_weights_are_not_shown(copy):
    twins(copy).write(copy / "analysis")
    path = copy / "analysis" / "twins.json"
    write_json(path, json.loads(path.read_text()) | {"digests": ["0" * 64]})
    block = of("twins", copy)["blocks"][0]
    assert block["kind"] == "missing" and "other weights" in block["text"]


def test_an_sae_of_one_site_has_no_layers_and_one_of_a_model_no_truth(run):
    assert of("layers", run) is None and of("truth", run) is None


def truth(run, d_sae=64):
    latents = {
        "feature": [i // 2 for i in range(d_sae)],
        "cosine": [0.9 - 0.01 * i for i in range(d_sae)],
        "matched_feature": [i // 2 if i % 2 == 0 else -1 for i in range(d_sae)],
        "density": [0.01] * d_sae,
    } | {name: [None] + [0.5] * (d_sae - 1) for name in ("precision", "recall", "f1")}
    write_json(run / "eval" / "ground_truth.json", {"details": {"by_latent": latents}})


def test_truth_is_that_of_the_latent(copy):
    truth(copy)
    shown = of("truth", copy, 0)
    facts = {label: value for label, value, *_ in shown["blocks"][0]["facts"]}
    assert facts["Best feature"] == 0 and facts["Cosine with it"] == 0.9
    assert facts["Precision"] is None and facts["Feature it is matched to"] == 0
    table = shown["blocks"][1]
    assert table["rows"][0][:2] == [1, 0.89] and table["links"] == {"latent": "latent"}
    assert of("truth", copy, 1)["blocks"][0]["facts"][5][1] == "none"


def test_truth_of_another_number_of_latents_is_not_shown(copy):
    truth(copy, d_sae=32)
    assert of("truth", copy) is None


def test_a_damaged_file_is_told_in_its_panel_and_the_others_are_shown(copy):
    twins(copy).write(copy / "analysis")
    (copy / "eval").mkdir(exist_ok=True)
    (copy / "eval" / "ground_truth.json").write_text("{")
    shown = of("truth", copy)
    assert kinds(shown) == ["text"] and "ground_truth.json" in shown["blocks"][0]["text"]
    assert kinds(of("twins", copy)) == ["facts", "table"]
    every = base.every(copy, opened(copy), 0)
    assert every["truth"] == base.payload("truth", copy, opened(copy), 0) and "twins" in every


def test_a_file_of_another_shape_is_told_too(copy):
    write_json(copy / "eval" / "ground_truth.json", {"details": {"by_latent": {"feature": 3}}})
    assert kinds(of("truth", copy)) == ["text"]


@pytest.mark.parametrize("latent", [-1, 64, 10**9])
def test_a_latent_out_of_range_is_refused(run, latent):
    with pytest.raises(UnknownNameError, match=r"latents 0\.\.63"):
        of("twins", run, latent)


def test_a_file_is_read_again_when_it_changes_and_only_then(tmp_path):
    path, reads = tmp_path / "a.txt", []

    def read(file):
        reads.append(1)
        return file.read_text()

    path.write_text("one")
    assert [base.kept(read, path), base.kept(read, path), len(reads)] == ["one", "one", 1]
    path.write_text("three")
    assert [base.kept(read, path), len(reads)] == ["three", 2]


@pytest.mark.parametrize("kind", table_files.FORMATS)
@pytest.mark.parametrize("words", ["plain", 'a "quoted", word', "two\nlines"])
def test_rows_of_a_latent_are_those_of_the_whole_table(tmp_path, kind, words):
    table = Table(columns={"note": [words, "=1", ""], "latent": [2, 10, 2], "x": [0.5, None, 7]})
    table_files.write(table, tmp_path / "t", kind)
    found = [row for row in table_files.rows(tmp_path / f"t.{kind}") if row["latent"] == "2"]
    assert base.rows_of(tmp_path / "t", 2) == found and len(found) == 2
    assert base.row_of(tmp_path / "t", 10)["note"] == "=1"
    assert base.row_of(tmp_path / "t", 1) is None and base.row_of(tmp_path / "none", 1) is None
    assert base.rows_of(tmp_path / "t", 2, "other") == []


def test_folders_that_a_user_names_are_searched(tmp_path, monkeypatch):
    run, other = tmp_path / "run", tmp_path / "other"
    for folder in (run, other):
        (folder / "locality" / "events").mkdir(parents=True)
        (folder / "locality" / "events" / "manifest.json").write_text("{}")
    pattern = ("locality*/*/manifest.json",)
    assert [p.parents[2] for p in base.found(run, pattern)] == [run]
    monkeypatch.setenv(base.EVIDENCE, str(other))
    assert [p.parents[2] for p in base.found(run, pattern)] == [run, other]


def test_a_row_of_a_large_table_takes_less_than_100_ms_once_it_is_read(tmp_path):
    n = 131_072
    columns = {"latent": list(range(n)), **{f"c{i}": [0.123456] * n for i in range(8)}}
    Table(columns=columns).write_csv(tmp_path / "t.csv")
    base.row_of(tmp_path / "t", 5)
    began = time.monotonic()
    for latent in range(0, n, n // 100):
        assert base.row_of(tmp_path / "t", latent)["latent"] == str(latent)
    assert time.monotonic() - began < 1  # of a hundred rows, on a busy machine


@pytest.mark.parametrize("odd", ["\x0c", "\x85", "\u2028", "\x1c"])
def test_a_cell_with_an_odd_end_of_line_is_one_cell(tmp_path, odd):
    path = tmp_path / "run" / "analysis" / "t.csv"
    path.parent.mkdir(parents=True)
    path.write_text(f"latent,token\n0,a{odd}b\n1,c\n", encoding="utf-8")
    assert base.row_of(path.with_suffix(""), 0) == {"latent": "0", "token": f"a{odd}b"}
    assert base.row_of(path.with_suffix(""), 1) == {"latent": "1", "token": "c"}


def test_a_table_behind_a_link_out_of_the_run_is_none(tmp_path):
    (tmp_path / "else.csv").write_text("latent,token\n0,secret\n", encoding="utf-8")
    (tmp_path / "run" / "analysis").mkdir(parents=True)
    (tmp_path / "run" / "analysis" / "t.csv").symlink_to(tmp_path / "else.csv")
    assert base.rows_of(tmp_path / "run" / "analysis" / "t", 0) == []
