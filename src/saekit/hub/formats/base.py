"""The contract of a layout of files: recognise a folder, read it, and where possible write it.

Most layouts keep one SAE in a folder. Others keep many, one in each file: `Format.members` says
which, `member` chooses, and `Format.read` then gets the file.
"""

import abc
import contextlib
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

import saekit.hub.formats as package
from saekit.activations.pairs import Pair
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, FormatError, ShapeError
from saekit.core.files import read_object
from saekit.core.finite import all_finite
from saekit.core.registry import Registry
from saekit.hub.card import Card
from saekit.models.sites import UNKNOWN, Site, parse_site
from saekit.saes.base import SAE, SAEConfig


@dataclass(frozen=True, kw_only=True)
class FormatHints(Config):
    """What the user says of an SAE whose files leave it out.

    A hint fills a gap. One that the files contradict is an error, but for `model`: one model has
    several names.

    Args:
        model: the language model, by the name it is to be loaded under.
        read: sites read.
        write: sites predicted, of a transcoder.
        architecture: saekit's name of it, where the files fit several.
        k: latents kept per token, where the files leave it out; 0: not given.
        input_scale: what multiplied activations before the SAE saw them, where the files say
            that something did; 0: not given.
        overrides: settings that go over those in the files' configuration, as SAELens' registry
            of published SAEs has them for files that are known to say something wrong. The card
            lists them. `sae_lens` alone takes them.
    """

    name: ClassVar[str] = "format_hints"
    model: str = ""
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    architecture: str = ""
    k: float = setting(0.0, least=0, hint="0 where it is not known.")
    input_scale: float = setting(0.0, least=0, hint="0 where it is not known.")
    overrides: dict[str, Any] = field(default_factory=dict)


class Read(NamedTuple):
    """What a layout's files hold, in saekit's terms."""

    cfg: SAEConfig
    weights: dict[str, Tensor]  # a whole state of the SAE that `cfg` builds
    card: Card
    input_scale: float | None = None  # folded into the weights; None: nothing scales the input


class Format(abc.ABC):
    """One layout of files. Stateless; a subclass has a `name` and the names of its `files`."""

    name: ClassVar[str]
    files: ClassVar[str]  # for the reader, as "cfg.json and sae.safetensors"

    @abc.abstractmethod
    def detect(self, folder: Path) -> bool:
        """Return whether a folder holds this layout, from names of files and their heads."""

    def members(self, folder: Path) -> dict[str, Path]:
        """Return the SAEs of a folder that holds one in each file.

        Returns:
            The files, each by the site that its SAE reads where that is certain, and else by its
            own name. Empty where the folder itself is one SAE.
        """
        return {}

    @abc.abstractmethod
    def read(self, place: Path, hints: FormatHints, /) -> Read:
        """Read an SAE.

        Args:
            place: the folder, or one of the files in it that `members` names.
            hints: what the user says.

        Raises:
            FormatError: files are missing or damaged, hold what saekit cannot run exactly, or
                leave out what decides a number and `hints` does not say it either.
            ConfigError: the files leave open what `hints` could say.
        """

    def write(self, sae: SAE, card: Card, folder: Path) -> Path:
        """Write an SAE so that the layout's own library makes the same of it.

        Raises:
            ConfigError: the layout cannot hold this SAE, or saekit cannot write it.
        """
        raise ConfigError(
            f"saekit reads `{self.name}` and does not write it. Write one of {writable()}."
        )

    @abc.abstractmethod
    def example(self, folder: Path) -> Path:
        """Lay a small SAE of this layout in a folder, as its own library would.

        The contract of formats reads it, writes it and reads it again.

        Args:
            folder: an empty folder.

        Returns:
            The folder that holds the files: where the path says what an SAE is of, one inside.
        """


registry = Registry[Format]("format", package)
# Overrides that say where an SAE belongs and change no number of it.
DESCRIBING = {"model_name", "hook_name", "dataset_path", "model_from_pretrained_kwargs"}
say_object = read_object  # by the name that formats know it under, beside `say`


def check_unscaled(card: Card, name: str) -> None:
    """Refuse an SAE that is saved as trained, with scalings of its sites beside it.

    Args:
        card: of the SAE to be written.
        name: of the format, which has no place for them.

    Raises:
        ConfigError: a scaling changes something.
    """
    if any(not one.changes_nothing for both in card.scalings.values() for one in both):
        raise ConfigError(
            f"Sites of different sizes share this SAE, each with a scaling that `{name}` cannot "
            f"hold. Use --format saekit."
        )


def writable() -> str:
    """Return the names of the formats that can be written."""
    found = (n for n in registry.names() if registry.get(n).write is not Format.write)
    return ", ".join(found)


def find(place: Path, name: str | None = None) -> Format:
    """Return the format of a folder, or of a file that holds one of several SAEs.

    Args:
        place: where the files are.
        name: the format, where it is known; else the files must fit exactly one.

    Raises:
        UnknownNameError: there is no format of that name.
        FormatError: there is no such folder, or the files fit none or several.
    """
    if name is not None:
        known = registry.get(name)()
        if place.is_dir() or _holds(known, place):
            return known
    formats = [registry.get(n)() for n in registry.names()]
    if place.is_file():
        fitting = [f for f in formats if _holds(f, place)]
    elif place.is_dir():
        fitting = [f for f in formats if f.detect(place)]
    else:
        fitting = []
    # A folder that saekit published holds its own layout next to that of SAELens.
    own = [f for f in fitting if f.name == "saekit"]
    if len(own or fitting) == 1:
        return (own or fitting)[0]
    if fitting:
        raise FormatError(
            f"{place} fits several formats: {', '.join(f.name for f in fitting)}. Say which: "
            f"format=, on a command line --from."
        )
    raise FormatError(_nothing_there(place, formats))


def _holds(layout: Format, file: Path) -> bool:
    """Tell whether a file is one of the SAEs that a format sees in its folder."""
    return file.is_file() and file in layout.members(file.parent).values()


def _nothing_there(place: Path, formats: list[Format]) -> str:
    """Return what to say of a place that no format reads."""
    if not place.is_dir():
        is_file = ", and no format reads that file alone" if place.is_file() else ""
        return (
            f"There is no folder {place}{is_file}. Give the folder that holds the files, or a "
            f"run's."
        )
    inside = [
        p.name for p in sorted(place.iterdir()) if p.is_dir() and any(f.detect(p) for f in formats)
    ]
    if inside:
        return (
            f"{place} holds several SAEs, a folder each: {_some(inside)}. Name one, as "
            f"{place / inside[0]}."
        )
    there = sorted(p.name for p in place.iterdir())
    if refused := _refused_layout(place):
        return f"{place} holds {refused}, which saekit does not read."
    known = "; ".join(f"{f.name}: {f.files}" for f in formats)
    return (
        f"{place} holds no SAE in a format that saekit knows. It holds "
        f"{', '.join(there[:8]) or 'nothing'}. Formats: {known}."
    )


# What is published and not read, by the names of its files.
REFUSED = {
    r"params_layer_\d+\.safetensors": "a cross-layer transcoder (CLT) or crosscoder of Gemma "
    "Scope 2: it predicts or reads several layers at once",
    r"W_(?:enc|dec)_\d+\.safetensors": "a cross-layer transcoder (CLT) of circuit-tracer: it "
    "predicts several layers at once",
}


def _refused_layout(folder: Path) -> str | None:
    names = [p.name for p in folder.iterdir()]
    for pattern, what in REFUSED.items():
        if any(re.fullmatch(pattern, name) for name in names):
            return what
    return None


def member(layout: Format, place: Path, wanted: str | None) -> Path:
    """Return what `layout` is to read: the place itself, or the one file in it that is meant.

    Args:
        layout: the format of the place.
        place: a folder, or already a file.
        wanted: the site read by the SAE that is meant, where the user names one.

    Raises:
        ConfigError: the folder holds several, and none or another was named.
        UnknownNameError: `wanted` is no site.
    """
    members = {} if place.is_file() else layout.members(place)
    if not members:
        return place
    if len(members) == 1 and (wanted is None or next(iter(members.values())).name in members):
        return next(iter(members.values()))
    if wanted is not None and (found := members.get(str(parse_site(wanted)))) is not None:
        return found
    raise ConfigError(
        f"{place} holds SAEs, a file each ({len(members)}): {_some(list(members))}; got "
        f"{wanted or 'none of them'}. Name one by its site: site=, on a command line --site; or "
        f"give the path of its file, as {next(iter(members.values()))}."
    )


def _some(names: list[str]) -> str:
    """Return the first of some names, and how many more there are."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def built(found: Read, where: Path) -> SAE:
    """Build the SAE that was read; it takes over the tensors, without a second copy of them.

    Raises:
        FormatError: weights are missing, too many, of another shape, or not finite.
    """
    try:
        if (sae := _empty(found, where)) is None:
            sae = found.cfg.build(torch.Generator().manual_seed(0))
            sae.load_state_dict(found.weights)
        else:
            likes = sae.state_dict()
            weights = {n: _as(w, likes.get(n, w)) for n, w in found.weights.items()}
            sae.load_state_dict(weights, assign=True)
    except (ConfigError, RuntimeError) as error:
        raise FormatError(f"{where} does not hold what its config says: {error}") from error
    for name, weight in sae.state_dict().items():
        if not all_finite(weight):
            raise FormatError(f"`{name}` in {where} has values that are not finite.")
    return sae


def _as(weight: Tensor, like: Tensor) -> Tensor:
    """Return a weight in the type and the order of memory that an architecture keeps it in."""
    if weight.shape != like.shape or (
        weight.dtype == like.dtype and weight.stride() == like.stride()
    ):
        return weight  # of another shape: loading says so
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).copy_(weight)


def _empty(found: Read, where: Path) -> SAE | None:
    """Return the SAE of a config without memory for its weights; None where that cannot be.

    Raises:
        FormatError: its SAE is larger than the weights, before memory is taken for it.
    """
    held = sum(weight.numel() for weight in found.weights.values())
    least = found.cfg.d_sae * max(found.cfg.d_in, found.cfg.d_out)
    if least > held:
        raise FormatError(
            f"The config in {where} is of an SAE of {least:,} weights or more; its files hold "
            f"{held:,}."
        )
    with contextlib.suppress(RuntimeError), torch.device("meta"):
        empty = found.cfg.build(torch.Generator().manual_seed(0))
        parts = {n for n, _ in [*empty.named_buffers(), *empty.named_parameters()]}
        if parts <= {*empty.state_dict()}:  # a buffer that no file keeps would stay without memory
            return empty
    return None


class Names(NamedTuple):
    """What the files call the place of an SAE, and which sites that name leaves possible."""

    name: str
    read: tuple[Site, ...] | None = None  # None: the name says nothing of it; empty: no site
    write: tuple[Site, ...] | None = None  # of a transcoder

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        sides = {side: getattr(self, side) for side in ("read", "write")}
        return {"name": self.name} | {
            side: None if sites is None else [str(s) for s in sites]
            for side, sites in sides.items()
        }


def make_card(  # noqa: PLR0913 - a card is what all of these say
    format_name: str,
    hints: FormatHints,
    *,
    model: str | None = None,
    pair: Pair | None = None,
    says: dict[str, Any] | None = None,
    transcodes: bool | None = False,
    notes: tuple[str, ...] = (),
    names: Names | None = None,
) -> Card:
    """Return the card of an SAE from elsewhere.

    Args:
        format_name: of which format the files are.
        hints: what the user says. Sites fill gaps and may not contradict; a model may, for one
            model has several names.
        model: the language model the files name.
        pair: the sites the files name.
        says: what else they say: ``n_ctx``, ``bos``, ``tokens``, ``corpus`` and anything worth
            keeping. What is not among them is listed as unknown.
        transcodes: it predicts another site than it reads; None: the files leave that open.
        notes: what a user must know.
        names: what the files call its place, where that is no certain site.

    Raises:
        ConfigError: the user and the files disagree, or the user named half of a transcoder.
    """
    says = {"model": model, "transcodes": transcodes, **(says or {})}
    sure = pair if pair is not None and UNKNOWN not in pair.sites else None
    known = {key: says.get(key) for key in ("n_ctx", "bos", "tokens", "corpus")}
    gaps = {"model": model, "site": sure} | known
    bos = says.pop("bos", None)
    card = Card(
        model={"name": model or "unknown", "revision": None, "dtype": "unknown"},
        pair=pair or Pair(read=(str(UNKNOWN),)),
        rules={},
        corpus=_corpus(says.pop("corpus", None)),
        n_ctx=says.pop("n_ctx", None) or 0,
        bos=None if bos is None else bool(bos),
        tokens=int(says.pop("tokens", None) or 0),
        provenance={
            "format": format_name,
            "unknown": [key for key, value in gaps.items() if value in (None, "")],
            "notes": list(notes),
            "published": says,
            "names": None if names is None else names.to_dict(),
        },
    )
    return filled(card, hints)


def filled(card: Card, hints: FormatHints) -> Card:
    """Return a card with what the user says put where it is unknown.

    Raises:
        ConfigError: the user and the files disagree, or the user named half of a transcoder.
    """
    told = {}
    if hints.model:
        told["model"] = card.model | {"name": hints.model}
    if hints.read:
        told["pair"] = _told_pair(card, hints)
    elif hints.write:
        raise ConfigError(
            f"Got {', '.join(hints.write)} to predict and nothing to read. Name both: read= and "
            f"write=, on a command line --read and --write."
        )
    gaps = [
        gap
        for gap in card.provenance.get("unknown", [])
        if not (gap == "model" and hints.model) and not (gap == "site" and hints.read)
    ]
    if gaps != card.provenance.get("unknown", []):
        told["provenance"] = card.provenance | {"unknown": gaps}
    return replace(card, **told) if told else card


def _told_pair(card: Card, hints: FormatHints) -> Pair:
    """Return the sites that the user names, unless the files say otherwise."""
    fold, window = len(hints.read) > 1, card.pair.window
    mine = Pair(read=hints.read, write=hints.write, fold=fold, window=window)
    if UNKNOWN not in card.pair.sites:
        if (mine.reads, mine.writes) != (card.pair.reads, card.pair.writes):
            raise ConfigError(
                f"The files say that the SAE is of {card.pair.label}; got {mine.label}. Leave the "
                f"site out."
            )
        return card.pair
    if card.transcodes and not hints.write:
        raise ConfigError(
            f"The SAE is a transcoder; got {', '.join(hints.read)} to read and nothing to predict. "
            f"Name both: read= and write=, on a command line --read and --write."
        )
    names = card.provenance.get("names") or {}
    sides = [("read", mine.reads)] + ([("write", mine.writes)] if hints.write else [])
    for side, sites in sides:
        possible = names.get(side)
        wrong = [] if possible is None else [s for s in map(str, sites) if s not in possible]
        if wrong:
            could = f"can only be {' or '.join(possible)}" if possible else "is no site of saekit"
            raise ConfigError(
                f"The files call its place `{names['name']}`, which {could}; got {wrong[0]} to "
                f"{side}."
            )
    return mine


def agree(found: Read, hints: FormatHints, where: Path) -> None:
    """Refuse hints that contradict what was read.

    Raises:
        ConfigError: one does; the message names both.
    """
    kinds, inner = [found.cfg.name], found.cfg
    while (inside := getattr(inner, "inner", None)) is not None:
        kinds, inner = [*kinds, inside.name], inside
    out = f"Leave it out, or look at {where} again."
    layout = found.card.provenance.get("format")
    if layout != "sae_lens" and (deciding := set(hints.overrides) - DESCRIBING):
        raise ConfigError(
            f"Files of `{layout}` take no overrides; got {', '.join(sorted(deciding))}. {out}"
        )
    if hints.architecture and hints.architecture not in kinds:
        raise ConfigError(
            f"{where} holds an SAE of architecture `{'` around `'.join(kinds)}`; got architecture "
            f"`{hints.architecture}`. {out}"
        )
    k = getattr(inner, "k", None)
    if hints.k and k != hints.k:
        says = f"says k={k}" if k is not None else f"holds a `{inner.name}`, which has no k"
        raise ConfigError(f"{where} {says}; got k={hints.k:g}. {out}")
    scale = found.input_scale
    alike = scale is not None and math.isclose(scale, hints.input_scale, rel_tol=1e-5)
    if hints.input_scale and not alike:  # registries keep a few digits
        says = "takes activations as they are" if scale is None else f"says {scale:.9g}"
        raise ConfigError(
            f"The input scale: {where} {says}; got input_scale={hints.input_scale:.9g}. {out}"
        )


def _corpus(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"name": value or "unknown"}


def need(
    weights: dict[str, Tensor],
    shapes: dict[str, tuple[int, ...]],
    where: Path,
    names: tuple[str, ...] = (),
) -> None:
    """Refuse tensors that are missing or of another shape; `names` may have any shape.

    Raises:
        FormatError: one is missing.
        ShapeError: one has another shape.
    """
    missing = [name for name in (*names, *shapes) if name not in weights]
    if missing:
        raise FormatError(
            f"{where} lacks {', '.join(missing)}; it has {', '.join(sorted(weights)) or 'nothing'}."
        )
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            raise ShapeError(
                f"`{name}` in {where} must have shape {list(shape)}; got "
                f"{list(weights[name].shape)}."
            )


def only(weights: dict[str, Tensor], names: set[str], where: Path) -> None:
    """Refuse tensors beyond those a layout has: they would do something nobody read.

    Raises:
        FormatError: there is one.
    """
    if extra := sorted(set(weights) - names):
        raise FormatError(
            f"{where} has {', '.join(extra)} beside {', '.join(sorted(names))}; saekit does not "
            f"know what they do there. Is it another architecture, or a newer version?"
        )


def say(raw: dict[str, Any], key: str, kind: type, where: Path) -> Any:
    """Return a value of a JSON file.

    Raises:
        FormatError: it is missing or of another type.
    """
    value = raw.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise FormatError(f"{where} must say `{key}` ({kind.__name__}); got {value!r}.")
    return value
