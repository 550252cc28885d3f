"""Twins: whether an SAE of another seed has the same latent, by the directions they write."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.analysis.siblings import siblings
from saekit.core.errors import ConfigError
from saekit.core.files import write_json
from saekit.core.folder_names import distinct_names
from saekit.core.result import Table
from saekit.data import table_files
from saekit.hub.native import load
from saekit.hub.trained import TrainedSAE, weights_digest
from saekit.metrics.matching import expected_best_cosine
from saekit.metrics.nearest import nearest

NAME, MATCHES, ABOUT = "twins", "twin_matches", "twins.json"  # files in RUN/analysis


class BestMatches(NamedTuple):
    """The nearest latent of another SAE, for each latent of one."""

    latent: Int[Tensor, "d_sae"]  # of the other
    cosine: Float[Tensor, "d_sae"]
    second: Float[Tensor, "d_sae"]  # cosine of the next nearest; NaN where there is one latent
    mutual: Bool[Tensor, "d_sae"]  # it is the nearest of its nearest too


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Twins:
    """Best matches of an SAE's latents in others, and what is to be known of them.

    Args:
        matches: by name of the other SAE.
        chance: largest cosine of a random direction with as many random ones, in expectation.
        digests: of the SAE's weights: as trained and, where several sites share it, as each of
            them uses it.
        others: digests of the others as trained, by name.
    """

    matches: dict[str, BestMatches]
    chance: float
    digests: list[str]
    others: dict[str, str]

    @property
    def stable(self) -> Float[Tensor, "d_sae"]:
        """Mean over the other SAEs of the cosine with the best match: 1 where all have it."""
        return torch.stack([m.cosine for m in self.matches.values()]).double().mean(0)

    def table(self) -> Table:
        """Return one row a latent: `stable`, the least of its cosines, in how many it is mutual."""
        each = [m.cosine for m in self.matches.values()]
        mutual = torch.stack([m.mutual for m in self.matches.values()]).sum(0)
        columns: dict[str, list[Any]] = {
            "latent": list(range(len(each[0]))),
            "stable": self.stable.tolist(),
            "stable_least": torch.stack(each).amin(0).tolist(),
            "twins": mutual.tolist(),
        }
        units = {"stable": "cosine", "stable_least": "cosine", "twins": "SAEs"}
        return Table(columns=columns, units=units)

    def match_table(self) -> Table:
        """Return one row for each latent and other SAE."""
        columns: dict[str, list[Any]] = {
            name: [] for name in ("latent", "other", "match", "cosine", "second", "mutual")
        }
        for other, found in self.matches.items():
            n = len(found.latent)
            columns["latent"] += range(n)
            columns["other"] += [other] * n
            columns["match"] += found.latent.tolist()
            columns["cosine"] += found.cosine.tolist()
            columns["second"] += found.second.tolist()
            columns["mutual"] += found.mutual.int().tolist()
        return Table(columns=columns, units={"cosine": "cosine", "second": "cosine"})

    def __repr__(self) -> str:
        stable = float(self.stable.mean())
        return (
            f"Twins({len(self.stable):,} latents in {', '.join(self.matches)}: mean "
            f"cosine with the best match {stable:.3f}, by chance {self.chance:.3f})"
        )

    def write(self, folder: Path | str) -> Path:
        """Write ``twins.csv``, ``twin_matches.csv`` and ``twins.json``; return the first.

        A table with a row for each latent in RUN/analysis gives its columns to `saekit query`.
        """
        folder = Path(folder)
        table_files.write(self.match_table(), folder / MATCHES)
        record = {"digests": self.digests, "others": self.others, "chance": self.chance}
        write_json(folder / ABOUT, record)
        return table_files.write(self.table(), folder / NAME)


def best_matches(directions: Float[Tensor, "n d"], others: Float[Tensor, "m width"]) -> BestMatches:
    """Return the latent of another SAE with the most similar direction, for each of one.

    Cosines keep their sign: a latent that writes the opposite is no match. Ties go to the lower
    number. Memory is that of some million cosines, whatever the widths.

    Args:
        directions: what a unit of each latent adds; a row of zeros has cosine 0 with everything.
        others: of the other SAE.

    Raises:
        ShapeError: widths differ.

    Source:
        Paulo and Belrose 2025, arXiv:2501.16615 (latents shared by seeds). Differs: the nearest
        latent and whether it is mutual, in place of the one-to-one matching; signed.
    """
    found = nearest(directions, others, 2)
    at, best = found.columns[:, 0], found.cosines[:, 0]
    second = torch.full_like(best, torch.nan)
    if found.columns.shape[1] > 1:
        second = found.cosines[:, 1]
        at = at.where(best > second, found.columns.amin(1))
    return BestMatches(at, best, second, found.back[at] == torch.arange(len(at)))


@torch.no_grad()
def twins(
    sae: TrainedSAE | Path | str,
    others: Sequence[TrainedSAE | Path | str] | TrainedSAE | Path | str | None = None,
) -> Twins:
    """Compare the directions of an SAE with those of others, trained from another seed as a rule.

    Args:
        sae: the SAE, or its folder.
        others: an SAE that writes to the same site, or several; None: the others of the same sweep
            at the same site and of the same width.

    Raises:
        ConfigError: there is no other SAE, or two have one name.
        ShapeError: they write to sites of another width.
    """
    mine = _opened(sae)
    if isinstance(others, TrainedSAE | Path | str):
        others = [others]
    chosen = list(others or ()) or (siblings(mine.folder) if mine.folder is not None else [])
    if not chosen:
        raise ConfigError(
            f"There is no SAE to compare {mine!r} with: it is in no sweep with another one of its "
            f"site and width. Name others: saekit twins RUN OTHER ..."
        )
    opened = [_opened(one) for one in chosen]
    names = distinct_names([one.folder for one in opened])
    directions = _directions(mine)
    matches = {
        name: best_matches(directions, _directions(one))
        for name, one in zip(names, opened, strict=True)
    }
    # The largest of m signed cosines is in distribution close to the largest |cosine| of m / 2.
    chance = expected_best_cosine(directions.shape[1], max(1, mine.d_sae // 2))
    known = {name: weights_digest(one.sae) for name, one in zip(names, opened, strict=True)}
    return Twins(matches=matches, chance=chance, digests=_digests(mine), others=known)


def _digests(sae: TrainedSAE) -> list[str]:
    """Return the digests of the weights as trained, and as every site uses them."""
    found = [weights_digest(sae.sae)]
    if sae.folder is not None and sae.card.at is None:
        views = (load(sae.folder, site=site) for site in sae.card.scalings)
        found += [weights_digest(view.sae) for view in views]
    return found


def _opened(sae: TrainedSAE | Path | str) -> TrainedSAE:
    return sae if isinstance(sae, TrainedSAE) else load(sae, scaled=True)


def _directions(sae: TrainedSAE) -> Float[Tensor, "d_sae d"]:
    """Return what a unit of each latent adds, of several events side by side."""
    found = sae.directions.cpu()
    return found if found.ndim == 2 else found.movedim(-2, 0).flatten(1)


def described(found: Twins) -> Mapping[str, Any]:
    """Return what is printed of a comparison, JSON-ready."""
    stable = found.stable
    at_least = {str(t): int((stable >= t).sum()) for t in (0.5, 0.7, 0.9)}
    return {
        "latents": len(stable),
        "others": list(found.others),
        "stable_mean": float(stable.mean()),
        "latents_at_least": at_least,
        "chance": found.chance,
    }
