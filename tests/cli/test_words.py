"""What the command line says: every default is seen, numbers are read as people type them."""

import re

import pytest
import typer
from typer.models import ParameterInfo

from saekit.cli.main import app, main
from saekit.cli.train import start_from
from saekit.core.errors import SaekitError


def _commands(group=app, path=()):
    for command in group.registered_commands:
        yield (*path, command.name or command.callback.__name__.replace("_", "-")), command
    for below in group.registered_groups:
        yield from _commands(below.typer_instance, (*path, below.name))


def _options(command):
    hints = typer.main.get_params_from_function(command.callback)
    return [p.default for p in hints.values() if isinstance(p.default, ParameterInfo)]


COMMANDS = [pytest.param(path, command, id="-".join(path)) for path, command in _commands()]


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_help_loses_nothing_in_square_brackets(path, command, capsys):
    """Defaults stand in square brackets, which a reader of markup would swallow."""
    with pytest.raises(SystemExit) as ended:
        main([*path, "--help"])
    assert not ended.value.code
    shown = re.sub(r"\s+", "", capsys.readouterr().out)
    for option in _options(command):
        for bracketed in re.findall(r"\[[^]]*\]", option.help or ""):
            assert re.sub(r"\s+", "", bracketed) in shown


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_an_unknown_option_is_one_short_message(path, command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*path, "--no-such-option"])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "no-such-option" in told and "Traceback" not in told


@pytest.mark.parametrize("text", ["5M", "1e3", "10,000", "2.5k", "1_000"])
def test_counts_are_read_as_people_type_them(text, capsys, tmp_path):
    with pytest.raises(SystemExit):  # the number passes; the model is what is not there
        main(["train", "--model", str(tmp_path / "none"), "--tokens", text])
    assert "--tokens" not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1.5", "abc", "1e999", "", "5X", "9" * 5000])
def test_what_is_no_count_is_refused(text, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--model", str(tmp_path / "none"), "--tokens", text])
    assert ended.value.code == 2 and "--tokens" in capsys.readouterr().err


ODD = [
    "", "a", "[]", "1", "null", "a: b: c", "{model: 1, pair: 2, corpus: 3, sae: 4}",
    "{model: x, pair: {}, corpus: {}, sae: []}", "!!python/object/apply:os.system ['false']",
    "{model: x, pair: {read: 2020-01-01}, corpus: {}, sae: {}}",
    "{model: x, pair: {read: [1]}, corpus: {}, sae: {}}",
    "{model: x, pair: [a], corpus: b, sae: c}",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_odd_descriptions_of_a_run_are_refused_with_a_sentence(text, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(SaekitError):
        start_from(file, None)
