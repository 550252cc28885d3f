"""Every number in every configuration is bounded, and refused outside whichever way it comes."""

import dataclasses
import importlib
import inspect
import json
import math
import pkgutil
import types
import typing

import pytest

import saekit
from saekit.core.bounds import bounds_of
from saekit.core.config import Config, field_types, override
from saekit.core.errors import ConfigError
from saekit.data.corpora.stdlib import Stdlib
from saekit.saes.topk import TopK

# Numbers that are right whatever they are, as long as they are finite.
ANY_NUMBER = {
    "seed",
    "order_seed",
    "profiles.Linear.start",
    "profiles.Linear.end",
    "profiles.FoldedNormal.mean",
    "profiles.GivenProfile.entries",
    "dictionaries.GivenDirections.rows",
    "magnitudes.ReluNormal.mean",  # before rectifying; published truths have negative ones
}
# What the fields without a default are given, where their type does not say it.
VALUES = {
    "read": ("L0.resid_post",),
    "sites": ("L0.resid_post",),
    "paths": ("a.txt",),
    "parts": (Stdlib(),),
    "weights": (1.0,),
    "corpus": Stdlib(),
    "sae": TopK.example(),
    "matrix": ((1.0, 0.5), (0.5, 1.0)),
    "b": 1,
    "rows": ((1.0, 1.0),),
    "rates": (0.5,),
    "entries": (1.0,),
    "layers": (0,),
    "correlation": 0.5,
    "model": "m",
}


def configs():
    """Yield every configuration class of the package that can be made."""
    for module in pkgutil.walk_packages(saekit.__path__, "saekit."):
        if not module.name.endswith("__main__") and ".triton" not in module.name:
            importlib.import_module(module.name)
    todo, seen = [Config], set()
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            own = cls.__module__.startswith("saekit.") and not inspect.isabstract(cls)
            if own and cls not in seen and dataclasses.fields(cls):
                seen.add(cls)
                yield cls


CONFIGS = sorted(configs(), key=lambda cls: (cls.__module__, cls.__name__))


def label(cls, field=None):
    name = f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"
    return f"{name}.{field.name}" if field else name


def is_number(hint):
    """Tell whether a type is of numbers, or of tuples of them."""
    if hint in (int, float):
        return True
    held = isinstance(hint, types.UnionType) or typing.get_origin(hint) in (typing.Union, tuple)
    return held and any(is_number(part) for part in typing.get_args(hint))


def numbers(cls):
    """Return the fields that hold numbers, with their bounds."""
    hints = field_types(cls)
    return [(f, bounds_of(f)) for f in dataclasses.fields(cls) if is_number(hints[f.name])]


def example(cls):
    """Return an instance of which every field without a default is filled."""
    if hasattr(cls, "example"):
        return cls.example()
    values = {}
    for field in dataclasses.fields(cls):
        if (field.default, field.default_factory) != (dataclasses.MISSING,) * 2:
            continue
        bounds, hint = bounds_of(field), field_types(cls)[field.name]
        low = bounds.least if bounds.least is not None else 0.5
        if field.name in VALUES and (hint is not int or field.name == "b"):
            values[field.name] = VALUES[field.name]
        elif hint in (int, float):
            values[field.name] = hint(low)
        elif hint is str:
            values[field.name] = "x"
        else:
            values[field.name] = example(hint)
    return cls(**values)


def outside(bounds, whole):
    """Return numbers that are just beyond the bounds."""
    step = 1 if whole else 1e-6
    ends = [(bounds.least, -step), (bounds.most, step), (bounds.above, 0), (bounds.below, 0)]
    found = [end + by for end, by in ends if end is not None]
    return found if whole else [*found, math.nan, math.inf, -math.inf]


def test_there_are_such_configurations():
    assert len(CONFIGS) > 60
    assert sum(len(numbers(cls)) for cls in CONFIGS) > 150


def test_every_number_is_bounded_or_listed():
    open_ = {label(cls, field) for cls in CONFIGS for field, bounds in numbers(cls) if not bounds}
    listed = {name for name in open_ if name in ANY_NUMBER or name.split(".")[-1] in ANY_NUMBER}
    assert open_ - listed == set()
    named = {name.split(".")[-1] for name in open_} | open_
    assert ANY_NUMBER - named == set()  # none is listed in vain


def in_place(number, old, hint):
    """Return a value of a field's type that holds a number, in its first place if in a tuple."""
    if "tuple" not in hint:
        return number
    if "tuple[tuple" not in hint:
        return (number, *(old or ())[1:])
    rows = old or ((0,),)
    return ((number, *rows[0][1:]), *rows[1:])


@pytest.mark.parametrize("cls", [cls for cls in CONFIGS if numbers(cls)], ids=label)
def test_what_is_outside_is_refused_three_ways(cls):
    config = example(cls)
    for field, bounds in numbers(cls):
        name, hint = field.name, str(field_types(cls)[field.name])
        for wrong in outside(bounds, whole="float" not in hint):
            value = in_place(wrong, getattr(config, name), hint)
            said = rf"^`{name}(\[\d+\])*` must be .*; got "
            with pytest.raises(ConfigError, match=said):
                dataclasses.replace(config, **{name: value})
            with pytest.raises(ConfigError, match=said):
                cls.from_dict(config.to_dict() | {name: value})
            with pytest.raises(ConfigError, match=said):
                override(config, [f"{name}={json.dumps(value)}"])


def test_a_refusal_names_the_range_what_came_and_the_way_out():
    said = {}
    for cls, settings in ((TopK, {"k": 0}), (TopK, {"anneal": float("nan")})):
        with pytest.raises(ConfigError) as caught:
            cls(d_in=8, d_out=8, d_sae=16, **settings)
        said |= {name: str(caught.value) for name in settings}
    assert said == {
        "k": "`k` must be at least 1; got 0. The default is 32.",
        "anneal": "`anneal` must be a finite number, at least 0 and below 1 of training; got nan. "
        "The default is 0.0.",
    }
    with pytest.raises(ConfigError, match="`k` must be at least 1"):
        TopK(k=0)  # without widths yet


def test_a_whole_number_of_any_length_is_refused_with_a_sentence():
    with pytest.raises(ConfigError, match="finite"):
        TopK(d_in=8, d_out=8, d_sae=16, k=10**400)
