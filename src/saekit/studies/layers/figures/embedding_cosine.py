"""Embedding cosine: how near latents of each layer are to one token's vectors."""

from pathlib import Path

from saekit.core.result import Table
from saekit.models.base import Tokenizer
from saekit.report import style
from saekit.studies.layers.distributions import Distribution, spread
from saekit.studies.layers.geometry import Neighbours


def draw(
    found: Distribution, embed: Neighbours, unembed: Neighbours, tokenizer: Tokenizer, path: Path
) -> None:
    """Draw the largest cosine of each latent with a row of the embedding and the unembedding.

    The CSV holds every latent with its nearest tokens; ``NAME_summary.csv`` the means of the
    largest cosines, all latents taken.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    sides = {"embedding": embed, "unembedding": unembed}
    alive = ~found.mean.isnan()
    figure, axes = style.new(7.2, 3.0, columns=2, sharey=True)
    summary = []
    for at, (name, side) in zip(axes[0], sides.items(), strict=True):
        best = side.cosines[:, 0]
        at.scatter(
            found.mean[alive].tolist(),
            best[alive].tolist(),
            s=3,
            alpha=0.35,
            linewidths=0,
            color=style.COLOURS[0],
            rasterized=True,
        )
        one = spread(best)
        summary.append({"side": name, **one._asdict()})
        at.set(xlabel="mean layer of a latent")
        same = " (tied)" if side is unembed and embed.cosines.equal(side.cosines) else ""
        at.set_title(f"{name}{same}: mean {one.mean:.3f}", fontsize=9)
    n = int(alive.sum())
    axes[0][0].set_ylabel(f"cosine with the nearest token\n(n = {n:,} alive latents)")
    style.save(figure, path, _table(found, sides, tokenizer))
    Table(columns={k: [r[k] for r in summary] for k in summary[0]}).write_csv(
        path.with_name(path.stem + "_summary.csv")
    )


def _table(found: Distribution, sides: dict[str, Neighbours], tokenizer: Tokenizer) -> Table:
    n_latents, n = next(iter(sides.values())).tokens.shape
    known: dict[int, str] = {}
    columns: dict[str, list] = {k: [] for k in ("latent", "layer_mean", "side", "rank")}
    columns |= {"token_id": [], "token": [], "cosine": []}
    means = found.mean.tolist()
    for name, side in sides.items():
        ids = side.tokens.flatten().tolist()
        for i in set(ids) - known.keys():
            known[i] = tokenizer.pieces([i])[0]
        columns["latent"] += [i for i in range(n_latents) for _ in range(n)]
        columns["layer_mean"] += [means[i] for i in range(n_latents) for _ in range(n)]
        columns["side"] += [name] * len(ids)
        columns["rank"] += list(range(n)) * n_latents
        columns["token_id"] += ids
        columns["token"] += [known[i] for i in ids]
        columns["cosine"] += side.cosines.flatten().tolist()
    return Table(columns=columns)
