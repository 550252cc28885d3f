"""Pages of studies: what a library lists, and what a damaged folder says."""

import pytest

from saekit.core.errors import UnknownNameError
from saekit.core.files import write_json, write_text
from saekit.report.overview import moment
from saekit.report.pages import base


def test_every_page_says_what_it_is_and_finds_nothing_in_an_empty_folder(tmp_path):
    assert len(base.registry.names()) >= 8
    for name in base.registry.names():
        page = base.registry.get(name)
        assert page.title and page.about.endswith(".")
        assert not page().find(tmp_path)
    assert base.kind_of(tmp_path) is None


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="no page `depths`"):
        base.payload("depths", tmp_path)


def test_a_damaged_folder_is_told_and_does_not_hide_others(tmp_path):
    write_json(tmp_path / "result.json", {"name": "locality_depth", "details": 3})
    assert base.kind_of(tmp_path) == "locality_depth"
    (block,) = base.payload("locality_depth", tmp_path)["blocks"]
    assert block["kind"] == "text" and str(tmp_path) in block["text"]
    write_text(tmp_path / "result.json", "{")
    assert base.kind_of(tmp_path) is None
    write_json(tmp_path / "eval" / "ground_truth.json", {})
    assert base.kind_of(tmp_path / "eval") == "ground_truth"


def test_tables_are_read_with_their_numbers(tmp_path):
    write_text(tmp_path / "t.csv", "a,b,c,d\n1,0.5,x,\n-2,1e-3,'=1,True\n")
    found = base.read(tmp_path / "t", {"a": "tokens", "z": "bits"})
    assert found.columns == {"a": [1, -2], "b": [0.5, 1e-3], "c": ["x", "=1"], "d": [None, True]}
    assert found.units == {"a": "tokens"}


def test_a_title_tells_folders_of_one_name_apart(tmp_path):
    assert base.described("layers", tmp_path / "layers")["title"].endswith(": layers")
    called = base.described("layers", tmp_path / "layers", "runs.ml.layers")["title"]
    assert called == "Latents over layers: runs.ml.layers"
    assert base.payload("layers", tmp_path, "a.b")["title"].endswith(": a.b")


def test_times_read_the_same_whatever_a_file_has():
    assert moment("2026-11-30T08:41:24+02:00") == "2026-11-30 06:41 UTC"
    assert moment("20261130_084124") == "2026-11-30 08:41 UTC"  # as events have it, in UTC
    assert (moment(None), moment("run-7")) == ("", "run-7")
