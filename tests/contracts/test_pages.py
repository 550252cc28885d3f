"""What every page of a study keeps: documented, without torch, silent elsewhere, told of damage."""

import inspect
import json
import subprocess
import sys

import pytest

from saekit.cli.main import main
from saekit.report.blocks import KINDS
from saekit.report.pages import base

NAMES = base.registry.names()
LIGHT = """
import sys
from saekit.report.pages.base import registry
for name in {names!r}:
    registry.get(name)
    loaded = {{"torch", "pyarrow", "matplotlib", "scipy"}} & set(sys.modules)
    assert not loaded, f"{{name}} loads {{loaded}}"
"""


@pytest.mark.parametrize("name", NAMES)
def test_it_is_documented_and_listed(name, capsys):
    page = base.registry.get(name)
    assert page.name == name and page.title and page.about.endswith(".")
    assert (inspect.getdoc(page) or "").partition("\n")[0].endswith(".")
    with pytest.raises(SystemExit) as ended:
        main(["list", "pages", "--json"])
    assert not ended.value.code
    assert name in [one["name"] for one in json.loads(capsys.readouterr().out)["pages"]]


def test_no_heavy_library_comes_with_any():
    """All in one process: the first that loads one is named."""
    done = subprocess.run([sys.executable, "-c", LIGHT.format(names=NAMES)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("name", NAMES)
def test_it_finds_nothing_where_nothing_of_its_is(name, tmp_path):
    page = base.registry.get(name)()
    assert page.find(tmp_path) is False
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "manifest.json").write_text('{"kind": "train"}')
    assert page.find(tmp_path) is False and page.find(tmp_path / "none") is False


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"details": 3}'])
def test_a_damaged_folder_is_told_in_its_place(name, content, tmp_path):
    for file in (
        "result.json",
        "survey.json",
        "ground_truth.json",
        "manifest.json",
        "toys.json",
        "ctx8.csv",
        "latents.csv",
        "layers.csv",
        "ranks.csv",
        "calibration.json",
        "feature_summary.csv",
        "autocorr_curves.csv",
        "pairwise.csv",
        "saes.csv",
        "feature_neighbour_summary.csv",
    ):
        (tmp_path / file).write_text(content)
    found = base.payload(name, tmp_path)
    assert set(found) == {"kind", "title", "about", "blocks"}
    assert {block["kind"] for block in found["blocks"]} <= set(KINDS)
    json.dumps(found, allow_nan=False).encode()
