"""Spurious correlation removal: does taking out latents of one attribute mend a biased probe?"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import DataError
from saekit.core.result import Result, Score
from saekit.core.seeds import derive, generator
from saekit.core.stats.plain import deviation
from saekit.core.stats.resamples import scored
from saekit.data.labelled.base import Source
from saekit.evals.base import SharedEval, Subject, Tools, registry
from saekit.studies.causal import dictionaries, reading, resampling
from saekit.studies.causal.cells import N_CELLS, Cells, cells_of, name_of_cells
from saekit.studies.causal.reading import Read
from saekit.studies.faithful.coding import model_of
from saekit.studies.faithful.probing import logistic, statistics
from saekit.studies.faithful.probing.logistic import Linear
from saekit.studies.faithful.sequences import shape_for

WAYS = ("first", "second")  # which attribute is wanted; the other one is spurious
SAID = {
    "scr": "the SAE's latents",
    "random_scr": "random latents of like frequency",
    "untrained_scr": "latents of an untrained SAE",
    "pca_scr": "principal components",
}
UNIT = "share of the gap closed"


class _Probes(NamedTuple):
    """What one draw of the train part gives."""

    texts: Int[Tensor, "n"]  # on which latents are chosen
    biased: Linear  # of the wanted attribute, where both coincide
    clean: Linear  # of the wanted attribute, on all cells
    spurious: Linear  # of the other attribute, on all cells


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class SCR(SharedEval):
    """A probe took two attributes for one: does it do better without the latents of the wrong one?

    Texts have two attributes, as many in each of the four cells. A probe of the wanted attribute is
    trained where both coincide (biased), and another one on all cells (clean). The N latents most
    tied to a probe of the spurious attribute are taken out, and the biased probe is asked again, on
    test texts of all cells: ``PAIR/first_scr_N`` is (ablated - biased) / (clean - biased),
    accuracies of the first attribute as the wanted one; `second` is the other way round. It is
    undefined where the gap between clean and biased is within noise. In the same result: random
    latents of like frequency, an untrained SAE, principal components.

    All is done for several draws of half of the train part; a score is the ratio of means over
    them, and ``..._reseed`` the standard deviation of a single draw's: what it would move by chance
    alone. `reach` is how much of the difference between the spurious attribute's means the latents
    hold; it alone has a direction. Scores are reported and never ranked by: they were found to
    fall as SAEs get better.

    Args:
        pairs: of attributes: ``A+B``, two tasks with the same two classes (class, and which task),
            or a task of four classes, which are the four cells.
        source: where named tasks are read from, as of `probing`.
        latents: numbers of latents that are taken out; those above the SAE's width are left out.
        n_train: the most texts of a cell to train on; each draw takes half.
        n_test: the most of a cell to test on.
        seeds: draws of the train part.
        folds: of the cross-validation of the probes' penalty.
        n_ctx: tokens of a text, longer ones are cut; 0: those of the SAE's rows.
        n_draws: resamples of test texts for the intervals.
        batch_rows: the most texts of a forward pass.

    Raises:
        ConfigError: a number is out of range, a pair is named twice, or the SAE predicts another
            site than it reads.
        DataError: the classes of a pair are no two attributes.

    Cost:
        Each text to the site once; 6 probes a pair and draw.

    Reads:
        Labelled texts; of the held-out rows only how they are made.

    Source:
        Karvonen et al. 2025, arXiv:2503.09532 (SCR); Marks et al. 2024, arXiv:2403.19647 (SHIFT).
        Differs: both directions, not the better one; several draws; undefined within noise; floors.
    """

    name: ClassVar[str] = "scr"
    version: ClassVar[int] = 2  # intervals
    needs: ClassVar[frozenset[str]] = frozenset({"lm"})
    one_site: ClassVar[bool] = True
    headline: ClassVar[tuple[str, ...]] = ("*/first_scr_20", "*/second_scr_20", "*_reach")
    ranks: ClassVar[bool] = False

    pairs: tuple[str, ...] = ("sst2+yelp_polarity", "ag_news")
    source: Source = "auto"
    latents: tuple[int, ...] = setting((2, 5, 10, 20, 50, 100, 500), least=1)
    n_train: int = setting(250, least=8)
    n_test: int = setting(250, least=1)
    seeds: int = setting(4, least=2)
    folds: int = setting(4, least=2)
    n_ctx: int = setting(0, least=0)
    n_draws: int = setting(1000, least=0)
    batch_rows: int = setting(16, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [name_of_cells(word) for word in self.pairs]
        reading.check_named("pairs", names, "latents", self.latents)

    @classmethod
    @override
    def example(cls) -> "SCR":
        return cls(
            pairs=("python_modules",),
            latents=(2, 20),
            n_train=32,
            n_test=24,
            seeds=2,
            folds=2,
            n_draws=20,
        )

    @override
    def cautions(self, subject: Subject) -> tuple[str, ...]:
        return reading.too_narrow(subject, max(self.latents))

    @override
    def run_checked(self, subjects: Sequence[Subject], tools: Tools) -> list[Result]:
        logistic.check()
        began = time.monotonic()
        shape = shape_for(model_of(subjects), tools, self.n_ctx)
        scores: list[dict[str, Score]] = [{} for _ in subjects]
        details: list[dict[str, Any]] = [{} for _ in subjects]
        for word in self.pairs:
            cells = cells_of(word, self.source, self.n_train, self.n_test)
            reads = reading.read_texts(subjects, cells.texts, shape, tools, self.batch_rows)
            known: dict[Any, list[_Probes]] = {}
            for i, (subject, read) in enumerate(zip(subjects, reads, strict=True)):
                more: dict[str, Any] = {"provenance": cells.provenance}
                for way, attribute in zip(WAYS, cells.said, strict=True):
                    key = (subject.read, subject.rule, way)
                    if key not in known:
                        known[key] = self._probes(cells, way, read.x, tools.seed)
                    found, said = self._scores(cells, way, known[key], read, tools.seed)
                    scores[i] |= found
                    more[way] = {"wanted": attribute} | said
                details[i][cells.name] = more | {
                    "n_train": cells.n_train,
                    "n_test": len(cells.texts) - cells.n_train,
                }
        results = []
        for subject, mine, pairs in zip(subjects, scores, details, strict=True):
            notes = [
                f"{word}: {note}"
                for pair in pairs.values()
                for word, made in pair["provenance"].items()
                for note in made["notes"]
            ]
            found = mine, {"n_ctx": shape.n_ctx, "pairs": pairs}
            results.append(reading.result_of(self, subject, found, notes, tools.seed, began))
        return results

    def _probes(self, cells: Cells, way: str, x: Tensor, seed: int) -> list[_Probes]:
        """Return the probes of each draw; biased and clean have as many texts."""
        wanted, spurious = _attributes(cells, way)
        of_cells = [cells.cell(c, slice(0, cells.n_train)) for c in range(N_CELLS)]
        found = []
        for draw in range(self.seeds):
            chance = generator(seed, "scr", cells.name, draw)
            half = [
                at[torch.randperm(len(at), generator=chance)[: len(at) // 2]] for at in of_cells
            ]
            if min(map(len, half)) < 2 * self.folds:
                raise DataError(
                    f"A draw of {cells.name} has {min(map(len, half))} texts in a cell; probes "
                    f"with {self.folds} folds need {2 * self.folds}. Give more text or fewer folds."
                )
            biased = torch.cat([half[0], half[-1]])
            every = torch.cat([at[: len(at) // 2] for at in half])
            whole = torch.cat(half)
            fit = {
                name: logistic.linear(
                    x[texts],
                    side[texts],
                    folds=self.folds,
                    seed=derive(seed, "scr", cells.name, way, name, draw),
                )
                for name, texts, side in (
                    ("biased", biased, wanted),
                    ("clean", every, wanted),
                    ("spurious", whole, spurious),
                )
            }
            found.append(_Probes(whole, **fit))
        return found

    def _scores(
        self, cells: Cells, way: str, probes: list[_Probes], read: Read, seed: int
    ) -> tuple[dict[str, Score], dict[str, Any]]:
        wanted, spurious = _attributes(cells, way)
        test = slice(cells.n_train, None)
        n, truth = len(cells.texts) - cells.n_train, wanted[test]
        draws = statistics.drawn(n, self.n_draws, seed)
        numbers = tuple(k for k in sorted(set(self.latents)) if k <= read.own.codes.shape[1])

        def accuracy(logits: Tensor) -> Float[Tensor, "n_draws_and_one"]:
            return resampling.right(logits, truth, draws)

        biased = torch.stack([accuracy(p.biased.logits(read.x[test])) for p in probes])
        clean = torch.stack([accuracy(p.clean.logits(read.x[test])) for p in probes])
        gap = (clean - biased).mean(0)
        why = _too_close(gap, n)
        pca = dictionaries.components(read.x, slice(0, cells.n_train))
        kinds = {
            "scr": read.own,
            "random_scr": read.own,
            "untrained_scr": read.untrained,
            "pca_scr": pca,
        }
        scores, chosen = {}, []
        head = f"{cells.name}, {way} attribute wanted"
        for name, one in kinds.items():
            after: dict[int, list[Tensor]] = {k: [] for k in numbers}
            for draw, p in enumerate(probes):
                texts = one.of(p.texts)
                latents = dictionaries.tied(
                    texts, spurious[p.texts], p.spurious, max(numbers, default=0)
                )
                if name == "scr":
                    chosen.append(latents.tolist())
                if name == "random_scr":
                    chance = generator(seed, "scr", "random", cells.name, way, draw)
                    latents = dictionaries.alike(texts.frequency, latents, chance)
                left = dictionaries.without(
                    [p.biased], read.x[test], one.of(test), latents, numbers
                )
                for k, logits in left.items():
                    after[k].append(accuracy(logits[:, 0]))
            for k, found in after.items():
                label = f"{head}, {k} of {SAID[name]} taken out: share of the bias removed"
                key = f"{cells.name}/{way}_{name}_{k}"
                ablated = torch.stack(found)
                scores[key] = (
                    resampling.undefined(why, n, unit=UNIT, label=label)
                    if why
                    else _removed(ablated, biased, gap, n, label)
                )
                if name == "scr":
                    scores[f"{key}_reseed"] = _spread(
                        (ablated, biased, clean), f"{head}, {k} latents", why
                    )
        of_train = slice(0, cells.n_train)
        scores[f"{cells.name}/{way}_reach"] = resampling.exact(
            dictionaries.held(read.x[of_train], read.own.of(of_train), spurious[of_train]),
            cells.n_train,
            unit="ratio",
            better="higher",
            label=f"{head}: share of the spurious difference of means that latents hold",
        )
        details = {
            "accuracy_biased": biased[:, 0].tolist(),
            "accuracy_clean": clean[:, 0].tolist(),
            "latents": chosen,
        }
        return scores, details


def _attributes(cells: Cells, way: str) -> tuple[Tensor, Tensor]:
    pair = (cells.first, cells.second)
    return pair if way == WAYS[0] else (pair[1], pair[0])


def _too_close(gap: Float[Tensor, "n_draws_and_one"], n: int) -> str:
    """Return why a share of the gap is undefined; "" where it is not."""
    low = float(torch.quantile(gap[1:], 0.025)) if len(gap) > 1 else float(gap[0])
    if low > 0:
        return ""
    return (
        f"the biased probe is {float(gap[0]):.3f} less accurate than the clean one, within the "
        f"noise of {n} test texts: there is no bias to remove"
    )


def _removed(
    ablated: Float[Tensor, "draws n_draws_and_one"],
    biased: Float[Tensor, "draws n_draws_and_one"],
    gap: Float[Tensor, "n_draws_and_one"],
    n: int,
    label: str,
) -> Score:
    """Return which share of the gap to a clean probe is closed, by probes of several draws."""
    before, whole = float(biased[:, 0].mean()), float(gap[0])
    return scored(
        (ablated - biased).mean(0) / gap,
        n,
        unit=UNIT,
        label=label,
        span=(-before / whole, (1 - before) / whole),
    )


def _spread(found: tuple[Tensor, Tensor, Tensor], head: str, why: str) -> Score:
    """Return how far the score of a single draw of the train part strays."""
    label = f"{head}: standard deviation of a single draw of train"
    ablated, biased, clean = (accuracy[:, 0] for accuracy in found)
    gaps, n = clean - biased, len(ablated)
    if not why and bool((gaps <= 0).any()):
        why = f"in {int((gaps <= 0).sum())} of {n} draws the biased probe is as good as the clean"
    if why:
        return resampling.undefined(why, n, unit=UNIT, label=label)
    each = ((ablated - biased) / gaps).tolist()
    return resampling.exact(
        deviation(each, sample=True), n, unit=UNIT, label=label, better="neither"
    )
