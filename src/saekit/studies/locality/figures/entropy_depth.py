"""Entropy against depth: a violin or a box a layer, a panel for each model and corpus."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from saekit.core.errors import ConfigError
from saekit.core.result import Score, Table
from saekit.report import style
from saekit.studies.locality.runs import depth_data
from saekit.studies.locality.runs.strongest import latent_means, mean_of_strongest

KINDS = ("violin", "box")
TOP = 20  # latents of largest total activation whose mean is drawn
COLUMNS = 3
BESIDE = 0.36  # of a mark's middle, where its mean is drawn
NULLS_BESIDE = (-0.2, -0.1, 0.12)  # of a mark's middle, so that intervals are told apart
VECTOR = "token_vector_entropy_bits"
TICKS = 10  # with a name; more would overlap
NULLS = {
    "random": "random directions",
    "shuffled": "shuffled encoder",
    "weights": "shuffled weights",
}


class Layer(NamedTuple):
    """What one layer's mark shows."""

    site: str
    entropy: np.ndarray  # mean of each latent over the windows in which it is active, bits
    latent: np.ndarray
    windows: np.ndarray  # in which each is active
    activation: np.ndarray  # summed over them
    mean: Score | None  # over windows, of the window's mean over latents
    vector: Score | None  # of the token vector
    nulls: dict[str, Score]  # of baselines, means over pairs of window and latent

    @property
    def top(self) -> float:
        """Mean over the latents of largest total activation."""
        return mean_of_strongest(self.entropy, self.activation, TOP)


class Panel(NamedTuple):
    """One run."""

    label: str
    layers: list[Layer]
    n_ctx: int
    windows: int


def read(folder: Path, label: str) -> Panel:
    """Return the panel of a run of `saekit locality depth`, or of a folder of the data set.

    Raises:
        FormatError: the folder holds neither, or nothing was measured.
    """
    return panel(depth_data.read(folder), label)


def panel(found: depth_data.DepthData, label: str) -> Panel:
    """Return what a panel shows of depth data."""
    layers = []
    for site, latent, bits, activation, scores in found.sites:
        means = latent_means(latent, bits, activation)
        nulls = {k: scores.get(f"{k}_entropy_bits_pooled") for k in found.nulls}
        layers.append(
            Layer(
                site,
                means.entropy,
                means.latent,
                means.windows,
                means.activation,
                scores.get("entropy_bits_mean_over_windows"),
                _known(scores, VECTOR),
                {k: s for k, s in nulls.items() if s is not None and s.value is not None},
            )
        )
    return Panel(label, layers, found.n_ctx, found.windows)


def _known(scores: Mapping[str, Score], name: str) -> Score | None:
    score = scores.get(name)
    return None if score is None or score.value is None else score


def draw(runs: Mapping[str, Path | depth_data.DepthData], path: Path, kind: str = "violin") -> Path:
    """Draw runs side by side, with the numbers beside as CSV.

    Args:
        runs: title of each panel to the folder of its run or of the data set's files, or to what
            was read of it.
        path: of the figure.
        kind: of `KINDS`.

    Raises:
        ConfigError: no run, or another kind.
        FormatError: a folder holds no depth data.
        MissingExtraError: matplotlib is not installed.
    """
    if kind not in KINDS or not runs:
        raise ConfigError(f"A figure needs runs, and a kind of {', '.join(KINDS)}; got {kind!r}.")
    panels = [
        read(found, label) if isinstance(found, Path) else panel(found, label)
        for label, found in runs.items()
    ]
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width = max(4.4, 0.2 * max(len(p.layers) for p in panels))
    figure, axes = style.new(width * columns, 3.5 * rows + 0.4, rows, columns, sharey=True)
    for at, one in zip(axes.flat, panels, strict=False):
        _panel(at, one, kind)
    for at in axes.flat[len(panels) :]:
        at.set_axis_off()
    for row in axes:
        row[0].set_ylabel("entropy of influence (bits)")
    known = {t: h for at in axes.flat for h, t in zip(*at.get_legend_handles_labels(), strict=True)}
    figure.legend(
        known.values(),
        known.keys(),
        fontsize=7,
        loc="outside lower center",
        ncols=min(len(known), 2 * columns),
    )
    style.save(figure, path, _table(panels))
    return path


def _panel(at: Any, panel: Panel, kind: str) -> None:
    x = np.arange(len(panel.layers))
    values = [layer.entropy for layer in panel.layers]
    if kind == "violin":
        parts = at.violinplot(values, x, widths=0.8, showmedians=True, showextrema=True)
        for body in parts["bodies"]:
            body.set(facecolor=style.COLOURS[5], alpha=0.6)
        for name in ("cbars", "cmins", "cmaxes", "cmedians"):
            parts[name].set(color="#444444", linewidth=0.8)
    else:
        at.boxplot(
            values,
            positions=x,
            widths=0.6,
            medianprops={"color": style.COLOURS[1]},
            flierprops={"marker": ".", "markersize": 3, "markeredgecolor": "#999999"},
            manage_ticks=False,
        )
    at.plot(
        x,
        [layer.top for layer in panel.layers],
        "o-",
        color=style.COLOURS[0],
        markersize=3,
        linewidth=1,
        label=f"top {TOP} latents by activation",
    )
    _means(at, panel)
    _vector(at, panel)
    _nulls_of(at, panel)
    most = float(np.log2(panel.n_ctx))
    at.axhline(most, color="#888888", linestyle=":", linewidth=1, label=f"log2 {panel.n_ctx}")
    names = [layer.site.removesuffix(".resid_post") for layer in panel.layers]
    shown = range(0, len(names), -(-len(names) // TICKS))
    at.set_xticks(list(shown), [names[i] for i in shown], fontsize=8)
    at.set_xticks(x, minor=True)
    n = [len(layer.latent) for layer in panel.layers]
    span = f"{min(n):,}" if min(n) == max(n) else f"{min(n):,} to {max(n):,}"
    at.set_title(f"{panel.label}\nn = {span} latents a layer, {panel.windows} windows", fontsize=9)
    at.set_ylim(0, None)


def _means(at: Any, panel: Panel) -> None:
    """Draw means over windows beside the marks, with intervals where there are any."""
    known = [
        (i, s)
        for i, layer in enumerate(panel.layers)
        if (s := layer.mean) is not None and s.value is not None
    ]
    if not known:
        return
    x, value = [i + BESIDE for i, _ in known], [s.value for _, s in known]
    at.plot(
        x, value, "D", color="#222222", markersize=2.4, label="mean over windows, 95 % interval"
    )
    ends = [(i, s) for i, s in zip(x, (s for _, s in known), strict=True) if s.low is not None]
    at.vlines(
        [i for i, _ in ends],
        [s.low for _, s in ends],
        [s.high for _, s in ends],
        color="#222222",
        linewidth=0.9,
    )


def _vector(at: Any, panel: Panel) -> None:
    known = [(i, s) for i, layer in enumerate(panel.layers) if (s := layer.vector) is not None]
    if not known:
        return
    alone = len(panel.layers) == 1  # a line of one point is not seen, nor its interval in the mark
    x, colour = [i - BESIDE * alone for i, _ in known], style.COLOURS[1]
    mark = "s--" if alone else "--"
    at.plot(
        x,
        [s.value for _, s in known],
        mark,
        color=colour,
        linewidth=1.2,
        markersize=3,
        label="token vector, 95 % interval",
    )
    ends = [s for _, s in known if s.low is not None]
    if len(ends) != len(known):
        return
    low, high = [s.low for s in ends], [s.high for s in ends]
    if len(x) == 1:
        at.vlines(x, low, high, color=colour, linewidth=1.2)
    else:
        at.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _nulls_of(at: Any, panel: Panel) -> None:
    """Draw nulls, each beside the others, with intervals where there are any."""
    alone = "." if len(panel.layers) == 1 else ""
    for i, kind in enumerate(dict.fromkeys(k for layer in panel.layers for k in layer.nulls)):
        colour, beside = style.COLOURS[2 + i], NULLS_BESIDE[i % 3]
        have = [(j + beside, s.nulls[kind]) for j, s in enumerate(panel.layers) if kind in s.nulls]
        x = [j for j, _ in have]
        at.plot(
            x,
            [s.value for _, s in have],
            marker=alone,
            color=colour,
            linewidth=1,
            linestyle=("-.", ":", (0, (5, 1)))[i % 3],
            label=f"{NULLS.get(kind, kind)}, 95 % interval",
        )
        ends = [(j, s.low, s.high) for j, s in have if s.low is not None]
        at.vlines(*([e[k] for e in ends] for k in range(3)), color=colour, linewidth=0.8)


def _table(panels: list[Panel]) -> Table:
    names = (
        "panel",
        "site",
        "mark",
        "latent",
        "windows",
        "activation",
        "entropy_bits",
        "low",
        "high",
    )
    columns: dict[str, list[Any]] = {name: [] for name in names}

    def add(*values: Any) -> None:
        for name, value in zip(names, values, strict=True):
            columns[name].append(value)

    for panel in panels:
        for layer in panel.layers:
            for i in np.argsort(layer.latent):
                add(
                    panel.label,
                    layer.site,
                    "latent",
                    int(layer.latent[i]),
                    int(layer.windows[i]),
                    float(layer.activation[i]),
                    float(layer.entropy[i]),
                    None,
                    None,
                )
            add(panel.label, layer.site, f"top {TOP}", None, None, None, layer.top, None, None)
            if (s := layer.mean) is not None:
                add(
                    panel.label,
                    layer.site,
                    "mean over windows",
                    None,
                    s.n,
                    None,
                    s.value,
                    s.low,
                    s.high,
                )
            if (s := layer.vector) is not None:
                add(
                    panel.label,
                    layer.site,
                    "token vector",
                    None,
                    None,
                    None,
                    s.value,
                    s.low,
                    s.high,
                )
            for kind, s in layer.nulls.items():
                add(
                    panel.label,
                    layer.site,
                    NULLS.get(kind, kind),
                    None,
                    None,
                    None,
                    s.value,
                    s.low,
                    s.high,
                )
    return Table(columns=columns, units={"entropy_bits": "bits"})
