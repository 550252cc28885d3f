"""`saekit.compare`: is one SAE better than another, on the same tokens, and how sure is that?

A score's own interval says how far it would move with other text. Two SAEs measured on the same
text move together, so their difference is known much better than either score: every block of
documents is left out of both at once. Where SAEs come in several seeds, seeds are left out too.
Sparsity buys nearly every score, so groups of SAEs are compared at the same L0.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from saekit.core import provenance
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError
from saekit.core.files import write_json
from saekit.core.folder_names import distinct_names
from saekit.core.lock import claimed
from saekit.core.result import Table, split_lines
from saekit.core.stats.multiple import holm
from saekit.data import table_files
from saekit.data.base import Corpus, HeldOut
from saekit.evals._differences import (
    Curve,
    Point,
    along,
    common_range,
    difference,
    front_share,
    log_of,
    mean_l0,
    members,
    on_front,
    said_of_range,
    seeds_together,
    value_of,
)
from saekit.evals.base import Subject
from saekit.evals.core import Core
from saekit.evals.evaluate import configured, prepared
from saekit.evals.intervals import BlockSums, too_few
from saekit.hub.opening import AnySAE, OpenSAE, each_of, opened
from saekit.hub.trained import TrainedSAE
from saekit.metrics.base import Metric, registry
from saekit.models.base import LanguageModel

METRICS = ("fvu", "ce_rise", "ce_recovered_zero", "kl")
FRONTS = ("fvu", "ce_rise")  # of these, where lower is better
LEVEL = 0.05
FILE, PAIRS, SAES = "comparison.json", "comparison", "saes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareSettings(Config):
    """How SAEs are compared.

    Args:
        core: the evaluation whose sums are compared.
        metrics: which scores decide; of each it must be known which way is better, and it must have
            an interval over text.
        margin: differences within this share of the scores are "about equal".
        seed: of the resampled text that says how sure a place on the front is.
        split: "test", for what is reported, or "validation", to choose between settings.

    Raises:
        ConfigError: there is no metric, or one comes twice, says of neither way that it is better,
            has no interval over text, or needs losses that are not measured.
    """

    name: ClassVar[str] = "compare"
    core: Core = dataclasses.field(default_factory=Core)
    metrics: tuple[str, ...] = METRICS
    margin: float = setting(0.02, least=0, most=1, unit="of the scores")
    seed: int = 0
    split: HeldOut = "test"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ConfigError(
                f"`metrics` names at least one metric, each once; got "
                f"{', '.join(self.metrics) or 'none'}."
            )
        chosen = [_metric(name) for name in self.metrics]
        losses = ", ".join(one.name for one in chosen if one.needs)
        if losses and not self.core.ce_tokens:
            raise ConfigError(f"{losses} need passes through the model; got ce_tokens=0. Raise it.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """SAEs compared on the same tokens. `print` shows the verdicts.

    Args:
        pairs: a row for each two groups and metric.
        saes: a row for each SAE, with its scores and whether another is better at no higher L0.
        provenance: what was read, and with which code and settings.
    """

    pairs: Table
    saes: Table
    provenance: dict[str, Any]

    def __str__(self) -> str:
        return "\n".join(lines(self))

    def write(self, folder: Path | str) -> Path:
        """Write ``comparison.json`` and both tables as CSV; return the first."""
        place = Path(folder)
        table_files.write(self.pairs, place / PAIRS)
        table_files.write(self.saes, place / SAES)
        record = {
            "kind": "comparison",
            "pairs": self.pairs.columns,
            "saes": self.saes.columns,
            "provenance": self.provenance,
        }
        write_json(place / FILE, record)
        return place / FILE


def compare(  # noqa: PLR0913 - the words of `saekit compare`
    saes: Sequence[AnySAE] | Mapping[str, Sequence[AnySAE]],
    lm: LanguageModel | None = None,
    *,
    corpus: Corpus | Path | str | Sequence[str] | None = None,
    site: str | None = None,
    metrics: Sequence[str] = METRICS,
    margin: float = 0.02,
    seed: int = 0,
    out: Path | str | None = None,
    split: HeldOut = "test",
    shown: bool = True,
    tokens: int | None = None,
    **settings: Any,
) -> Comparison:
    """Say of each two SAEs, or groups of them, which is better, with an interval and a verdict.

    All are measured on the same tokens, by the core evaluation, in one pass of the model. SAEs
    that differ in the seed alone are averaged, and the spread of seeds is part of the interval. Two
    groups are compared at the L0 that both have: scores are interpolated over its logarithm, and
    the mean difference over the common range is taken.

    Args:
        saes: SAEs or their folders, each a group of its own; or groups of them by name.
        lm: their language model; None: the one that the first one's card names.
        corpus: other text, whose held-out part is read; None: that of the first one's training.
        site: which site, where several share an SAE.
        metrics: which scores decide; see `CompareSettings`.
        margin: differences within this share of the scores are "about equal".
        seed: of the resampled text that says how sure a place on the front is.
        out: a folder for the tables.
        split: "test", for what is reported, or "validation", to choose between settings.
        shown: show progress on stderr.
        tokens: how much text; losses are measured on a quarter of it.
        settings: of the core evaluation, such as ``ce_tokens=4_096``.

    Raises:
        ConfigError: there are not two groups; SAEs are of different models or sites; their
            trainings kept no text in common for `split`; or a metric can decide nothing.
    """
    core = configured("core", tokens, settings)
    assert isinstance(core, Core)
    asked = {"core": core, "metrics": metrics, "margin": margin, "seed": seed, "split": split}
    config = CompareSettings.from_dict(asked)
    if isinstance(saes, Mapping):
        groups = {str(name): each_of(group) for name, group in saes.items()}
    else:
        groups = _each_alone(each_of(saes))
    sizes = {name: len(group) for name, group in groups.items()}
    _check_sizes(sizes)
    models: dict[str, LanguageModel] = {}
    every: list[OpenSAE] = []
    for one in itertools.chain.from_iterable(groups.values()):
        first = every[0] if every else None
        text = corpus if first is None else first.text
        model = lm if first is None else first.lm
        every.append(opened(one, model, text, site, models=models))
    hold = contextlib.nullcontext() if out is None else claimed(Path(out), "saekit compare")
    with hold:
        found = compare_open(every, sizes, config, site=site, shown=shown)
        if out is not None:
            found.write(out)
    return found


def compare_open(
    saes: Sequence[OpenSAE],
    sizes: Mapping[str, int],
    config: CompareSettings,
    *,
    site: str | None = None,
    shown: bool = True,
) -> Comparison:
    """Compare SAEs that are open already.

    Args:
        saes: one group after another.
        sizes: how many SAEs each group has, by its name.
        config: how.
        site: which site, where several share an SAE.
        shown: show progress on stderr.

    Raises: as `compare`.
    """
    _check_sizes(sizes)
    said = config.seed, shown, False
    saes, subjects, tools = prepared(saes, "compare", site, said, config.split)
    writes = dict.fromkeys("+".join(str(w.write) for w in s.ways) for s in subjects)
    if len(writes) > 1:
        raise ConfigError(
            f"SAEs are compared by what they keep of one site; these predict "
            f"{' and '.join(writes)}. Compare SAEs of one site."
        )
    measured = config.core.measure(subjects, tools)
    curves = _curves(sizes, saes)
    metrics = [_metric(name) for name in config.metrics]
    each = [one.sums for one in measured]
    sums = {name: [one[name] for one in each] for name in ("l0", *config.metrics)}
    made = provenance.collect(config.seed) | {
        "settings": config.to_dict(),
        "model": saes[0].lm.provenance(),
        "corpus": saes[0].text.provenance(),
        "split": config.split,
        "text": saes[0].text.label,
        "tokens": int(measured[0].rows.tokens.numel()),
        "notes": [*config.core.notes_on(measured[0].rows, config.split), *_notes(subjects)],
    }
    return Comparison(
        pairs=pair_table(curves, metrics, sums, config.margin),
        saes=_sae_table(curves, [s.name for s in subjects], sums, config.seed),
        provenance=made,
    )


def _check_sizes(sizes: Mapping[str, int]) -> None:
    if len(sizes) < 2 or not all(sizes.values()):  # noqa: PLR2004 - of one there is nothing to say
        found = ", ".join(f"{name} ({n} SAEs)" for name, n in sizes.items())
        raise ConfigError(
            f"A comparison needs at least two SAEs, or two groups with an SAE in each; got "
            f"{found or 'none'}. Name another one."
        )


def _notes(subjects: Sequence[Subject]) -> list[str]:
    """Return what a reader of the comparison must know."""
    rules = {repr([way.rule.to_dict() for way in one.ways]) for one in subjects}
    if len(rules) == 1:
        return []
    return [
        "each SAE leaves out outlier tokens by the norms of its own training text, so the tokens "
        "that count differ a little from one to another"
    ]


def pair_table(
    curves: Sequence[Curve],
    metrics: Sequence[Metric],
    sums: Mapping[str, Sequence[BlockSums]],
    margin: float = 0.02,
) -> Table:
    """Return the difference of each two curves in each metric, with its verdict.

    p is that of Student's t, two-sided; `p_holm` is corrected for all rows of the table. A verdict
    of "better" needs p_holm below 5 %, one of "about equal" an interval within `margin` of the
    scores; all else is "inconclusive". `least` is the smallest difference that this text and these
    seeds could have told from 0.

    Args:
        curves: the groups.
        metrics: those compared.
        sums: of every SAE by block of one text, by metric; of ``l0`` too.
        margin: a share of the mean of both scores.

    Source:
        Efron and Tibshirani 1993, section 11.4 (jackknife; blocks of text and seeds are two
        samples, whose variances add); Banerjee 1960 (each with its own quantile); Holm 1979.
    """
    rows: list[dict[str, Any]] = []
    for (i, a), (j, b) in itertools.combinations(enumerate(curves), 2):
        for metric in metrics:
            rows.append({"a": a.name, "b": b.name, "metric": metric.name})
            rows[-1] |= _compared(curves[i], curves[j], metric, sums, margin)
    known = [row for row in rows if row["p"] is not None]
    for row, p in zip(known, holm([row["p"] for row in known]), strict=True):
        row["p_holm"] = p
        if p < LEVEL:
            lower = registry.get(row["metric"]).better == "lower"
            better = "a" if (row["difference"] < 0) == lower else "b"
            row["verdict"] = f"{row[better]} better"
    for row in rows:
        row["words"] = words_of(row, margin, len(known))
    names = (
        "a",
        "b",
        "metric",
        "l0_a",
        "l0_b",
        "at",
        "value_a",
        "value_b",
        "difference",
        "low",
        "high",
        "relative",
        "p",
        "p_holm",
        "least",
        "seeds",
        "verdict",
        "reason",
        "words",
    )
    units = {"l0_a": "latents/token", "l0_b": "latents/token"}
    return Table(columns={n: [row[n] for row in rows] for n in names}, units=units)


def words_of(row: Mapping[str, Any], margin: float, n_rows: int) -> str:
    """Return the verdict of a row as a sentence: what was told from what, or why nothing was.

    No SAE is called better by a difference below `least`: p is below 5 % only above it, and
    Holm's correction asks for more.

    Args:
        row: of the table, with its verdict.
        margin: within which scores are about equal.
        n_rows: that Holm's correction is over.
    """
    verdict, least = row["verdict"], row["least"]
    if least is None:
        return f"no verdict: {row['reason'] or verdict}"
    gap = abs(row["difference"])
    seen = "this text" + (" and these seeds" if row["seeds"] else "")
    if verdict == "about equal":
        return f"about equal: the whole interval lies within {margin:.3g} of the scores"
    if verdict != "inconclusive":
        return f"{verdict}, by {gap:.3g}; {seen} could have told {least:.3g} from 0"
    if gap < least:
        return (
            f"no verdict: the difference, {gap:.3g}, is below {least:.3g}, the smallest that "
            f"{seen} can tell from 0"
        )
    return (
        f"no verdict: the difference, {gap:.3g}, could be told from 0 by itself, but not among the "
        f"{n_rows} of this table (Holm)"
    )


def _compared(
    a: Curve, b: Curve, metric: Metric, sums: Mapping[str, Sequence[BlockSums]], margin: float
) -> dict[str, Any]:
    """Return one row of the table, but for its names and what holds over all rows."""
    values, l0 = sums[metric.name], sums["l0"]
    wanted = [*members(a), *members(b)]
    at_all = {i: value_of(values[i]) for i in wanted}
    log_l0 = {i: log_of(value_of(l0[i])) for i in wanted}
    alone = len(a.points) == len(b.points) == 1
    placed = alone or not any(math.isnan(at) for at in log_l0.values())
    span = common_range(a, b, log_l0) if placed else None
    row: dict[str, Any] = {
        "l0_a": mean_l0(a, log_l0),
        "l0_b": mean_l0(b, log_l0),
        "at": said_of_range(a, b, span, log_l0),
        "value_a": None,
        "value_b": None,
        "difference": None,
        "low": None,
        "high": None,
        "relative": None,
        "p": None,
        "p_holm": None,
        "least": None,
        "seeds": 0,
        "verdict": "inconclusive",
        "reason": "",
    }
    if not placed:
        why = "an SAE whose latents are all off at every token has no place on a curve over L0"
        return row | {"verdict": "undefined", "reason": why}
    if span is None:
        return row | {"verdict": "not comparable", "reason": "the groups have no L0 in common"}
    if any(math.isnan(v) for v in at_all.values()):
        return row | {"verdict": "undefined", "reason": metric.undefined}
    row["value_a"], row["value_b"] = (
        along(a, at_all, log_l0, span),
        along(b, at_all, log_l0, span),
    )
    row["difference"] = row["value_a"] - row["value_b"]
    scale = (abs(row["value_a"]) + abs(row["value_b"])) / 2
    row["relative"] = row["difference"] / scale if scale else None
    if (reason := too_few(values[wanted[0]].sizes)) is not None:
        return row | {"reason": reason}
    found = difference(a, b, {i: (values[i], l0[i]) for i in wanted}, span)
    if math.isnan(found.error.size):
        return row | {"reason": "no interval: undefined without some block of text"}
    half = found.error.half
    row |= {
        "low": found.value - half,
        "high": found.value + half,
        "p": found.error.p(found.value),
        "least": half,
        "seeds": found.seeds,
    }
    if max(abs(row["low"]), abs(row["high"])) <= margin * scale:
        row["verdict"] = "about equal"
    if not found.seeds:
        row["reason"] = "the interval is over text: other seeds may differ by more"
    return row


def _sae_table(
    curves: Sequence[Curve],
    names: Sequence[str],
    sums: Mapping[str, Sequence[BlockSums]],
    seed: int,
) -> Table:
    """Return the scores of each SAE, and in what share of texts no other one beats it."""
    group = {i: curve.name for curve in curves for i in members(curve)}
    place = {i: n for curve in curves for n, p in enumerate(curve.points) for i in p.saes}
    points = [p for curve in curves for p in curve.points]
    seeds = {i: s for p in points for i, s in zip(p.saes, p.seeds, strict=True)}
    n = len(names)
    columns: dict[str, list[Any]] = {
        "sae": list(names),
        "group": [group[i] for i in range(n)],
        "point": [place[i] for i in range(n)],
        "seed": [seeds[i] for i in range(n)],
    }
    for name, each in sums.items():
        scores = [one.score() for one in each]
        columns[name] = [s.value for s in scores]
        columns[f"{name}_low"] = [s.low for s in scores]
        columns[f"{name}_high"] = [s.high for s in scores]
    for name in (one for one in FRONTS if one in sums):
        at, values = ([value_of(s) for s in sums[key]] for key in ("l0", name))
        front = on_front(*(torch.tensor(each, dtype=torch.float64) for each in (at, values)))
        known = [not math.isnan(x + y) for x, y in zip(at, values, strict=True)]
        shares = front_share(sums["l0"], sums[name], seed)
        for head, each in (("front_", front.tolist()), ("front_share_", shares)):
            columns[head + name] = [v if k else None for v, k in zip(each, known, strict=True)]
    return Table(columns=columns, units={"l0": "latents/token"})


def _metric(name: str) -> Metric:
    found = registry.get(name)()
    if found.better == "neither" or not found.resampled:
        known = [
            n
            for n in registry.names()
            if (m := registry.get(n)).resampled and m.better != "neither"
        ]
        which = "says of neither way that it is better"
        why = which if found.better == "neither" else "has no interval over text"
        raise ConfigError(f"`{name}` {why}, so no verdict rests on it. Use {', '.join(known)}.")
    return found


def _each_alone(saes: Sequence[AnySAE]) -> dict[str, list[AnySAE]]:
    """Return each SAE as a group, called by its folder."""
    folders = [one.folder if isinstance(one, TrainedSAE) else Path(one) for one in saes]
    names = distinct_names(folders)
    return {name: [one] for name, one in zip(names, saes, strict=True)}


def _curves(sizes: Mapping[str, int], saes: Sequence[OpenSAE]) -> list[Curve]:
    """Return the groups, SAEs that differ in the seed alone together in a point."""
    found, first = [], 0
    for name, n in sizes.items():
        runs = [one.loaded.card.run for one in saes[first : first + n]]
        points = tuple(
            Point(tuple(first + i for i in alike), tuple(runs[i].get("seed") for i in alike))
            for alike in seeds_together(runs)
        )
        found.append(Curve(name, points))
        first += n
    return found


def lines(found: Comparison) -> list[str]:
    """Return the comparison as aligned lines: a row for each pair and metric."""
    rows = found.pairs.rows()
    heads = ["a", "b", "metric", "at", "a's", "b's", "difference", "verdict"]
    shown = [
        [
            row["a"],
            row["b"],
            row["metric"],
            row["at"],
            number_text(row["value_a"]),
            number_text(row["value_b"]),
            difference_text(row),
            row["verdict"],
        ]
        for row in rows
    ]
    reasons = dict.fromkeys(row["reason"] for row in rows if row["reason"])
    unsaid = [
        f"{row['metric']} of {row['a']} and {row['b']}: {row['words']}"
        for row in rows
        if row["verdict"] == "inconclusive" and row["least"] is not None
    ]
    notes = [*unsaid, *reasons, *found.provenance.get("notes", [])]
    read = split_lines(found.provenance.get("settings", {}) | found.provenance)
    return [*aligned([heads, *shown]), *read, *(f"note     {one}" for one in notes)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def number_text(value: float | None) -> str:
    """Return a score as a cell; nothing where it has none."""
    return "" if value is None else f"{value:.4g}"


def difference_text(row: Mapping[str, Any]) -> str:
    """Return the `difference` of a row, with its ends where it has them, as a cell."""
    if row["difference"] is None:
        return ""
    if row["low"] is None:
        return f"{row['difference']:+.3g}"
    return f"{row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]"
