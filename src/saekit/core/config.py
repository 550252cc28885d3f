"""Frozen configurations: a value, its checks, and its way to and from JSON."""

import dataclasses
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from saekit.core import bounds
from saekit.core.errors import ConfigError, nearest

C = TypeVar("C", bound="Config")

# 300k, 5M, 2.5e6, 1_000, 10,000,000: numbers as people type them.
_NUMBER = re.compile(r"([+-]?[0-9][0-9_,]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?)([kKMGB]?)")
_TIMES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_LONGEST_NUMBER = 40  # characters; longer ones are mistakes, and cost time to read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every configuration: no I/O, no derived fields, no device, no path.

    A concrete class has a `name`. An abstract class of variants overrides `variant`, so
    that `from_dict` of the abstract class builds the variant that the dict names.

    What a field may hold is declared with `setting`, and checked whenever a value is made.

    Raises:
        ConfigError: a field holds a value of another type, or one that is out of bounds.
    """

    name: ClassVar[str] = ""

    if not typing.TYPE_CHECKING:

        def __new__(cls, **settings: Any) -> Any:
            """Refuse names that are no fields, before Python does so without a hint."""
            check_known(cls, settings)
            if settings:  # a copy is made without any
                check_whole(cls, settings)
            return super().__new__(cls)

    def __post_init__(self) -> None:
        check_values(type(self), {f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the concrete class called `name`; only classes of variants have one."""
        raise ConfigError(f"`{cls.__name__}` is not a family of variants; got `{name}`.")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict that `from_dict` reads back to an equal value."""
        head = {"name": self.name} if self.name else {}
        return head | {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls: type[C], raw: dict[str, Any]) -> C:
        """Build from `to_dict` output.

        Raises:
            ConfigError: a key is not a field, a field is missing, or a value is refused.
        """
        if not isinstance(raw, dict):
            raise ConfigError(f"`{cls.__name__}` must be an object; got {raw!r}.")
        if odd := [key for key in raw if not isinstance(key, str)]:
            raise ConfigError(f"Fields of `{cls.__name__}` have names of text; got {odd[0]!r:.80}.")
        if not cls.name and "name" not in raw and inspect.isabstract(cls):
            raise ConfigError(
                f"`{cls.__name__}` needs a `name`, which says of what kind it is; got "
                f"{', '.join(sorted(raw)) or 'an empty object'}."
            )
        if not isinstance(raw.get("name", ""), str):
            raise ConfigError(
                f"The `name` in the settings of `{cls.__name__}` must be text; got "
                f"{raw['name']!r:.80}."
            )
        if not cls.name and "name" in raw:
            return typing.cast("type[C]", cls.variant(raw["name"])).from_dict(raw)
        if cls.name and raw.get("name", cls.name) != cls.name:
            raise ConfigError(f"These are settings of `{cls.name}`; got {raw['name']!r:.80}.")
        given = {k: v for k, v in raw.items() if not (k == "name" and cls.name)}
        check_known(cls, given)
        check_whole(cls, given)
        hints = field_types(cls)
        built = {k: _built(v, hints[k]) for k, v in given.items()}
        check_values(cls, built)
        return cls(**built)


def setting(default: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """Return a field of a configuration that says what it may hold.

    Args:
        default: its default; without one the field must be given.
        limits: `least`, `most`, `above`, `below`, `unit`, `choices` and `hint` of `Bounds`.
    """
    return dataclasses.field(default=default, metadata={bounds.KEY: bounds.Bounds(**limits)})


def check_known(cls: "type[Config]", names: Iterable[str]) -> None:
    """Refuse names that are no settings of a configuration.

    Raises:
        ConfigError: one is not; the nearest that is is named.
    """
    fields = {f.name for f in dataclasses.fields(cls)}
    if unknown := sorted(set(names) - fields):
        raise ConfigError(
            f"`{cls.name or cls.__name__}` has no setting `{unknown[0]}`; it has "
            f"{', '.join(sorted(fields))}.{nearest(unknown[0], fields)}"
        )


def check_whole(cls: "type[Config]", names: Iterable[str]) -> None:
    """Refuse settings that lack some which have no default.

    Raises:
        ConfigError: they do.
    """
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in names
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(
            f"`{cls.name or cls.__name__}` needs {', '.join(missing)}; "
            f"got {', '.join(sorted(names)) or 'nothing'}."
        )


def override(config: C, settings: Sequence[str]) -> C:
    """Return `config` with dotted settings such as ``sae.k=64`` applied in order.

    Args:
        config: the value to start from; it is not changed.
        settings: ``a.b=value``; the value is read as JSON, and as text where it is not. Numbers
            may be written as 300k, 5M, 1e6 or 10,000,000.

    Raises:
        ConfigError: a setting has no ``=``, names no setting, or is refused.
    """
    return changed(config, [read_setting(setting) for setting in settings])


def changed(config: C, settings: Iterable[tuple[str, Any]]) -> C:
    """Return `config` with settings applied in order, each a dotted path such as sae.k and a value.

    Raises:
        ConfigError: a path names no setting, or a value is refused.
    """
    raw = config.to_dict()
    for path, value in settings:
        *parents, last = path.split(".")
        place = raw
        owner = config.name or type(config).__name__
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                groups = [k for k, v in place.items() if isinstance(v, dict)]
                raise ConfigError(
                    f"`{owner}` has no group of settings `{parent}`, as `{path}` says; it has "
                    f"{', '.join(groups) or 'none'}.{nearest(parent, groups)}"
                )
            place, owner = place[parent], parent
        if last not in place and not _has(config, parents, last):
            known = sorted(set(place) - {"name"})
            raise ConfigError(
                f"`{owner}` has no setting `{last}`; it has {', '.join(known)}."
                f"{nearest(last, known)}"
            )
        place[last] = value
    return type(config).from_dict(raw)


def _has(config: Config, parents: Sequence[str], name: str) -> bool:
    """Tell whether a group has a setting that its dict leaves out, as one that is not used."""
    found: Any = config
    for parent in parents:
        found = getattr(found, parent, None)
    return isinstance(found, Config) and name in {f.name for f in dataclasses.fields(found)}


def read_setting(setting: str) -> tuple[str, Any]:
    """Return the dotted path and the value of ``a.b=value``.

    Raises:
        ConfigError: there is no ``=``.
    """
    path, sign, text = setting.partition("=")
    if not sign:
        raise ConfigError(f"A setting reads `field=value`; got `{setting}`.")
    return path.strip(), read_value(text)


def read_value(text: str) -> Any:
    """Return what a word of the command line says: JSON, or the text itself where it is not.

    Raises:
        ConfigError: it is JSON that is too deep, or a number too long, to be meant.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
    except (RecursionError, ValueError) as error:  # nested too deep; over 4,300 digits
        raise ConfigError(f"`{text:.40}...` cannot be read as a value: {error}.") from error


def read_number(text: str) -> int | float:
    """Return the number that a text such as ``5M``, ``300k``, ``1e6`` or ``10,000`` says.

    Returns:
        An int where the value is whole.

    Raises:
        ConfigError: it says no finite number.
    """
    found = _NUMBER.fullmatch(text.strip()) if len(text) <= _LONGEST_NUMBER else None
    if found is None:
        raise ConfigError(
            f"Expected a number, as 5000000, 5M, 300k or 1e6; got {text[:_LONGEST_NUMBER]!r}."
        )
    digits, unit = found.group(1).replace("_", "").replace(",", ""), found.group(2)
    if digits.lstrip("+-").isdigit():  # exact, however long
        return int(digits) * _TIMES[unit]
    value = float(digits) * _TIMES[unit]
    if not math.isfinite(value):
        raise ConfigError(f"Expected a finite number; got {text!r}.")
    return round(value) if value == round(value) else value


def field_types(cls: type) -> dict[str, Any]:
    """Return the types of the fields of a configuration class, by field name."""
    return typing.get_type_hints(cls)


def check_values(cls: type[Config], values: dict[str, Any]) -> None:
    """Refuse values that are not of their fields' types, or out of their bounds.

    Raises:
        ConfigError: one is.
    """
    hints = field_types(cls)
    for key, value in values.items():
        if not fits(value, hints[key]):
            raise ConfigError(
                f"`{key}` of `{cls.name or cls.__name__}` must be {_describe(hints[key])}; "
                f"got {value!r} ({type(value).__name__})."
            )
    for field in dataclasses.fields(cls):
        if field.name in values:
            bounds.check(field, values[field.name])


def _options(hint: Any) -> tuple[Any, ...]:
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a value is of the type that a field declares."""
    return any(_fits_one(value, option) for option in _options(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(v, typing.get_args(hint)[0]) for v in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _as_number(value: Any, options: tuple[Any, ...]) -> Any:
    """Return a number that was written as text or as 1e6; anything else as it is."""
    if isinstance(value, str) and str not in options and not _fits_any_literal(value, options):
        try:
            value = read_number(value)
        except ConfigError:
            return value  # the check of types says what was expected
    whole = isinstance(value, float) and value.is_integer()
    return int(value) if whole and float not in options else value


def _fits_any_literal(value: str, options: tuple[Any, ...]) -> bool:
    return any(
        value in typing.get_args(o) for o in options if typing.get_origin(o) is typing.Literal
    )


def _describe(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    parts = []
    for option in _options(hint):
        if typing.get_origin(option) is typing.Literal:
            parts += [repr(v) for v in typing.get_args(option)]
        elif option is types.NoneType:
            parts.append("null")
        elif typing.get_origin(option) is tuple:
            parts.append('a list, as ["a", "b"]' if str in typing.get_args(option) else "a list")
        else:
            parts.append(words.get(option) or getattr(option, "__name__", str(option)))
    return " or ".join(parts)


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def _built(value: Any, hint: Any) -> Any:
    options = _options(hint)
    if int in options or float in options:
        value = _as_number(value, options)
    for option in options:
        if isinstance(option, type) and issubclass(option, Config) and isinstance(value, dict):
            return option.from_dict(value)
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            return tuple(_built(v, typing.get_args(option)[0]) for v in value)
    return value
