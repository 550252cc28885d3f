"""A sweep is evaluated, and reported, in one command."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from saekit.models.tiny import save_tiny
from tests import world
from tests.cli.test_cli import call

QUICK = ["--set", "n_tokens=1024", "--set", "ce_tokens=256", "--set", "n_blocks=8", "--quiet"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    from saekit.cli.main import main

    base = tmp_path_factory.mktemp("sweeps")
    save_tiny(base / "llama")
    world.text_file(base, n_docs=600)
    words = [
        "sweep",
        "--vary",
        "k=2,4",
        "--vary",
        "seed=0,1",
        "--model",
        base / "llama",
        "--site",
        "L1.resid_post",
        "--corpus",
        base / "text.jsonl",
        "--d-sae",
        64,
        "--tokens",
        2000,
        "--set",
        "n_ctx=32",
        "--set",
        "batch_tokens=128",
        "--set",
        "buffer_tokens=512",
        "--dtype",
        "float32",
        "--quiet",
        "--out",
        base / "ks",
    ]
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    assert ended.value.code == 0
    return base / "ks"


@pytest.fixture
def copied(sweep, tmp_path):
    return shutil.copytree(sweep, tmp_path / "ks")


def test_every_sae_is_evaluated_and_all_are_one_table(copied, capsys):
    code, line, err = call(capsys, "eval", copied, *QUICK, "--json")
    assert code == 0, err
    found = json.loads(line)
    names = ["k2-seed0", "k2-seed1", "k4-seed0", "k4-seed1"]
    assert list(found["runs"]) == names and found["left_out"] == {}
    assert found["split"] == "validation"  # which one is chosen is no matter of the test text
    results = Path("eval") / "validation"
    with (copied / results / "core.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["run"], r["sae.k"], r["seed"]) for r in rows] == [
        (name, name[1], name[-1]) for name in names
    ]
    alone = copied / "k4-seed1"
    kept = json.loads((alone / results / "core.json").read_text())["scores"]["fvu"]
    assert float(rows[3]["fvu"]) == pytest.approx(kept["value"])
    assert rows[3]["fvu_low"] == ("" if kept["low"] is None else str(kept["low"]))
    code, line, _ = call(capsys, "eval", alone, *QUICK, "--split", "validation", "--json")
    assert json.loads(line)["fvu"] == pytest.approx(kept["value"])
    assert not list(copied.glob("**/eval/core.*"))


def test_runs_that_keep_no_validation_text_are_told_apart_on_test_text(copied, capsys):
    """As those of an earlier version, whose files name no such share."""
    runs = [*copied.glob("*/sae/card.json"), *copied.glob("*/run.json")]
    for path in (copied / "sweep.json", *runs):
        text = path.read_text()
        assert '"validation_share": 0.1' in text
        path.write_text(re.sub(r',\s*"validation_share": 0.1', "", text))
    code, line, err = call(capsys, "eval", copied, *QUICK, "--json")
    assert code == 0 and json.loads(line)["split"] == "test", err
    assert (copied / "eval" / "core.csv").exists()


def test_one_page_links_to_a_page_each(copied, capsys):
    assert call(capsys, "eval", copied, *QUICK, "--json")[0] == 0
    code, line, err = call(capsys, "report", copied, "--json")
    assert code == 0, err
    page = (copied / "report.html").read_text()
    for name in ("k2-seed0", "k4-seed1"):
        assert f'<a href="{name}/report.html">{name}</a>' in page
        assert (copied / name / "report.html").exists()
    assert page.count("<circle") == 4 and "<th>FVU</th>" in page and "<th>k</th>" in page
    assert "style=" not in page.split("</style>")[1]  # the policy refuses such attributes
    assert len(json.loads(line)["pages"]) == 4 and "<b>text</b> validation" in page


def test_a_page_before_evaluation_says_what_to_do(copied, capsys):
    assert call(capsys, "report", copied, "--json")[0] == 0
    page = (copied / "report.html").read_text()
    assert "Without an evaluation: k2-seed0" in page and f"saekit eval {copied}" in page


def test_an_untrained_sae_is_named_and_the_others_go_on(copied, capsys):
    shutil.rmtree(copied / "k2-seed1" / "sae")
    code, line, _ = call(capsys, "eval", copied, *QUICK, "--json")
    found = json.loads(line)
    assert code == 3 and found["left_out"] == {"k2-seed1": "not trained"}
    assert len(found["runs"]) == 3
    for name in ("k2-seed0", "k4-seed0", "k4-seed1"):
        shutil.rmtree(copied / name / "sae")
    code, _, err = call(capsys, "eval", copied, *QUICK)
    assert code != 0 and "saekit sweep --resume" in err
