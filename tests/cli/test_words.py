"""What the command line says: every default is seen, numbers are read as people type them."""

import re
from dataclasses import replace

import pytest
import typer
from typer.models import ArgumentInfo, ParameterInfo

from saekit.cli.main import app, main
from saekit.core.errors import SaekitError
from saekit.core.result import Score, score_lines
from saekit.training.sources import read_run


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


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_arguments_without_a_name_are_what_a_command_reads(path, command):
    """What a command makes is named by --out: nobody has to know which of two folders is which."""
    made = re.compile(r"\bto (make|write)\b|\bmade where\b", re.IGNORECASE)
    for option in _options(command):
        if isinstance(option, ArgumentInfo):
            assert not made.search(option.help or ""), option.help


@pytest.mark.parametrize(
    "words",
    [["convert"], ["locality", "convert"], ["locality", "release", "--preset", "x"]],
    ids=" ".join,
)
def test_a_second_folder_is_not_taken_for_the_output(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*words, "one", "two"])
    assert ended.value.code == 2 and "--out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "x"],
        ["locality", "convert", "x"],
        ["cache", "export", "x"],
        ["truth", "make"],
        ["locality", "release", "x", "--preset", "y"],
        ["locality", "depth", "x"],
    ],
    ids=" ".join,
)
def test_a_file_where_a_folder_would_be_made_is_refused_first(words, tmp_path, capsys):
    (tmp_path / "there").write_text("kept")
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(tmp_path / "there")])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and f"{tmp_path / 'there'} is a file" in told, told
    assert (tmp_path / "there").read_text() == "kept"


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        (["train", "--resume", "x", "--k", "8", "--out", "y", "--quiet"], "`--k`, `--out`"),
        (["sweep", "--resume", "x", "--vary", "k=8"], "`--vary`"),
        (["truth", "train", "--truth", "t", "--resume", "x", "--arch", "topk"], "`--arch`"),
        (["cache", "write", "--resume", "x", "--site", "L0.resid_post"], "`--site`"),
        (["cache", "write", "--repair", "x", "--tokens", "5"], "`--tokens`"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_options_that_change_nothing_beside_a_folder_to_go_on_with_are_refused(words, idle, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and f"{idle} would change nothing" in told, told
    assert "--device" in told.partition("Beside it only")[2]  # what does


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
    "",
    "a",
    "[]",
    "1",
    "null",
    "a: b: c",
    "{model: 1, pair: 2, corpus: 3, sae: 4}",
    "{model: x, pair: {}, corpus: {}, sae: []}",
    "!!python/object/apply:os.system ['false']",
    "{model: x, pair: {read: 2020-01-01}, corpus: {}, sae: {}}",
    "{model: x, pair: {read: [1]}, corpus: {}, sae: {}}",
    "{model: x, pair: [a], corpus: b, sae: c}",
]


@pytest.mark.parametrize("text", ODD)
def test_odd_descriptions_of_a_run_are_refused_with_a_sentence(text, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(SaekitError):
        read_run(file)


def test_a_score_without_an_interval_says_why_once():
    why = "no interval: 11 documents or blocks of them; 20 are needed, about 30,000 tokens"
    bare = Score(value=0.5, n=11, unit="", better="lower", reason=why)
    scores = {
        "fvu": bare,
        "l0": bare,
        "kl": replace(bare, low=0.4, high=0.6, reason=""),
        "ce_rise": replace(bare, value=None, reason="undefined here"),
    }
    lines = score_lines(scores)
    assert [line for line in lines if why in line] == [f"note     fvu, l0: {why}"]
    assert len(lines) == 5 and sum("undefined here" in line for line in lines) == 1
    assert lines[3].endswith("undefined (undefined here)")
    lines = score_lines(scores | {"dead": scores["ce_rise"]})
    assert [line for line in lines if "undefined here" in line] == [
        "note     undefined: undefined here"
    ]
    assert sum(line.endswith("  undefined") for line in lines) == 2
