"""What `--set` takes, listed at the end of a command's help from the fields of its settings.

Help is made when it is asked for, so that the command line starts without what settings import.
"""

import dataclasses
import importlib
import inspect
import json
import re
import textwrap
from typing import Any

from typer.core import TyperCommand
from typing_extensions import override

WIDTH = 80  # as the help above it
NOTE = "Values are read as JSON, or as text if they are not JSON: --set name=value."
_ENTRY = re.compile(r" {4}(\w+): (.*)")


def lists(*where: str, but: tuple[str, ...] = ()) -> type[TyperCommand]:
    """Return the class of a command whose help ends with the settings that `--set` takes.

    Args:
        where: configuration classes, as "saekit.evals.core:Core". Where a command takes the
            settings of one of several, name each, or the registry that they are in.
        but: fields that `--set` of this command does not reach.
    """

    class Listing(TyperCommand):
        @override
        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            try:
                found = lines(where, but)
            except ImportError as error:  # settings are read from classes that import torch
                found = [" Settings of --set", f" cannot be listed here: {error}.", ""]
            formatter.write("\n" + "\n".join(found))

    return Listing


def lines(where: tuple[str, ...], but: tuple[str, ...] = ()) -> list[str]:
    """Return the lines that list the settings of some classes."""
    found = [" Settings of --set", f" {NOTE}"]
    classes = [cls for place in where for cls in _classes(place)]
    for cls in classes:
        fields = _fields(cls, "", but)
        if len(classes) > 1:
            found += ["", f" {cls.name or cls.__name__}:{'' if fields else ' none'}"]
        found += ["", *fields] if fields else []
    return [*found, ""]


def _classes(place: str) -> list[Any]:
    """Return the class of a name such as "saekit.evals.core:Core", or all those of a registry."""
    from saekit.core.registry import Registry

    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(module), name)
    return [found.get(n) for n in found.names()] if isinstance(found, Registry) else [found]


def _fields(
    cls: type, prefix: str, but: tuple[str, ...] = (), held: Any = dataclasses.MISSING
) -> list[str]:
    """Return a line a field, and under it those of a configuration that it holds.

    Args:
        cls: the configuration's class.
        prefix: of the names.
        but: fields to leave out.
        held: the value that another configuration holds, whose fields are the defaults then.
    """
    from saekit.core.bounds import bounds_of
    from saekit.core.config import Config, field_types

    told, kinds = meanings(cls), field_types(cls)
    found = []
    for field in dataclasses.fields(cls):
        if field.name in but:
            continue
        kind = kinds[field.name]
        inner = isinstance(kind, type) and issubclass(kind, Config)
        name = f"{prefix}{field.name}" + (".…" if inner else "")
        usual = getattr(held, field.name, field.default)
        default = _default(usual, inner=inner)
        limits = bounds_of(field).describe()
        limits = f" ({limits})" if limits else ""
        found += _wrapped(f"  {name:<28} ", f"{told.get(field.name, '')}{limits}{default}")
        # A family is left out: which fields it has depends on which of it is chosen.
        if inner and (kind.name or type(usual) is kind):
            found += _fields(kind, f"{prefix}{field.name}.", held=usual)
    return found


def meanings(cls: type) -> dict[str, str]:
    """Return what the Args section of a class' docstring, or of its parents', says of each."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        _, _, section = inspect.cleandoc(one.__doc__ or "").partition("Args:\n")
        name = ""
        for line in section.splitlines():
            if entry := _ENTRY.fullmatch(line):
                name = entry[1]
                found[name] = entry[2]
            elif not line.strip():
                break
            elif name:
                found[name] += f" {line.strip()}"
    return {name: words.replace("``", "`") for name, words in found.items()}


def _default(value: Any, *, inner: bool) -> str:
    if inner or value is dataclasses.MISSING:
        return ""
    return f" [{json.dumps(value, default=str)}]"  # as --set reads it


def _wrapped(head: str, text: str) -> list[str]:
    """Return text in lines under a head."""
    return textwrap.wrap(
        text or "-",
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
    )
