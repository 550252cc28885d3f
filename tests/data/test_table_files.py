"""Tables in CSV and Parquet: the same numbers, one of both, and refusals that say what to do."""

import builtins
import math

import pytest

from saekit.core.errors import FormatError, MissingExtraError, UnknownNameError
from saekit.core.result import Table
from saekit.data import table_files

pytest.importorskip("pyarrow")
TABLE = Table(
    columns={
        "latent": [3, 2**40, -1, 0],
        "H": [0.1, 1 / 3, math.nan, 5e-324],
        "mean": [None, 2.0, 1e300, None],
        "none": [None] * 4,
        "ok": [True, False, True, True],
        "text": ['a,"b"\n', "", "7", "é□"],
    },
    units={"H": "bits"},
)


def test_both_formats_give_the_same_rows(tmp_path):
    kinds = table_files.FORMATS
    parts = [table_files.write(TABLE, tmp_path / kind / "a.b", kind) for kind in kinds]
    assert [p.name for p in parts] == ["a.b.csv", "a.b.parquet"]
    csv, parquet = (list(table_files.rows(p)) for p in parts)
    assert csv == parquet and len(csv) == 4
    assert float(parquet[1]["H"]) == 1 / 3 and parquet[2]["H"] == "" and parquet[0]["mean"] == ""


def test_parquet_keeps_types_units_and_bytes(tmp_path):
    path = table_files.write(TABLE, tmp_path / "t", "parquet")
    found = table_files.read(path)
    assert found.units == {"H": "bits"}
    assert found.columns == TABLE.columns | {"H": [0.1, 1 / 3, None, 5e-324]}
    assert {type(v) for v in found.columns["latent"]} == {int}
    first = path.read_bytes()
    assert table_files.write(TABLE, tmp_path / "t", "parquet").read_bytes() == first


def test_rows_of_many_batches_come_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(table_files, "BATCH_ROWS", 7)
    path = table_files.write(Table(columns={"i": list(range(50))}), tmp_path / "t", "parquet")
    assert [int(r["i"]) for r in table_files.rows(path)] == list(range(50))


def test_a_table_is_in_one_format(tmp_path):
    table_files.write(TABLE, tmp_path / "t", "csv")
    path = table_files.write(TABLE, tmp_path / "t", "parquet")
    assert table_files.find(tmp_path / "t") == path and not (tmp_path / "t.csv").exists()
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(FormatError, match="both t.csv and t.parquet"):
        table_files.find(tmp_path / "t")
    with pytest.raises(FormatError, match=r"no table u.csv or .parquet"):
        table_files.find(tmp_path / "u")


def test_refusals(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean `parquet`"):
        table_files.check("parket")
    mixed = Table(columns={"x": [1, "one"]})
    with pytest.raises(FormatError, match="`x` of t.parquet holds values of several kinds"):
        table_files.write(mixed, tmp_path / "t", "parquet")
    assert not list(tmp_path.iterdir())
    (tmp_path / "t.parquet").write_bytes(b"not parquet")
    for job in (lambda p: list(table_files.rows(p)), table_files.read):
        with pytest.raises(FormatError, match="damaged or is not Parquet"):
            job(tmp_path / "t.parquet")
        with pytest.raises(FormatError, match="no file"):
            job(tmp_path / "none.parquet")
    (tmp_path / "t.csv").write_text("a,b\n1\n")
    for name, said in (("t.csv", "another length"), ("n.csv", "no file"), ("t.txt", "ends in")):
        with pytest.raises(FormatError, match=said):
            list(table_files.rows(tmp_path / name))


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    table_files.check("csv")
    with pytest.raises(MissingExtraError, match=r"saekit\[parquet\]"):
        table_files.check("parquet")


def test_a_column_has_one_kind_and_names_stay_names(tmp_path):
    text = "n,name,ok,mixed,none,big\n1,1_000,True,1,,-inf\n-2.5e-07,007,,nan,,1e+300\n"
    (tmp_path / "t.csv").write_text(text)
    assert table_files.columns(tmp_path / "t.csv") == {
        "n": [1, -2.5e-07],
        "name": ["1_000", "007"],
        "ok": [True, None],
        "mixed": ["1", "nan"],
        "none": [None, None],
        "big": [-math.inf, 1e300],
    }
