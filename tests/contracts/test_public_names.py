"""What users type is a promise: names of the package, commands, options, and registered names.

They stand in public_names.txt, a line each. To change them on purpose:

    SAEKIT_RENEW_NAMES=1 python -m pytest tests/contracts/test_public_names.py

and read the difference as a user would: a line that goes is a script that breaks.
"""

import functools
import inspect
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import saekit
from saekit.cli.list import Kind, _entries
from saekit.cli.main import app

FILE = Path(__file__).with_name("public_names.txt")
RENEW = "SAEKIT_RENEW_NAMES"


def of_python() -> Iterator[str]:
    for name in saekit.__all__:
        yield f"python {name}"
        found = getattr(saekit, name)
        if inspect.isfunction(found):
            for parameter in inspect.signature(found).parameters.values():
                if parameter.kind is not parameter.VAR_KEYWORD:
                    yield f"python {name} {parameter.name}="


def of_commands(group=None, path: tuple[str, ...] = ()) -> Iterator[str]:
    group = typer.main.get_command(app) if group is None else group
    for name, command in group.commands.items():
        words = " ".join(["command", *path, name])
        if hasattr(command, "commands"):
            yield from of_commands(command, (*path, name))
            continue
        yield words
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                yield f"{words} {parameter.name.upper()}"
            else:
                yield from (f"{words} {o}" for o in (*parameter.opts, *parameter.secondary_opts))


def of_registries() -> Iterator[str]:
    for kind in Kind:
        yield from (f"list {kind.value} {entry['name']}" for entry in _entries(kind))


@functools.cache
def present() -> list[str]:
    return sorted({*of_python(), *of_commands(), *of_registries()})


def differences(frozen: list[str], found: list[str]) -> list[str]:
    gone = [f"gone:  {line}" for line in frozen if line not in set(found)]
    new = [f"new:   {line}" for line in found if line not in set(frozen)]
    return gone + new


def test_public_names_change_on_purpose_only():
    found = present()
    if os.environ.get(RENEW):
        FILE.write_text("\n".join(found) + "\n", encoding="utf-8")
    frozen = FILE.read_text(encoding="utf-8").splitlines()
    changed = differences(frozen, found)
    assert not changed, (
        "\n".join(["Public names have changed:", *changed])
        + f"\nIf that is meant, write it into CHANGELOG.md and renew the list: {RENEW}=1 "
        f"python -m pytest tests/contracts/test_public_names.py"
    )


@pytest.mark.parametrize("line", ["python train site=", "command index --tokens", "list saes topk"])
def test_a_name_that_goes_or_comes_is_told(line):
    found = present()
    assert line in found
    assert differences(found, [one for one in found if one != line]) == [f"gone:  {line}"]
    assert differences([one for one in found if one != line], found) == [f"new:   {line}"]
