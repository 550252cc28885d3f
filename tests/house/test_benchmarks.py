"""Every benchmark has the same command line, and its check can fail."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
# quality_trainers.py is started by quality.py, in the interpreter that has the peers.
NAMES = sorted(
    p.stem for p in FOLDER.glob("*.py") if p.stem[0] != "_" and p.stem != "quality_trainers"
)


@pytest.fixture
def command(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import _command  # pyright: ignore[reportMissingImports]

    return _command


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_each_has_the_shared_options(name, command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert end.value.code == 0
    text = capsys.readouterr().out
    for option in command.SHARED:
        assert re.search(rf"^  {option}( {{2,}}|$)", text, re.MULTILINE), option  # a flag


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_checks(name):
    doc = (FOLDER / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
    assert "[--quick] [--check] [--json]" in doc
    assert "--check`" in doc


def options(command, *words):
    return command.parser_of("What it is.", "short").parse_args(words)


@pytest.mark.parametrize(
    ("value", "ends", "met"),
    [
        (1.0, {"least": 1.0}, True),
        (0.9, {"least": 1.0}, False),
        (1.0, {"most": 1.0}, True),
        (1.1, {"most": 1.0}, False),
        (1.0, {"least": 0.5, "most": 2.0}, True),
        (0.4, {"least": 0.5, "most": 2.0}, False),
        (None, {"least": 0.0}, False),
        (float("nan"), {"most": 1.0}, False),
    ],
)
def test_a_floor_is_met_between_its_ends(command, value, ends, met):
    floor = command.Floor("it", value, **ends)
    assert floor.met is met
    assert floor.line().endswith("met" if met else "MISSED")


def test_a_missed_floor_fails_the_check_in_quick_form_too(command, capsys):
    good, bad = command.Floor("good", 2.0, least=1.0), command.Floor("bad", 0.0, least=1.0)
    for words in (["--check"], ["--check", "--quick"]):
        assert command.finish("x", options(command, *words), {}, [good]) == 0
        assert command.finish("x", options(command, *words), {}, [good, bad]) == 1
    assert command.finish("x", options(command), {}, [bad]) == 0  # nobody asked for a check


def test_a_check_of_nothing_fails(command):
    assert command.finish("x", options(command, "--check"), {}, []) == 1


def test_json_is_the_last_line(command, capsys, tmp_path):
    floor = command.Floor("it", 0.5, least=1.0)
    command.finish("x", options(command, "--json", "--quick"), {"speed": 3}, [floor])
    out = capsys.readouterr().out
    record = json.loads(out.splitlines()[-1])
    assert (record["benchmark"], record["quick"], record["speed"]) == ("x", True, 3)
    assert record["missed"] == ["it"] and record["floors"][0]["met"] is False
    (tmp_path / "out.txt").write_text(out)
    assert command.last_record(tmp_path / "out.txt") == record


def test_no_name_hides_a_library():
    """A script's folder comes first on the path: numba imports `coverage`, and would get ours."""
    libraries = {"coverage", "datasets", "transformers", "numba", "triton", "scipy", "matplotlib"}
    hidden = libraries | set(sys.stdlib_module_names) | {"tokenizers", "safetensors", "numpy"}
    assert hidden.isdisjoint(p.stem for p in FOLDER.glob("*.py"))
