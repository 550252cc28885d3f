"""Survey: where the latents of a shared SAE live, of `saekit layers analyse`."""

from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.files import read_object
from saekit.core.result import Table
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.pages.base import Page, numbers, read, registry
from saekit.report.panels.base import kept

DRAWN_LATENTS = 300  # rows of the heatmap at most
UNITS = {"l0": "latents/token", "l1": "strength/token", "dead_share": "share of latents"}


@final
@registry.register
class LayerSurvey(Page):
    """How the firing of latents is spread over layers, of `saekit layers analyse`."""

    name: ClassVar[str] = "layers"
    title: ClassVar[str] = "Latents over layers"
    about: ClassVar[str] = "At which layers each latent of one SAE for many layers is active."

    @override
    def find(self, folder: Path) -> bool:
        return (folder / "survey.json").is_file() and (folder / "latents.csv").is_file()

    @override
    def blocks(self, folder: Path) -> list[Block]:
        made = kept(read_object, folder / "survey.json")
        latents, layers = kept(_latents, folder / "latents.csv"), read(folder / "layers", UNITS)
        return [
            _facts(made, folder),
            _heatmap(latents, made["sites"], folder),
            *_histograms(latents, folder),
            *_by_layer(layers, folder),
        ]


def _latents(path: Path) -> Table:
    return read(path.with_suffix(""))


def _facts(made: dict[str, Any], folder: Path) -> Block:
    path = folder / "summary.json"
    said = kept(read_object, path) if path.is_file() else {}
    std, split = said.get("layer_std") or {}, said.get("variances") or {}
    found = [
        blocks.fact("Model", (made["made_from"].get("model") or {}).get("name")),
        blocks.fact("Layers", len(made["sites"])),
        blocks.fact("Tokens that count", made["n_tokens"], unit="tokens"),
        blocks.fact("Latents ever active", said.get("alive"), about=f"Of {made['d_sae']:,}."),
        blocks.fact("Spread over layers, mean", std.get("mean"), unit="layers"),
        blocks.fact(
            "Tokens of latents at one layer only", said.get("single_layer_share"), unit="share"
        ),
        *(
            blocks.fact(f"Variance of the layer: {name.replace('_', ' ')}", value)
            for name, value in split.items()
            if isinstance(value, int | float)
        ),
    ]
    known = [one for one in found if one[1] is not None]
    return blocks.facts(known, source=_source(folder, "summary.json"))


def _heatmap(latents: Table, sites: list[str], folder: Path) -> Block:
    """Return P(layer | latent) of latents ordered by their mean layer, evenly many of them."""
    columns = latents.columns
    mean = {i: m for i, m in zip(columns["latent"], columns["layer_mean"], strict=True)}
    alive = sorted((i for i, m in mean.items() if m is not None), key=lambda i: (mean[i], i))
    step = max(1, -(-len(alive) // DRAWN_LATENTS))
    shown = alive[::step]
    row = {latent: at for at, latent in enumerate(columns["latent"])}
    values = [[columns[f"p_{site}"][row[i]] for site in sites] for i in shown]
    every = f"Every {step}th of" if step > 1 else "All"
    return blocks.heatmap(
        sites,
        [str(i) for i in shown],
        values,
        unit="P(layer | latent)",
        title="Where latents live",
        about=f"{every} {len(alive):,} latents that were ever active, by their mean layer.",
        source=_source(folder, "latents.csv"),
    )


def _histograms(latents: Table, folder: Path) -> list[Block]:
    names = {
        "layer_mean": ("Mean layer of latents", "layer"),
        "layer_std": ("Spread over layers", "layers"),
        "bimodality": ("Bimodality", "1: two layers with nothing between"),
    }
    source = _source(folder, "latents.csv")
    return [
        blocks.histogram_of(latents.columns[name], unit=unit, title=title, source=source)
        for name, (title, unit) in names.items()
        if numbers(latents.columns[name])
    ]


def _by_layer(layers: Table, folder: Path) -> list[Block]:
    source = _source(folder, "layers.csv")
    drawn = [blocks.series("latents per token", layers.columns["layer"], layers.columns["l0"])]
    return [
        blocks.lines(
            drawn,
            x={"label": "layer"},
            y={"label": "L0 (latents/token)"},
            title="Latents on, by layer",
            source=source,
        ),
        blocks.table(layers, title="Layers", source=source),
    ]


def _source(folder: Path, name: str) -> str:
    return f"{folder.name}/{name}; saekit layers analyse"
