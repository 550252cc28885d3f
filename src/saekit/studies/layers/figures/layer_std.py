"""Layer std: how widely latents spread over layers, a row an SAE."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saekit.core.result import Table
from saekit.core.stats.means import half_width
from saekit.core.stats.plain import share
from saekit.report import style
from saekit.studies.layers.distributions import distribution, even_spread, spread
from saekit.studies.layers.sums import LayerSums
from saekit.studies.layers.variances import decomposition, legacy_variances


def table(sums: Mapping[str, LayerSums], about: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return one row an SAE: the spread of its latents over layers, and its variances.

    Args:
        sums: by name of the SAE.
        about: further columns of each, as the model and the number of latents.
    """
    rows: list[dict[str, Any]] = []
    for name, one in sums.items():
        found = spread(distribution(one.totals, one.numbers).std)
        n_layers = len(one.numbers)
        row = {
            "sae": name,
            **about.get(name, {}),
            "n_layers": n_layers,
            "n_latents": one.d_sae,
            "alive": found.n,
            "tokens": one.n_tokens,
        }
        values = {"mean": found.mean, "var": found.variance, "std": found.std, "sem": found.sem}
        row |= values | {f"{k}_rel": share(v, n_layers) for k, v in values.items()}
        row |= decomposition(one)._asdict()
        row |= {f"legacy_{k}": v for k, v in legacy_variances(one)._asdict().items()}
        rows.append(row)
    return Table(columns={key: [row.get(key) for row in rows] for key in rows[0]})


def draw(sums: Mapping[str, LayerSums], about: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the distribution of layer std over latents of each SAE, and its mean with interval.

    The interval is Student's over latents, from 8 on. The dashed line is an even spread over
    all layers.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(sums, about)
    figure, axes = style.new(6.4, 1.2 + 1.7 * len(sums), rows=len(sums), sharex=True)
    for i, (name, one) in enumerate(sums.items()):
        at = axes[i][0]
        std = distribution(one.totals, one.numbers).std
        values = std[~std.isnan()].tolist()
        mean = drawn.columns["mean"][i]
        half = half_width(drawn.columns["std"][i], drawn.columns["alive"][i])
        at.hist(values, bins=60, color=style.COLOURS[0], alpha=0.75)
        at.axvline(mean, color=style.COLOURS[1])
        at.axvspan(mean - half, mean + half, color=style.COLOURS[1], alpha=0.35)
        at.axvline(even_spread(one.numbers), color=style.COLOURS[6], linestyle="--", linewidth=1)
        at.set(ylabel="latents")
        of = f"n = {len(values):,} of {one.d_sae:,} latents"
        at.set_title(f"{name}\nmean {mean:.3g} ± {half:.2g} layers, {of}", fontsize=9)
    axes[-1][0].set_xlabel("standard deviation over layers of a latent (layers)")
    style.save(figure, path, drawn)
