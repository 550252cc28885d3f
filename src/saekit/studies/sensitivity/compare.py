"""Compare: two SAEs on the same texts, those that were written for the latents of either."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core import provenance
from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import read_object
from saekit.core.result import Result, Score, Table
from saekit.data import table_files
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel
from saekit.studies.sensitivity.scoring import largest_acts
from saekit.studies.sensitivity.statistics import means_of_groups, share_on
from saekit.studies.sensitivity.study import EXAMPLES, TEXTS, collected_from, texts_of

VERSION = 2
RESULT, TABLE = "compare.json", "compare"
SCORES = {"sensitivity": "sensitivity", "specificity": "specificity", "balanced": "mean of both"}


class Side(NamedTuple):
    """An SAE and the folder of its run of the study."""

    sae: TrainedSAE
    folder: Path
    name: str


@dataclass(frozen=True)
class Comparison:
    """What a comparison gave. `print` shows it.

    Args:
        result: means of both SAEs and their differences, with intervals.
        latents: a row for each latent and its counterpart in the other SAE.
    """

    result: Result
    latents: Table

    def __str__(self) -> str:
        return str(self.result)


class _Texts(NamedTuple):
    """Token ids of one run's texts."""

    latents: list[int]
    shown: dict[int, list[list[int]]]
    new: dict[int, list[list[int]]]
    off: dict[int, list[list[int]]]
    random: list[list[int]]


def compare(
    a: Side, b: Side, lm: LanguageModel, out: Path, *, seed: int = 0, shown: bool = True
) -> Comparison:
    """Compare two SAEs of one language model on the texts of both their runs.

    For each latent that a run measured, its counterpart is the latent of the other SAE whose
    largest activations correlate best with its own over the examples of that run and its random
    texts. Both are then scored on the new texts, and on the texts of the same documents, neither
    of which chose the counterpart. A latent is at home on texts that were written for it, and the
    counterpart is not, so each SAE's lead at home says little; the difference is the mean of both
    homes, which is 0 for two SAEs that are equally good. Undefined where a home has no latent with
    the texts that a score needs.

    Intervals draw the latents of each home again, and a latent brings its texts along, so that the
    chance in both is in the interval. Both SAEs have the same draws.

    Args:
        a: one SAE.
        b: the other.
        lm: their language model.
        out: folder of the result.
        seed: of the draws for intervals.
        shown: show progress on stderr.

    Raises:
        FormatError: a folder holds no finished run.
        ConfigError: the SAEs are of different language models, or one codes jointly.

    Source:
        Ours.
    """
    models = [side.sae.card.model.get("name") for side in (a, b)]
    if models[0] != models[1]:
        raise ConfigError(
            f"Two SAEs are compared on one language model; these are of {models[0]} and "
            f"{models[1]}."
        )
    rows = [*_home(a, b, lm, "a", shown), *_home(b, a, lm, "b", shown)]
    scores = {}
    for key, label in SCORES.items():
        scores |= _scores(rows, key, label, seed)
    table = Table(columns={name: [r[name] for r in rows] for name in rows[0]} if rows else {})
    result = Result(
        name="sensitivity_compare",
        version=VERSION,
        config={
            side: {"name": one.name, "settings": read_object(one.folder / "settings.json")}
            for side, one in (("a", a), ("b", b))
        },
        scores=scores,
        details={"latents": {home: sum(r["home"] == home for r in rows) for home in "ab"}},
        provenance=provenance.collect(seed),
    )
    table_files.write(table, out / TABLE, "csv")
    result.write(out / RESULT)
    return Comparison(result, table)


def _scores(rows: Sequence[Mapping[str, Any]], key: str, label: str, seed: int) -> dict[str, Score]:
    """Return a score of both SAEs and its difference, over both homes and at each."""
    names = {
        f"{key}_a": f"{label} of A",
        f"{key}_b": f"{label} of B",
        f"{key}_difference": f"{label}, A less B",
    }
    values: dict[str, list[list[float]]] = {"a": [], "b": []}
    for row in rows:
        x, y = row[f"{key}_a"], row[f"{key}_b"]
        if x is not None and y is not None:
            values[row["home"]].append([x, y, x - y])
    homes = {home: torch.tensor(some).double() for home, some in values.items() if some}
    lacking = [home.upper() for home in values if home not in homes]
    scores = {}
    if not lacking:
        means, ends = means_of_groups(list(homes.values()), seed, key)
        n = sum(map(len, homes.values()))
        for (name, words), value, spread in zip(names.items(), means, ends, strict=True):
            scores[name] = _score(words, n, value, spread)
    else:
        why = f"no latent of {' or '.join(lacking)} has the texts that it needs"
        scores = {name: _score(words, 0, None, None, why) for name, words in names.items()}
    for home in values:
        words = f"{label}, A less B, on texts of {home.upper()}"
        name = f"{key}_difference_home_{home}"
        if home in homes:
            means, ends = means_of_groups([homes[home]], seed, key, home)
            scores[name] = _score(words, len(homes[home]), means[-1], ends[-1])
        else:
            why = f"no latent of {home.upper()} has the texts that it needs"
            scores[name] = _score(words, 0, None, None, why)
    return scores


def _score(
    label: str, n: int, value: float | None, ends: tuple[float, float] | None, reason: str = ""
) -> Score:
    low, high = ends or (None, None)
    return Score(
        value=value,
        low=low,
        high=high,
        n=n,
        unit="share of texts",
        better="higher",
        reason=reason,
        label=label,
    )


def _home(
    own: Side, other: Side, lm: LanguageModel, home: str, shown: bool
) -> list[dict[str, Any]]:
    """Return a row for each latent of one run, with its counterpart in the other SAE."""
    texts = _texts(own, lm)
    choosing = [ids for some in texts.shown.values() for ids in some] + texts.random
    mine = largest_acts(own.sae, lm, choosing, texts.latents, shown=shown)
    theirs = largest_acts(other.sae, lm, choosing, list(range(other.sae.d_sae)), shown=shown)
    match = correlations(mine, theirs)
    twins = match.argmax(1).tolist()
    scored = [*_flat(texts.new), *_flat(texts.off)]
    ids = [one for _, one in scored]
    by_own = largest_acts(own.sae, lm, ids, texts.latents, shown=shown)
    by_other = largest_acts(other.sae, lm, ids, twins, shown=shown)
    n_new = sum(map(len, texts.new.values()))
    rows = []
    for i, latent in enumerate(texts.latents):
        at = [j for j, (of, _) in enumerate(scored) if of == latent]
        new, off = [j for j in at if j < n_new], [j for j in at if j >= n_new]
        line: dict[str, Any] = {
            "home": home,
            "latent": latent,
            "counterpart": twins[i],
            "correlation": float(match[i, twins[i]]),
            "n_new": len(new),
            "n_off": len(off),
        }
        sides = {home: by_own[:, i], "b" if home == "a" else "a": by_other[:, i]}
        for name in "ab":
            hit, on = share_on(sides[name][new]), share_on(sides[name][off])
            line[f"sensitivity_{name}"] = hit
            line[f"specificity_{name}"] = free = None if on is None else 1 - on
            line[f"balanced_{name}"] = None if hit is None or free is None else (hit + free) / 2
        rows.append(line)
    return rows


def correlations(
    mine: Float[Tensor, "texts m"], theirs: Float[Tensor, "texts n"]
) -> Float[Tensor, "m n"]:
    """Return the correlation of every column with every other; -1 where one does not vary."""

    def unit(x: Tensor) -> Tensor:
        x = x.double() - x.double().mean(0)
        return x / x.norm(dim=0).clamp(min=1e-300)

    a, b = unit(mine), unit(theirs)
    flat = (a.norm(dim=0) == 0)[:, None] | (b.norm(dim=0) == 0)
    return (a.T @ b).masked_fill(flat, -1.0)


def _flat(texts: Mapping[int, Sequence[list[int]]]) -> list[tuple[int, list[int]]]:
    return [(latent, ids) for latent, some in texts.items() for ids in some]


def _texts(side: Side, lm: LanguageModel) -> _Texts:
    if not (side.folder / TEXTS).is_file():
        raise FormatError(
            f"{side.folder} holds no finished run. Make one with `saekit sensitivity run`."
        )
    found = collected_from(read_object(side.folder / EXAMPLES))
    new = {}
    for latent, some in texts_of(side.folder):
        usable = [t.text for t in some if t.verdict == "usable"]
        new[latent] = [list(ids) for ids in lm.tokenizer.encode(usable)] if usable else []
    return _Texts(
        list(found.latents),
        {latent: [s.tokens for s in one.shown] for latent, one in found.latents.items()},
        new,
        {latent: [s.tokens for s in one.negatives] for latent, one in found.latents.items()},
        [s.tokens for s in found.random],
    )
