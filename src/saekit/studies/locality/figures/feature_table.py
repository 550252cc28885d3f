"""Feature table: a row for each latent of a folder of events, the most local first, as one page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from saekit.core.result import Table
from saekit.report.bare_page import escaped, write_page
from saekit.studies.locality.events.quality import Quality, of_peaks
from saekit.studies.locality.figures.case_studies import Card, histogram, interval, moments

CONTEXTS = 3  # of the strongest events, shown
TOKENS = 8  # before the peak
STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:24px auto;max-width:1180px;padding:0 16px}
body{color:#1a1a1a;background:#fff}
h1{font-size:20px;margin:0 0 4px}.facts{color:#555;margin:0 0 18px}.facts span{margin-right:16px}
table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600;color:#444}
td,th{border-top:1px solid #e2e2e2;padding:6px 10px;vertical-align:top}
.num{text-align:right;white-space:nowrap}.said{color:#555;font-size:12px}
.text{font:12px/1.7 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
svg text{font:10px system-ui,sans-serif;fill:#555}
"""


def write(
    path: Path,
    cards: Sequence[Card],
    *,
    n_ctx: int,
    title: str,
    facts: Mapping[str, object],
    quality: Mapping[int, Quality] | None = None,
) -> Path:
    """Write one self-contained page with a row a latent, in the order given, and its CSV.

    A row has the mean of H_pos with its 95 % interval over events, the deviation (divisor n),
    the histogram from 0 to log2 N, which share of peaks are distinct tokens and which are BOS,
    the recall of the explanation where it is known, and the strongest contexts with the peak in
    bold. Text is escaped; nothing is loaded from elsewhere.

    Args:
        path: the page.
        cards: the latents.
        n_ctx: tokens of a window.
        title: heading.
        facts: what the page is of.
        quality: of latents; what their events tell where one is missing.
    """
    known = {c.latent: (quality or {}).get(c.latent, of_card(c)) for c in cards}
    listed = "".join(f"<span><b>{escaped(k)}</b> {escaped(v)}</span>" for k, v in facts.items())
    names = ["latent", "mean H<sub>pos</sub>, bits", "events", "distinct peaks"]
    recall = any(q.recall_alt is not None for q in known.values())
    names += [*["recall"] * recall, "histogram", "strongest contexts"]
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
    rows = "\n".join(_row(card, n_ctx, known[card.latent], recall) for card in cards)
    body = f"<h1>{escaped(title)}</h1><p class=facts>{listed}</p><table>{head}{rows}</table>"
    write_page(path, title, body, STYLE)
    table(cards, known).write_csv(path.with_suffix(".csv"))
    return path


def table(cards: Sequence[Card], quality: Mapping[int, Quality]) -> Table:
    """Return a row a latent: H with its interval, and what is known of its quality."""
    columns: dict[str, list] = {
        c: []
        for c in (
            "feature_id",
            "n_events",
            "mean_h_pos",
            "std_h_pos",
            "low",
            "high",
            *Quality._fields,
            "description",
        )
    }
    for card in cards:
        row = (
            card.latent,
            len(card.H),
            *moments(card.H),
            *interval(card),
            *quality[card.latent],
            card.description,
        )
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return Table(
        columns=columns, units=dict.fromkeys(("mean_h_pos", "std_h_pos", "low", "high"), "bits")
    )


def of_card(card: Card) -> Quality:
    """Return what the events of a card tell: all of a latent's, in a table."""
    ids = [e.ids[-1] for e in card.events if e.ids]
    return of_peaks([e.pieces[-1] for e in card.events], ids)


def _row(card: Card, n_ctx: int, quality: Quality, recall: bool) -> str:
    mean, std = moments(card.H)
    low, high = interval(card)
    ends = "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"
    H = f"{mean:.2f}{ends}<div class=said>std {std:.2f}</div>" if card.H else "none"
    share, score = quality.frac_unique, quality.recall_alt
    bos = f"<div class=said>BOS {quality.frac_bos:.0%}</div>" if quality.frac_bos else ""
    scored = f"<td class=num>{'' if score is None else f'{score:.2f}'}</td>" if recall else ""
    name = str(card.latent)
    if card.link.startswith("https://"):
        name = f'<a href="{escaped(card.link)}" rel="noreferrer">{name}</a>'
    said = f"<div class=said>{escaped(card.description)}</div>" if card.description else ""
    texts = "<br>".join(_context(e.pieces[-TOKENS - 1 :]) for e in card.events[:CONTEXTS])
    return (
        f"<tr><td>{name}{said}</td>"
        f"<td class=num>{H}</td><td class=num>{len(card.H)}</td>"
        f"<td class=num>{'' if share is None else f'{share:.0%}'}{bos}</td>{scored}"
        f"<td>{histogram(card.H, n_ctx)}</td><td class=text>{texts}</td></tr>"
    )


def _context(pieces: Sequence[str]) -> str:
    *before, peak = (escaped(p).replace("\n", "⏎") for p in pieces)
    return f"{''.join(before)}<b>{peak}</b>"
