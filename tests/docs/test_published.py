"""docs/measurements/published.md shows the rows that benchmarks/published.py made."""

import importlib
import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER, PAGE = ROOT / "benchmarks", ROOT / "docs" / "measurements" / "published.md"
MADE = PAGE.with_suffix(".json")
EXACT = ("probing", "fakes", "formulas")


@pytest.fixture(scope="module")
def recipes():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("_published")


def made(name):
    return json.loads(MADE.read_text(encoding="utf-8"))[name]


def table(recipes, name):
    one = made(name)
    return recipes.markdown(recipes.Found(tuple(one["columns"]), one["rows"], []))


@pytest.mark.parametrize("name", [*EXACT, "layers", "locality", "synth"])
def test_the_page_has_the_rows_that_were_made(recipes, name):
    assert "\n".join(table(recipes, name)) in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EXACT)
def test_what_needs_no_training_comes_out_the_same_again(recipes, name):
    found = getattr(recipes, name)(Namespace(quick=True))
    assert recipes.markdown(found) == table(recipes, name)
    assert all(floor.met for floor in found.floors)


def test_counts_of_fake_features_are_those_that_the_notes_print(recipes):
    """Each share that is printed is the mean of both seeds' counts over the latents."""
    for model, (n, *pairs) in recipes.FAKE.items():
        for pair, printed in zip(pairs, recipes.PRINTED_FAKE[model], strict=True):
            digits = len(f"{printed}".partition(".")[2])
            assert abs(100 * sum(pair) / 2 / n - printed) < 0.51 * 10**-digits, model


def test_a_changed_digit_misses_the_floor(recipes, monkeypatch):
    monkeypatch.setitem(recipes.PRINTED, "fineweb", (0.7008, 0.6298))
    monkeypatch.setitem(recipes.PRINTED_FAKE, "gpt2-small", (0.301, 0.273, 0.274))
    for name in ("probing", "fakes"):
        (floor,) = getattr(recipes, name)(Namespace(quick=True)).floors
        assert floor.value == 1 and not floor.met


@pytest.mark.slow  # three small SAEs are trained and measured: a minute
@pytest.mark.filterwarnings("ignore")
def test_every_recipe_runs_in_its_quick_form(recipes, monkeypatch, tmp_path, capsys):
    rows = tmp_path / "rows.json"
    words = ["--quick", "--check", "--out", str(tmp_path), "--rows", str(rows)]
    monkeypatch.setattr(sys, "argv", ["published.py", *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FOLDER / "published.py"), run_name="__main__")
    assert end.value.code == 0, capsys.readouterr().out
    again = json.loads(rows.read_text())
    assert set(again) == set(json.loads(MADE.read_text(encoding="utf-8")))
    for name, one in again.items():
        assert one["rows"] and all(len(row) == len(one["columns"]) for row in one["rows"]), name
