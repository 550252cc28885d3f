"""Entropy against depth from files, whoever wrote them: a run, or a folder of the data set.

Folders of the data set hold ``entropy_comparison_<site>_layer<L>``, as ``.pt`` where published and
as ``.npz`` with ``.json`` where converted or released.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from saekit.core.errors import FormatError
from saekit.core.result import Result, Score
from saekit.data import table_files
from saekit.studies.locality.presets import PRESETS
from saekit.studies.locality.published import dataset
from saekit.studies.locality.published import reading as published
from saekit.studies.locality.published._flat import PublishedFile
from saekit.studies.locality.runs.run_scores import site_scores

STEM = "entropy_comparison_"
# Panels of the published grids, in their order; other presets follow by name.
ORDER = ("pythia-70m", "gpt2-small", "qwen2-0.5b", "llama-3.2-1b", "gemma-2-2b", "llama-3-8b")
SUPERSEDED = "legacy"  # folder of the data set that holds what later runs replaced


class SiteData(NamedTuple):
    """Pairs of a window and a latent at one site, and what they add up to."""

    site: str
    latent: np.ndarray
    entropy: np.ndarray  # bits, as long as `latent`; undefined ones are left out
    activation: np.ndarray
    scores: dict[str, Score]


class DepthData(NamedTuple):
    """Entropy at every site of one run."""

    sites: list[SiteData]
    n_ctx: int
    windows: int
    nulls: tuple[str, ...] = ()
    preset: str = ""
    dataset: str = ""


def read(folder: Path) -> DepthData:
    """Return what a folder holds.

    Raises:
        FormatError: it holds neither a depth run nor files of the data set, or nothing was
            measured.
    """
    found = _run(folder) if (folder / "result.json").is_file() else _files(folder)
    if not found.sites:
        raise FormatError(f"{folder} has no latent with an entropy.")
    return found


def below(folder: Path) -> list[Path]:
    """Return the folders with depth data in a folder and those below it, in published order.

    Of the runs of one preset and corpus the last counts, by the name of its folder. Links are not
    followed, and what the data set keeps as superseded is left out.

    Raises:
        FormatError: there is none.
    """
    if not folder.is_dir():
        raise FormatError(f"There is no folder {folder}.")
    if _holds(folder):
        return [folder]
    last = {found.parent: found for found in sorted(_tree(folder))}
    if not last:
        raise FormatError(
            f"{folder} holds neither a run of `saekit locality depth` nor {STEM}<site>_layer<L> "
            f"files, and no folder below it does."
        )
    return sorted(last.values(), key=_place)


def _tree(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and path.name != SUPERSEDED:
            if _holds(path):
                yield path
            else:
                yield from _tree(path)


def _place(run: Path) -> tuple[int, tuple[str, ...]]:
    """Return where a run stands among panels: by preset, then by name."""
    known = [ORDER.index(part) for part in run.parts if part in ORDER]
    return (known[-1] if known else len(ORDER), run.parts)


def _holds(folder: Path) -> bool:
    path = folder / "result.json"
    if path.is_file():
        return Result.read(path).name == "locality_depth"
    return any(folder.glob(f"{STEM}*.json")) or any(folder.glob(f"{STEM}*.pt"))


def _run(folder: Path) -> DepthData:
    result = Result.read(folder / "result.json")
    if result.name != "locality_depth":
        raise FormatError(f"{folder} holds a result of `{result.name}`, not of locality depth.")
    rows: dict[str, list[tuple[int, float, float]]] = {}
    for row in table_files.rows(table_files.find(folder / "latents")):
        if row["entropy_bits"]:
            one = int(row["latent"]), float(row["entropy_bits"]), float(row["activation"])
            rows.setdefault(row["site"], []).append(one)
    sites = []
    for site, some in rows.items():
        latent, bits, activation = (np.array(column) for column in zip(*some, strict=True))
        scores = {
            k.rpartition("/")[2]: s
            for k, s in result.scores.items()
            if k.rpartition("/")[0] == site
        }
        sites.append(SiteData(site, latent, bits, activation, scores))
    n_windows = max(result.details["by_site"]["columns"]["n_windows"], default=0)
    return DepthData(
        sites, result.config["n_ctx"], n_windows, tuple(result.config["measure"]["nulls"])
    )


def _files(folder: Path) -> DepthData:
    """Return the layers of a folder of the data set; of two files of a layer, the later name's."""
    stems = {
        p.name.removesuffix(p.suffix): p
        for p in sorted(folder.glob(f"{STEM}*"))
        if p.suffix == ".pt"
    }
    stems |= {p.name.removesuffix(".json"): p for p in sorted(folder.glob(f"{STEM}*.json"))}
    if not stems:
        raise FormatError(
            f"{folder} holds no depth data: neither result.json of `saekit locality depth` nor "
            f"{STEM}<site>_layer<L> as .pt, or as .npz with .json."
        )
    layers: dict[int, SiteData] = {}
    n_ctx, windows, head = 0, 0, {}
    for _, path in sorted(stems.items()):
        made = published.read(path) if path.suffix == ".pt" else _converted(path)
        if made.kind != "entropy_comparison":
            raise FormatError(f"{path} holds `{made.kind}`, not a depth run's layer.")
        head = made.info["summary"]
        layer = int(head["layer"])
        n_ctx = max(n_ctx, *np.diff(made.arrays["influence_starts"]).tolist(), 0)
        windows = max(windows, len(made.arrays["batch_idx"]))
        if len(made.arrays["feature"]):
            layers[layer] = _layer(made, layer)
    n_ctx = n_ctx or int(head.get("context_len", 0))
    sites = [layers[i] for i in sorted(layers)]
    return DepthData(
        sites, n_ctx, windows, (), str(head.get("preset", "")), str(head.get("dataset", ""))
    )


def _converted(path: Path) -> PublishedFile:
    return dataset.read(path.with_name(path.name.removesuffix(".json")))


def _layer(made: PublishedFile, layer: int) -> SiteData:
    arrays = made.arrays
    bits = arrays["entropy"].astype(np.float64)
    count = len(bits)
    # An activation is one number, or those of the window: the last is that of the position asked.
    acts = [dataset.row(arrays, "activation", i) for i in range(count)]
    activation = np.array([row[-1] if len(row) else np.nan for row in acts], dtype=np.float64)
    pairs = {
        "window": arrays["group"],
        "windows": np.arange(len(arrays["batch_idx"])),
        "s.entropy_bits": bits,
    }
    if not np.isnan(arrays["token_vector_entropy"]).all():
        pairs["v.entropy_bits"] = arrays["token_vector_entropy"].astype(np.float64)
    known = ~np.isnan(bits)
    return SiteData(
        f"L{layer}.resid_post",
        arrays["feature"][known],
        bits[known],
        activation[known],
        site_scores(pairs),
    )


def label(folder: Path, found: DepthData) -> str:
    """Return the title of a run's panel: preset and corpus, or the folder's name."""
    said = [part for part in (found.preset, found.dataset) if part]
    if not said and folder.parent.parent.name in PRESETS:  # <preset>/<dataset>/<timestamp>
        said = [folder.parent.parent.name, folder.parent.name]
    return ", ".join(said) or folder.name
