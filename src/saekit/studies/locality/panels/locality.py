"""Locality: over which tokens a latent's influence is spread, and how long it stays on."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, final

from typing_extensions import override

from saekit.core.border import reading
from saekit.core.files import read_object
from saekit.core.npz import read_npz
from saekit.core.stats import plain
from saekit.data import table_files
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.panels import base
from saekit.report.panels.base import Panel, registry
from saekit.studies.locality.events import event_tables

if TYPE_CHECKING:
    from saekit.analysis.index_folder import Index

EVENTS = ("locality*/manifest.json", "locality*/*/manifest.json", "manifest.json")
AUTOCORR = ("locality*/feature_summary.*", "locality*/*/feature_summary.*", "feature_summary.*")
OK = "ok"
SHOWN_EVENTS = 4
SHOWN_TOKENS = 64  # of an event, the last ones
BINS = 24
COMMAND = "saekit locality events"


class _Events(NamedTuple):
    """A folder of events of the SAE."""

    folder: Path
    tables: dict[int, list[Path]]  # by length of windows, rising
    shown: str  # the folder, as `source` names it


class _Event(NamedTuple):
    """A row of such a folder."""

    latent: int
    rank: int
    bits: float  # NaN: it has no entropy
    value: float | None  # act units, where it was found
    status: str
    bos_share: float | None
    archive: Path  # of influences
    key: str  # in it

    @property
    def J(self) -> list[float]:
        """Influences from the window's first token to the peak; none where there is no archive."""
        if not self.archive.is_file():
            return []
        arrays = base.kept(_arrays, self.archive)
        return arrays[self.key].tolist() if self.key in arrays else []


@final
@registry.register
class Locality(Panel):
    """Events of a latent: influence by token, its entropy, and autocorrelation where measured."""

    name: ClassVar[str] = "locality"
    title: ClassVar[str] = "Locality"
    about: ClassVar[str] = (
        "How far back the latent looks where it is strongest: the influence J of every token "
        "before the peak, and its entropy H_pos in bits (0 bits: one token; 3 bits: in effect 8)."
    )

    @override
    def blocks(self, run: Path, index: "Index", latent: int) -> list[Block] | None:
        shown: list[Block] = []
        everywhere = list(_events(run, index))
        for events in everywhere:
            if shown := _of_events(events, latent):
                break
        for path in base.found(run, AUTOCORR):
            if autocorrelation := _autocorrelation(path, run, index, latent):
                shown += autocorrelation
                break
        return shown or _missing(run, index, latent, bool(everywhere))


def _missing(run: Path, index: "Index", latent: int, others: bool) -> list[Block] | None:
    """Return the command that makes the events of a latent.

    None of a latent that is never on, of an SAE that codes several sites at once, whose influence
    is not taken, and of one whose index has no examples, for it reads no text.
    """
    if not index.bands:
        return None
    if not index.column("density")[latent] > 0 or " " in index.site:
        return None
    words = f"{COMMAND} {base.quoted(run)} --latents {latent} --site {index.site}"
    if others:  # a folder of events is of the latents that it was begun with
        words += f" --out {base.quoted(run / 'locality' / f'events-{latent}')}"
    said = "No event of this latent has been scored."
    return [blocks.missing(said, words)]


def _events(run: Path, index: "Index") -> list[_Events]:
    """Return the folders of events of an SAE at a site, those next to it first."""
    found = []
    for path in base.found(run, EVENTS):
        folder = path.parent
        made = base.kept(read_object, path)
        of_site = made.get("site", index.site) == index.site
        if of_site and any(folder.glob("ctx*")) and _of_weights(folder, index.weights):
            shown = base.named(folder, run)
            found.append(_Events(folder, event_tables.lengths(folder), shown))
    return found


def _of_weights(folder: Path, weights: str) -> bool:
    """Tell whether a folder's settings name these weights, or none, as in published folders."""
    settings = folder / "run.json"
    if not settings.is_file():
        return True
    return base.kept(read_object, settings).get("weights", weights) == weights


def _of_events(events: _Events, latent: int) -> list[Block]:
    """Return what a folder has of a latent; nothing where it has no event of it."""
    of_latent = {n: _rows(events, n, latent) for n in events.tables}
    scored = {n: ok for n, rows in of_latent.items() if (ok := _ok(rows))}
    if not scored:
        n_ctx = max(events.tables)
        if not of_latent[n_ctx]:
            return []
        why = ", ".join(dict.fromkeys(row.status for row in of_latent[n_ctx]))
        said = f"{len(of_latent[n_ctx])} events of this latent have no entropy: {why}."
        return [blocks.text(said, source=_source(events, f"ctx{n_ctx}"))]
    n_ctx = max(scored)
    every = _ok(_rows(events, n_ctx))
    made = [
        _facts(events, n_ctx, scored[n_ctx], every),
        *_strips(events, n_ctx, latent, scored[n_ctx]),
        _distribution(events, n_ctx, scored[n_ctx], every),
    ]
    return [*made, _against_length(events, scored)] if len(scored) > 1 else made


def _rows(events: _Events, n_ctx: int, latent: int | None = None) -> list[_Event]:
    """Return the events of one length, of one latent or of all."""
    return [
        event
        for path in events.tables[n_ctx]
        for event in base.kept(_read, path)
        if latent is None or event.latent == latent
    ]


def _read(path: Path) -> list[_Event]:
    archive = path.with_name(f"influences_{path.stem}.npz")
    with reading(path, "a table of events"):
        return [_event(row, archive) for row in table_files.rows(path)]


def _event(row: dict[str, str], archive: Path) -> _Event:
    latent, rank = int(row["feature_id"]), int(event_tables.value_of(row, "event_idx"))
    bits = base.number(event_tables.value_of(row, "H_pos"))
    return _Event(
        latent,
        rank,
        math.nan if bits is None else bits,
        base.number(event_tables.value_of(row, "peak_value")),
        row.get("status") or OK,
        base.number(row.get("bos_share")),
        archive,
        row.get("npz_key") or event_tables.key(latent, rank),
    )


def _ok(rows: list[_Event]) -> list[_Event]:
    """Return the events that have an entropy, the strongest first."""
    ok = [row for row in rows if row.status == OK and math.isfinite(row.bits)]
    return sorted(ok, key=lambda row: row.rank)


def _facts(events: _Events, n_ctx: int, mine: list[_Event], every: list[_Event]) -> Block:
    bits = [event.bits for event in mine]
    sink = [event.bos_share for event in mine if event.bos_share is not None]
    others = [plain.mean(found) for found in _by_latent(every).values()]
    more_local = sum(one < plain.mean(bits) for one in others)
    found = [
        blocks.fact(
            "H_pos, mean over events",
            plain.mean(bits),
            unit="bits",
            about="Entropy of the influence over the tokens up to the peak; 2^H tokens in effect.",
        ),
        blocks.fact(
            "H_pos, deviation over events", plain.deviation(bits, sample=True), unit="bits"
        ),
        blocks.fact("Events", len(bits), about="Strongest places of the latent, scored."),
        blocks.fact("Window", n_ctx, unit="tokens"),
        blocks.fact(
            "Latents that are more local",
            f"{more_local} of {len(others)}",
            about="Latents of this folder with a lower mean H_pos.",
        ),
    ]
    if sink:
        about = "Part of all influence that BOS has, which is no position of the window."
        found.append(blocks.fact("Share of BOS", plain.mean(sink), unit="share", about=about))
    return blocks.facts(found, source=_source(events, f"ctx{n_ctx}"))


def _strips(events: _Events, n_ctx: int, latent: int, rows: list[_Event]) -> list[Block]:
    """Return the strongest events as texts tinted by influence."""
    texts, made = _texts(events.folder, latent), []
    for event in rows:
        if len(made) == SHOWN_EVENTS:
            break
        J = event.J
        if event.rank >= len(texts) or not math.fsum(J) > 0:
            continue
        text = texts[event.rank]
        tokens = text["tokens"][: text["token_idx"] + 1]  # published texts go on after the peak
        k = min(SHOWN_TOKENS, len(J), len(tokens))
        total, largest = math.fsum(J), max(J)
        size = [math.sqrt(j / largest) for j in J[-k:]]  # of a size that the eye tells apart
        root = blocks.channel("size", size, unit="root of J over the largest J")
        share = blocks.channel("share", [j / total for j in J[-k:]], unit="share of influence")
        at = "" if event.value is None else f"Activation {event.value:.4g} act units at the peak. "
        if not made:
            at += "Tinted by the influence J of each token on the latent at the last one. "
        made.append(
            blocks.strip(
                tokens[-k:],
                [root, share],
                peak=k - 1,
                title=f"Event {event.rank + 1}: H_pos {event.bits:.3g} bits",
                about=f"{at}Window of {len(J)} tokens.",
                source=_source(events, f"influences_ctx{n_ctx}.npz"),
            )
        )
    return made


def _arrays(path: Path) -> dict[str, Any]:
    return read_npz(path, kinds="fiubU")


def _texts(folder: Path, latent: int) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("top_contexts_layer*.json"))
    found = base.kept(read_object, paths[0]) if paths else {}
    return found.get(str(latent), {}).get("examples", [])


def _by_latent(rows: list[_Event]) -> dict[int, list[float]]:
    by: dict[int, list[float]] = {}
    for row in rows:
        by.setdefault(row.latent, []).append(row.bits)
    return by


def _distribution(events: _Events, n_ctx: int, mine: list[_Event], every: list[_Event]) -> Block:
    """Return how H_pos of the latent's events lies among that of all events of the folder."""
    width = math.log2(n_ctx) / BINS
    middle = [(i + 0.5) * width for i in range(BINS)]

    def shares(found: list[_Event]) -> list[float]:
        counts = [0] * BINS
        for event in found:
            counts[min(BINS - 1, max(0, int(event.bits / width)))] += 1
        return [count / len(found) for count in counts]

    drawn = [
        blocks.series(f"this latent ({len(mine)} events)", middle, shares(mine)),
        blocks.series(f"all latents scored ({len(every)} events)", middle, shares(every)),
    ]
    return blocks.lines(
        drawn,
        x={"label": "H_pos (bits)"},
        y={"label": "share of events"},
        title="H_pos against that of the SAE's other latents",
        about=f"In bins of {width:.3g} bits, up to log2 of the window's {n_ctx} tokens.",
        source=_source(events, f"ctx{n_ctx}"),
    )


def _against_length(events: _Events, scored: dict[int, list[_Event]]) -> Block:
    lengths = list(scored)
    mean = [plain.mean([event.bits for event in rows]) for rows in scored.values()]
    drawn = [
        blocks.series("mean over events", lengths, mean),
        blocks.series("most: log2 of the window", lengths, [math.log2(n) for n in lengths]),
    ]
    return blocks.lines(
        drawn,
        x={"label": "window (tokens)", "log": True},
        y={"label": "H_pos (bits)"},
        title="H_pos against the length of the window",
        about="An entropy that goes on rising means that the latent reads what longer text adds.",
        source=_source(events, "ctx*"),
    )


def _autocorrelation(path: Path, run: Path, index: "Index", latent: int) -> list[Block]:
    """Return how long a latent stays on, where a folder says; nothing where it does not."""
    folder, stem = path.parent, path.with_suffix("")
    config = folder / "run_config.json"
    made = base.kept(read_object, config) if config.is_file() else {}
    if made.get("site", index.site) != index.site:
        return []
    if not _of_weights(folder / "targets", index.weights):
        return []
    row = base.row_of(stem, latent, "feature_id")
    if row is None:
        return []
    source = f"{base.named(folder, run)}/{{}}; saekit locality autocorr"
    names = {
        "tau_1e": ("Lag where the autocorrelation falls to 1/e", "tokens"),
        "corr_length": ("Correlation length", "tokens"),
        "mean_run_length": ("Mean run of tokens it is on", "tokens"),
        "mean_H_pos": ("H_pos at tokens drawn where it is on", "bits"),
        "n_targets": ("Tokens drawn", "tokens"),
    }
    found = [
        blocks.fact(label, base.number(row[name]), unit=unit)
        for name, (label, unit) in names.items()
        if row.get(name)
    ]
    summary = source.format(path.name)
    shown = [blocks.facts(found, title="How long it stays on", source=summary)] if found else []
    curves = base.rows_of(folder / "autocorr_curves", latent, "feature_id")
    if curves:
        shown.append(_curves(curves, source.format("autocorr_curves")))
    return shown


def _curves(rows: list[dict[str, str]], source: str) -> Block:
    lags = [int(row["lag"]) for row in rows]
    kinds = {"autocorr": "activation", "autocorr_on": "whether it is on"}
    drawn = [
        blocks.series(label, lags, [base.number(row[name]) for row in rows])
        for name, label in kinds.items()
        if name in rows[0]
    ]
    return blocks.lines(
        drawn,
        x={"label": "lag (tokens)"},
        y={"label": "autocorrelation"},
        title="Autocorrelation along the text",
        about="1 at lag 0; 0 for a latent that is on at random.",
        source=source,
    )


def _source(events: _Events, name: str) -> str:
    return f"{events.shown}/{name}; {COMMAND}"
