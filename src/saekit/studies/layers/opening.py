"""What every command of `saekit layers` opens, and the options that say how."""

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from saekit.core.errors import ConfigError
from saekit.terminal.output import note_lines
from saekit.terminal.sae_options import SAEOptions

if TYPE_CHECKING:
    from saekit.data.tokenise import TokenStream
    from saekit.hub.shared import SharedSAE
    from saekit.hub.trained import TrainedSAE
    from saekit.models.base import LanguageModel
    from saekit.studies.layers.lens import Lens

RunFolder = Annotated[Path, typer.Argument(help="Folder of a run or an SAE.")]
Sites = Annotated[
    list[str] | None,
    typer.Option(
        "--site",
        help="Layers to use, as L0-5.resid_post, or those that the SAE reads if its "
        "files do not say, as 'L*.resid_post'. Repeatable. [all]",
    ),
]
LensFile = Annotated[
    Path | None,
    typer.Option(
        help="Read activations in the basis of this tuned lens, a safetensors file of "
        "A_0, b_0, ... [none]"
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Number format of the language model: float32, bfloat16, or auto, which "
        "is bfloat16 if the hardware is fast at it. [as in training]"
    ),
]


class OpenOptions(NamedTuple):
    """How the user wants a shared SAE opened; None: as its files say."""

    sites: list[str] | None
    corpus: str | None
    split: str
    options: SAEOptions

    def typed(self) -> str:
        """Return the options that were given, as they are typed, for a next command."""
        sites = "".join(f" --site {shlex.quote(site)}" for site in self.sites or ())
        return sites + self.options.typed(corpus=self.corpus)


class OpenLayers(NamedTuple):
    """An SAE at the layers wanted, its model, and text."""

    shared: "SharedSAE"
    lm: "LanguageModel"
    stream: "TokenStream"


def opened(run: Path, how: OpenOptions) -> OpenLayers:
    """Return a shared SAE at the layers wanted, its model, and text.

    What the files of an SAE from elsewhere leave out is completed as for `saekit eval`.

    Raises:
        ConfigError: it does not read a layer, there is no such part of the text, or the files
            do not say a text, a model or the layers and the user did not either.
        FormatError: there is no SAE, or its model is another one now.
    """
    from saekit.data.base import as_split
    from saekit.data.tokenise import TokenStream
    from saekit.hub.shared import SharedSAE
    from saekit.models.site_patterns import expand_sites

    split = as_split(how.split)
    if how.options.n_ctx is not None and how.options.n_ctx < 2:  # a token and its next
        raise ConfigError(f"`--n-ctx` must be at least 2; got {how.options.n_ctx}.")

    def expanded(lm: "LanguageModel") -> list[str] | None:
        return expand_sites(how.sites, lm) if how.sites else None

    found = how.options.open(
        run,
        corpus=how.corpus,
        scaled=True,
        check=_check_shared,
        place=lambda loaded, lm: _placed(loaded, expanded(lm)),
    )
    (sae, card), lm = found.loaded, found.lm
    for line in note_lines(found.notes):
        typer.echo(line, err=True)
    shared = SharedSAE(sae.to(lm.device), card, expanded(lm))
    bos = card.bos_id(lm.tokenizer) is not None
    stream = TokenStream(found.text, split, lm.tokenizer, n_ctx=card.n_ctx, bos_each_row=bos)
    return OpenLayers(shared, lm, stream)


def notes_on(stream: "TokenStream", tokens: int, first_row: int = 0) -> list[str]:
    """Return a note where a text has fewer tokens than were asked for.

    Args:
        stream: the text.
        tokens: asked for.
        first_row: from which row on.
    """
    from saekit.core.provenance import shortfall

    n_rows = math.ceil(tokens / stream.n_ctx)
    there = max(stream.count(at_most=first_row + n_rows) - first_row, 0)
    return shortfall(tokens, there * stream.n_ctx, f"{stream.split} text")


def _check_shared(loaded: "TrainedSAE") -> None:
    """Refuse what several layers cannot share, before a model is loaded."""
    from saekit.hub.shared import SharedSAE

    SharedSAE(*loaded)


def _placed(loaded: "TrainedSAE", sites: list[str] | None) -> "TrainedSAE":
    """Return an SAE with the layers that the user names, where its files do not say them."""
    from saekit.activations.pairs import Pair
    from saekit.models.sites import UNKNOWN

    if UNKNOWN not in loaded.card.pair.sites or not sites:
        return loaded
    pair = Pair(read=tuple(sites), fold=len(sites) > 1)
    return replace(loaded, card=replace(loaded.card, pair=pair))


def lens_of(path: Path | None, lm: "LanguageModel") -> "Lens | None":
    """Return the tuned lens in a file, checked against its model."""
    if path is None:
        return None
    from saekit.studies.layers.lens import Lens

    found = Lens.read(path)
    found.check(lm)
    return found
