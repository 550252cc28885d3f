"""A folder for a paper: figures for print, tables that LaTeX reads, numbers next to each."""

import csv
import json
import re

import pytest

from saekit.cli.main import main
from saekit.core.errors import ConfigError, FormatError
from saekit.core.result import Result, Score, Table
from saekit.report import blocks, style
from saekit.report.pages import base as pages
from saekit.report.paper import drawing, latex
from saekit.report.paper.folder import paper

HOSTILE = r"\input{/etc/passwd} 50% of $x_1 & ~^#{}" + "\n中"
AXES = {"x": {"label": "x"}, "y": {"label": "y", "log": True}}


@pytest.mark.parametrize(
    ("low", "high", "places"),
    [(0.1, 0.3, 2), (0.14585, 0.15557, 4), (1.0, 1.0, None), (100.0, 340.0, -1), (0.0, 1.992, 1)],
)
def test_an_interval_supports_two_digits_of_its_half_width(low, high, places):
    assert latex.decimals(low, high) == places


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (0.14936, 0.14585, 0.15557, "0.1494 [0.1459, 0.1556]"),
        (-1.234, -2.0, 0.5, "$-$1.2 [$-$2.0, 0.5]"),
        (12345.6, 11000.0, 13400.0, "12,300 [11,000, 13,400]"),
        (3.0, 3.0, 3.0, "3"),
        (None, None, None, "--"),
        (1.23456e-7, None, None, "$1.23\\times10^{-7}$"),
        (123456, None, None, "123,456"),
        (float("nan"), 0.0, 1.0, "--"),
    ],
)
def test_values_are_rounded_to_what_the_interval_supports(value, low, high, said):
    assert latex.measured(value, low, high) == said


def test_text_cannot_become_a_command_of_latex():
    said = latex.escaped(HOSTILE)
    plain = re.sub(r"\\text(backslash|asciicircum|asciitilde)\{\}|\\texttt\{U\\?\+4E2D\}", "", said)
    assert "\\input" not in plain and not re.search(r"(?<!\\)[\\$&#%_{}~^](?![$&#%_{}])", plain)
    assert "\n" not in said and "U+4E2D" in said


def test_ends_stand_with_their_values_and_long_tables_say_what_is_left_out():
    n = latex.MOST_ROWS + 3
    table = Table(
        columns={"sae": ["a"] * n, "fvu": [0.5] * n, "fvu low": [0.4] * n, "fvu high": [0.6] * n},
        units={"fvu": "ratio"},
    )
    text = latex.tabular(table, csv="t.csv")
    assert "\\begin{tabular}{lr}" in text and "sae & fvu [95 \\% interval]" in text
    assert text.count("0.50 [0.40, 0.60]") == latex.MOST_ROWS
    assert "and 3 more rows in t.csv" in text
    none = Table(columns={"d": [0.5], "low": [None], "high": [None]})
    assert "\nd \\\\\n\\midrule\n0.5 \\\\\n" in latex.tabular(none, csv="t.csv")


KINDS = [
    blocks.lines(
        [blocks.series(n, [1, 2], [v, 2], [0.5, 1], [3, 4]) for n, v in (("a", 1), ("b", 3))],
        x=AXES["x"],
        y=AXES["y"],
        title="Hidden title",
    ),
    blocks.bars(["one", "two"], [1.5, None], unit="nats", title="Hidden title"),
    blocks.histogram([0, 1, 2], [3, 4], unit="u", title="Hidden title"),
    blocks.scatter([1.0, 2.0], [1.0, 3.0], [7, 8], axes=(AXES["x"], AXES["y"])),
    blocks.heatmap(["p", "q"], ["r"], [[1.0, None]], unit="u", signed=True),
    {
        "kind": "dots",
        "labels": ["a", "b"],
        "values": [1.0, None],
        "low": [0.5, None],
        "high": [1.5, None],
        "unit": "u",
        "marks": [{"name": "floor", "values": [0.1, 0.2]}],
        "title": "Hidden title",
    },
]


@pytest.mark.parametrize("block", KINDS, ids=lambda one: one["kind"])
def test_a_figure_has_truetype_fonts_its_width_no_title_and_its_numbers(
    block, tmp_path, monkeypatch
):
    pytest.importorskip("matplotlib")
    from matplotlib.text import Text

    written, save = [], style.save

    def kept(figure, path):
        written.extend(text.get_text() for text in figure.findobj(Text))
        save(figure, path)

    monkeypatch.setattr(style, "save", kept)
    assert drawing.draws(block)
    narrow, wide = drawing.draw(block, tmp_path / "f")
    for path, inches in ((narrow, 3.25), (wide, 6.75)):
        data = path.read_bytes()
        assert f"MediaBox [ 0 0 {72 * inches:g} ".encode() in data
        assert b"/FontFile2" in data and b"/Type3" not in data
    assert any(written) and "Hidden title" not in written
    with (tmp_path / "f.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (4 if block["kind"] == "lines" else 2)
    if block["kind"] == "histogram":
        assert [list(row.values()) for row in rows] == [["0", "1", "3"], ["1", "2", "4"]]


def test_what_draws_nothing_is_left_out():
    assert not drawing.draws(blocks.lines([], x=AXES["x"], y=AXES["y"]))
    assert not drawing.draws(blocks.text("words"))


@pytest.fixture
def result(tmp_path):
    scores = {
        "fvu": Score(value=0.14936, low=0.14585, high=0.15557, n=9, unit="ratio", better="lower"),
        "kl": Score(value=None, n=0, unit="nats", better="lower", reason=HOSTILE),
    }
    made = {"saekit": "0.0", "command": ["saekit", "eval", "it"], "libraries": {"torch": "0"}}
    path = tmp_path / "run" / "eval" / "core.json"
    Result(name="core", version=2, config={}, scores=scores, provenance=made).write(path)
    return path


def test_a_result_becomes_a_folder_that_is_written_again_and_no_other(result, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "paper"
    with pytest.raises(SystemExit) as ended:
        main(["report", str(result), "--paper", "--out", str(out), "--json"])
    assert not ended.value.code
    (piece,) = json.loads(capsys.readouterr().out)["pieces"]
    table = (out / "tables" / f"{piece['name']}.tex").read_text()
    assert "0.1494 [0.1459, 0.1556]" in table and "\\input{/etc" not in table
    assert f"\\input{{tables/{piece['name']}}}" in (out / "main.tex").read_text()
    readme = (out / "README.md").read_text()
    assert "saekit eval it" in readme and "saekit report" in readme
    first = (out / "main.tex").read_bytes()
    paper(result, out)
    assert (out / "main.tex").read_bytes() == first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my own")
    with pytest.raises(ConfigError, match="something else"):
        paper(result, tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "my own"


def test_a_study_with_a_page_has_a_paper_without_any_list(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")

    class Toy(pages.Page):
        """A study of this test."""

        name, title, about = "toy_paper", "Toys", "Toys."

        def find(self, folder):
            return (folder / "toy.json").is_file()

        def blocks(self, folder):
            return [*KINDS[1:3], blocks.text("A note."), blocks.missing("none", "saekit x")]

    monkeypatch.setitem(pages.registry._entries, "toy_paper", Toy)
    (tmp_path / "toy.json").write_text("{}")
    made = paper(tmp_path)
    assert made.folder == tmp_path / "paper" and len(made.pieces) == 2
    assert made.left_out == {"missing": 1}
    assert len(list((made.folder / "figures").glob("*.pdf"))) == 4
    assert "A note." in (made.folder / "README.md").read_text()


@pytest.mark.parametrize("name", ["", "nothing"])
def test_what_is_nothing_of_the_kind_is_refused(name, tmp_path):
    with pytest.raises(FormatError, match=r"pages of|no file"):
        paper(tmp_path / name)


def test_a_row_that_begins_with_a_bracket_or_a_star_is_no_length_of_latex():
    table = Table(columns={"[sae]": ["[1em] a", "* b", "c"], "n": [1, 2, 3]})
    lines = latex.tabular(table, csv="t.csv").splitlines()
    assert lines[2].startswith("{}[sae]") and lines[4].startswith("{}[1em] a")
    assert lines[5].startswith("{}* b") and lines[6].startswith("c")


def test_a_damaged_record_is_named_whatever_is_made_of_it(result, tmp_path):
    record = json.loads(result.read_text())
    for key in ("libraries", "command"):
        spoiled = record | {"provenance": record["provenance"] | {key: 3}}
        result.write_text(json.dumps(spoiled))
        with pytest.raises(FormatError, match="core.json is damaged"):
            paper(result, tmp_path / key)
