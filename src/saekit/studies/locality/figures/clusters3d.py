"""Clusters in three dimensions: directions in the plane, median H_pos upwards."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.errors import ShapeError
from saekit.core.result import Table
from saekit.core.stats import summaries
from saekit.report.bare_page import escaped, own_file, write_page

STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:20px auto;max-width:1000px;padding:0 16px}
body{color:#1a1a1a;background:#fff}h1{font-size:19px;margin:0 0 4px}p{color:#555;margin:2px 0}
canvas{width:100%;touch-action:none;cursor:grab}
#label{min-height:22px;color:#000}
"""


def draw(
    plane: Float[Tensor, "n 2"],
    H: Mapping[int, Sequence[float]],
    path: Path,
    *,
    n_ctx: int,
    title: str,
    about: Mapping[int, str] | None = None,
) -> Path:
    """Write a page that turns by hand; the points go beside it as CSV.

    A point is a latent at its place in the plane, its height the median H over events; the
    whisker spans the quartiles.

    Args:
        plane: from `layout` of `saekit.studies.locality.latents.layout`, a row for each latent
            of `H` in order.
        H: entropies of the events of each latent, bits, one at least.
        path: the page.
        n_ctx: tokens of a window, which bounds the height.
        title: heading.
        about: what each latent is said to be.

    Raises:
        ShapeError: not as many places as latents.
    """
    if len(plane) != len(H):
        raise ShapeError(f"Each latent has a place; got {len(H)} latents and {len(plane)} places.")
    about = about or {}
    spread = [
        summaries.quartiles(torch.tensor(h, dtype=torch.float64)).tolist() for h in H.values()
    ]
    scaled = summaries.within_unit(plane).tolist()
    points = [
        {
            "x": x,
            "y": y,
            "low": low,
            "z": z,
            "high": high,
            "text": f"latent {a}: median {z:.2f} bits, {len(h)} events. {about.get(a, '')}",
        }
        for (a, h), (x, y), (low, z, high) in zip(H.items(), scaled, spread, strict=True)
    ]
    medians = [p["z"] for p in points]
    data = {
        "points": points,
        "full": float(torch.tensor(float(n_ctx)).log2()),
        "bottom": min(medians),
        "top": max(medians),
    }
    body = (
        f"<h1>{escaped(title)}</h1><p>{len(points)} latents, {sum(map(len, H.values()))} events, "
        f"window {n_ctx} tokens. Height and colour: median H<sub>pos</sub>; whisker: quartiles "
        f'over events.</p><p id="label">drag to turn, wheel to zoom, point to read</p>'
        f'<canvas id="plot" width="1000" height="720"></canvas>'
    )
    write_page(path, title, body, STYLE, script=own_file("clusters3d.js"), data=data)
    low, middle, high = (list(c) for c in zip(*spread, strict=True))
    x, y = (plane[:, k].tolist() for k in range(2))
    Table(
        columns={
            "feature_id": list(H),
            "x": x,
            "y": y,
            "n_events": [len(h) for h in H.values()],
            "H_pos_median": middle,
            "H_pos_q25": low,
            "H_pos_q75": high,
        },
        units=dict.fromkeys(("H_pos_median", "H_pos_q25", "H_pos_q75"), "bits"),
    ).write_csv(path.with_suffix(".csv"))
    return path
