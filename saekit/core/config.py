"""Frozen configurations: a value, its checks, and its way to and from JSON."""

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from saekit.core.errors import ConfigError, nearest

C = TypeVar("C", bound="Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every configuration: no I/O, no derived fields, no device, no path.

    A concrete class has a `name`. An abstract class of variants overrides `variant`, so
    that `from_dict` of the abstract class builds the variant that the dict names.

    Raises:
        ConfigError: a field holds a value of another type.
    """

    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        _check_types(
            type(self), {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        )

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the concrete class called `name`; only classes of variants have one."""
        raise ConfigError(f"`{cls.__name__}` is not a family of variants; got `{name}`.")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict that `from_dict` reads back to an equal value."""
        head = {"name": self.name} if self.name else {}
        return head | {
            f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)
        }

    @classmethod
    def from_dict(cls: type[C], raw: dict[str, Any]) -> C:
        """Build from `to_dict` output.

        Raises:
            ConfigError: a key is not a field, a field is missing, or a value is refused.
        """
        if not isinstance(raw, dict):
            raise ConfigError(f"`{cls.__name__}` must be an object; got {raw!r}.")
        if not cls.name and "name" in raw:
            return typing.cast("type[C]", cls.variant(raw["name"])).from_dict(raw)
        given = {k: v for k, v in raw.items() if not (k == "name" and cls.name)}
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key in given.keys() - fields.keys():
            raise ConfigError(
                f"`{cls.name or cls.__name__}` has no field `{key}`; it has "
                f"{', '.join(sorted(fields))}.{nearest(key, fields)}"
            )
        missing = [
            n for n, f in fields.items()
            if n not in given
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ConfigError(
                f"`{cls.name or cls.__name__}` needs {', '.join(missing)}; "
                f"got {', '.join(sorted(given)) or 'nothing'}."
            )
        hints = field_types(cls)
        built = {k: _built(v, hints[k]) for k, v in given.items()}
        _check_types(cls, built)
        return cls(**built)


def override(config: C, settings: Sequence[str]) -> C:
    """Return `config` with dotted settings such as ``sae.k=64`` applied in order.

    Args:
        config: the value to start from; it is not changed.
        settings: ``a.b=value``; the value is read as JSON, and as text where it is not.

    Raises:
        ConfigError: a setting has no ``=``, names no field, or is refused.
    """
    raw = config.to_dict()
    for setting in settings:
        path, value = read_setting(setting)
        *parents, last = path.split(".")
        place = raw
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                raise ConfigError(
                    f"`{path}`: there is no group `{parent}`; groups here are "
                    f"{', '.join(k for k, v in place.items() if isinstance(v, dict)) or 'none'}."
                )
            place = place[parent]
        if last not in place:
            raise ConfigError(
                f"`{path}`: there is no setting `{last}`; there are "
                f"{', '.join(sorted(place))}.{nearest(last, place)}"
            )
        place[last] = value
    return type(config).from_dict(raw)


def read_setting(setting: str) -> tuple[str, Any]:
    """Return the dotted path and the value of ``a.b=value``.

    Raises:
        ConfigError: there is no ``=``.
    """
    path, sign, text = setting.partition("=")
    if not sign:
        raise ConfigError(f"A setting reads `field=value`; got `{setting}`.")
    try:
        return path.strip(), json.loads(text)
    except json.JSONDecodeError:
        return path.strip(), text


def field_types(cls: type) -> dict[str, Any]:
    """Return the types of the fields of a configuration class, by field name."""
    return typing.get_type_hints(cls)


def _check_types(cls: type[Config], values: dict[str, Any]) -> None:
    hints = field_types(cls)
    for key, value in values.items():
        if not _fits(value, hints[key]):
            raise ConfigError(
                f"`{key}` of `{cls.name or cls.__name__}` must be {_describe(hints[key])}; "
                f"got {value!r} ({type(value).__name__})."
            )


def _options(hint: Any) -> tuple[Any, ...]:
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_one(value, option) for option in _options(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is tuple:
        return isinstance(value, tuple) and all(
            _fits(v, typing.get_args(hint)[0]) for v in value
        )
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _describe(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    parts = []
    for option in _options(hint):
        if typing.get_origin(option) is typing.Literal:
            parts += [repr(v) for v in typing.get_args(option)]
        elif option is types.NoneType:
            parts.append("null")
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
    for option in _options(hint):
        if isinstance(option, type) and issubclass(option, Config) and isinstance(value, dict):
            return option.from_dict(value)
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            return tuple(_built(v, typing.get_args(option)[0]) for v in value)
    return value
