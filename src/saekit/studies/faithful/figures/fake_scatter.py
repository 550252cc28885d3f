"""Fake features: how often each latent fires on noise against how often on text."""

from pathlib import Path

from saekit.core.result import Table
from saekit.report import style

LEAST = 3e-4  # a rate below is drawn here: the axes are logarithmic
TICKS = (1e-3, 1e-2, 1e-1, 1.0)


def draw(latents: Table, noise: str, p: float, path: Path, sae: str = "") -> None:
    """Draw a point a latent; fake are those above the line at `p`, in excess those left of it too.

    A ring is round those that are surely fake.

    Args:
        latents: the table of latents of `fake_features`.
        noise: which.
        p: above which share a latent is fake.
        path: ends in a suffix of a figure.
        sae: name of the SAE, for the title.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    x, y = latents.columns["text_rate"], latents.columns[f"{noise}_rate"]
    columns = {"latent": latents.columns["latent"], "text_rate": x, f"{noise}_rate": y}
    surely = latents.columns.get(f"{noise}_surely_fake")
    if surely is not None:
        columns["surely_fake"] = surely
    drawn = Table(columns=columns, units={k: u for k, u in latents.units.items() if k in columns})
    excess = [b > p >= a for a, b in zip(x, y, strict=True)]
    figure, axes = style.new(4.8, 4.4)
    at = axes[0][0]
    for which, colour, label in (
        (False, style.COLOURS[0], "other latents"),
        (True, style.COLOURS[1], "fake, not dense on text"),
    ):
        some = [(a, b) for a, b, e in zip(x, y, excess, strict=True) if e == which]
        at.scatter(
            [max(a, LEAST) for a, _ in some],
            [max(b, LEAST) for _, b in some],
            s=6,
            alpha=0.5,
            linewidths=0,
            color=colour,
            label=f"{label} ({len(some):,})",
            rasterized=True,
        )
    if surely is not None:
        ringed = [(a, b) for a, b, s in zip(x, y, surely, strict=True) if s]
        at.scatter(
            [max(a, LEAST) for a, _ in ringed],
            [max(b, LEAST) for _, b in ringed],
            s=18,
            facecolors="none",
            edgecolors="black",
            linewidths=0.8,
            label=f"surely fake ({len(ringed):,})",
        )
    at.plot([LEAST, 1], [LEAST, 1], color="black", linewidth=0.6)
    at.axhline(p, color="black", linestyle="--", linewidth=0.8)
    at.axvline(p, color="black", linestyle="--", linewidth=0.8)
    unit = latents.units.get("text_rate", "share")
    at.set(
        xscale="log",
        yscale="log",
        xlabel=f"fires on text ({unit})",
        ylabel=f"fires on {noise.replace('_', ' ')} ({unit})",
        xlim=(0.8 * LEAST, 1.2),
        ylim=(0.8 * LEAST, 1.2),
    )
    least = "0" if all(v == 0 or v > LEAST for v in (*x, *y)) else f"to {LEAST:g}"
    words = [least, *(f"{tick:g}" for tick in TICKS)]
    at.set_xticks([LEAST, *TICKS], words)
    at.set_yticks([LEAST, *TICKS], words)
    at.set_title(sae, fontsize=9)
    at.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), markerscale=1.5)
    style.save(figure, path, drawn)
