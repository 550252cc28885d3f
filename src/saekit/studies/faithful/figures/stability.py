"""Stability over seeds: what is shared at each threshold, how alike matches are, and clusters."""

from pathlib import Path
from typing import Any

from saekit.core.border import details_of
from saekit.core.errors import FormatError
from saekit.core.result import Result, Table
from saekit.report import style

KINDS = {"matched": "matched latents", "rotated": "one SAE rotated", "random": "random directions"}
PUBLISHED = 0.7
SHOWN = 60  # characters of a title


def draw_all(result: Result, folder: Path | str, suffix: str = ".svg") -> list[Path]:
    """Draw every figure of a result of `seed_stability`, each with its CSV.

    Args:
        result: of the evaluation.
        folder: where they go.
        suffix: what kind of figures: .svg, .pdf or .png.

    Returns:
        the figures.

    Raises:
        FormatError: the result is of another evaluation.
        ConfigError: `suffix` is not one of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    if result.name != "seed_stability" or "curve" not in result.details:
        raise FormatError(
            f"These figures are of a result of seed_stability; got {result.name}. Make one: "
            f"saekit eval A B C --eval seed_stability"
        )
    made = []
    for name, draw in (
        ("shared_by_threshold", draw_curve),
        ("matched_cosines", draw_histogram),
        ("top_cosines", draw_tops),
        ("cluster_sizes", draw_clusters),
    ):
        path = Path(folder) / f"{name}{suffix}"
        with details_of(result.name):
            draw(result, path)
        made.append(path)
    return made


def draw_curve(result: Result, path: Path) -> None:
    """Draw the share of matched pairs above each cosine, beside the nulls."""
    curve = result.details["curve"]
    figure, axes = style.new(5.2, 3.6)
    at = axes[0][0]
    for colour, (kind, label) in zip(style.COLOURS, KINDS.items(), strict=False):
        if None not in curve[kind]:
            line = "--" if kind == "random" else "-"  # often where the other null is
            at.plot(curve["threshold"], curve[kind], color=colour, label=label, linestyle=line)
    _threshold(at, result)
    at.set(xlabel="cosine", ylabel="matched pairs above it (share)", xlim=(0, 1), ylim=(0, 1.03))
    at.set_title(_saes(result), fontsize=9)
    at.legend(fontsize=8, frameon=False)
    names = ["threshold", *KINDS]
    units = {name: "share of pairs" for name in KINDS} | {"threshold": "cosine"}
    style.save(figure, path, Table(columns={n: curve[n] for n in names}, units=units))


def draw_histogram(result: Result, path: Path) -> None:
    """Draw how many matched pairs there are of each cosine, beside the nulls."""
    found = result.details["histogram"]
    edges = found["edges"]
    figure, axes = style.new(6.6, 3.6)
    at = axes[0][0]
    for colour, (kind, label) in zip(style.COLOURS, KINDS.items(), strict=False):
        at.stairs(found[kind], edges, color=colour, label=label, fill=kind == "matched", alpha=0.8)
    _threshold(at, result)
    at.set(xlabel="cosine of matched latents", ylabel="pairs", yscale="symlog")
    at.set_ylim(bottom=0)
    at.set_title(_saes(result), fontsize=9)
    at.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    columns = {"low": edges[:-1], "high": edges[1:]} | {kind: found[kind] for kind in KINDS}
    style.save(figure, path, Table(columns=columns, units={"low": "cosine", "high": "cosine"}))


def draw_tops(result: Result, path: Path) -> None:
    """Draw the cosines of latents with their four nearest in the other SAE of each pair."""
    found = result.details["top_cosines"]
    sides = [s for s in ("decoder", "encoder") if found[s] is not None]
    figure, axes = style.new(4.6 * len(sides), 3.4, columns=len(sides), sharey=True)
    edges = found["edges"]
    columns: dict[str, list[Any]] = {"low": edges[:-1], "high": edges[1:]}
    for at, side in zip(axes[0], sides, strict=True):
        for rank, counts in enumerate(found[side]):
            label = ("nearest", "2nd", "3rd", "4th")[rank]
            at.stairs(counts, edges, color=style.COLOURS[rank], label=label)
            columns[f"{side}_{rank + 1}"] = counts
        at.set(xlabel=f"cosine of {side} directions")
        at.set_title(_pairs(result), fontsize=9)
        at.legend(fontsize=8, frameon=False)
    axes[0][0].set(ylabel="latents")
    style.save(figure, path, Table(columns=columns, units={"low": "cosine", "high": "cosine"}))


def _pairs(result: Result) -> str:
    """Return which pairs of SAEs the nearest are of; early results have those of the first."""
    n = result.details["top_cosines"].get("pairs", 1)
    return next(iter(result.details.get("pairs", ())), "") if n == 1 else f"all {n} pairs of SAEs"


def draw_clusters(result: Result, path: Path) -> None:
    """Draw how many living latents stand in clusters of each size."""
    sizes = {int(size): n for size, n in result.details["clusters"].items()}
    ordered = sorted(sizes)
    latents = [size * sizes[size] for size in ordered]
    figure, axes = style.new(4.6, 3.4)
    at = axes[0][0]
    bars = at.bar([str(size) for size in ordered], latents, color=style.COLOURS[0])
    at.bar_label(bars, [f"{n:,}" for n in latents], fontsize=8)
    at.set(xlabel="latents of a cluster (1: no other SAE has it)", ylabel="living latents")
    at.set_title(_saes(result), fontsize=9)
    at.margins(y=0.1)
    columns = {"size": ordered, "clusters": [sizes[s] for s in ordered], "latents": latents}
    style.save(figure, path, Table(columns=columns, units={"size": "latents"}))


def _threshold(at: Any, result: Result) -> None:
    """Draw the threshold that the result was made with."""
    cosine = float(result.config.get("threshold", PUBLISHED))
    at.axvline(cosine, color="0.4", linewidth=0.8, linestyle=":", label=f"threshold {cosine:g}")


def _saes(result: Result) -> str:
    """Return which SAEs were compared, or how many where that would be long."""
    names = list(result.details.get("latents", ()))
    said = ", ".join(names)
    return said if len(said) <= SHOWN else f"{len(names)} SAEs"
