"""What speaks for a latent beside its entropy, and which latents a table leaves out for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import read_json
from saekit.core.result import Table
from saekit.data import table_files
from saekit.studies.locality.events.neuronpedia import Record, parse

STATS = "feature_quality_stats"  # the table's name, in a folder of events
BOS_STRINGS = ("<bos>", "<|begin_of_text|>", "<|endoftext|>", "<s>")
BOS_DOMINATED = 0.5  # a larger share of peaks is more than half


class Quality(NamedTuple):
    """What is known of one latent; None where it is not."""

    recall_alt: float | None = None  # of its explanation, as Neuronpedia scored it
    frac_unique: float | None = None  # distinct peak tokens, as a share of events
    frac_bos: float | None = None  # share of peaks that are BOS


@dataclass(frozen=True, kw_only=True)
class LatentFilter(Config):
    """Which latents a table keeps.

    Args:
        min_recall: least `recall_alt`; None asks for none, also keeps those without.
        max_peak_diversity: largest `frac_unique`; 1 keeps all, also those without.
        exclude_bos_dominated: leave out those whose `frac_bos` is over a half.

    Raises:
        ConfigError: a share is not one.

    Source:
        lccqqqqq/sae-analysis, feature_table (its filters); where their numbers come from is ours.
    """

    name: ClassVar[str] = "kept_latents"
    min_recall: float | None = setting(None, least=0, most=1)
    max_peak_diversity: float = setting(1.0, least=0, most=1)
    exclude_bos_dominated: bool = False

    @property
    def ending(self) -> str:
        """What the filters add to a file's name, as the published files have it."""
        parts = []
        if self.min_recall is not None:
            parts.append(f"recall{round(100 * self.min_recall):02d}")
        if self.max_peak_diversity < 1:
            parts.append(f"div{round(100 * self.max_peak_diversity):02d}")
        if self.exclude_bos_dominated:
            parts.append("nobos")
        return "".join(f"_{part}" for part in parts)

    def refusal(self, found: Quality) -> str:
        """Return why a latent is left out; empty where it is kept."""
        if self.min_recall is not None:
            if found.recall_alt is None:
                return "no recall known"
            if found.recall_alt < self.min_recall:
                return f"recall below {self.min_recall:g}"
        if self.max_peak_diversity < 1:
            if found.frac_unique is None:
                return "no scored event"
            if found.frac_unique > self.max_peak_diversity:
                return f"distinct peaks over {self.max_peak_diversity:g}"
        if self.exclude_bos_dominated and beginning(found):
            return "peaks mostly BOS"
        return ""

    def split(self, found: Mapping[int, Quality]) -> tuple[list[int], dict[str, int]]:
        """Return the latents that are kept, and how many are left out by reason.

        Raises:
            ConfigError: recall is asked for and known of none.
        """
        if self.min_recall is not None and all(q.recall_alt is None for q in found.values()):
            raise ConfigError(
                f"`min_recall` is {self.min_recall:g} and the recall of none of {len(found)} "
                f"latents is known. Name the folder MODEL/SAE of a cache of `saekit locality "
                f"neuronpedia` with --neuronpedia, or put a {STATS}.csv beside the events."
            )
        reasons = {a: self.refusal(q) for a, q in found.items()}
        left: dict[str, int] = {}
        for reason in filter(None, reasons.values()):
            left[reason] = left.get(reason, 0) + 1
        return [a for a, reason in reasons.items() if not reason], left


def beginning(found: Quality) -> bool:
    """Tell whether more than half of a latent's peaks are BOS."""
    return (found.frac_bos or 0.0) > BOS_DOMINATED


def of_peaks(tokens: Sequence[str], ids: Sequence[int] = ()) -> Quality:
    """Return what the peaks of a latent's events tell.

    Args:
        tokens: string of each event's peak.
        ids: its token, where strings do not tell tokens apart.
    """
    if not tokens:
        return Quality()
    bos = sum(t in BOS_STRINGS for t in tokens) / len(tokens)
    return Quality(None, len(set(ids or tokens)) / len(tokens), bos)


def of_record(record: Record) -> Quality:
    """Return what Neuronpedia's texts of a latent tell, and its score."""
    peaks = {(a.tokens, a.peak): a.tokens[a.peak] for a in record.activations}
    return of_peaks(list(peaks.values()))._replace(recall_alt=record.recall_alt)


def records(folder: Path, latents: Sequence[int]) -> dict[int, Record]:
    """Return what a cache holds of those latents that have a file.

    Args:
        folder: ``MODEL/SAE`` of a cache, with ``<index>.json``.
        latents: asked for.

    Raises:
        FormatError: none has a file, or a file is not Neuronpedia's.
    """
    paths = {a: folder / f"{a}.json" for a in latents}
    found = {a: parse(read_json(p), str(p), a) for a, p in paths.items() if p.is_file()}
    if not found:
        raise FormatError(
            f"{folder} has none of {len(paths)} latents, as {latents[0]}.json. Name the folder "
            f"MODEL/SAE of a cache, or fetch them: saekit locality neuronpedia --online"
        )
    return found


def of_cache(folder: Path, latents: Sequence[int]) -> dict[int, Quality]:
    """Return what the files of a cache tell of those latents that have one (see `records`)."""
    return {a: of_record(record) for a, record in records(folder, latents).items()}


def table(found: Mapping[int, Quality]) -> Table:
    """Return one row a latent, as the published feature_quality_stats.csv."""
    columns = {"feature_id": list(found)}
    columns |= {name: [getattr(q, name) for q in found.values()] for name in Quality._fields}
    return Table(columns=columns)


def read(folder: Path) -> dict[int, Quality]:
    """Return what the table of a folder tells; empty where there is none.

    Raises:
        FormatError: it lacks a column, or a value is no number.
    """
    if not table_files.has(folder / STATS):
        return {}
    path = table_files.find(folder / STATS)
    try:
        return {
            int(row["feature_id"]): Quality(
                *(float(row[n]) if row.get(n) else None for n in Quality._fields)
            )
            for row in table_files.rows(path)
        }
    except (KeyError, ValueError) as error:
        raise FormatError(
            f"{path}: {error}. Columns are feature_id, {', '.join(Quality._fields)}."
        ) from error


def over(one: Quality, other: Quality | None) -> Quality:
    """Return `one` with what `other` knows put over it."""
    if other is None:
        return one
    return Quality(*(a if b is None else b for a, b in zip(one, other, strict=True)))
