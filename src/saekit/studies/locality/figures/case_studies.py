"""Case studies: a card for each latent, its events tinted by where influence comes from."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from saekit.core.result import Table
from saekit.core.stats import plain
from saekit.core.stats.means import mean_interval
from saekit.report.bare_page import escaped, write_page

SHADES = 20
WHITE_OVER = 0.65  # of the darkest shade, text is white
EDGES = 25  # of the histogram
STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:24px auto;max-width:1080px;padding:0 16px}
body{color:#1a1a1a;background:#fff}
h1{font-size:20px;margin:0 0 4px}.facts{color:#555;margin:0 0 18px}.facts span{margin-right:16px}
.card{border:1px solid #d8d8d8;border-radius:6px;padding:12px 16px;margin:0 0 16px}
.card h2{font-size:16px;margin:0}.card h2 small{font-weight:400;color:#555;margin-left:8px}
.said{color:#333;margin:2px 0 8px}.top{display:flex;gap:28px;align-items:flex-start;flex-wrap:wrap}
.event{display:grid;grid-template-columns:190px 1fr;gap:10px}
.event{border-top:1px solid #eee;padding:5px 0}.event .num{color:#666;font-size:12px}
.text{font:13px/1.75 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.t{padding:1px 0;border-radius:2px}.peak{outline:2px solid #d62728;outline-offset:-1px}
.nl{opacity:.45}.bar{display:flex;align-items:center;font-size:12px;color:#555;margin:0 0 14px}
.bar i{display:inline-block;width:14px;height:12px}
svg text{font:10px system-ui,sans-serif;fill:#555}
.none{color:#777;font-style:italic}
"""


class CardEvent(NamedTuple):
    """A stretch of text that ends with the peak."""

    pieces: Sequence[str]  # of the last tokens, the peak last
    ids: Sequence[int]  # of the same; empty where they are not known
    J: Sequence[float]  # what tints each: influence, or what `write` is told
    activation: float  # act units
    H: float  # bits; NaN where none was taken
    n_positions: int


class Card(NamedTuple):
    """What is shown of one latent."""

    latent: int
    description: str
    H: Sequence[float]  # of every event with an entropy, bits
    events: Sequence[CardEvent]  # the strongest
    notes: Sequence[str] = ()  # short facts, as "tau_1e 3.2 tokens"
    trace: Sequence[float | None] = ()  # mean activation around peaks, the peak in the middle
    link: str = ""  # of a page about it, https only


def write(
    path: Path,
    cards: Sequence[Card],
    *,
    n_ctx: int,
    title: str,
    facts: Mapping[str, object],
    tint: str = "influence",
) -> Path:
    """Write one self-contained page of cards, in the order given.

    A token's tint is sqrt(J / max J) over the tokens shown. Text of the corpus and
    descriptions are escaped; nothing is loaded from elsewhere. The numbers behind the cards
    go beside it as CSV: a row per event shown.

    Args:
        path: the page.
        cards: what to show.
        n_ctx: tokens of a window, which bounds the entropy.
        title: heading.
        facts: what the page is of: model, site, population.
        tint: what `CardEvent.J` is.
    """
    listed = "".join(f"<span><b>{escaped(k)}</b> {escaped(v)}</span>" for k, v in facts.items())
    scale = "".join(f'<i class="s{k}"></i>' for k in range(SHADES + 1))
    body = (
        f"<h1>{escaped(title)}</h1><p class=facts>{listed}</p>"
        f"<div class=bar>0 {scale} 1 &nbsp; sqrt({escaped(tint)} / largest shown); red frame: the "
        f"peak; brackets: 95 % interval of the mean over events, from 8 events on</div>"
        + "\n".join(_card(card, n_ctx, tint) for card in cards)
    )
    write_page(path, title, body, STYLE + _shades())
    table(cards).write_csv(path.with_suffix(".csv"))
    return path


def table(cards: Sequence[Card]) -> Table:
    """Return one row per event shown."""
    columns: dict[str, list] = {
        c: []
        for c in (
            "feature_id",
            "n_events",
            "mean_h_pos",
            "std_h_pos",
            "activation",
            "H_pos",
            "n_positions",
            "text",
        )
    }
    for card in cards:
        mean, std = moments(card.H)
        for event in card.events:
            row = (
                card.latent,
                len(card.H),
                mean,
                std,
                event.activation,
                event.H,
                event.n_positions,
                "".join(event.pieces),
            )
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    units = {"mean_h_pos": "bits", "std_h_pos": "bits", "H_pos": "bits", "activation": "act units"}
    return Table(columns=columns, units=units)


def interval(card: Card) -> tuple[float, float]:
    """Return the 95 % interval of the mean of H over events; NaN below 8 events."""
    H = torch.tensor(card.H, dtype=torch.float64)
    _, low, high = mean_interval(H, positive=True)
    return float(low), float(high)


def _ends(card: Card) -> str:
    low, high = interval(card)
    return "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"


def moments(H: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation with divisor n."""
    return plain.mean(H), plain.deviation(H)


def _card(card: Card, n_ctx: int, tint: str) -> str:
    mean, std = moments(card.H)
    measured = (
        f"H<sub>pos</sub> {mean:.2f}{_ends(card)} bits, std {std:.2f}, {len(card.H)} events"
        if card.H
        else "no event with an entropy"
    )
    name = f"latent {card.latent}"
    if card.link.startswith("https://"):
        name = f'<a href="{escaped(card.link)}" rel="noreferrer">{name}</a>'
    notes = " · ".join(escaped(note) for note in card.notes)
    said = f"<p class=said>{escaped(card.description)}</p>" if card.description else ""
    plots = histogram(card.H, n_ctx) + (_trace(card.trace) if card.trace else "")
    events = "".join(_event(e, tint) for e in card.events) or "<p class=none>no event to show</p>"
    return (
        f"<section class=card><h2>{name}<small>{measured}</small></h2>{said}"
        f"<div class=top>{plots}<p>{notes}</p></div>{events}</section>"
    )


def _event(event: CardEvent, tint: str) -> str:
    top = max((j for j in event.J if not math.isnan(j)), default=0.0)
    tokens = []
    for k, (piece, j) in enumerate(zip(event.pieces, event.J, strict=True)):
        share = 0.0 if math.isnan(j) or top <= 0 else math.sqrt(max(j, 0.0) / top)
        back = len(event.pieces) - 1 - k
        classes = f"t s{round(SHADES * share)}" + (" peak" if back == 0 else "")
        hover = f"position {-back}, {tint} {j:.3g}"
        hover += f", token {event.ids[k]}" if event.ids else ""
        text = escaped(piece).replace("\n", '<span class="nl">⏎</span>')
        tokens.append(f'<span class="{classes}" title="{escaped(hover)}">{text}</span>')
    taken = not math.isnan(event.H)
    H = f"<br>{event.H:.2f} bits over {event.n_positions} tokens" if taken else ""
    return (
        f"<div class=event><span class=num>activation {event.activation:.3g}{H}</span>"
        f"<span class=text>{''.join(tokens)}</span></div>"
    )


def histogram(H: Sequence[float], n_ctx: int) -> str:
    """Return a drawing of how often each entropy is, from 0 to log2 of the window."""
    full = math.log2(n_ctx) if n_ctx > 1 else 1.0
    counts = [0] * (EDGES - 1)
    for h in H:
        counts[min(int(h / full * len(counts)), len(counts) - 1)] += 1
    top, w, high = max(counts) or 1, 9, 54
    bars = "".join(
        f'<rect x="{k * w + 4}" y="{4 + high * (1 - c / top):.1f}" width="{w - 1}" '
        f'height="{high * c / top:.1f}" fill="#0072b2"/>'
        for k, c in enumerate(counts)
        if c
    )
    wide = len(counts) * w
    return (
        f'<svg width="{wide + 10}" height="{high + 22}" role="img">{bars}'
        f'<line x1="4" x2="{wide + 4}" y1="{high + 4}" y2="{high + 4}" stroke="#888"/>'
        f'<text x="4" y="{high + 17}">0</text><text x="{wide + 4}" y="{high + 17}" '
        f'text-anchor="end">log2 {n_ctx} = {full:.2f} bits</text></svg>'
    )


def _trace(trace: Sequence[float | None]) -> str:
    wide, high, n = 260, 54, len(trace)
    points, runs = [], []
    for k, value in enumerate(trace):
        if value is None or math.isnan(value):
            runs, points = [*runs, points], []
        else:
            share = min(max(value, 0.0), 1.0)
            points.append(f"{4 + wide * k / max(n - 1, 1):.1f},{4 + high * (1 - share):.1f}")
    lines = "".join(
        f'<polyline points="{" ".join(run)}" fill="none" stroke="#d55e00" stroke-width="1.4"/>'
        for run in [*runs, points]
        if run
    )
    side = n // 2
    return (
        f'<svg width="{wide + 10}" height="{high + 22}" role="img">{lines}'
        f'<line x1="4" x2="{wide + 4}" y1="{high + 4}" y2="{high + 4}" stroke="#888"/>'
        f'<text x="4" y="{high + 17}">-{side}</text><text x="{wide / 2 + 4}" y="{high + 17}" '
        f'text-anchor="middle">peak</text><text x="{wide + 4}" y="{high + 17}" '
        f'text-anchor="end">+{side} tokens</text></svg>'
    )


def _shades() -> str:
    """Return one class a shade, from white to a dark green."""
    ends = ((255, 255, 255), (0, 90, 50))
    rules = []
    for k in range(SHADES + 1):
        share = k / SHADES
        rgb = ",".join(str(round(a + (b - a) * share)) for a, b in zip(*ends, strict=True))
        white = ";color:#fff" if share > WHITE_OVER else ""
        rules.append(f".s{k}{{background:rgb({rgb}){white}}}")
    return "".join(rules)
