"""Commands that would fail at their end are refused before anything is loaded."""

import importlib.util

import pytest

from saekit.cli.main import main
from saekit.core.errors import ConfigError
from saekit.terminal.requirements import check_first, replaced_told
from tests.terminal.test_settings_help import ALL


@pytest.fixture
def refused(capsys, monkeypatch):
    """Run a command line that must end before a model is looked for; return what it said."""
    monkeypatch.setattr("saekit.models.hf.load", lambda *_a, **_k: pytest.fail("it was loaded"))

    def run(*words: str, code: int = 1) -> str:
        with pytest.raises(SystemExit) as done:
            main(list(words))
        assert done.value.code == code
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    return run


@pytest.mark.parametrize(
    "command",
    [
        ["train"],
        ["sweep"],
        ["demo"],
        ["cache", "write"],
        ["layers", "eval", "x"],
        ["locality", "depth"],
        ["truth", "make"],
    ],
)
def test_an_out_that_cannot_be_written_is_refused_first(command, refused):
    assert "/proc/none/run cannot be written" in refused(*command, "--out", "/proc/none/run")
    assert "cannot be written" in refused(*command, "--out=/proc/none/run")


def test_a_file_that_would_be_written_over_is_refused_or_named(tmp_path, capsys):
    file = tmp_path / "mine.txt"
    file.write_text("mine")
    with_out = [name for name, one in ALL.items() if any("--out" in p.opts for p in one.params)]
    assert {"export saebench", "query", "report", "train", "layers eval"} <= set(with_out)
    for command in with_out:
        try:
            check_first([*command.split(), "--out", str(file)])
        except ConfigError as error:
            assert "a folder is to be made there" in str(error)
        else:
            assert f"{file} is there and will be replaced" in capsys.readouterr().err, command
    check_first(["query", "--out", str(tmp_path / "new.csv")])
    assert not capsys.readouterr().err and file.read_text() == "mine"


def test_figures_and_tables_that_are_replaced_by_others_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "comparison"  # where `compare` writes if it is told nothing

    def write(words, **files):
        place.mkdir(exist_ok=True)
        with replaced_told(words):
            for name, said in files.items():
                (place / name.replace("_", ".")).write_text(said)
        return capsys.readouterr().err

    words = ["faithful", "figures", "a", "--out", str(place)]
    assert not write(words, a_svg="1", b_csv="1", result_json="1")
    assert not write(words, a_svg="1", b_csv="1", c_csv="1", result_json="2")
    said = write(words, a_svg="2", b_csv="2", c_csv="1")
    assert said.endswith("other numbers: a.svg, b.csv\n") and str(place) in said
    assert "a.svg" in write(["compare", "a", "b"], a_svg="3")
    assert not write(["locality", "events", "a", "--resume", "--out", str(place)], a_svg="4")
    many = {f"{letter}_csv": "9" for letter in "bcdefg"}
    assert not write(words, d_csv="1", e_csv="1", f_csv="1", g_csv="1")
    assert "b.csv, c.csv, d.csv, e.csv and 2 more" in write(words, **many)


def test_a_file_in_the_way_is_refused_first(tmp_path, refused, monkeypatch):
    file = tmp_path / "file"
    file.write_text("mine")
    assert "is a file" in refused("train", "--out", str(file), code=2)
    assert "is a file" in refused("train", "--out", str(file / "run"), code=2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("mine")
    assert "is a file" in refused("train", code=2)
    assert file.read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("command", "library"), [("truth eval x", "scipy"), ("layers figures x", "matplotlib")]
)
def test_a_missing_library_is_named_first(command, library, refused, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == library else found(n, *a)
    )
    assert f"`{library}` is needed" in refused(*command.split())
