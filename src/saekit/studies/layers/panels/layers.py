"""Layers: at which layers of a shared SAE a latent is active."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from typing_extensions import override

from saekit.core.files import read_json, read_object
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.panels import base
from saekit.report.panels.base import Panel, registry

if TYPE_CHECKING:
    from saekit.analysis.index_folder import Index

SURVEYS = ("layers*/survey.json", "layers*/*/survey.json", "survey.json")
COMMAND = "saekit layers analyse"
FACTS = {
    "layer_mean": ("Mean layer", "layers", "Of the layer under P(layer | latent)."),
    "layer_std": ("Spread over layers", "layers", "Standard deviation of the same."),
    "layers_effective": ("Layers in effect", "layers", "exp of the entropy of P(layer | latent)."),
    "layers_active": ("Layers it is active at", "layers", "On 1e-4 of the tokens or more."),
    "bimodality": (
        "Bimodality",
        "",
        "(skewness^2 + 1) / kurtosis: 5/9 for an even spread, 1 for two layers.",
    ),
    "single_layer_share": (
        "Tokens at one layer only",
        "share",
        "Of the tokens where it is active at all.",
    ),
    "tokens": ("Tokens where it is active", "tokens", "At any layer."),
}


@final
@registry.register
class Layers(Panel):
    """Distribution of a latent over the layers that share its SAE."""

    name: ClassVar[str] = "layers"
    title: ClassVar[str] = "Over layers"
    about: ClassVar[str] = (
        "Where in the model the latent is active: P(layer | latent) is its summed strength at a "
        "layer over that at all layers, in the units that the SAE was trained in."
    )

    @override
    def blocks(self, run: Path, index: "Index", latent: int) -> list[Block] | None:
        for path in base.found(run, SURVEYS):
            made = base.kept(read_object, path)
            if not _is_of(made, path, run, index):
                continue
            row = base.row_of(path.parent / "latents", latent)
            if row is not None:
                source = f"{base.named(path.parent, run)}/latents.csv; {COMMAND}"
                return _blocks(source, made, row)
        return _missing(run) if _is_shared(run) else None


def _is_of(made: dict[str, Any], path: Path, run: Path, index: "Index") -> bool:
    """Tell whether an analysis is of the SAE of an index.

    It names the weights as trained, and the index of a site those that the site uses: where these
    differ, only an analysis in the folder of the SAE is taken for its own.
    """
    if made.get("d_sae") != index.d_sae or index.site not in made["sites"]:
        return False
    own = path.resolve().is_relative_to(run.resolve())
    return own or made["made_from"]["weights"] == index.weights


def _blocks(source: str, made: dict[str, Any], row: dict[str, str]) -> list[Block]:
    if not row.get("layer_mean"):
        n = made.get("n_tokens", 0)
        said = f"This latent is active at no layer on any of the {n:,} tokens that were read."
        return [blocks.text(said, source=source)]
    found = [
        blocks.fact(label, base.number(row[name]), unit=unit, about=about)
        for name, (label, unit, about) in FACTS.items()
        if row.get(name)
    ]
    shares = [base.number(row[f"p_{site}"]) for site in made["sites"]]
    drawn = blocks.bars(
        made["sites"],
        shares,
        unit="P(layer | latent)",
        title="Share of its strength by layer",
        source=source,
    )
    return [drawn, blocks.facts(found, source=source)]


def _is_shared(run: Path) -> bool:
    """Tell whether the SAE of a run is shared by several sites."""
    settings = run / "run.json"
    if not settings.is_file():
        return False
    pair = (base.kept(read_json, settings) or {}).get("pair") or {}
    return bool(pair.get("fold")) and len(pair.get("read") or []) > 1


def _missing(run: Path) -> list[Block]:
    said = "No text has been read at all layers of this SAE."
    return [blocks.missing(said, f"{COMMAND} {base.quoted(run)}")]
