"""Feature table: a row for each latent of a folder of events, the most local first, as one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from saekit.core.result import Table
from saekit.report.bare_page import escaped, write_page
from saekit.report.figures.case_studies import Card, histogram, moments

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
    path: Path, cards: Sequence[Card], *, n_ctx: int, title: str, facts: Mapping[str, object]
) -> Path:
    """Write one self-contained page with a row a latent, in the order given, and its CSV.

    A row has the mean and deviation (divisor n) of H_pos, its histogram from 0 to log2 N, which
    share of peaks are distinct tokens, and the strongest contexts with the peak in bold. Text is
    escaped; nothing is loaded from elsewhere.

    Args:
        path: the page.
        cards: the latents.
        n_ctx: tokens of a window.
        title: heading.
        facts: what the page is of.
    """
    listed = "".join(f"<span><b>{escaped(k)}</b> {escaped(v)}</span>" for k, v in facts.items())
    head = "<tr><th>latent</th><th>H<sub>pos</sub>, bits</th><th>events</th><th>distinct peaks</th>"
    head += "<th>histogram</th><th>strongest contexts</th></tr>"
    rows = "\n".join(_row(card, n_ctx) for card in cards)
    body = f"<h1>{escaped(title)}</h1><p class=facts>{listed}</p><table>{head}{rows}</table>"
    write_page(path, title, body, STYLE)
    table(cards).write_csv(path.with_suffix(".csv"))
    return path


def table(cards: Sequence[Card]) -> Table:
    """Return a row a latent: what published files call feature_quality_stats, and H."""
    columns: dict[str, list] = {
        c: [] for c in ("feature_id", "n_events", "mean_h_pos", "std_h_pos", "frac_unique",
                        "description")
    }  # fmt: skip
    for card in cards:
        row = (card.latent, len(card.H), *moments(card.H), peak_diversity(card), card.description)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return Table(columns=columns, units={"mean_h_pos": "bits", "std_h_pos": "bits"})


def peak_diversity(card: Card) -> float | None:
    """Return the share of events whose peak is a token of its own; None without events."""
    peaks = [event.ids[-1] for event in card.events]
    return len(set(peaks)) / len(peaks) if peaks else None


def _row(card: Card, n_ctx: int) -> str:
    mean, std = moments(card.H)
    share = peak_diversity(card)
    name = str(card.latent)
    if card.link.startswith("https://"):
        name = f'<a href="{escaped(card.link)}" rel="noreferrer">{name}</a>'
    said = f"<div class=said>{escaped(card.description)}</div>" if card.description else ""
    texts = "<br>".join(_context(e.pieces[-TOKENS - 1 :]) for e in card.events[:CONTEXTS])
    return (
        f"<tr><td>{name}{said}</td>"
        f"<td class=num>{f'{mean:.2f} ± {std:.2f}' if card.H else 'none'}</td>"
        f"<td class=num>{len(card.H)}</td>"
        f"<td class=num>{'' if share is None else f'{share:.0%}'}</td>"
        f"<td>{histogram(card.H, n_ctx)}</td><td class=text>{texts}</td></tr>"
    )


def _context(pieces: Sequence[str]) -> str:
    *before, peak = (escaped(p).replace("\n", "⏎") for p in pieces)
    return f"{''.join(before)}<b>{peak}</b>"
