"""Parts of a user's own: in a file that is named, or in an installed package."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import saekit
from saekit.core import provenance, registry
from saekit.core.errors import ConfigError, UnknownNameError
from saekit.core.files import sha256_of
from saekit.saes.base import registry as saes

ROOT = Path(__file__).parents[2]
PART = '''"""A toy: relu, under a name of its own."""

from dataclasses import dataclass
from typing import ClassVar

from saekit.metrics.base import Metric
from saekit.metrics.base import registry as metrics
from saekit.metrics.l0 import L0
from saekit.saes.base import registry
from saekit.saes.relu import ReLU


@registry.register
@dataclass(frozen=True, kw_only=True)
class {cls}(ReLU):
    """Relu again.

    Source:
        Ours, as an example.
    """

    name: ClassVar[str] = "{name}"
'''


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Leave nothing of these parts to other tests."""
    saes.names()  # all of saekit's own are there before the copy is taken
    monkeypatch.setattr(saes, "_entries", dict(saes._entries))
    monkeypatch.setattr(registry, "_own", dict(registry._own))
    monkeypatch.setattr(registry, "_used", dict(registry._used))


def part(folder, name="my_toy", cls="MyToy", file="my_parts.py"):
    path = folder / file
    path.write_text(PART.format(name=name, cls=cls), encoding="utf-8")
    return path


def saekit_command(*words, cwd, **variables):
    import os

    done = subprocess.run(
        [sys.executable, "-m", "saekit", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), **variables},
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_file_that_is_used_brings_its_parts(tmp_path):
    path = part(tmp_path)
    module = saekit.use(path)
    assert saes.get("my_toy") is module.MyToy and registry.use(str(path)) is module
    assert "my_toy" in saes.names() and saekit.MyToy is module.MyToy
    sae = saekit.fit(
        torch.randn(300, 8), "my_toy", epochs=1, lr=1e-3, out=tmp_path / "a", shown=False
    )
    origin = {"file": "my_parts.py", "sha256": sha256_of(path)}
    assert sae.card.provenance["parts"]["architecture my_toy"] == origin
    assert registry.own_parts({"sae": {"name": "topk"}}) == {}
    assert registry.own_parts({"sae": {"name": "my_toy"}}) == {"architecture my_toy": origin}
    begun = json.loads((tmp_path / "a" / "fit.json").read_text())["begun_with"]
    assert begun["parts"] == {"architecture my_toy": origin}
    assert isinstance(saekit.load(tmp_path / "a").cfg, module.MyToy)


def test_an_sae_whose_part_is_not_here_says_which(tmp_path, monkeypatch):
    saekit.use(part(tmp_path))
    saekit.fit(torch.randn(300, 8), "my_toy", epochs=1, out=tmp_path / "a", shown=False)
    monkeypatch.delitem(saes._entries, "my_toy")
    monkeypatch.delitem(registry._own, "architecture my_toy")
    with pytest.raises(UnknownNameError, match=r"`my_toy`.*my_parts\.py, SHA-256 [0-9a-f]{12}"):
        saekit.load(tmp_path / "a")


def test_an_installed_package_names_its_parts(tmp_path, monkeypatch):
    part(tmp_path, name="by_entry", cls="ByEntry", file="their_parts.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    point = metadata.EntryPoint(name="theirs", value="their_parts", group="saekit.parts")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    monkeypatch.setattr(registry, "_searched", False)
    assert saes.get("by_entry").__name__ == "ByEntry"
    broken = metadata.EntryPoint(name="broken", value="no_such_module", group="saekit.parts")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [broken])
    monkeypatch.setattr(registry, "_searched", False)
    with pytest.raises(ConfigError, match="entry point `broken` .* No module named"):
        saes.names()


def test_a_name_of_saekit_is_not_taken_over(tmp_path):
    with pytest.raises(ConfigError, match="`topk` is defined twice: in saekit.saes.topk"):
        saekit.use(part(tmp_path, name="topk"))
    one, other = part(tmp_path, file="a.py"), part(tmp_path, file="b.py")
    saekit.use(one)
    with pytest.raises(ConfigError, match="`my_toy` is defined twice"):
        saekit.use(other)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_the_kind", "No module named"),
        ("def (", "could not be imported"),
        (None, "Python file"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named(tmp_path, text, said):
    path = tmp_path / "parts.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        saekit.use(path)
    assert not any(name.startswith("saekit_parts_parts") for name in sys.modules)


def test_provenance_says_nothing_where_there_are_none(monkeypatch):
    monkeypatch.setattr(registry, "_own", {})
    assert "parts" not in provenance.collect()


@pytest.mark.slow
def test_the_command_line_takes_a_file_or_a_variable(tmp_path):
    path = part(tmp_path)
    code, listed, _ = saekit_command("--use", path, "list", "saes", cwd=tmp_path)
    assert code == 0 and "my_toy" in listed
    code, listed, _ = saekit_command("list", "saes", "--json", cwd=tmp_path, SAEKIT_USE=str(path))
    assert code == 0 and "my_toy" in listed
    code, _, said = saekit_command("--use", "nowhere.py", "list", "saes", cwd=tmp_path)
    assert code == 2 and "A file of parts is a Python file" in said
    code, _, said = saekit_command("train", "--arch", "my_toy", "--model", "x", cwd=tmp_path)
    assert code == 2 and "saekit --use FILE" in said
