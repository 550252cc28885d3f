"""Every study: a folder with commands, whose help answers at once and shows an example."""

import functools
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from saekit.cli.main import app, main
from saekit.core.registry import studies

NAMES = [study.rpartition(".")[2] for study in studies()]


@functools.cache
def commands(name: str) -> dict:
    """Return the commands of a study, or of the command line itself for ""."""
    every = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    if name:
        return every[name].commands
    return {n: c for n, c in every.items() if not hasattr(c, "commands")}


EVERY = [(name, command) for name in ["", "cache", *NAMES] for command in commands(name)]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_folder_with_commands(name):
    package = importlib.import_module(f"saekit.studies.{name}")
    assert (package.__doc__ or "").partition("\n")[0].endswith(".")
    module = importlib.import_module(f"saekit.studies.{name}.commands")
    assert isinstance(module.app, typer.Typer) and module.app.info.help
    assert commands(name)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_listed_and_the_command_line_has_it(name, capsys):
    for words in (["list", "studies"], ["--help"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert not ended.value.code
        assert re.search(rf"\b{name}\b", capsys.readouterr().out)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_checked_before_its_work_is_of_its_commands(name):
    module = importlib.import_module(f"saekit.studies.{name}.commands")
    made, needed = getattr(module, "MAKES", {}), getattr(module, "NEEDS", {})
    assert {*made, *needed} <= set(commands(name))
    options = {n: [o for p in c.params for o in p.opts] for n, c in commands(name).items()}
    assert all("--out" in options[n] for n in made)
    extras = Path(__file__).parents[2].joinpath("pyproject.toml").read_text()
    assert all(
        re.search(rf"^{extra} = .*{library}", extras, re.M) for library, extra in needed.values()
    )


@pytest.mark.parametrize(("name", "command"), EVERY, ids=lambda n: n or "saekit")
def test_its_help_shows_an_example_that_can_be_typed(name, command):
    found = commands(name)[command]
    start = " ".join(filter(None, ["saekit", name, command]))
    assert (found.help or "").partition("\n")[0].endswith(".")
    match = re.search(rf"Example: ({re.escape(start)}\b[^\n]*(?:\n[^\n]+)*)", found.help or "")
    assert match, f"the help of `{start}` has no line `Example: {start} ...`"
    words = shlex.split(match[1])[len(start.split()) :]
    ctx = found.make_context(command, words, resilient_parsing=False)
    assert not ctx.args  # every word was an option, its value, or an argument


PROBE = """
import sys
sys.modules.update(dict.fromkeys(["torch", "numpy", "transformers", "scipy", "matplotlib"]))
from saekit.cli.main import main
for words in {lines!r}:
    try:
        main([*words, "--help"])
    except SystemExit as ended:
        assert not ended.code, words
"""


def test_help_of_every_command_works_where_torch_cannot_be_imported():
    lines = [[*filter(None, [name]), command] for name, command in EVERY]
    lines += [[], ["cache"], *([name] for name in NAMES)]
    probe = [sys.executable, "-c", PROBE.format(lines=lines)]
    done = subprocess.run(probe, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: saekit") == len(lines)
