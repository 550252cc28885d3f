"""Events: a folder of events of latents, with their entropies at several lengths."""

import math
from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.files import read_object
from saekit.core.result import Table
from saekit.core.stats import plain
from saekit.data import table_files
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.overview import moment
from saekit.report.pages.base import Page, numbers, read, registry
from saekit.report.panels.base import kept, number
from saekit.studies.locality.events import event_tables

MANIFEST = "manifest.json"


@final
@registry.register
class Events(Page):
    """Latents by the entropy of their events, of `saekit locality events`."""

    name: ClassVar[str] = "locality_events"
    title: ClassVar[str] = "Locality of latents"
    about: ClassVar[str] = "How far back single latents look where they are strongest."

    @override
    def find(self, folder: Path) -> bool:
        tables = [*folder.glob("ctx*.csv"), *folder.glob("ctx*.parquet")]
        return bool(tables) and (folder / MANIFEST).is_file()

    @override
    def blocks(self, folder: Path) -> list[Block]:
        made = kept(read_object, folder / MANIFEST)
        lengths = event_tables.lengths(folder)
        by_length = {n: _entropies(paths) for n, paths in lengths.items()}
        n_ctx = max(by_length)
        shown = [_facts(made, folder), *_against_length(by_length, folder)]
        every = [h for found in by_length[n_ctx].values() for h in found]
        shown.append(
            blocks.histogram_of(
                every,
                unit="bits",
                title=f"H_pos of all events, windows of {n_ctx} tokens",
                source=_source(folder, f"ctx{n_ctx}"),
            )
        )
        shown += _against_density(made, by_length[n_ctx], folder)
        return [*shown, _latents(made, by_length[n_ctx], folder, n_ctx)]


@final
@registry.register
class Autocorr(Page):
    """How long latents stay on, of `saekit locality autocorr`."""

    name: ClassVar[str] = "locality_autocorr"
    title: ClassVar[str] = "How long latents stay on"
    about: ClassVar[str] = "Autocorrelation of activations along documents, latent by latent."

    @override
    def find(self, folder: Path) -> bool:
        return any(folder.glob("feature_summary.*")) and any(folder.glob("autocorr_curves.*"))

    @override
    def blocks(self, folder: Path) -> list[Block]:
        units = {"mean_H_pos": "bits", "tau_1e": "tokens", "density": "share of tokens"}
        table = read(folder / "feature_summary", units)
        source = f"{folder.name}/feature_summary; saekit locality autocorr"
        columns, shown = table.columns, []
        if "mean_H_pos" in columns and numbers(columns["mean_H_pos"]):
            shown.append(
                blocks.scatter(
                    columns["mean_H_pos"],
                    columns["tau_1e"],
                    columns["feature_id"],
                    axes=({"label": "mean H_pos (bits)"}, {"label": "lag of 1/e (tokens)"}),
                    title="How far latents look back, and how long they stay on",
                    source=source,
                )
            )
        shown.append(
            blocks.histogram_of(columns["tau_1e"], unit="tokens", title="Lag of 1/e", source=source)
        )
        links = {"feature_id": "latent"}
        return [*shown, blocks.table(table, links=links, title="Latents", source=source)]


@final
@registry.register
class Geometry(Page):
    """Whether similar directions look equally far back, of `saekit locality geometry`."""

    name: ClassVar[str] = "locality_geometry"
    title: ClassVar[str] = "Geometry and locality"
    about: ClassVar[str] = "Whether latents with similar directions look equally far back."

    @override
    def find(self, folder: Path) -> bool:
        return any(folder.glob("pairwise.*")) and any(folder.glob("feature_neighbour_summary.*"))

    @override
    def blocks(self, folder: Path) -> list[Block]:
        path = folder / MANIFEST
        made = kept(read_object, path) if path.is_file() else {}
        names = {
            "n_features": "Latents",
            "n_pairs": "Pairs",
            "ctx_len": "Window (tokens)",
            "spearman_r": "Rank correlation of |cos| with |dH|",
            "spearman_p": "p, of permuted latents",
        }
        source = f"{folder.name}; saekit locality geometry"
        found = [blocks.fact(label, made[n]) for n, label in names.items() if n in made]
        near = read(folder / "feature_neighbour_summary")
        return [
            blocks.facts(found, source=source),
            blocks.table(
                near,
                links={"feature_id": "latent"} if "feature_id" in near.columns else None,
                title="Latents and their nearest",
                source=source,
            ),
        ]


def _entropies(paths: list[Path]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for path in paths:
        for row in kept(_rows, path):
            bits = number(event_tables.value_of(row, "H_pos"))
            mine = found.setdefault(int(row["feature_id"]), [])
            if bits is not None and math.isfinite(bits) and row.get("status", "ok") in ("ok", ""):
                mine.append(bits)
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    return list(table_files.rows(path))


def _facts(made: dict[str, Any], folder: Path) -> Block:
    names = {
        "preset": "Model",
        "site": "Site",
        "sae_id": "SAE",
        "events": "Events",
        "latents": "Latents",
        "failed": "Failed",
    }
    found = [blocks.fact(label, made[n]) for n, label in names.items() if made.get(n) is not None]
    if when := moment(made.get("timestamp")):
        found.append(blocks.fact("Made", when))
    return blocks.facts(found, source=_source(folder, MANIFEST))


def _against_length(by_length: dict[int, dict[int, list[float]]], folder: Path) -> list[Block]:
    every = {n: [h for one in by.values() for h in one] for n, by in by_length.items()}
    every = {n: found for n, found in every.items() if found}
    if len(every) < 2:
        return []
    mean = [plain.mean(found) for found in every.values()]
    most = [math.log2(n) for n in every]
    drawn = [
        blocks.series("mean over events", list(every), mean),
        blocks.series("most: log2 of the window", list(every), most),
    ]
    return [
        blocks.lines(
            drawn,
            x={"label": "window (tokens)", "log": True},
            y={"label": "H_pos (bits)"},
            title="H_pos against the length of the window",
            source=_source(folder, "ctx*"),
        )
    ]


def _against_density(
    made: dict[str, Any], by_latent: dict[int, list[float]], folder: Path
) -> list[Block]:
    source = made.get("source")  # in published manifests the pattern of the files, as text
    densities = source.get("densities") if isinstance(source, dict) else None
    if not densities:
        return []
    latents = [a for a, bits in by_latent.items() if bits and densities.get(str(a))]
    return [
        blocks.scatter(
            [densities[str(a)] for a in latents],
            [plain.mean(by_latent[a]) for a in latents],
            latents,
            axes=({"label": "share of tokens it is on", "log": True}, {"label": "H_pos (bits)"}),
            title="H_pos against how often latents are on",
            source=_source(folder, MANIFEST),
        )
    ]


def _latents(
    made: dict[str, Any], by_latent: dict[int, list[float]], folder: Path, n_ctx: int
) -> Block:
    said = {one["feature_id"]: one for one in made.get("features") or []}
    order = plain.by_mean(by_latent)
    columns: dict[str, list[Any]] = {
        "latent": order,
        "mean H_pos": [plain.mean(by_latent[a]) for a in order],
        "deviation": [plain.deviation(by_latent[a], sample=True) for a in order],
        "events": [len(by_latent[a]) for a in order],
        "description": [said.get(a, {}).get("description", "") for a in order],
    }
    if not any(columns["description"]):
        del columns["description"]
    return blocks.table(
        Table(columns=columns, units={"mean H_pos": "bits", "deviation": "bits"}),
        links={"latent": "latent"},
        title="Latents, the most local first",
        source=_source(folder, f"ctx{n_ctx}"),
    )


def _source(folder: Path, name: str) -> str:
    return f"{folder.name}/{name}; saekit locality events"
