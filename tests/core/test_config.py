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
        ("outer.rate=3", "no group of settings `outer`"),
        ("inner.rate=high", "must be a number"),
    ],
)
def test_overrides_that_fit_nothing_are_refused(setting, said):
    with pytest.raises(ConfigError, match=said):
        override(Outer(width=3), [setting])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("width=5M", 5_000_000),
        ("width=1e3", 1000),
        ("width=2.5k", 2500),
        ("width=10,000", 10_000),
        ("width=1_000", 1000),
        ("limit=300k", 300_000),
        ("limit=-3", -3),
    ],
)
def test_whole_numbers_are_taken_as_people_type_them(setting, value):
    name = setting.partition("=")[0]
    found = getattr(override(Outer(width=3), [setting]), name)
    assert found == value and type(found) is int


def test_a_number_with_a_unit_is_taken_where_fractions_are():
    assert override(Outer(width=3), ["inner.rate=1.5k"]).inner.rate == 1500
    assert override(Outer(width=3), ["inner.rate=1e-3"]).inner.rate == 1e-3


@pytest.mark.parametrize(
    "setting",
    [
        "width=1.5",
        "width=5X",
        "width=1e999",
        "width=" + "9" * 5000,
        "width=" + "[" * 100_000,
        "width=nan",
        "width=[]",
        "width={}",
        "inner.mode=[]",
        "inner=1",
        "inner.name=other",
        "inner.name=[]",
        "width.x=1",
        ".=1",
        "inner..rate=1",
        "width=\ud800",
    ],
)
def test_odd_settings_are_refused_with_a_sentence(setting):
    with pytest.raises(ConfigError) as caught:
        override(Outer(width=3), [setting])
    assert len(str(caught.value)) < 400


def test_a_kind_without_its_name_and_names_that_are_no_text_are_refused():
    from saekit.saes.base import SAEConfig

    with pytest.raises(ConfigError, match="needs a `name`"):
        SAEConfig.from_dict({"d_in": 3})
    for name in ([], {}, 3, None):
        with pytest.raises(ConfigError, match="must be text"):
            SAEConfig.from_dict({"name": name})
