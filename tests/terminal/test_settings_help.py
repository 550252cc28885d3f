"""Every command that takes --set says what it takes."""

import dataclasses
import re

import pytest
import typer

from saekit.cli.main import app
from saekit.core.config import Config, override
from saekit.studies.locality.filters.plain import Plain
from saekit.studies.locality.runs.depth import Depth
from saekit.studies.locality.runs.measure import Measure
from saekit.terminal.settings_help import lines, meanings


def commands(found, path=()):
    for name, one in getattr(found, "commands", {}).items():
        yield from commands(one, (*path, name))
    if not hasattr(found, "commands"):
        yield " ".join(path), found


ALL = dict(commands(typer.main.get_command(app)))
TAKES = [name for name, one in ALL.items() if any("--set" in p.opts for p in one.params)]


def test_there_are_such_commands():
    assert {
        "train",
        "sweep",
        "eval",
        "cache write",
        "truth train",
        "locality depth",
        "locality context",
        "locality check",
        "locality dataset",
    } <= set(TAKES)


@pytest.mark.parametrize("name", TAKES)
def test_help_ends_with_the_settings(name, capsys):
    command = ALL[name]
    with pytest.raises((SystemExit, typer.Exit)):
        command.main(["--help"], standalone_mode=True)
    out = capsys.readouterr().out
    usage, sign, listed = out.partition("Settings of --set")
    assert usage.lstrip().startswith("Usage:") and "\nOptions:" in usage
    # Where a command takes the settings of one of several classes, each has a heading.
    of, names = "", []
    for line in listed.splitlines():
        if re.fullmatch(r" \w+:( none)?", line):
            of = line
        elif re.match(r"  \S", line):
            names.append((of, line.split()[0]))
    assert sign and len(names) > 3 and len(set(names)) == len(names)


def test_what_is_listed_is_what_is_taken():
    listed = [
        line.split()[0]
        for line in lines(("saekit.studies.locality.runs.depth:Depth",))
        if line.startswith("  ") and not line.startswith("   ")
    ]
    plain = [f.name for f in dataclasses.fields(Depth)]
    assert {n.removesuffix(".…") for n in listed} == {
        *plain,
        *(f"measure.{f.name}" for f in dataclasses.fields(Measure)),
    }
    from saekit.data.corpora.packaged import Packaged

    config = Depth(corpus=Packaged())
    assert override(config, ["measure.probes=7"]).measure.probes == 7
    text = "\n".join(lines(("saekit.studies.locality.runs.depth:Depth",)))
    assert "[64]" in text and '["vjp"]' not in text.split("measure.method")[0]
    less = lines(("saekit.studies.locality.runs.depth:Depth",), but=("corpus",))
    assert not any(line.startswith("  corpus") for line in less)


def test_a_nested_setting_has_the_default_of_the_configuration_that_holds_it():
    found = "\n".join(lines(("saekit.studies.faithful.study:Faithful",)))
    by_name = {line.split()[0]: line for line in re.split(r"\n(?=  \S)", found)[1:]}
    assert "[32768]" in by_name["losses.core.n_tokens"]  # not the 65,536 of the evaluation alone
    assert {"generation.length", "measurement.tokens"} <= set(by_name)  # they have no name


def test_meanings_are_those_of_the_docstring_and_of_parents():
    assert meanings(Plain)["least_distinct"].startswith("least share of distinct ids")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Child(Config):
        """A thing.

        Args:
            one: the first, which
                goes on.
            two: the second.

        Raises:
            ConfigError: never.
        """

        one: int = 1
        two: str = "x"

    assert meanings(Child) == {"one": "the first, which goes on.", "two": "the second."}
