"""Any analysis of an index: from Python and the command line; where tables go; refusals."""

import json

import pytest

import saekit
from saekit.activations.latents import LatentStore
from saekit.analysis.analyse import table_path
from saekit.analysis.cofiring import Cofiring
from saekit.cli.main import main
from saekit.core.errors import ConfigError, FormatError, UnknownNameError
from saekit.data import table_files
from tests.contracts.test_analyses import store
from tests.made_index import made_index


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run" / "index").mkdir(parents=True)
    # A run has a manifest of its own, which is no index's.
    (tmp_path / "run" / "manifest.json").write_text("{}")
    store(tmp_path / "run" / "index", 10**6)
    return tmp_path / "run"


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_settings_are_keywords_or_an_analysis(run):
    few = saekit.analyse(run, "cofiring", pairs=3, by="covariance")
    assert len(few) == 3
    assert saekit.analyse(run, Cofiring(pairs=3, by="covariance")).columns == few.columns
    assert len(saekit.analyse(run, Cofiring(by="covariance"), pairs=5)) == 5
    codes = LatentStore.open(run / "index")
    assert len(saekit.analyse(codes, "cofiring", pairs=2)) == 2
    with pytest.raises(UnknownNameError, match="Did you mean `cofiring`"):
        saekit.analyse(run, "cofirin")
    with pytest.raises(ConfigError, match="Did you mean `pairs`"):
        saekit.analyse(run, "cofiring", pair=3)


def test_what_is_no_index_is_named(run, tmp_path):
    with pytest.raises(FormatError, match="There is no folder"):
        saekit.analyse(tmp_path / "none", "firing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("{}")
    with pytest.raises(FormatError, match="saekit index"):
        saekit.analyse(tmp_path / "other", "firing")


def test_a_table_goes_next_to_its_index(run, tmp_path):
    assert table_path(run, "firing") == run / "analysis" / "firing.csv"
    assert table_path(run / "index", "firing") == run / "analysis" / "firing.csv"
    other = store(tmp_path / "mine", 10**6).folder
    assert table_path(other, "firing") == tmp_path / "mine-analysis" / "firing.csv"
    site = made_index(tmp_path / "r" / "index" / "L0.resid_post", ["a", "b"])
    where = tmp_path / "r" / "analysis" / "L0.resid_post" / "firing.csv"
    assert table_path(site, "firing") == where


def test_the_command_shows_the_first_rows_and_writes_all(run, tmp_path, capsys):
    code, out, _ = call(capsys, "analyse", "cofiring", run, "--set", "pairs=30")
    wanted = saekit.analyse(run, "cofiring", pairs=30)
    assert code == 0 and str(wanted) in out and "and 20 more rows" in out
    assert len(list(table_files.rows(run / "analysis" / "cofiring.csv"))) == 30
    path = tmp_path / "t.parquet"
    code, out, _ = call(capsys, "analyse", "firing", run, "--out", path, "--json")
    assert code == 0 and json.loads(out)["table"] == str(path)
    read = table_files.read(path)
    assert read.columns["count"] == saekit.analyse(run, "firing").columns["count"]
    assert read.units["count"] == "tokens"


def test_a_table_takes_no_other_file_away(run, tmp_path, capsys):
    assert call(capsys, "analyse", "firing", run, "--out", tmp_path / "t.csv")[0] == 0
    assert call(capsys, "analyse", "firing", run, "--out", tmp_path / "t.parquet")[0] == 0
    assert (tmp_path / "t.csv").exists() and (tmp_path / "t.parquet").exists()


@pytest.mark.parametrize("name", ["t.json", "t"])
def test_a_file_that_holds_no_table_is_refused_first(run, tmp_path, name, capsys, monkeypatch):
    monkeypatch.setattr(Cofiring, "run", lambda *_: pytest.fail("it was run"))
    code, _, err = call(capsys, "analyse", "cofiring", run, "--out", tmp_path / name)
    assert code == 2 and "ends in .csv or .parquet" in err and not (tmp_path / name).exists()


def test_a_run_that_cannot_be_written_is_refused_first(run, capsys, monkeypatch):
    """The second word is the folder written into, not the first."""
    seen = []
    place = "saekit.terminal.requirements.check_writable"
    monkeypatch.setattr(place, lambda path, **_: seen.append(path))
    assert call(capsys, "analyse", "cofiring", run)[0] == 0
    assert seen == [run]
