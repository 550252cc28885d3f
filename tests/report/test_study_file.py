"""A study's page as one file."""

import json
import re

import pytest

from saekit.cli.main import main
from saekit.core.errors import FormatError
from saekit.core.files import write_json
from saekit.report.study_file import write_study


def test_it_holds_the_page_of_its_study_and_asks_for_nothing(tmp_path, capsys):
    write_json(tmp_path / "result.json", {"name": "locality_depth", "details": "</script><b>"})
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path), "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["notes"] == []
    page = (tmp_path / "report.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    (study,) = data["studies"].values()
    assert study["kind"] == "locality_depth" and study["blocks"]
    assert "default-src 'none'" in page and "https:" not in page


def test_a_folder_without_a_study_is_refused_with_the_kinds_there_are(tmp_path):
    with pytest.raises(FormatError, match="locality_depth"):
        write_study(tmp_path, tmp_path / "out.html")


def test_a_page_is_never_written_over_what_it_is_made_of(tmp_path, capsys):
    write_json(tmp_path / "result.json", {"name": "locality_depth", "details": {}})
    before = (tmp_path / "result.json").read_bytes()
    for words in (["report"], ["cite"]):
        with pytest.raises(SystemExit) as ended:
            main([*words, str(tmp_path), "--out", str(tmp_path / "result.json")])
        assert ended.value.code == 2 and "is a file ending in ." in capsys.readouterr().err
    assert (tmp_path / "result.json").read_bytes() == before
