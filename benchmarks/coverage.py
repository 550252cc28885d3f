"""How often do the package's 95 % intervals hold the truth? All kinds, in one table.

    python benchmarks/coverage.py [--quick] [--check] [--json] [--run RUN]

Each line draws a text, a set of windows or a set of SAEs many times, takes the interval as the
package does, and counts how often it holds a known truth. Of synthetic draws the truth is set.
Of real text it is the value over a pool: what the SAE of `--run` (made by `saekit demo` where it
is not given) loses on each held-out document is measured once and kept in RUN/coverage, then
documents are drawn from it with replacement. `--quick` leaves real text out and draws seldom.
`--check` exits 1 where a share lies outside 92 to 98 % by more than chance allows.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import torch

from saekit.core.files import read_tensors, write_tensors
from saekit.core.stats.blocks import whole_blocks
from saekit.core.stats.means import half_width, mean_interval, median_interval
from saekit.core.stats.proportions import wilson
from saekit.evals.core import Core
from saekit.evals.intervals import BlockSums
from saekit.metrics.base import registry
from saekit.studies.truth.calibration import _rank_score

WANTED = (0.92, 0.98)
N_CTX = 128
POOL_TOKENS = 3 * 2**14  # about 150 documents
SETTINGS = {  # tokens: where they are used
    2**13: "ce_tokens of docs/layers.md",
    2**14: "ce_tokens, the default; n_tokens of docs/architectures.md",
    2**15: "layers eval, the default",
    2**16: "n_tokens, the default",
}
N_BLOCKS = Core().n_blocks


class Count:
    """Repetitions, how many had an interval, and how many of these held the truth."""

    def __init__(self, kind, setting, text):
        self.kind, self.setting, self.text = kind, setting, text
        self.n = self.had = self.held = 0
        self.reason = ""

    def add(self, low, high, truth, reason=""):
        self.n += 1
        self.reason = reason or self.reason
        if low is None or math.isnan(low):
            return
        self.had += 1
        self.held += low <= truth <= high

    @property
    def share(self):
        return self.held / self.had if self.had else None

    @property
    def fine(self):
        """Inside what is wanted, or outside by no more than three standard errors of chance."""
        if self.share is None:
            return True
        low, high = WANTED
        slack = 3 * math.sqrt(0.05 * 0.95 / self.had)
        return low - max(0, slack - 0.03) <= self.share <= high + max(0.005, slack)

    def record(self):
        return {
            "kind": self.kind, "setting": self.setting, "text": self.text, "repetitions": self.n,
            "with_interval": self.had, "coverage": self.share,
        }  # fmt: skip


def drawn(chance, tokens, size_of, n_documents):
    """Return documents drawn with replacement until they hold so many tokens."""
    found, total = [], 0
    while total < tokens:
        one = int(torch.randint(n_documents, (), generator=chance))
        found.append(one)
        total += int(size_of[one])
    return torch.tensor(found)


def score_of_documents(metric, sums, sizes):
    """Return the score as `saekit eval` has it, of the sums of each document."""
    block = whole_blocks(sizes, N_BLOCKS)
    n = int(block.max()) + 1
    found = BlockSums(metric, torch.zeros(n).index_add_(0, block, sizes.float()))
    by_block = {k: v.new_zeros(n, *v.shape[1:]).index_add_(0, block, v) for k, v in sums.items()}
    for b in range(n):
        found.add(b, {k: v[b] for k, v in by_block.items()})
    return found.score()


def on_real_text(run, repeats):
    """Return counts of every metric at every setting, on documents of the run's held-out text."""
    pool = pool_of(run)
    size_of = pool.pop("sizes")
    names = sorted({key.split("/")[0] for key in pool})
    for tokens, used in SETTINGS.items():
        chance = torch.Generator().manual_seed(tokens)
        counts = {n: Count(f"eval {n}", f"{tokens:,} tokens ({used})", "real") for n in names}
        metrics = {n: registry.get(n)() for n in names}
        of = {n: {k.split("/")[1]: v for k, v in pool.items() if k.split("/")[0] == n}
              for n in names}  # fmt: skip
        truth = {n: metrics[n].compute({k: v.sum(0) for k, v in of[n].items()}) for n in names}
        for _ in range(repeats):
            chosen = drawn(chance, tokens, size_of, len(size_of))
            for n in names:
                sums = {k: v[chosen] for k, v in of[n].items()}
                score = score_of_documents(metrics[n], sums, size_of[chosen])
                counts[n].add(score.low, score.high, truth[n], score.reason)
        yield from counts.values()


def pool_of(run):
    """Return the sums of every metric by document, measured once and kept."""
    path = run / "coverage" / "pool.safetensors"
    if path.exists():
        return dict(read_tensors(path))
    from saekit.cli.evaluate import model_of, text_of
    from saekit.core.progress import Progress
    from saekit.data.tokenise import TokenStream
    from saekit.evals._reconstruction import Reconstruction
    from saekit.evals._splicing import Splicing
    from saekit.evals.base import Subject
    from saekit.evals.intervals import blocks_of_documents
    from saekit.hub.native import load

    loaded = load(run)
    lm, card = model_of(loaded, "cpu"), loaded.card
    stream = TokenStream(text_of(loaded, None), "test", lm.tokenizer, n_ctx=card.n_ctx,
                         bos_each_row=card.bos)  # fmt: skip
    site = card.pair.reads[0]
    subject = Subject(loaded.sae, lm, site, site, card.rules[str(site)], "pool")
    rows = next(iter(stream.rows(POOL_TOKENS // card.n_ctx)))
    blocks = blocks_of_documents(rows.doc_ids, 10**9)
    bar = Progress("pool", rows.tokens.numel() * 4)
    with torch.no_grad():
        part = Reconstruction(subject, blocks)
        splicing = Splicing(lm, [site], subject.rule.special_ids, bar)
        for first in range(0, len(rows.tokens), 8):
            some = rows.tokens[first : first + 8]
            clean, acts = splicing.clean(some, [site])
            splicing.compare(some, clean, part.add(first, some, acts))
        splicing.ablate_mean(part.mean)
    bar.close()
    found = {"sizes": blocks.sizes}
    for name, sums in (part.blocks | splicing.sums(blocks)).items():
        if sums.metric.resampled:
            found |= {f"{name}/{key}": value.contiguous() for key, value in sums.stacked().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, found)
    return found


def on_synthetic_text(repeats):
    """Documents of 2.6 rows on average whose tokens are alike, evenly spread or skewed."""
    metric = registry.get("mse")()
    for kind in ("even", "skewed"):
        for tokens in SETTINGS:
            chance = torch.Generator().manual_seed(tokens)
            count = Count("eval, a mean over tokens", f"{tokens:,} tokens", f"synthetic, {kind}")
            for _ in range(repeats):
                n = tokens // 200
                sizes = 8 + torch.empty(n, dtype=torch.float64).exponential_(
                    1 / 325, generator=chance
                )
                sizes = sizes[: int((sizes.cumsum(0) < tokens).sum()) + 1].round()
                shared = torch.randn(len(sizes), dtype=torch.float64, generator=chance)
                own = torch.randn(len(sizes), dtype=torch.float64, generator=chance)
                value = 10 + 0.8 * shared + 0.6 * own / sizes.sqrt()
                truth = 10.0
                if kind == "skewed":
                    value, truth = (0.6 * shared).exp(), math.exp(0.18)
                score = score_of_documents(metric, {"entries": sizes, "ee": sizes * value}, sizes)
                count.add(score.low, score.high, truth, score.reason)
            yield count


def of_means(repeats):
    """Means over windows, events or latents, of values as entropies are spread."""
    spreads = {  # draws, the mean, whether values are above 0
        "normal": (lambda n, g: torch.randn(n, generator=g), 0.0, False),
        "uniform": (lambda n, g: 1 + 2 * torch.rand(n, generator=g), 2.0, True),
        "skewed": (lambda n, g: sum(torch.empty(n).exponential_(1.0, generator=g)
                                    for _ in range(4)), 4.0, True),
        "exponential": (lambda n, g: torch.empty(n).exponential_(1.0, generator=g), 1.0, True),
    }  # fmt: skip
    used = {4: "events of a latent, docs", 8: "least; locality check", 10: "windows, docs",
            20: "windows", 40: "latents, docs", 60: "autocorrelation, docs"}  # fmt: skip
    for name, (draw, truth, positive) in spreads.items():
        for n, why in used.items():
            chance = torch.Generator().manual_seed(n)
            count = Count("locality, mean over units", f"{n} units ({why})", name)
            for _ in range(repeats):
                _, low, high = mean_interval(draw(n, chance).double(), positive=positive)
                count.add(float(low), float(high), truth)
            yield count
    chance = torch.Generator().manual_seed(1)
    count = Count("locality, events of latents", "40 latents, 239 events", "skewed")
    for _ in range(repeats):
        groups = torch.arange(40).repeat_interleave(6)[:239]
        shared = spreads["skewed"][0](40, chance)
        values = shared[groups] + torch.rand(239, generator=chance)
        _, low, high = mean_interval(values.double(), groups, positive=True)
        count.add(float(low), float(high), 4.5)
    yield count
    count = Count("layers, mean over latents ±", "2,000 latents", "exponential")
    for _ in range(repeats):
        values = torch.empty(2000).exponential_(1.0, generator=chance).double()
        half = half_width(float(values.std(correction=0)), 2000)
        count.add(float(values.mean()) - half, float(values.mean()) + half, 1.0)
    yield count
    count = Count("locality check, false 'in order'", "8 windows of 6 latents, none alike", "-")
    for _ in range(repeats):
        values = torch.rand(48, generator=chance).double() * 2 - 1
        values += (torch.rand(8, generator=chance).double() - 0.5).repeat_interleave(6)
        _, low, high = mean_interval(values, torch.arange(8).repeat_interleave(6))
        count.add(float(low), float(high), 0.0)
    yield count


def of_others(repeats):
    """Medians, shares, rank correlations, and recovery of a known truth."""
    chance = torch.Generator().manual_seed(0)
    count = Count("density, median over latents", "4,096 latents", "log-normal")
    for _ in range(repeats):
        _, low, high = median_interval(torch.randn(4096, generator=chance).exp())
        count.add(low, high, 1.0)
    yield count
    for share in (0.001, 0.05):
        count = Count("dead, share of latents (Wilson)", f"{share} of 4,096", "-")
        for _ in range(repeats):
            count.add(*wilson(float((torch.rand(4096, generator=chance) < share).float().mean()),
                              4096), share)  # fmt: skip
        yield count
    for rho in (0.0, 0.5, 0.9):
        for n in (6, 12):
            count = Count("truth, rank correlation", f"{n} SAEs of 3 truths", f"rho {rho}")
            truth = 6 / math.pi * math.asin(rho / 2)
            for _ in range(repeats // 2):
                x, z = torch.randn(2, 3, n, generator=chance)
                y = rho * x + math.sqrt(1 - rho**2) * z
                score = _rank_score([torch.stack(both, 1) for both in zip(x, y, strict=True)])
                count.add(score.low, score.high, truth)
            yield count
    metric = registry.get("mse")()
    count = Count("truth eval, over samples", "64 blocks of 1,024 samples", "skewed")
    for _ in range(repeats):
        sums = BlockSums(metric, torch.ones(64))
        for b in range(64):
            e = torch.empty(64).exponential_(1.0, generator=chance).double()
            sums.add(b, {"entries": torch.tensor(64.0).double(), "ee": e.sum()})
        score = sums.score()
        count.add(score.low, score.high, 1.0)
    yield count


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="no real text, few repetitions")
    parser.add_argument("--check", action="store_true", help="exit 1 where a share is off")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--run", type=Path, default=Path("demo"), help="a run of `saekit demo`")
    asked = parser.parse_args()
    repeats = 200 if asked.quick else 1000
    parts = [on_synthetic_text(repeats), of_means(2 * repeats), of_others(repeats)]
    if not asked.quick:
        if not (asked.run / "run.json").exists():
            subprocess.run(["saekit", "demo", "--out", str(asked.run), "--quiet"], check=True)
        parts.insert(0, on_real_text(asked.run, repeats // 2))
    found = []
    if not asked.json:
        print("| interval | setting | text or values | with one | holds the truth |")
        print("|---|---|---|---|---|")
    for part in parts:
        for count in part:
            found.append(count)
            if not asked.json:
                share = "none is given" if count.share is None else f"{100 * count.share:.1f} %"
                print(f"| {count.kind} | {count.setting} | {count.text} | {count.had} of "
                      f"{count.n} | {share} |", flush=True)  # fmt: skip
    off = [c.record() for c in found if not c.fine]
    if asked.json:
        print(json.dumps({"counts": [c.record() for c in found], "off": off}))
    if asked.check and off:
        print(f"{len(off)} outside {WANTED}: {off}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
