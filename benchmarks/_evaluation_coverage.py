"""Coverage of the intervals of evaluations: planted texts, letters, things and directions.

Part of `interval_coverage.py`. Each draws what an evaluation would measure, of which the truth is
known, and has the evaluation's own function make a score of it. Probes, choices of latents and
dictionaries are held fixed, as the intervals hold them.
"""

import math

import torch
from _coverage import Count

from saekit.core.stats.resamples import scored
from saekit.evals._differences import Curve, Point
from saekit.evals._evidence import best_of, detectable
from saekit.evals.compare import pair_table
from saekit.evals.intervals import BlockSums
from saekit.metrics.base import registry
from saekit.studies.causal import resampling
from saekit.studies.causal.evals import disentanglement, scr, unlearning
from saekit.studies.causal.evals.steering import UNIT, Steering
from saekit.studies.causal.evals.tpp import TPP
from saekit.studies.faithful.evals import fake_features
from saekit.studies.faithful.fakes import statistics as fakes
from saekit.studies.faithful.fakes.statistics import Units
from saekit.studies.faithful.probing import statistics as probing
from saekit.studies.structure.evals import absorption, meta_structure
from saekit.studies.structure.meta import Explained

LARGE = 400_000  # texts whose value is taken for the truth where there is no closed form
CLASSES = 4


def chance_of(*numbers):
    return torch.Generator().manual_seed(sum(1000**i * n for i, n in enumerate(numbers)))


def normal(*shape, chance):
    return torch.randn(*shape, dtype=torch.float64, generator=chance)


def uniform(*shape, chance):
    return torch.rand(*shape, dtype=torch.float64, generator=chance)


def phi(x):
    """The share of a standard normal number below x."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def once(n):
    """Every unit as it is, without a resample."""
    return probing.Draws(torch.ones(1, n, dtype=torch.float64))


def of_probes(repeats):
    """Accuracy and macro F1 of probes of two uneven classes, and differences of paired ones."""
    for n, right in ((100, 0.6), (300, 0.85), (1000, 0.85), (300, 0.99), (1000, 0.997)):
        chance = chance_of(1, n)

        def texts(m, right=right, chance=chance):
            labels = (uniform(m, chance=chance) < 0.7).long()
            return labels, labels ^ (uniform(m, chance=chance) > right).long()

        labels, said = texts(LARGE)
        for metric in probing.METRICS:
            truth = float(probing.values(said, labels, metric, once(LARGE))[0])
            kind = f"probing {probing.LABELS[metric]}"
            count = Count(kind, f"{n:,} test texts", f"{100 * right:g} % right")
            for i in range(repeats):
                some, answers = texts(n)
                found = probing.values(answers, some, metric, probing.drawn(n, 1000, i))
                count.score(scored(found, n, unit=UNIT, label="", span=(0.0, 1.0)), truth)
            yield count
    for n, only in (
        (300, (0.15, 0.10)),
        (1000, (0.03, 0.03)),
        (300, (0.005, 0.0)),
        (300, (0.003, 0.003)),
    ):
        chance = chance_of(2, n)
        words = f"{100 * only[0]:g} and {100 * only[1]:g} % right in one alone"
        count = Count("probing, less another's accuracy", f"{n:,} test texts", words)
        told = Count("probing compare, of equals no p below 5 %", count.setting, words, most=1.0)
        for i in range(repeats):
            u = uniform(n, chance=chance)
            first, second = u < only[0], u > 1 - only[1]
            draws, labels = probing.drawn(n, 1000, i), torch.ones(n, dtype=torch.int64)
            of = [
                probing.values((one | (u > 0.3) & (u < 0.7)).long(), labels, "accuracy", draws)
                for one in (first, second)
            ]
            apart = of[0] - of[1]
            score = scored(apart, n, unit=UNIT, label="", span=(-1.0, 1.0))
            count.score(score, only[0] - only[1])
            told.add(0.0, 0.0, float(probing.p_of(apart) < 0.05))
        yield count
        if only[0] == only[1] > 0:
            yield told


def of_tpp(repeats):
    """What a class's own probe loses beyond others', of four probes and the latents of each."""
    for n, (down, up, aside), words in (
        (400, (0.3, 0.05, 0.05), "30 % of a class flips"),
        (1000, (0.3, 0.05, 0.05), "30 % of a class flips"),
        (400, (0.01, 0.002, 0.002), "1 % of a class flips"),
        (1000, (0.002, 0.002, 0.002), "0.2 % of every text flips"),
    ):
        chance, count = chance_of(3, n), Count("tpp", f"{n:,} test texts", words)

        def right(flips, kept=0.9):  # of what was right `flips` goes wrong, and the other way
            return kept * (1 - flips) + (1 - kept) * flips

        truth = ((0.9 - right(down)) + (0.9 - right(up))) / 2 - (0.9 - right(aside))
        for i in range(repeats):
            label = torch.randint(CLASSES, (n,), generator=chance)
            member = torch.nn.functional.one_hot(label, CLASSES).bool()
            was = uniform(n, CLASSES, chance=chance) < 0.9  # [text, probe]
            draws = probing.drawn(n, 1000, i)
            before = balanced(was, member, draws)
            after = []
            for taken in range(CLASSES):
                rate = torch.full((n, CLASSES), aside)
                rate[:, taken] = torch.where(member[:, taken], down, up)
                now = was ^ (uniform(n, CLASSES, chance=chance) < rate)
                after.append(balanced(now, member, draws))
            count.score(TPP()._score(before, torch.stack(after, 1), n, ""), truth)
        yield count


def balanced(was_right, member, draws):
    """Return the balanced accuracy of every probe, in each resample."""
    logits = (was_right == member).double() - 0.5
    probes = range(logits.shape[1])
    return torch.stack([resampling.right(logits[:, c], member[:, c], draws) for c in probes], 1)


def of_scr(repeats):
    """The share of a gap that is closed; three probes of the same test texts."""
    for n, conflict, closed in ((400, -1.0, 0.3), (1000, -1.0, 0.3), (400, 0.8, 0.5)):
        count = Count("scr", f"{n:,} test texts", f"gap {gap_of(conflict):.2f}, {closed:g} closed")
        chance = chance_of(4, n, int(10 * closed))
        part, labels = torch.arange(n) % 4, torch.arange(n) % 4 >= 2
        in_conflict = (part == 1) | (part == 2)
        biased = torch.where(in_conflict, conflict, 1.6).double()
        levels = biased, biased + closed * (1.28 - biased), torch.full((n,), 1.28).double()
        truth_of = [level.apply_(phi).mean() for level in (one.clone() for one in levels)]
        truth = float((truth_of[1] - truth_of[0]) / (truth_of[2] - truth_of[0]))
        for i in range(repeats):
            draws, shared = probing.drawn(n, 1000, i), normal(n, chance=chance)
            each = []
            for level in levels:
                own = normal(3, n, chance=chance)
                hits = level + 0.8 * shared + 0.6 * own > 0
                each.append(
                    torch.stack(
                        [
                            resampling.right((hit == labels).double() - 0.5, labels, draws)
                            for hit in hits
                        ]
                    )
                )
            gap = (each[2] - each[0]).mean(0)
            why = scr._too_close(gap, n)
            if why:
                count.add(None, None, truth, why)
                continue
            count.score(scr._removed(each[1], each[0], gap, n, ""), truth)
        yield count


def gap_of(conflict):
    return phi(1.28) - (phi(conflict) + phi(1.6)) / 2


def of_things(repeats):
    """Answers after swaps between two things: a base and a source each have their own ease."""
    for things, pairs, ease in ((40, 48, 0.0), (40, 48, -1.5), (10, 48, 0.0), (24, 16, 0.0)):
        chance = chance_of(5, things, pairs, int(10 + ease))
        words = f"{100 * phi(ease / math.sqrt(1.5)):.0f} % caused"
        said = f"{things} things, {pairs} pairs"
        own = Count("disentanglement, an attribute", said, words)
        mean = Count("disentanglement, mean of 3 attributes", said, words)
        truth = (phi(ease / math.sqrt(1.5)) + phi(1.5 / math.sqrt(1.5))) / 2
        answer = torch.arange(things)
        for i in range(repeats):
            draws, each = probing.drawn(things, 1000, i), []
            for _ in range(3):
                cause = swaps(ease, answer, pairs, chance)
                stays = {name: swaps(1.5, answer, pairs, chance) for name in "bc"}
                made = disentanglement._over(cause, stays, answer, draws)
                each.append(made["score"])
            for count, found, many in ((own, each[0], 1), (mean, torch.stack(each).mean(0), 3)):
                score = scored(
                    found,
                    things,
                    unit="",
                    label="",
                    span=(0.0, 1.0),
                    trials=3 * pairs * many,
                    freedom=disentanglement._freedom(things),
                )
                count.score(score, truth)
        yield own
        yield mean


def swaps(level, answer, pairs, chance):
    """Return how often a swap had its effect, by base; some bases and sources are easier."""
    found = disentanglement._pairs(answer, answer, pairs, chance)
    easy = 0.5 * normal(2, len(answer), chance=chance)
    z = level + easy[0][found[:, 0]] + easy[1][found[:, 1]] + normal(pairs, chance=chance)
    return disentanglement._Hits.of(found, (z > 0).double(), len(answer))


def of_steering(repeats):
    """Shares of what is written that is judged to be of a class, and what it costs."""
    for n, plain, moved in ((16, 0.25, 0.25), (16, 0.25, 0.0), (16, 0.1, 0.02), (48, 0.25, 0.25)):
        chance, how = chance_of(6, n, int(100 * moved)), Steering(n_prompts=n)
        said, words = f"{n} prompts, {CLASSES} classes", f"{plain:g} and {moved:g} more"
        rise = Count("steering", said, words)
        share = Count("steering, success of a class", f"{n} prompts", words)
        cost = Count("steering, cost", said, "skewed")
        for i in range(repeats):
            draws = probing.drawn(n, 1000, i)
            mood = uniform(n, chance=chance)  # a prompt leans to a class, with and without
            each, costs = [], []
            for c in range(CLASSES):
                lean = ((mood * CLASSES).long() == c).double() - 1 / CLASSES
                both = [
                    uniform(n, chance=chance) < rate + 0.3 * lean for rate in (plain, plain + moved)
                ]
                found = [resampling.means(b, draws) for b in both]
                each.append(found[1] - found[0])
                costs.append(normal(n, chance=chance).exp())
            share.score(scored(found[1], n, unit=UNIT, label="", span=(0.0, 1.0)), plain + moved)
            rise.score(how._mean("steering", each, UNIT, "", "higher")["steering"], moved)
            made = how._mean("cost", costs, "nats/token", "", "neither")["cost"]
            cost.score(made, math.exp(0.5))
        yield from (rise, share, cost)


def of_unlearning(repeats):
    """Rises of the loss on 30 texts to forget and 90 to retain, as many and as few as used."""
    for forget, retain in ((30, 90), (12, 36)):
        chance, said = chance_of(7, forget), f"{forget} and {retain} texts"
        apart = Count("unlearning, difference", said, "skewed")
        rise = Count("unlearning, a rise", f"{forget} texts", "skewed")
        none = Count("unlearning, a rise", f"{forget} texts", "0 in 7 of 10 texts")
        for _ in range(repeats):
            found = {
                "forget": 0.1 * (0.8 * normal(forget, chance=chance)).exp(),
                "retain": 0.05 * normal(retain, chance=chance) + 0.02,
            }
            scores = unlearning._scores("", found, "")
            mean = 0.1 * math.exp(0.32)
            apart.score(scores["unlearning"], mean - 0.02)
            rise.score(scores["forget_rise"], mean)
            found["retain"] = (
                torch.where(uniform(forget, chance=chance) < 0.7, 0.0, 1.0) * found["forget"]
            )
            none.score(unlearning._scores("", found, "")["retain_rise"], 0.3 * mean)
        yield from (apart, rise, none)


def of_letters(repeats):
    """Means over letters of shares of some 25 words each; letters differ."""
    spreads = {  # shape of a letter's share (beta), and of how many latents it has
        "0.30 of words, letters differ": (1.5, 3.5),
        "0.05 of words, letters differ": (0.3, 5.7),
        "0.01 of words, most letters none": (0.05, 4.95),
    }
    for n in (12, 24):
        for words, (a, b) in spreads.items():
            chance = chance_of(8, n, int(100 * a))
            count = Count("absorption, share of words", f"{n} letters", words)
            for _ in range(repeats):
                share = beta(a, b, n, chance)
                hits = (uniform(n, 25, chance=chance) < share[:, None]).double().mean(1)
                unit = "share of words"
                count.score(
                    absorption._over_letters(hits.tolist(), "", unit, "neither", ""), a / (a + b)
                )
            yield count
        chance = chance_of(9, n)
        count = Count("absorption, latents for a letter", f"{n} letters", "1, seldom 2 to 4")
        f1 = Count("absorption, F1 of a letter", f"{n} letters", "beta, mean 0.9")
        for _ in range(repeats):
            u = uniform(n, chance=chance)
            latents = 1 + (u < 0.2).double() + (u < 0.06) + (u < 0.02)
            count.score(
                absorption._over_letters(latents.tolist(), "", "latents", "neither", ""), 1.28
            )
            f1.score(
                absorption._over_letters(
                    beta(9, 1, n, chance).tolist(), "", "ratio", "neither", ""
                ),
                0.9,
            )
        yield count
        yield f1


def beta(a, b, n, chance):
    """Return draws of a beta distribution with a seed: a ratio of gamma numbers."""
    state = torch.get_rng_state()
    torch.manual_seed(int(torch.randint(2**31, (), generator=chance)))
    found = torch.distributions.Beta(a, b).sample((n,)).double()
    torch.set_rng_state(state)
    return found


def of_directions(repeats):
    """The share of variance that is explained of held-out directions, above turned ones."""
    for n in (26, 410):
        chance = chance_of(10, n)
        count = Count("meta_structure, explained held out", f"{n} directions", "skewed")
        above = Count("meta_structure, above turned ones", f"{n} directions", "skewed")
        for _ in range(repeats):
            found = []
            for missed in (0.5, 0.7):
                variance = 1 - 0.3 * uniform(n, chance=chance)
                rest = missed * variance * (2 * uniform(n, chance=chance).square() + 1 / 3)
                found.append(Explained(rest, variance, torch.arange(n)))
            count.score(meta_structure._of("", found[0])["explained_held_out"], 0.5)
            above.score(meta_structure._apart(*found), 0.2)
        yield from (count, above)


def of_noise(repeats):
    """Fake features above other text, and the difference of two equal SAEs; 400 latents."""
    n, d, p = 256, 400, 0.05
    chance = chance_of(11)
    probit = -2.2 + 0.9 * normal(2, d, chance=chance)
    loads = 0.4 * normal(d, chance=chance)

    def hits(which):
        shared = normal(n, 1, chance=chance)
        return Units(
            (probit[which] + shared * loads + normal(n, d, chance=chance) > 0).float(),
            torch.ones(n),
        )

    above = Count("fake_features, above other text", f"{n} sequences", "400 latents")
    apart = Count("fake_features, two SAEs of one kind", f"{n} sequences", "400 latents")
    told = Count(
        "fake_features compare, of equals no p below 5 %", f"{n} sequences", "400 latents", 1.0
    )
    seen = []
    for i in range(repeats):
        text = hits(0)
        every = {
            "noise": (fakes.count(hits(1), text, p, 300, i), n),
            fake_features.AGAIN: (fakes.count(hits(0), text, p, 300, i), n),
        }
        score = fake_features._above("noise", every, d)
        again = fakes.count(hits(1), hits(0), p, 300, i)
        value = (every["noise"][0].seen["fake"] - again.seen["fake"]) / d
        draws = (every["noise"][0].draws["fake"] - again.draws["fake"]).double() / d
        ends = fakes.ends(value, draws, n)
        seen.append((score, ends, value, draws))
    truth = sum(float(score.value) for score, *_ in seen) / len(seen)
    for score, ends, value, draws in seen:
        above.score(score, truth)
        apart.add(ends[0], ends[1], 0.0)
        far = int(((draws - draws.mean()).abs() >= abs(value) - 1e-12).sum())
        told.add(0.0, 0.0, float((1 + far) / (1 + len(draws)) < 0.05))
    yield from (above, apart, told)


def of_comparisons(repeats):
    """Differences of SAEs on one text of 48 documents of unlike length, and verdicts of equals."""
    metric, l0 = registry.get("ce_rise")(), registry.get("l0")()
    arms = {  # by name: the points of a group, its SAEs by seed, and the deviation of seeds
        "two SAEs": ((8,), 1, 0.0),
        "two sweeps of three k": ((4, 8, 16), 1, 0.0),
        "three seeds each": ((8,), 3, 0.1),
        "sweeps, three seeds each": ((4, 16), 3, 0.1),
    }
    for words, (points, seeds, spread) in arms.items():
        chance = chance_of(12, len(points), seeds)
        held = Count("compare, a difference", "48 documents", words)
        told = Count("compare, of equals no verdict", "48 documents", words, 1.0)
        for _ in range(repeats):
            sizes = 8 + (300 * uniform(48, chance=chance)).round()
            shared = normal(48, chance=chance)
            sums = {"l0": [], "ce_rise": []}
            curves = []
            for group in range(2):
                made = []
                for k in points:
                    saes = []
                    for _ in range(seeds):
                        saes.append(len(sums["l0"]))
                        sums["l0"].append(block_sums(l0, sizes, {"fired": k * sizes, "n": sizes}))
                        level = 1 - 0.1 * math.log(k) + spread * float(normal(1, chance=chance))
                        rise = level + shared + 0.3 * normal(48, chance=chance)
                        parts = {"n": sizes, "clean": 3 * sizes, "spliced": (3 + rise) * sizes}
                        sums["ce_rise"].append(block_sums(metric, sizes, parts))
                    made.append(Point(tuple(saes), tuple(10 * group + s for s in range(seeds))))
                curves.append(Curve("ab"[group], tuple(made)))
            (row,) = pair_table(curves, [metric], sums).rows()
            held.add(row["low"], row["high"], 0.0)
            told.add(0.0, 0.0, float(row["verdict"] in ("a better", "b better")))
        yield from (held, told)


def block_sums(metric, sizes, parts):
    found = BlockSums(metric, sizes)
    for b in range(len(sizes)):
        found.add(b, {name: values[b] for name, values in parts.items()})
    return found


def of_stars(repeats):
    """Suites of equal SAEs, whose scores are independent: none of them is starred."""
    for n in (2, 8):
        chance = chance_of(13, n)
        count = Count("suite, of equals no star", f"{n} SAEs of 40 documents", "normal", most=1.0)
        for _ in range(repeats):
            rows = []
            for _ in range(n):
                score = resampling.of_units(normal(40, chance=chance), unit="", label="")
                rows.append(
                    {
                        "value": score.value,
                        "better": "lower",
                        "unit": "",
                        "ranks": True,
                        "detectable": detectable(score),
                        "reseed": None,
                    }
                )
            count.add(0.0, 0.0, float(bool(best_of(rows))))
        yield count


def parts(repeats):
    """Return all of them."""
    every = (
        of_probes,
        of_tpp,
        of_scr,
        of_things,
        of_steering,
        of_unlearning,
        of_letters,
        of_directions,
        of_noise,
        of_comparisons,
        of_stars,
    )
    return [one(repeats) for one in every]
