"""`saekit locality geometry`: decoder directions against how far latents look back."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saekit.core.errors import ConfigError, FormatError
from saekit.studies.locality.commands import app
from saekit.studies.locality.commands.options import (
    Format,
    Layers,
    OutOrBeside,
    PresetName,
    Sites,
    opened,
)
from saekit.terminal.common_options import AsJson, Quiet
from saekit.terminal.output import emit
from saekit.terminal.sae_options import HintOptions, takes

if TYPE_CHECKING:
    from torch import Tensor

    from saekit.studies.locality.events.event_files import Row


@app.command("geometry")
@takes(HintOptions)
def geometry(
    events: Annotated[Path, typer.Argument(help="Folder that saekit locality events wrote.")],
    home: Annotated[
        Path, typer.Option("--sae", help="Folder of the run or SAE that the events are about.")
    ],
    site: Sites = None,
    layers: Layers = None,
    preset: PresetName = None,
    n_ctx: Annotated[
        int | None, typer.Option(help="Window length to take, in tokens. [the longest]")
    ] = None,
    least_events: Annotated[
        int, typer.Option(help="Events that a latent needs to be included.")
    ] = 2,
    neighbours: Annotated[
        int, typer.Option(help="Number of nearest latents in the neighbour test.")
    ] = 10,
    anchors: Annotated[
        int,
        typer.Option(
            help="Number of nearest latents of the whole SAE to list for each; 0 is none."
        ),
    ] = 10,
    permutations: Annotated[
        int, typer.Option(help="Number of permutations for the p values.")
    ] = 1000,
    perplexity: Annotated[float, typer.Option(help="Perplexity of t-SNE.")] = 10.0,
    neuronpedia: Annotated[
        Path | None,
        typer.Option(
            help="Folder MODEL/SAE of a cache of saekit locality neuronpedia, to compare "
            "cosines with."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of permutations and t-SNE.")] = 0,
    figures: Annotated[bool, typer.Option(help="Draw figures and clusters, or not.")] = True,
    tables: Format = "csv",
    out: OutOrBeside = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    *,
    sae: HintOptions,
) -> None:
    """Test whether latents with similar directions look equally far back.

    Example: saekit locality geometry demo/locality/events --sae demo
    """
    import torch

    from saekit.core import provenance
    from saekit.core.files import write_json, write_tensors
    from saekit.core.stats import plain
    from saekit.data import table_files
    from saekit.studies.locality.events import event_files
    from saekit.studies.locality.latents import geometry_tables
    from saekit.studies.locality.latents.geometry import Geometry

    table_files.check(tables)
    if neuronpedia is not None and not neuronpedia.is_dir():
        raise FormatError(f"There is no folder {neuronpedia}. Name MODEL/SAE of a cache.")
    test = Geometry(k=neighbours, permutations=permutations, seed=seed)
    loaded = opened(home, site, layers, preset, sae)
    ((length, rows),) = event_files.read(events, n_ctx or max(event_files.lengths(events))).items()
    H = _entropies(rows, least_events, loaded.sae.cfg.d_sae)
    if not 0 <= anchors < loaded.sae.cfg.d_sae:
        raise ConfigError(
            f"`--anchors` must lie in 0..{loaded.sae.cfg.d_sae - 1}, 0 for none; got {anchors}."
        )
    every = loaded.sae.directions().detach()
    every = every.reshape(-1, *every.shape[-2:])[0] if every.ndim == 3 else every
    latents = torch.tensor(sorted(H), dtype=torch.int64)
    means = torch.tensor([plain.mean(H[a]) for a in latents.tolist()], dtype=torch.float64)
    found = test.run(latents, every[latents], means)
    folder = out or events.parent / "geometry"
    made = geometry_tables.tables(found, rows)
    if anchors:
        made["anchor_neighbours"] = _anchors(every, latents, anchors)
    for name, table in made.items():
        table_files.write(table, folder / name, tables)
    write_tensors(
        folder / "decoder_vectors.safetensors", {"latents": latents, "directions": every[latents]}
    )
    write_tensors(
        folder / "cosine_matrix.safetensors", {"latents": latents, "cosine": found.cosine.float()}
    )
    crossed = _crosscheck(neuronpedia, every, latents, folder, tables) if neuronpedia else None
    drawn = _draw(found, every[latents], H, folder, length, perplexity, seed) if figures else []
    record = found.record()
    near = found.neighbours
    record["per_feature_neighbour"] |= {"spearman_r": near.value, "spearman_p": near.p}
    write_json(
        folder / "manifest.json",
        {
            "experiment": "feature_geometry_vs_entropy",
            "timestamp": datetime.now(UTC).strftime("%Y%m%d_%H%M%S"),
            "preset": loaded.card.model.get("name"),
            "layer": loaded.card.site.layer,
            "site": str(loaded.card.site),
            "sae_id": _sae_id(events, home),
            "ctx_len": length,
            "source_expt_dir": events.resolve().name,
            "source_experiment_dir": events.resolve().name,
            "least_events": least_events,
            "test": test.to_dict(),
            **geometry_tables.older_keys(found, test),
            **record,
            "neuronpedia_xcheck": crossed,
            "provenance": provenance.collect(seed),
        },
    )
    from saekit.core.stats.permutation import said

    one, near = found.size.spearman, found.neighbours
    lines = [
        f"latents  {record['n_features']}, {record['n_pairs']} pairs, window {length} tokens",
        f"|cos|    with |dH|: {said(one)}; null "
        f"{one.quantiles['0.025']:.3f}..{one.quantiles['0.975']:.3f}",
        f"cos      with |dH|: {said(found.signed.spearman)}",
        f"nearest  {found.k}, H with theirs: {said(near)}",
        f"files    {folder}",
        *(f"figure   {path}" for path in drawn),
    ]
    if not quiet or as_json:
        emit(
            {"geometry": str(folder), "figures": [str(p) for p in drawn], **record},
            as_json=as_json,
            lines=lines,
        )


def _entropies(rows: "Sequence[Row]", least: int, d_sae: int) -> dict[int, list[float]]:
    from saekit.studies.locality.event_pages import entropies

    found = {a: h for a, h in entropies(rows).items() if len(h) >= least}
    if found and max(found) >= d_sae:
        raise FormatError(
            f"The events name latent {max(found)} and the SAE has {d_sae}; they are of another "
            f"SAE. Name theirs with --sae."
        )
    return found


def _sae_id(events: Path, home: Path) -> str:
    """Return what the manifest of the events calls the SAE, or the name of its folder."""
    from saekit.core.files import read_json

    path = events / "manifest.json"
    found = read_json(path) if path.is_file() else {}
    said = found.get("sae_id") if isinstance(found, dict) else None
    return str(said or home.resolve().name)


def _anchors(every: "Tensor", latents: "Tensor", k: int) -> Any:
    from saekit.core.result import Table
    from saekit.studies.locality.latents.geometry import nearest_latents

    found, cosine = nearest_latents(every, latents, k)
    have = set(latents.tolist())
    return Table(
        columns={
            "anchor": latents.repeat_interleave(k).tolist(),
            "rank": list(range(k)) * len(latents),
            "neighbour_fid": found.reshape(-1).tolist(),
            "cosine": cosine.reshape(-1).tolist(),
            "scored": [i in have for i in found.reshape(-1).tolist()],
        }
    )


def _crosscheck(
    cache: Path, every: "Tensor", latents: "Tensor", folder: Path, tables: str
) -> dict[str, Any]:
    """Compare our cosines with those of Neuronpedia's files; return how far they are apart."""
    from torch.nn import functional

    from saekit.core.files import read_json
    from saekit.core.result import Table
    from saekit.data import table_files
    from saekit.studies.locality.events.neuronpedia import cosine_differences, cosines_beside, parse

    unit = functional.normalize(every.double(), dim=-1)
    rows: list[dict[str, Any]] = []
    for latent in latents.tolist():
        path = cache / f"{latent}.json"
        if path.exists():
            record = parse(read_json(path), str(path), latent)
            others = [i for i, _ in record.similar if i != latent]
            ours = (unit[others] @ unit[latent]).tolist()
            rows += cosines_beside(record, dict(zip(others, ours, strict=True)))
    names = ("fid", "neighbour_fid", "cosine_local", "cosine_neuronpedia", "abs_diff")
    table_files.write(
        Table(columns={n: [r[n] for r in rows] for n in names}),
        folder / "neuronpedia_xcheck",
        tables,
    )
    return cosine_differences(rows)


def _draw(
    found: Any,
    directions: "Tensor",
    H: dict[int, list[float]],
    folder: Path,
    n_ctx: int,
    perplexity: float,
    seed: int,
) -> list[Path]:
    from saekit.studies.locality.figures import clusters3d
    from saekit.studies.locality.figures import geometry as figure
    from saekit.studies.locality.latents.layout import layout

    figures = folder / "figures"
    path = figures / "geometry.png"
    figure.draw(found, path)
    drawn = [path]
    ways: tuple[tuple[Any, str], ...] = (("pca", "clusters3d"), ("tsne", "clusters3d_tsne"))
    for way, name in ways:
        plane = layout(directions, way, perplexity=min(perplexity, (len(H) - 2) / 3 + 1), seed=seed)
        title = {"pca": "principal components", "tsne": "t-SNE of 1 - |cosine|"}[way]
        drawn.append(
            clusters3d.draw(
                plane,
                H,
                figures / f"{name}.html",
                n_ctx=n_ctx,
                title=f"Decoder directions by {title}, and H_pos",
            )
        )
    return drawn
