"""What every panel keeps: documented, without torch, JSON, quick, and never in the others' way."""

import inspect
import json
import shutil
import subprocess
import sys
import time

import pytest

import saekit
from saekit.cli.main import main
from saekit.models.tiny import tiny
from saekit.report.blocks import KINDS
from saekit.report.panels import base
from tests import world

NAMES = base.registry.names()
LIGHT = """
import sys
from saekit.report.panels.base import registry
for name in {names!r}:
    registry.get(name)
    loaded = {{"torch", "pyarrow", "matplotlib", "scipy"}} & set(sys.modules)
    assert not loaded, f"{{name}} loads {{loaded}}"
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base_folder = tmp_path_factory.mktemp("contract of panels")
    lm = tiny()
    saekit.train(
        lm,
        run=world.run(base_folder, tokens=2000, model=lm.name),
        out=base_folder / "run",
        shown=False,
    )
    saekit.index(base_folder / "run", lm, tokens=1500, shown=False)
    return base_folder / "run"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_documented_and_listed(name, capsys):
    panel = base.registry.get(name)
    assert panel.name == name and panel.title and panel.about.endswith(".")
    assert (inspect.getdoc(panel) or "").partition("\n")[0].endswith(".")
    with pytest.raises(SystemExit) as ended:
        main(["list", "panels", "--json"])
    assert not ended.value.code
    assert name in [one["name"] for one in json.loads(capsys.readouterr().out)["panels"]]


def test_no_heavy_library_comes_with_any():
    """All in one process: the first that loads one is named."""
    done = subprocess.run([sys.executable, "-c", LIGHT.format(names=NAMES)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("name", NAMES)
def test_every_latent_gets_an_answer_in_time(name, run):
    index = saekit.Index(run / "index")
    base.payload(name, run, index, 0)
    began = time.monotonic()
    for latent in range(index.d_sae):
        found = base.payload(name, run, index, latent)
        if found is not None:
            assert set(found) == {"name", "title", "about", "blocks"} and found["blocks"]
            assert {block["kind"] for block in found["blocks"]} <= set(KINDS)
            json.dumps(found, allow_nan=False).encode()
    # A tenth of a second on a machine of its own.
    assert (time.monotonic() - began) / index.d_sae < 0.5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"details": 3, "runs": 7}'])
def test_damaged_files_are_told_or_left_out(name, content, run, tmp_path):
    copy = tmp_path / "sweep" / "run"
    shutil.copytree(run, copy)
    for place in ("locality/events", "layers", "eval", "analysis", "."):
        (copy / place).mkdir(parents=True, exist_ok=True)
        for file in (
            "manifest.json",
            "survey.json",
            "ground_truth.json",
            "twins.csv",
            "toy.json",
            "twins.json",
            "ctx8.csv",
            "latents.csv",
            "feature_summary.csv",
        ):
            (copy / place / file).write_bytes(content)
    (copy.parent / "sweep.json").write_bytes(content)
    found = base.payload(name, copy, saekit.Index(copy / "index"), 3)
    assert found is None or {b["kind"] for b in found["blocks"]} <= {"text", "missing"}
