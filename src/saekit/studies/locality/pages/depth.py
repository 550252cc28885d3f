"""Depth: a run of entropy against depth, or against the length of the context."""

from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.files import read_object
from saekit.core.result import Table
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.pages.base import Page, only, registry
from saekit.report.panels.base import kept

DEPTH, CONTEXT = "locality_depth", "locality_context_length"
# Means that are drawn, with what they are called; those of nulls are found by their ending.
DRAWN = {
    "entropy_bits_mean_over_windows": "latents, mean over windows",
    "entropy_bits_pooled": "latents, all pairs",
    "kept_entropy_bits_pooled": "latents on at every length",
    "token_vector_entropy_bits": "token vector R",
}
SHOWN = {
    "site": "site",
    "n_ctx": "context",
    "entropy_bits_mean_over_windows": "H, mean over windows",
    "entropy_bits_pooled": "H, all pairs",
    "effective_tokens_pooled": "tokens in effect",
    "look_back_pooled": "look-back",
    "sink_mass_pooled": "sink mass",
    "kl_bits_pooled": "KL from R",
    "n_windows": "windows",
    "n_pairs": "pairs of window and latent",
    "n_latents": "latents",
}
UNITS = {
    "n_ctx": "tokens",
    "entropy_bits_mean_over_windows": "bits",
    "entropy_bits_pooled": "bits",
    "effective_tokens_pooled": "tokens",
    "look_back_pooled": "tokens",
    "sink_mass_pooled": "share",
    "kl_bits_pooled": "bits",
}


@final
@registry.register
class DepthRun(Page):
    """Entropy of influence at every site of one run of `saekit locality depth`."""

    name: ClassVar[str] = "locality_depth"
    title: ClassVar[str] = "Locality against depth"
    about: ClassVar[str] = "How many input tokens latents depend on, by site of the model."

    @override
    def find(self, folder: Path) -> bool:
        return _named(folder) == DEPTH

    @override
    def blocks(self, folder: Path) -> list[Block]:
        made = kept(read_object, folder / "result.json")
        rows = made["details"]["by_site"]["columns"]
        drawn = _lines(rows, rows["layer"], "layer", folder, log=False)
        return [_facts(made, folder), drawn, _table(rows, folder), *_failures(made, folder)]


@final
@registry.register
class ContextRun(Page):
    """Entropy of influence by length of the context, of one run of `saekit locality context`."""

    name: ClassVar[str] = "locality_context"
    title: ClassVar[str] = "Locality against context"
    about: ClassVar[str] = "Whether latents go on looking further back where there is more text."

    @override
    def find(self, folder: Path) -> bool:
        return _named(folder) == CONTEXT

    @override
    def blocks(self, folder: Path) -> list[Block]:
        made = kept(read_object, folder / "result.json")
        rows = made["details"]["by_length"]["columns"]
        drawn = _lines(rows, rows["n_ctx"], "context (tokens)", folder, log=True)
        return [_facts(made, folder), drawn, _table(rows, folder), *_failures(made, folder)]


def _named(folder: Path) -> str:
    path = folder / "result.json"
    return str(kept(read_object, path).get("name", "")) if path.is_file() else ""


def _facts(made: dict[str, Any], folder: Path) -> Block:
    config, details = made["config"], made["details"]
    model = details.get("model") or {}
    measure = config.get("measure") or {}
    found = [
        blocks.fact("Model", model.get("name")),
        blocks.fact("Text", (config.get("corpus") or {}).get("name") or details.get("site")),
        blocks.fact("Windows", len(details.get("tokens") or [])),
        blocks.fact("Tokens of a window", config.get("n_ctx"), unit="tokens"),
        blocks.fact("Influence by", measure.get("method")),
        blocks.fact("Failed", len(details.get("failures") or [])),
    ]
    known = [one for one in found if one[1] is not None]
    return blocks.facts(known, source=_source(folder))


def _lines(rows: dict[str, list[Any]], x: list[Any], label: str, folder: Path, log: bool) -> Block:
    nulls = [n for n in rows if n.endswith("_entropy_bits_pooled") and n not in DRAWN]
    nulls = [n for n in nulls if not n.startswith("kept_")]
    names = DRAWN | {n: f"null: {n.removesuffix('_entropy_bits_pooled')}" for n in nulls}
    drawn = [
        blocks.series(label, x, rows[name], rows.get(f"{name}_low"), rows.get(f"{name}_high"))
        for name, label in names.items()
        if name in rows
    ]
    return blocks.lines(
        drawn,
        x={"label": label, "log": log},
        y={"label": "entropy of influence (bits)"},
        title="Entropy of influence",
        about="With 95 % intervals over windows, from 8 windows on.",
        source=_source(folder),
    )


def _table(rows: dict[str, list[Any]], folder: Path) -> Block:
    table = Table(columns=rows, units={k: v for k, v in UNITS.items() if k in rows})
    return blocks.table(table, names=only(table, SHOWN), title="Numbers", source=_source(folder))


def _failures(made: dict[str, Any], folder: Path) -> list[Block]:
    failures = made["details"].get("failures") or []
    if not failures:
        return []
    columns = {k: [one.get(k) for one in failures] for k in failures[0]}
    words = "What could not be measured; the same command with --resume tries it again."
    return [
        blocks.table(Table(columns=columns), title="Failed", about=words, source=_source(folder))
    ]


def _source(folder: Path) -> str:
    return f"{folder.name}/result.json; saekit locality"
