"""How often do the package's 95 % intervals hold the truth? All kinds, in one table.

    python benchmarks/interval_coverage.py [--quick] [--check] [--json] [--run RUN]
    python benchmarks/interval_coverage.py --evaluations  # probes, interventions, letters, verdicts
    python benchmarks/interval_coverage.py --ways 60    # compared with a bootstrap, on 60 documents

Each line draws a text, a set of windows or a set of SAEs many times, takes the interval as the
package does, and counts how often it holds a known truth. Of synthetic draws the truth is set.
Of real text it is the value over a pool: what the SAE of `--run` (made by `saekit demo` where it
is not given) loses on each held-out document is measured once and kept in RUN/coverage, then
documents are drawn from it with replacement. `--quick` leaves real text out and draws seldom.
`--check`, with `--quick` too: no share lies outside 92 to 98 % by more than chance allows.
"""

import itertools
import math
import subprocess
import sys
from pathlib import Path
from statistics import median

import _command
import _evaluation_coverage
import torch
from _coverage import WANTED, Count

from saekit.core.files import read_tensors, write_tensors
from saekit.core.stats.blocks import whole_blocks
from saekit.core.stats.jackknife import jackknife
from saekit.core.stats.means import half_width, mean_interval, median_interval
from saekit.core.stats.proportions import wilson
from saekit.core.stats.student import t_quantile
from saekit.evals.core import Core
from saekit.evals.intervals import BlockSums, score_of, too_few
from saekit.metrics.base import registry
from saekit.studies.faithful.stability.intervals import of_share
from saekit.studies.truth.calibration import _rank_score

N_CTX = 128
POOL_TOKENS = {"reconstruction": 3 * 2**15, "losses": 2**14}  # some 300 and 50 documents
PART_TOKENS = 2**12
SETTINGS = {  # tokens: where they are used
    2**10: "layers eval, the default of ce_tokens",
    2**11: "tables of architectures and quality: ce_tokens",
    2**13: "tables of layers and training: n_tokens",
    2**14: "ce_tokens, the default; table of architectures: n_tokens",
    2**15: "layers eval, the default of tokens",
    2**16: "n_tokens, the default",
}
WAYS = (
    "this one",
    "percentiles of a bootstrap",
    "BCa",
    "studentised bootstrap",
    "Student's t, plain scale",
)
DRAWS = 1000
N_BLOCKS = Core().n_blocks
MEAN_LENGTH = 325  # tokens of a synthetic document, beside 8
KINDS = ("even", "skewed", "long ones differ")


def drawn(chance, tokens, size_of, n_documents):
    """Return documents drawn with replacement until they hold so many tokens."""
    found, total = [], 0
    while total < tokens:
        one = int(torch.randint(n_documents, (), generator=chance))
        found.append(one)
        total += int(size_of[one])
    return torch.tensor(found)


def score_of_documents(metrics, sums, sizes):
    """Return the score as `saekit eval` has it, of the sums of each document at each layer."""
    block = whole_blocks(sizes, N_BLOCKS)
    n = int(block.max()) + 1
    even = torch.zeros(n).index_add_(0, block, sizes.float())
    found = [BlockSums(metric, even) for metric in metrics]
    for one, own in zip(found, sums, strict=True):
        by_block = {k: v.new_zeros(n, *v.shape[1:]).index_add_(0, block, v) for k, v in own.items()}
        for b in range(n):
            one.add(b, {k: v[b] for k, v in by_block.items()})
    return score_of(found)


def on_real_text(run, kind, pool_tokens, repeats):
    """Return counts of every metric at every setting, on documents of the run's held-out text."""
    pool = pool_of(run, kind, pool_tokens)
    size_of = pool.pop("sizes")
    text = f"real, {len(size_of)} documents"
    names = sorted({key.split("/")[0] for key in pool})
    for tokens, used in SETTINGS.items():
        chance = torch.Generator().manual_seed(tokens)
        counts = {n: Count(f"eval {n}", f"{tokens:,} tokens ({used})", text) for n in names}
        metrics = {n: registry.get(n)() for n in names}
        of = {
            n: {k.split("/")[1]: v for k, v in pool.items() if k.split("/")[0] == n} for n in names
        }
        truth = {n: metrics[n].compute({k: v.sum(0) for k, v in of[n].items()}) for n in names}
        for _ in range(repeats):
            chosen = drawn(chance, tokens, size_of, len(size_of))
            for n in names:
                sums = {k: v[chosen] for k, v in of[n].items()}
                score = score_of_documents([metrics[n]], [sums], size_of[chosen])
                counts[n].add(score.low, score.high, truth[n], score.reason)
        if not any(count.had for count in counts.values()):  # one line says so of all
            setting = next(iter(counts.values())).setting
            counts = {"": Count(f"eval, every score of {kind}", setting, text)}
            counts[""].n = repeats
        yield from counts.values()


def pool_of(run, kind, tokens):
    """Return the sums of every metric by document of so much text, and the documents' sizes.

    Measured once and kept in parts, so that a stop loses one part at most.

    Args:
        run: of the SAE.
        kind: "reconstruction", up to the site; "losses", through the whole model four times.
        tokens: of held-out text; all of it where there is less.
    """
    path = run / "coverage"
    path.mkdir(parents=True, exist_ok=True)
    names = [path / f"{kind}_{i:03d}.safetensors" for i in range(math.ceil(tokens / PART_TOKENS))]
    if not all(name.exists() for name in names):
        measure_pool(run, kind, names)
    parts = [dict(read_tensors(name)) for name in names if name.exists()]
    documents, place = torch.cat([p.pop("documents") for p in parts]).unique(return_inverse=True)
    # A document that goes on over two parts has sums in both.
    return {
        key: value.new_zeros(len(documents), *value.shape[1:]).index_add_(0, place, value)
        for key in parts[0]
        for value in [torch.cat([p[key] for p in parts]).double()]
    }


def measure_pool(run, kind, names):
    """Write the sums of every metric by document, a file for each part that is not there."""
    from saekit.core.progress import Progress
    from saekit.data.tokenise import TokenStream
    from saekit.evals._reconstruction import Reconstruction
    from saekit.evals._splicing import Splicing
    from saekit.evals.base import Subject
    from saekit.evals.intervals import blocks_of_documents
    from saekit.hub.opening import Use, open_sae

    loaded, lm, text = open_sae(run, Use(device="cpu"))
    card = loaded.card
    stream = TokenStream(
        text,
        "test",
        lm.tokenizer,
        n_ctx=card.n_ctx,
        bos_each_row=card.bos_id(lm.tokenizer) is not None,
    )
    site = card.pair.reads[0]
    subject = Subject(loaded.sae, lm, site, site, card.rules[str(site)], "pool")
    passes = 4 if kind == "losses" else 1
    bar = Progress("pool", sum(not n.exists() for n in names) * PART_TOKENS * passes)
    for name, rows in zip(names, stream.rows(PART_TOKENS // card.n_ctx), strict=False):
        if name.exists():
            continue
        blocks = blocks_of_documents(rows.doc_ids, 10**9)  # one a document
        with torch.no_grad():
            part = Reconstruction(subject, blocks)
            splicing = Splicing(lm, [site], subject.rule.special_ids, bar)
            for first in range(0, len(rows.tokens), 8):
                some = rows.tokens[first : first + 8]
                if kind == "losses":
                    clean, acts = splicing.clean(some, [site])
                    splicing.compare(some, clean, part.add(first, some, acts))
                else:
                    part.add(first, some, lm.read(some, [site]))
                    bar.add(some.numel())
            splicing.ablate_mean(part.mean)  # of this part's tokens
        found = {"documents": rows.doc_ids.unique(), "sizes": blocks.sizes}
        measured = splicing.sums(blocks) if kind == "losses" else part.blocks
        for metric, sums in measured.items():
            if not sums.metric.resampled:
                continue
            there = torch.tensor([one is not None for one in sums._sums]).nonzero()[:, 0]
            for key, value in sums.stacked().items():  # a document without such tokens has none
                every = value.new_zeros(len(blocks.sizes), *value.shape[1:])
                found[f"{metric}/{key}"] = every.index_add_(0, there, value)
        write_tensors(name, found)
    bar.close()


def on_synthetic_text(repeats):
    """Documents of 2.6 rows on average whose tokens are alike: three kinds, and 30 layers."""
    metric = registry.get("mse")()
    for kind in KINDS:
        for tokens in SETTINGS:
            chance = torch.Generator().manual_seed(tokens)
            count = Count("eval, a mean over tokens", f"{tokens:,} tokens", f"synthetic, {kind}")
            for _ in range(repeats):
                sizes = lengths(chance, tokens)
                value, truth = values_of(kind, sizes, 1, chance)
                sums = {"entries": sizes, "ee": sizes * value[0]}
                score = score_of_documents([metric], [sums], sizes)
                count.add(score.low, score.high, truth, score.reason)
            yield count
    tokens = 2**15
    chance = torch.Generator().manual_seed(tokens)
    count = Count("layers eval, mean over 30 layers", f"{tokens:,} tokens", "synthetic, skewed")
    for _ in range(repeats // 2):
        sizes = lengths(chance, tokens)
        value, truth = values_of("skewed", sizes, 30, chance)
        sums = [{"entries": sizes, "ee": sizes * one} for one in value]
        score = score_of_documents([metric] * 30, sums, sizes)
        count.add(score.low, score.high, truth, score.reason)
    yield count


def lengths(chance, tokens):
    """Return lengths of documents, exponential, until they hold so many tokens."""
    drawn = torch.empty(tokens // 150 + 20, dtype=torch.float64)
    sizes = (8 + drawn.exponential_(1 / MEAN_LENGTH, generator=chance)).round()
    return sizes[: int((sizes.cumsum(0) < tokens).sum()) + 1]


def values_of(kind, sizes, n, chance):
    """Return n values a document, which have a part in common, and the mean over tokens."""
    own, rest = torch.randn(2, n, len(sizes), dtype=torch.float64, generator=chance)
    common = torch.randn(len(sizes), dtype=torch.float64, generator=chance)
    shared = common[None] if n == 1 else 0.6 * common + 0.8 * own
    if kind == "skewed":
        return (0.6 * shared).exp(), math.exp(0.18)
    value, truth = 10 + 0.8 * shared + 0.6 * rest / sizes.sqrt(), 10.0
    if kind == "long ones differ":
        mean, square = 8 + MEAN_LENGTH, 8**2 + 16 * MEAN_LENGTH + 2 * MEAN_LENGTH**2
        value, truth = value + 0.6 * sizes / mean, truth + 0.6 * square / mean**2
    return value, truth


def of_means(repeats):
    """Means over windows, events or latents, of values as entropies are spread."""
    spreads = {  # draws, the mean, whether values are above 0
        "normal": (lambda n, g: torch.randn(n, generator=g), 0.0, False),
        "uniform": (lambda n, g: 1 + 2 * torch.rand(n, generator=g), 2.0, True),
        "skewed": (
            lambda n, g: sum(torch.empty(n).exponential_(1.0, generator=g) for _ in range(4)),
            4.0,
            True,
        ),
        "exponential": (lambda n, g: torch.empty(n).exponential_(1.0, generator=g), 1.0, True),
    }
    used = {
        4: "events of a latent, docs",
        8: "least; locality check",
        10: "windows, docs",
        20: "windows",
        40: "latents, docs",
        60: "autocorrelation, docs",
    }
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
            count.add(
                *wilson(float((torch.rand(4096, generator=chance) < share).float().mean()), 4096),
                share,
            )
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


def of_seeds(repeats):
    """The share of latents that seeds have in common; each seed finds more or fewer of them."""
    # Two seeds tell nothing of how seeds differ, so their interval is of latents alone.
    for seeds, spread in ((2, 0.0), (3, 0.05), (5, 0.05)):
        chance = torch.Generator().manual_seed(seeds)
        text = "each seed alike" if not spread else "seeds find 60 % and 5 points"
        count = Count("seed_stability, a share", f"{seeds} seeds of 1,000 latents", text)
        truth = 0.6**2  # two seeds find a latent apart from each other
        for _ in range(repeats):
            finds = 0.6 + spread * torch.randn(seeds, 1, generator=chance)
            has = torch.rand(seeds, 1000, generator=chance) < finds
            pairs = itertools.combinations(range(seeds), 2)
            values = {(a, b): float((has[a] & has[b]).double().mean()) for a, b in pairs}
            ends = of_share(values, seeds, 1000)
            count.add(ends.low, ends.high, truth)
        yield count


def of_ways(n, repeats):
    """Yield shares that hold the truth and median widths, by way, of n uneven documents.

    Lengths are log-normal with deviation 0.9; those that saekit gives no interval for are left out.
    """
    for kind in ("even", "longer documents differ", "skewed", "very skewed"):
        chance = torch.Generator().manual_seed(n)
        held, widths, had = dict.fromkeys(WAYS, 0), {way: [] for way in WAYS}, 0
        for _ in range(repeats):
            z, own = torch.randn(2, n, dtype=torch.float64, generator=chance)
            sizes = (0.9 * z).exp()
            if too_few(sizes) is not None:
                continue
            had += 1
            value, truth = 10 + own, 10.0
            if kind == "longer documents differ":  # z of a token is that of a document plus 0.9
                value, truth = value + 0.7 * z, truth + 0.7 * 0.9
            elif kind != "even":
                deviation = 0.6 if kind == "skewed" else 1.2
                value, truth = (deviation * own).exp(), math.exp(deviation**2 / 2)
            for way, (low, high) in ends_of(sizes, sizes * value, chance).items():
                held[way] += bool(low <= truth <= high)
                widths[way].append(float(high - low))
        yield kind, {w: held[w] / had for w in WAYS}, {w: median(widths[w]) for w in WAYS}


def ends_of(sizes, sums, chance):
    """Return the ends of the interval of a mean over tokens, by way of taking it."""
    n, total = len(sizes), sums.sum() / sizes.sum()
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    t = t_quantile(n - 1) * float((without - without.mean()).square().sum() * (n - 1) / n) ** 0.5
    drawn = torch.randint(n, (DRAWS, n), generator=chance)
    s, y = sizes[drawn], sums[drawn]
    means = y.sum(1) / s.sum(1)
    tails = torch.tensor([0.025, 0.975], dtype=torch.float64)
    # BCa: Efron 1987. Both logarithms: studentised on the scale that saekit takes.
    below = ((means < total).double().mean()).clamp(1 / DRAWS, 1 - 1 / DRAWS)
    centre, away = torch.special.ndtri(below), without.mean() - without
    bend = away.pow(3).sum() / (6 * away.square().sum() ** 1.5)
    moved = centre + torch.special.ndtri(tails)
    bca = means.quantile(torch.special.ndtr(centre + moved / (1 - bend * moved)))
    logs = ((y.sum(1, keepdim=True) - y) / (s.sum(1, keepdim=True) - s)).log()
    errors = ((logs - logs.mean(1, keepdim=True)).square().sum(1) * (n - 1) / n).sqrt()
    pivots = ((means.log() - total.log()) / errors).quantile(tails.flip(0))
    logs = without.log()
    error = ((logs - logs.mean()).square().sum() * (n - 1) / n).sqrt()
    found = (
        jackknife(float(total), without, sizes, "log", skewed=True),
        means.quantile(tails),
        bca,
        (total.log() - pivots * error).exp(),
        (total - t, total + t),
    )
    return dict(zip(WAYS, found, strict=True))


def show_ways(n, repeats):
    """Print a table of ways: the share that holds the truth, and the median width in brackets."""
    found = list(of_ways(n, repeats))
    print("| | " + " | ".join(kind for kind, _, _ in found) + " |")
    print("|---" * (len(found) + 1) + "|")
    for way in WAYS:
        cells = [f"{100 * held[way]:.1f} % ({width[way]:.2f})" for _, held, width in found]
        print(f"| {way} | " + " | ".join(cells) + " |")


def main():
    parser = _command.parser_of(__doc__, "no real text, few repetitions")
    parser.add_argument("--run", type=Path, default=Path("demo"), help="a run of `saekit demo`")
    parser.add_argument("--pool-tokens", type=int, help=f"at most so many [{POOL_TOKENS}]")
    parser.add_argument("--ways", type=int, metavar="N", help="other ways, N documents; only that")
    parser.add_argument("--evaluations", action="store_true", help="those of evaluations alone")
    asked = parser.parse_args()
    if asked.ways:
        show_ways(asked.ways, 2000)
        return 0
    repeats = 200 if asked.quick else 500
    parts = [
        on_synthetic_text(repeats),
        of_means(2 * repeats),
        of_others(repeats),
        of_seeds(repeats),
        *_evaluation_coverage.parts(60 if asked.quick else repeats),
    ]
    if asked.evaluations:
        parts = parts[4:]
    elif not asked.quick:
        if not (asked.run / "run.json").exists():
            subprocess.run(["saekit", "demo", "--out", str(asked.run), "--quiet"], check=True)
        real = [
            on_real_text(asked.run, kind, min(asked.pool_tokens or most, most), repeats)
            for kind, most in POOL_TOKENS.items()
        ]
        parts = [real[0], *parts, *real[1:]]
    found = []
    print("| interval | setting | text or values | with one | holds the truth |")
    print("|---|---|---|---|---|")
    for part in parts:
        for count in part:
            found.append(count)
            share = "none is given" if count.share is None else f"{100 * count.share:.1f} %"
            print(
                f"| {count.kind} | {count.setting} | {count.text} | {count.had} of "
                f"{count.n} | {share} |",
                flush=True,
            )
    off = [c.record() for c in found if not c.fine]
    name = f"shares outside {WANTED[0]:.0%} to {WANTED[1]:.0%}{': ' if off else ''}"
    name += ", ".join(f"{c.kind} at {c.setting}" for c in found if not c.fine)
    floors = [_command.Floor(name, float(len(off)), most=0)]
    figures = {"counts": [c.record() for c in found], "off": off}
    return _command.finish("interval_coverage", asked, figures, floors)


if __name__ == "__main__":
    sys.exit(main())
