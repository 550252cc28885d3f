"""Text from files stays text: on a terminal, in a spreadsheet, in a figure."""

import csv
import json

import pytest

from saekit.core.result import Table
from saekit.core.text import as_cell, from_cell, printable, printable_json
from saekit.data import table_files
from saekit.terminal.output import emit

FORMULAS = ["=1+1", "+cmd", "-x", "@SUM(A1)", "\t=1", "\r=1", "=", "-", "'=1", "''+a"]
HARMLESS = ["", "a=b", "-1.5", "+3", "'quoted'", " =1", "1e-3", "it's", "'", "−1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_starts_as_a_formula_and_each_reads_back(text):
    cell = as_cell(text)
    assert cell.startswith("'") and from_cell(cell) == text


@pytest.mark.parametrize("text", HARMLESS)
def test_other_cells_stay_as_they_are(text):
    assert as_cell(text) == text and from_cell(text) == text


def test_a_table_with_formulas_is_read_back_as_it_was(tmp_path):
    tokens = [*FORMULAS, *HARMLESS]
    path = tmp_path / "t.csv"
    Table(columns={"token": tokens, "n": list(range(len(tokens)))}).write_csv(path)
    with path.open(newline="", encoding="utf-8") as file:
        raw = [row["token"] for row in csv.DictReader(file)]
    for cell in raw:
        assert not cell.startswith(("=", "@", "\t", "\r")) and cell not in ("+cmd", "-x", "-")
    assert [row["token"] for row in table_files.rows(path)] == tokens


STEERING = "a\x1b[2J\x07\x9b31m\u202eb\x00\x7f"


def test_the_terminal_is_not_steered_by_text_of_files(capsys):
    emit({"a": STEERING}, as_json=False, lines=[STEERING, "two\tparts"])
    shown = capsys.readouterr().out
    assert shown == "a\\x1b[2J\\x07\\x9b31m\\u202eb\\x00\\x7f\ntwo\tparts\n"
    emit({"a": STEERING}, as_json=True, lines=[])
    line = capsys.readouterr().out
    assert json.loads(line) == {"a": STEERING} and line == printable(line) == printable_json(line)


def test_errors_do_not_steer_it_either(capsys, tmp_path):
    from saekit.cli.main import main

    with pytest.raises(SystemExit):
        main(["eval", str(tmp_path / "a\x1b[2Jb")])
    assert "\x1b" not in capsys.readouterr().err


def test_dollar_signs_of_tokens_are_drawn_as_they_are(tmp_path):
    from saekit.report import style

    figure, axes = style.new(2, 2)
    at = axes[0][0]
    at.set_title(r"costs $\frac and $5")
    at.set_xscale("log")
    at.plot([1, 100], [0, 1])
    at.set_yticks([0, 1], ["$\\bad$", "$_$"])
    style.save(figure, tmp_path / "f.svg")
    assert (tmp_path / "f.svg").exists()
    assert not at.get_yticklabels()[0].get_parse_math() and at.get_xticklabels()[0].get_parse_math()


def test_a_row_of_a_table_is_one_line_whatever_its_text():
    said = str(Table(columns={"token": ["\n", "a\tb"], "latent": [316, 5]})).splitlines()
    assert len(said) == 3 and "↵" in said[1] and "a⇥b" in said[2]
