"""One window of a depth run: where influence lies, and entropy against activation."""

from pathlib import Path
from typing import Any

import numpy as np

from saekit.core.npz import read_npz
from saekit.core.result import Result, Table
from saekit.report import style
from saekit.studies.locality.influence.entropy import entropy_bits, places, shares
from saekit.studies.locality.runs.strongest import strongest_first

TOP, MOST_GREY = 5, 200


def draw_all(run: Path, folder: Path, *, most: int = 2) -> list[Path]:
    """Draw the first windows of every site of a run; return the figures.

    Args:
        run: folder of `saekit locality depth`.
        folder: for the figures.
        most: windows of each site; 0: all.
    """
    result = Result.read(run / "result.json")
    drawn = []
    for site in result.details["by_site"]["columns"]["site"]:
        arrays = read_npz(run / "influences" / f"{site}.npz")
        for i in range(len(arrays["windows"]) if not most else min(most, len(arrays["windows"]))):
            path = folder / site / f"window_{int(arrays['windows'][i]):03d}.png"
            draw(arrays, i, site, path)
            drawn.append(path)
    return drawn


def draw(arrays: dict[str, np.ndarray], index: int, site: str, path: Path) -> None:
    """Draw one window.

    Left, shares of influence over positions: the token vector dashed, the most active latents in
    colour, others grey. Right, entropy against activation.

    Args:
        arrays: of ``influences/SITE.npz``.
        index: of the window among those measured.
        site: for the title.
        path: of the figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    import torch

    window = int(arrays["windows"][index])
    mine = arrays["window"] == window
    J = torch.from_numpy(arrays["J"][mine])
    latent, activation = arrays["latent"][mine], arrays["activation"][mine]
    inside = places(J.shape[1], len(J)).inside(J.shape[1])
    P, H = shares(J, inside).numpy(), entropy_bits(J).numpy()
    order = strongest_first(activation)
    top, others = order[:TOP], order[TOP:]
    grey = others[:: max(-(-len(others) // MOST_GREY), 1)]
    figure, axes = style.new(10, 3.6, columns=2)
    left, right = axes[0]
    x = np.arange(J.shape[1])
    for i in grey:
        left.plot(x, P[i], color="#cccccc", linewidth=0.6)
    for i, colour in zip(top, style.COLOURS, strict=False):
        left.plot(x, P[i], color=colour, linewidth=1.2, label=f"latent {latent[i]}")
        right.scatter(activation[i], H[i], s=30, color=colour, zorder=3)
    right.scatter(activation[others], H[others], s=12, color="#bbbbbb")
    rows: list[tuple[Any, ...]] = [
        (f"latent {latent[i]}", t, P[i, t], activation[i], H[i]) for i in order for t in x
    ]
    if "R" in arrays:
        R = torch.from_numpy(arrays["R"][index : index + 1])
        Q = shares(R, torch.ones_like(R).bool())[0].numpy()
        whole = float(entropy_bits(R))
        left.plot(x, Q, "k--", linewidth=1.4, label="token vector")
        right.axhline(whole, color=style.COLOURS[1], linestyle="--", label="token vector")
        right.legend(fontsize=8)
        rows += [("token vector", t, Q[t], None, whole) for t in x]
    left.set(
        xlabel="position in the window", ylabel="share of influence", yscale="log", ylim=(1e-5, 1.2)
    )
    left.legend(fontsize=7)
    right.set(xlabel="activation (act units)", ylabel="entropy of influence (bits)")
    figure.suptitle(
        f"{site}, window {window}: n = {len(J)} latents on at the last of {J.shape[1]} tokens; in "
        f"colour the {len(top)} most active, grey {len(grey)} others",
        fontsize=9,
    )
    names = ("curve", "position", "share", "activation", "entropy_bits")
    columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    style.save(figure, path, Table(columns=columns, units={"entropy_bits": "bits"}))
