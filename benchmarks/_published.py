"""Published numbers that need no training: from published files, and formulas with known values.

A recipe returns a `Found`: the table that docs/measurements/published.md shows, and floors.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _command import Floor

from saekit.core.seeds import generator

# The results of the authors' notes, as one file; tests read it too.
RESULTS = Path(__file__).parents[1] / "tests" / "studies" / "faithful" / "published.json"
PILE = "pile-uncopyrighted"
ARMS = ("faithful", "fineweb", PILE)
PRINTED = {  # accuracy and macro F1 of probes on latents, means of 15 cells
    "faithful": (0.7042, 0.6347),
    "fineweb": (0.7009, 0.6298),
    PILE: (0.7056, 0.6342),
}
PRINTED_PAIRS = {  # difference and wins of 15: accuracy, macro F1
    ("faithful", "fineweb"): (0.0034, 10, 0.0049, 9),
    ("faithful", PILE): (-0.0014, 7, 0.0005, 6),
    ("fineweb", PILE): (-0.0047, 7, -0.0044, 7),
}
# Latents that fire on noise, of both seeds, by training text: own, FineWeb, the Pile.
FAKE = {
    "gemma-2-2b": (18432, (120, 122), (127, 137), (118, 128)),
    "gpt2-small": (12288, (36, 38), (34, 33), (33, 32)),
    "Llama-3.2-1B": (14336, (120, 106), (101, 101), (109, 105)),
    "Llama-3.2-3B": (18432, (2652, 2727), (2536, 2426), (2599, 2627)),
    "Llama-3.1-8B": (16384, (605, 576), (643, 653), (663, 652)),
    "pythia-1.4b": (14336, (1059, 1210), (1101, 1096), (1139, 1111)),
    "pythia-2.8b": (15360, (96, 99), (87, 84), (94, 93)),
}
PRINTED_FAKE = {  # percent, as printed in the notes
    "gemma-2-2b": (0.656, 0.716, 0.667),
    "gpt2-small": (0.301, 0.273, 0.264),
    "Llama-3.2-1B": (0.788, 0.705, 0.746),
    "Llama-3.2-3B": (14.59, 13.46, 14.18),
    "Llama-3.1-8B": (3.60, 3.96, 4.01),
    "pythia-1.4b": (7.91, 7.66, 7.85),
    "pythia-2.8b": (0.635, 0.557, 0.609),
}


class Found(NamedTuple):
    """A table as it is published on the page, and what it must reach."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    floors: list[Floor]
    settings: dict[str, Any] = {}  # what the numbers are of, for the file of rows


def markdown(found: Found) -> list[str]:
    """Return the table's lines."""
    lines = [found.columns, ("---",) * len(found.columns), *found.rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def away(rows: list[tuple[str, ...]], theirs: int, ours: int) -> int:
    """Return how many rows have other digits than those published."""
    return sum(not row[ours].startswith(row[theirs]) for row in rows)


def probing(options):
    """FaithfulSAE: probes on latents, aggregated over models and tasks."""
    from saekit.studies.faithful.aggregate import aggregate, read_cells

    found = aggregate(read_cells(RESULTS), without=["yelp_polarity"])
    assert found.corrected is not None  # pythia-2.8b has its own text too
    means = {r["data"]: r for r in found.averages.rows()}
    own = {r["data"]: r for r in found.corrected.averages.rows()}
    rows = [
        (
            f"{arm}: accuracy, F1",
            "{:.4f}, {:.4f}".format(*PRINTED[arm]),
            f"{means[arm]['sae_acc']:.4f}, {means[arm]['sae_f1']:.4f}",
            f"{own[arm]['sae_acc']:.4f}, {own[arm]['sae_f1']:.4f}",
            "",
        )
        for arm in ARMS
    ]
    for (one, other), printed in PRINTED_PAIRS.items():
        for at, metric in ((0, "sae_acc"), (2, "sae_f1")):
            pair, mine = (a.pair(one, other, metric) for a in (found, found.corrected))
            rows.append(
                (
                    f"{one} - {other}: {'F1' if at else 'accuracy'}",
                    f"{printed[at]:+.4f}, {printed[at + 1]} wins",
                    f"{pair.difference:+.4f}, {pair.wins} wins",
                    f"{mine.difference:+.4f}, {mine.wins} wins",
                    f"[{mine.low:+.4f}, {mine.high:+.4f}], {mine.p_sign:.2f}",
                )
            )
    columns = ("probes", "printed", "recomputed", "own text only", "95 %, p of signs")
    return Found(columns, rows, [Floor("probing: rows away from print", away(rows, 1, 2), most=0)])


def fakes(options):
    """FaithfulSAE: latents that fire on noise, in percent."""
    from saekit.core.stats.permutation import sign_flips
    from saekit.studies.faithful.aggregate import sign_test

    share = {
        model: tuple(100 * sum(pair) / 2 / n for pair in counts)
        for model, (n, *counts) in FAKE.items()
    }
    seeds = {
        model: max(100 * abs(a - b) / n for a, b in counts) for model, (n, *counts) in FAKE.items()
    }
    rows = []
    wrong = 0
    for model, found in share.items():
        printed = PRINTED_FAKE[model]
        digits = [len(f"{p}".partition(".")[2]) for p in printed]
        wrong += any(
            abs(f - p) > 0.5000001 * 10**-d for f, p, d in zip(found, printed, digits, strict=True)
        )
        rows.append(
            (
                model,
                ", ".join(f"{p:.{max(digits)}f}" for p in printed),
                ", ".join(f"{f:.{max(digits)}f}" for f in found),
                f"{seeds[model]:.3f}",
                "own" if min(found) == found[0] else ("FineWeb", "Pile")[found[1] > found[2]],
            )
        )
    for name, other in (("FineWeb", 1), ("the Pile", 2)):
        ratios = [math.log(found[0] / found[other]) for found in share.values()]
        wins = sum(r < 0 for r in ratios)
        p = sign_flips(torch.tensor(ratios), generator(0)).p
        mean = math.exp(sum(ratios) / len(ratios))
        rows.append(
            (
                f"own text below {name}",
                "5 of 7 models (paper)",
                f"{wins} of {len(ratios)}, p = {sign_test(wins, len(ratios)):.2f}",
                "",
                f"{mean:.2f} x in the mean, p = {p:.2f}",
            )
        )
    columns = (
        "own text, FineWeb, Pile",
        "printed, %",
        "recomputed, %",
        "most between two seeds",
        "lowest",
    )
    return Found(columns, rows, [Floor("fakes: models away from print", wrong, most=0)])


def formulas(options):
    """Values that the published definitions give, in closed form or on drawn directions."""
    from saekit.studies.layers.geometry import legacy_mmcs, mmcs
    from saekit.studies.locality.influence.entropy import entropy_bits, published_entropy_bits
    from saekit.studies.truth.model.spread import Spread

    def entropies(*values):
        J = torch.tensor([values], dtype=torch.float64)
        ours, theirs = float(entropy_bits(J)), float(published_entropy_bits(J))
        return theirs, "undefined" if math.isnan(ours) else f"{abs(ours):.4f}"

    rows, wrong = [], 0

    def add(what, theirs, legacy, ours, within):
        nonlocal wrong
        wrong += not abs(float(theirs) - legacy) <= within
        rows.append((what, theirs, f"{legacy:.4f}", ours))

    def bits(what, theirs, within, *values):
        add(f"locality: bits of {what}", theirs, *entropies(*values), within)

    bits("4 : 2 : 1 : 1", "1.75", 1e-9, 4.0, 2.0, 1.0, 1.0)
    bits("16 : 4 : 1 : 1 (linear attention)", "1.18670", 5e-6, 16.0, 4.0, 1.0, 1.0)
    bits("64 zeros", "6.0", 1e-9, *([0.0] * 64))
    bits("1e-12 at one of 64, else 0", "5.9916", 5e-5, 1e-12, *([0.0] * 63))
    chance = generator(0, "published")
    drawn = torch.randn(20_000, 32, generator=chance)
    what = "MLSAE: MMCS of 20,000 random rows of 32"
    add(what, "0.608", legacy_mmcs(drawn).mean, f"{mmcs(drawn).mean:.4f}", 1.5e-3)
    for n, width, theirs in ((64, 32, "0.12599"), (32, 8, "0.3111")):
        spread = Spread(steps=400, sharpen_steps=0).directions(n, width, chance).double()
        cosines = (spread @ spread.T)[~torch.eye(n, dtype=torch.bool)]
        rms = float(cosines.square().mean().sqrt())
        bound = math.sqrt((n - width) / (width * (n - 1)))
        add(f"SAELens: RMS cosine, {n} spread in {width}", theirs, rms, f"{bound:.4f}", 5e-5)
    columns = ("figure", "by the published code", "its formula here", "saekit's own definition")
    return Found(columns, rows, [Floor("formulas: rows away", wrong, most=0)])
