"""Configurations: round trip, overrides, and what they refuse."""

import json
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from saekit.core.config import Config, override
from saekit.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner(Config):
    name: ClassVar[str] = "inner"
    rate: float = 0.1
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True)
class Outer(Config):
    name: ClassVar[str] = "outer"
    width: int
    inner: Inner = Inner()
    words: tuple[str, ...] = ()
    limit: int | None = None


def test_a_config_survives_json():
    one = Outer(width=3, inner=Inner(rate=2), words=("x", "y"))
    assert Outer.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_overrides_go_in_by_path():
    one = override(Outer(width=3), ["inner.rate=0.5", "limit=7", 'words=["a"]', "inner.mode=b"])
    assert one == Outer(width=3, inner=Inner(rate=0.5, mode="b"), words=("a",), limit=7)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"width": 3, "widht": 4}, "Did you mean `width`"),
        ({}, "needs width"),
        ({"width": 3.5}, "must be a whole number; got 3.5"),
        ({"width": True}, "must be a whole number"),
        ({"width": 3, "limit": "x"}, "a whole number or null"),
        ({"width": 3, "inner": {"name": "inner", "mode": "c"}}, "'a' or 'b'"),
    ],
)
def test_what_is_refused_is_named(raw, said):
    with pytest.raises(ConfigError, match=said):
        Outer.from_dict(raw)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("width", "reads `field=value`"),
        ("wdith=3", "Did you mean `width`"),
        ("inner.rat=3", "Did you mean `rate`"),
        ("outer.rate=3", "no group `outer`"),
        ("inner.rate=high", "must be a number"),
    ],
)
def test_overrides_that_fit_nothing_are_refused(setting, said):
    with pytest.raises(ConfigError, match=said):
        override(Outer(width=3), [setting])
