"""Figures of a released run where the data set "SAE Locality Data" has them, drawn from the run."""

from pathlib import Path
from typing import Any

import numpy as np

from saekit.core.files import read_json, write_json
from saekit.core.npz import read_npz
from saekit.core.result import Result, Table
from saekit.models.sites import parse_site
from saekit.studies.locality.figures import context_length, entropy_depth, windows
from saekit.studies.locality.published import dataset
from saekit.studies.locality.published.release import KINDS, published_site
from saekit.studies.locality.runs.context_length import SITES


def draw(run: Path, root: Path, home: Path, label: str) -> list[Path]:
    """Draw a run that was released; return the figures and indexes.

    Runs of other kinds are released with the figures that they have, so nothing is drawn for them.
    A depth run has a figure for every window of every layer, with ``batch_index.json``, and one
    against depth in ``figures``; a sweep has one of its lengths.

    Args:
        run: folder of the run.
        root: of the data set.
        home: folder in it that holds the run's ``run_config.json``.
        label: the preset's name there.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if (run / SITES).is_file():  # a sweep at several sites
        each = [run / site for site in read_json(run / SITES)["sites"]]
        return [path for one in each for path in draw(one, root, home, label)]
    path = run / "result.json"
    result = Result.read(path) if path.is_file() else None
    if result is None or result.name not in KINDS:
        return []
    if result.name != KINDS[0]:
        return [_sweep(run, root, home, label, result)]
    files: list[Path] = []
    for name in result.details["by_site"]["columns"]["site"]:
        files += _layer(run, home, label, result, name)
    name = f"entropy_vs_depth__{label}__{home.parent.name}"
    figure = dataset.place(root, "figure", figure=name)
    return [*files, entropy_depth.draw({f"{label}, {home.parent.name}": run}, figure)]


def _layer(run: Path, home: Path, label: str, result: Result, name: str) -> list[Path]:
    """Draw every window of one site, and index them."""
    short, layer = published_site(label, parse_site(name))
    site = f"{short}_layer{layer}"
    folder = home / f"entropy_plots_{site}"
    arrays = read_npz(run / "influences" / f"{name}.npz")
    batches: list[dict[str, Any]] = []
    files: list[Path] = []
    for row in Table(**result.details["by_window"]).rows():
        if row["site"] != name:
            continue
        files.append(folder / f"batch_{row['window']:03d}.png")
        i = int(np.flatnonzero(arrays["windows"] == row["window"])[0])
        windows.draw(arrays, i, site, files[-1])
        batches.append(
            {
                "batch_idx": row["window"],
                "start_idx": row["start"],
                "plot_file": files[-1].name,
                "num_active_features": row["active_latents"],
                "token_vector_entropy": row.get("token_vector_entropy_bits"),
                "avg_feature_entropy": row["mean_entropy_bits"],
            }
        )
    files.append(folder / "batch_index.json")
    write_json(
        files[-1],
        {
            "site": site,
            "preset": label,
            "timestamp": home.name,
            "num_batches": len(batches),
            "context_len": result.config["n_ctx"],
            "random_batches": True,
            "random_seed": result.config["measure"]["seed"],
            "batches": batches,
        },
    )
    return files


def _sweep(run: Path, root: Path, home: Path, label: str, result: Result) -> Path:
    short, layer = published_site(label, parse_site(str(result.details["site"])))
    stem = dataset.place(
        root, "entropy_vs_context_len", preset=label, site=short, layer=layer, timestamp=home.name
    )
    return context_length.draw(run, stem / "entropy_vs_context_len.png")
