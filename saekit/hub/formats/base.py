"""The contract of a layout of files: recognise a folder, read it, and where possible write it."""

import abc
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

import saekit.hub.formats as package
from saekit.activations.pairs import Pair
from saekit.core.config import Config
from saekit.core.errors import ConfigError, FormatError, ShapeError
from saekit.core.files import read_object
from saekit.core.registry import Registry
from saekit.hub.card import Card
from saekit.models.sites import UNKNOWN
from saekit.saes.base import SAE, SAEConfig
from saekit.saes.jumprelu import JumpReLU


@dataclass(frozen=True, kw_only=True)
class Told(Config):
    """What the user says of an SAE whose files leave it out.

    Args:
        model: the language model, by the name it is to be loaded under.
        read: sites read; replaces "unknown" only.
        write: sites predicted, of a transcoder; replaces "unknown" only.
        architecture: saekit's name of it, where the files fit several.
        k: latents kept per token, where the files leave it out; 0: not told.
        input_scale: what multiplied activations before the SAE saw them, where the files say
            that something did; 0: not told.
    """

    name: ClassVar[str] = "told"
    model: str = ""
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    architecture: str = ""
    k: int = 0
    input_scale: float = 0.0


class Read(NamedTuple):
    """What a layout's files hold, in saekit's terms."""

    cfg: SAEConfig
    weights: dict[str, Tensor]  # a whole state of the SAE that `cfg` builds
    card: Card


class Format(abc.ABC):
    """One layout of files. Stateless; a subclass has a `name` and the names of its `files`."""

    name: ClassVar[str]
    files: ClassVar[str]  # for the reader, as "cfg.json and sae.safetensors"

    @abc.abstractmethod
    def detect(self, folder: Path) -> bool:
        """Return whether a folder holds this layout, from names of files and their heads."""

    @abc.abstractmethod
    def read(self, folder: Path, told: Told) -> Read:
        """Read an SAE.

        Raises:
            FormatError: files are missing or damaged, or hold what saekit cannot run exactly.
            ConfigError: the files leave open what `told` could say.
        """

    def write(self, sae: SAE, card: Card, folder: Path) -> Path:
        """Write an SAE so that the layout's own library makes the same of it.

        Raises:
            ConfigError: the layout cannot hold this SAE, or saekit cannot write it.
        """
        raise ConfigError(
            f"saekit reads `{self.name}` and does not write it. Write one of {writable()}."
        )


registry = Registry[Format]("format", package)
say_object = read_object  # by the name that formats know it under, beside `say`


def writable() -> str:
    """Return the names of the formats that can be written."""
    found = (n for n in registry.names() if registry.get(n).write is not Format.write)
    return ", ".join(found)


def find(folder: Path, name: str | None = None) -> Format:
    """Return the format of a folder.

    Args:
        folder: where the files are.
        name: the format, where it is known; else the files must fit exactly one.

    Raises:
        UnknownNameError: there is no format of that name.
        FormatError: there is no such folder, or the files fit none or several.
    """
    if not folder.is_dir():
        raise FormatError(
            f"There is no folder {folder}. Give the folder that holds the files, or a run's."
        )
    if name is not None:
        return registry.get(name)()
    formats = [registry.get(n)() for n in registry.names()]
    fitting = [f for f in formats if f.detect(folder)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise FormatError(
            f"{folder} fits several formats: {', '.join(f.name for f in fitting)}. Say which: "
            f"format=, on a command line --from."
        )
    there = sorted(p.name for p in folder.iterdir())[:8]
    known = "; ".join(f"{f.name}: {f.files}" for f in formats)
    raise FormatError(
        f"{folder} holds no SAE in a format that saekit knows. It holds "
        f"{', '.join(there) or 'nothing'}. Formats: {known}."
    )


def built(found: Read, where: Path) -> SAE:
    """Build the SAE that was read.

    Raises:
        FormatError: weights are missing, too many, of another shape, or not finite.
    """
    try:
        _check_sizes(found, where)
        sae = found.cfg.build(torch.Generator().manual_seed(0))
        sae.load_state_dict(found.weights)
    except (ConfigError, RuntimeError) as error:
        raise FormatError(f"{where} does not hold what its config says: {error}") from error
    for name, weight in sae.state_dict().items():
        if not weight.isfinite().all():
            raise FormatError(f"`{name}` in {where} has values that are not finite.")
    return sae


def _check_sizes(found: Read, where: Path) -> None:
    """Refuse a config whose SAE is larger than the weights, before memory is taken for it.

    Raises:
        FormatError: it is.
    """
    held = sum(weight.numel() for weight in found.weights.values())
    least = found.cfg.d_sae * max(found.cfg.d_in, found.cfg.d_out)
    # Built without memory, for the sizes alone. JumpReLU's start cannot be computed so.
    if least <= held and not isinstance(found.cfg, JumpReLU):
        with contextlib.suppress(RuntimeError), torch.device("meta"):
            shapes = found.cfg.build(torch.Generator().manual_seed(0)).state_dict()
            least = sum(weight.numel() for weight in shapes.values())
    if least > held:
        raise FormatError(
            f"The config in {where} is of an SAE of {least:,} weights or more; its files hold "
            f"{held:,}."
        )


def make_card(
    format_name: str,
    told: Told,
    *,
    model: str | None = None,
    pair: Pair | None = None,
    says: dict[str, Any] | None = None,
    transcodes: bool = False,
    notes: tuple[str, ...] = (),
) -> Card:
    """Return the card of an SAE from elsewhere.

    Args:
        format_name: of which format the files are.
        told: what the user says. Sites fill gaps and may not contradict; a model may, for one
            model has several names.
        model: the language model the files name.
        pair: the sites the files name.
        says: what else they say: ``n_ctx``, ``bos``, ``tokens``, ``corpus`` and anything worth
            keeping. What is not among them is listed as unknown.
        transcodes: it predicts another site than it reads.
        notes: what a user must know.

    Raises:
        ConfigError: the user and the files disagree, or the user named half of a transcoder.
    """
    if transcodes and told.read and not told.write:
        raise ConfigError(
            f"The SAE is a transcoder; got {', '.join(told.read)} to read and nothing to predict. "
            f"Name both: read= and write=, on a command line --read and --write."
        )
    mine = Pair(read=told.read, write=told.write, fold=len(told.read) > 1) if told.read else None
    sure = pair if pair is not None and UNKNOWN not in pair.sites else None
    if sure is not None and mine is not None and mine.sites != sure.sites:
        raise ConfigError(
            f"The files say that the SAE is of {sure.label}; got {mine.label}. Leave the site out."
        )
    name = told.model or model
    says = {"model": model, "transcodes": transcodes, **(says or {})}
    pair = sure or mine or pair
    given = {"model": name, "site": sure or mine} | {
        key: says.get(key) for key in ("n_ctx", "bos", "tokens", "corpus")
    }
    return Card(
        model={"name": name or "unknown", "revision": None, "dtype": "unknown"},
        pair=pair or Pair(read=(str(UNKNOWN),)),
        rules={},
        corpus=_corpus(says.pop("corpus", None)),
        n_ctx=says.pop("n_ctx", None) or 0,
        bos=bool(says.pop("bos", None)),
        tokens=int(says.pop("tokens", None) or 0),
        provenance={
            "format": format_name,
            "unknown": [key for key, value in given.items() if value in (None, "")],
            "notes": list(notes),
            "published": says,
        },
    )


def _corpus(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"name": value or "unknown"}


def need(weights: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], where: Path) -> None:
    """Refuse tensors that are missing or of another shape.

    Raises:
        FormatError: one is missing.
        ShapeError: one has another shape.
    """
    missing = [name for name in shapes if name not in weights]
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
