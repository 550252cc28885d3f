"""A figure: the same file twice, its numbers beside it, plain refusals."""

import sys

import pytest
import torch

from saekit.analysis import similarity
from saekit.core.errors import ConfigError, MissingExtraError
from saekit.report import style
from saekit.studies.truth.figures import similarity as drawn

FOUND = similarity.compare({"one": torch.eye(4)[[2, 0]]}, torch.eye(4))


def test_a_figure_is_the_same_file_twice_with_its_numbers(tmp_path):
    pytest.importorskip("matplotlib")
    for suffix in style.SUFFIXES:
        path = tmp_path / f"s{suffix}"
        drawn.draw(FOUND, path)
        first = path.read_bytes()
        drawn.draw(FOUND, path)
        assert first == path.read_bytes() and len(first) > 1000
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[0] == "sae,row,latent,feature,cosine" and len(lines) == 1 + 8


def test_another_suffix_is_refused(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match="svg"):
        drawn.draw(FOUND, tmp_path / "s.docx")
    assert not list(tmp_path.iterdir())


def test_a_missing_library_names_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"saekit\[figures\]"):
        drawn.draw(FOUND, tmp_path / "s.svg")
