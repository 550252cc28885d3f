"""Fake features: how often each latent fires on noise against how often on text."""

from pathlib import Path

from saekit.core.result import Table
from saekit.report import style

LEAST = 3e-4  # a rate below is drawn here: the axes are logarithmic


def draw(latents: Table, noise: str, p: float, path: Path) -> None:
    """Draw a point a latent; fake are those above the line at `p`, in excess those left of it too.

    Args:
        latents: the table of latents of `fake_features`.
        noise: which.
        p: above which share a latent is fake.
        path: ends in a suffix of a figure.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    x, y = latents.columns["text_rate"], latents.columns[f"{noise}_rate"]
    drawn = Table(
        columns={"latent": latents.columns["latent"], "text_rate": x, f"{noise}_rate": y},
        units=latents.units,
    )
    excess = [b > p >= a for a, b in zip(x, y, strict=True)]
    figure, axes = style.new(4.8, 4.4)
    at = axes[0][0]
    for which, colour, label in (
        (False, style.COLOURS[0], "other latents"),
        (True, style.COLOURS[1], "fake, not dense on text"),
    ):
        some = [(a, b) for a, b, e in zip(x, y, excess, strict=True) if e == which]
        at.scatter(
            [max(a, LEAST) for a, _ in some], [max(b, LEAST) for _, b in some],
            s=4, alpha=0.4, linewidths=0, color=colour, label=f"{label} ({len(some):,})",
            rasterized=True,
        )  # fmt: skip
    at.plot([LEAST, 1], [LEAST, 1], color="black", linewidth=0.6)
    at.axhline(p, color="black", linestyle="--", linewidth=0.8)
    at.axvline(p, color="black", linestyle="--", linewidth=0.8)
    unit = latents.units.get("text_rate", "share")
    at.set(
        xscale="log", yscale="log", xlabel=f"fires on text ({unit})",
        ylabel=f"fires on {noise.replace('_', ' ')} ({unit})",
        xlim=(0.8 * LEAST, 1.2), ylim=(0.8 * LEAST, 1.2),
    )  # fmt: skip
    at.legend(fontsize=8, loc="upper left")
    style.save(figure, path, drawn)
