"""What `saekit demo` says at its end can be run as it is."""

import shutil
import sys

from saekit.cli import demo


def test_the_command_is_the_one_that_ran(tmp_path, monkeypatch):
    place = tmp_path / "a place" / "saekit"
    place.parent.mkdir()
    place.write_text("")
    monkeypatch.setattr(sys, "argv", [str(place), "demo"])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert demo._this_command() == "'a place/saekit'"
    monkeypatch.chdir("/")
    assert demo._this_command().endswith("saekit'") and str(place)[1:] in demo._this_command()
    monkeypatch.setattr(shutil, "which", lambda name: str(place))
    assert demo._this_command() == "saekit"
