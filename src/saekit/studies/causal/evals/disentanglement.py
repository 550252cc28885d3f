"""Disentanglement: is one attribute of a thing swapped by its latents, and no other?"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.progress import Progress
from saekit.core.result import Result, Score
from saekit.core.seeds import generator
from saekit.core.stats.means import LEAST_UNITS
from saekit.core.stats.resamples import scored
from saekit.evals.base import SharedEval, Subject, Tools, registry
from saekit.models.sites import Site
from saekit.studies.causal import dictionaries, reading, resampling
from saekit.studies.causal.asking import NONE, Asked, Clean, Prompts, prompts_of
from saekit.studies.causal.dictionaries import Dictionary
from saekit.studies.causal.edits import Placed
from saekit.studies.causal.facts import Facts, facts_of
from saekit.studies.faithful.coding import model_of
from saekit.studies.faithful.probing import statistics
from saekit.studies.faithful.probing.statistics import Draws
from saekit.studies.faithful.sequences import shape_for

SHARES = {"train": 0.4, "validation": 0.2, "test": 0.4}  # of the things
UNIT = "share of pairs"
SAID = {
    "": "the SAE's latents",
    "random_": "random latents of like frequency",
    "pca_": "principal components",
    "whole_": "the whole activation",
}
Pairs = Int[Tensor, "k two"]  # base and source
# Activations at names of some bases -> what is put there, for the prompts of an attribute.
Swap = Callable[[str, Pairs], Float[Tensor, "k d"]]


class _World(NamedTuple):
    """Things, prompts, what the model answers, and the pairs of each part by attribute."""

    facts: Facts
    prompts: dict[str, Prompts]
    clean: dict[str, Clean]
    parts: dict[str, Int[Tensor, "m"]]
    pairs: dict[str, dict[str, Pairs]]  # by part and attribute; both answers known and different
    every: Pairs  # of test things, whether known or not
    asked: Asked
    draws: Draws  # of test things
    seed: int


class _Hits(NamedTuple):
    """How often something came out, by base."""

    hits: Float[Tensor, "n"]
    n: Float[Tensor, "n"]

    @staticmethod
    def of(pairs: Pairs, hit: Float[Tensor, "k"], n: int) -> "_Hits":
        """Return the hits of pairs by base, of n things."""
        hits, counts = torch.zeros(2, n, dtype=torch.float64)
        hits.index_add_(0, pairs[:, 0], hit)
        counts.index_add_(0, pairs[:, 0], torch.ones_like(hit))
        return _Hits(hits, counts)

    @property
    def share(self) -> float:
        """Of all pairs; NaN of none."""
        return float(self.hits.sum() / self.n.sum())


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Disentanglement(SharedEval):
    """Latents of one attribute are swapped between two things: does that answer alone change?

    Each thing, as a country, has attributes, as its capital and its currency, and a prompt for
    each. At the last token of the base's name the activations of some latents are replaced by those
    that the source has there, with the error of the base kept. *Cause* is the share of pairs whose
    answer becomes the source's; *isolation* is, for prompts of the other attributes, the share
    whose answer stays the base's, as a mean over these. ``ATTRIBUTE/score`` is their mean, and
    `disentanglement` the mean over attributes. Doing nothing has 0.5 (isolation 1), and so has
    swapping the whole activation where it changes every answer (cause 1).

    Only answers that the model gives count, and only pairs whose two answers differ; things it does
    not know are counted in the details. An answer is the likeliest of the first tokens that the
    answers of an attribute have. Latents are chosen on a train part of the things: by what the
    gradient of the answers says that swapping each does for the attribute, less what it does for
    the others. How many are swapped is chosen on a validation part, and scores are of a test part.

    Floors in the same result: as many random latents of like frequency (`random`), principal
    components, chosen in the same way (`pca`), the whole activation (`whole`: its cause is the most
    there is). `ATTRIBUTE/reach` is how much of the change of logits by the whole activation the
    swap of all latents makes, on all things, known or not.

    Args:
        facts: ``countries``, ``letters``, or a CSV file of one's own: a column ``entity``, and one
            for each attribute, whose head is its prompt with {} for the name.
        latents: numbers of latents among which validation chooses; those above the SAE's width are
            left out.
        n_pairs: the most pairs of an attribute and part.
        n_draws: resamples of things for the intervals.
        batch_rows: the most prompts of a forward pass.

    Raises:
        ConfigError: a number is out of range, or the SAE predicts another site than it reads.
        DataError: there are too few things.

    Cost:
        2 passes of the model over the prompts of a pair for each entry of `latents` and attribute
        on validation, 4 on test, and a gradient for each train pair.

    Reads:
        Prompts about things; of the held-out rows only how they begin.

    Source:
        Huang et al. 2024, arXiv:2402.17700 (RAVEL); Karvonen et al. 2025, arXiv:2503.09532.
        Differs: latents chosen by gradients in place of a trained mask; their number chosen on
        validation; next tokens in place of generated answers; floors; intervals over things.
    """

    name: ClassVar[str] = "disentanglement"
    version: ClassVar[int] = 3  # intervals: pairs share things
    needs: ClassVar[frozenset[str]] = frozenset({"lm"})
    one_site: ClassVar[bool] = True
    headline: ClassVar[tuple[str, ...]] = ("disentanglement", "pca_disentanglement", "reach")

    facts: str = "countries"
    latents: tuple[int, ...] = setting((1, 4, 16, 64, 256), least=1)
    n_pairs: int = setting(48, least=1)
    n_draws: int = setting(1000, least=0)
    batch_rows: int = setting(16, least=1)

    @classmethod
    @override
    def example(cls) -> "Disentanglement":
        return cls(facts="letters", latents=(2, 8), n_pairs=8, n_draws=20)

    @override
    def cautions(self, subject: Subject) -> tuple[str, ...]:
        return reading.too_small(subject, "answer such questions")

    @override
    def run_checked(self, subjects: Sequence[Subject], tools: Tools) -> list[Result]:
        began = time.monotonic()
        world = self._world(subjects, tools)
        slopes: dict[Site, dict[str, Float[Tensor, "k d"]]] = {}
        results = []
        for subject in subjects:
            if subject.read not in slopes:
                slopes[subject.read] = {
                    name: world.asked.slopes(p, world.pairs["train"][name], subject.read)
                    for name, p in world.prompts.items()
                }
            scores, details, notes = self._measured(subject, world, slopes[subject.read])
            found = scores, details
            results.append(reading.result_of(self, subject, found, notes, tools.seed, began))
        world.asked.bar.close()
        return results

    def _world(self, subjects: Sequence[Subject], tools: Tools) -> _World:
        """Return things and pairs, and what the untouched model answers: once for all SAEs."""
        lm = model_of(subjects)
        facts = facts_of(self.facts)
        prompts = prompts_of(facts, lm, shape_for(lm, tools, 0))
        n, chance = len(facts.entities), generator(tools.seed, "disentanglement", "parts")
        order, first, parts = torch.randperm(n, generator=chance), 0, {}
        for name, share in SHARES.items():
            parts[name] = order[first : first + round(share * n)].sort().values
            first += len(parts[name])
        asked = Asked(lm, self.batch_rows, Progress(self.name, None, shown=tools.shown))
        sites = list(dict.fromkeys(s.read for s in subjects))
        clean = {name: asked.clean(p, sites) for name, p in prompts.items()}
        pairs = {
            part: {
                name: _pairs(
                    things[clean[name].known(p)[things]],
                    p.answer,
                    self.n_pairs,
                    generator(tools.seed, "disentanglement", part, name),
                )
                for name, p in prompts.items()
            }
            for part, things in parts.items()
        }
        test = parts["test"]
        every = _pairs(
            test, torch.arange(n), self.n_pairs, generator(tools.seed, "disentanglement", "every")
        )
        draws = statistics.drawn(len(test), self.n_draws, tools.seed)
        return _World(facts, prompts, clean, parts, pairs, every, asked, draws, tools.seed)

    def _measured(
        self, subject: Subject, world: _World, slopes: dict[str, Tensor]
    ) -> tuple[dict[str, Score], dict[str, Any], list[str]]:
        placed, site = Placed.of(subject), subject.read
        own = {name: _coded(placed, clean.acts[site]) for name, clean in world.clean.items()}
        kept = _kept(subject, world)
        everything = torch.cat([c.acts[site][world.parts["train"]] for c in world.clean.values()])
        axes = dictionaries.components(everything, slice(None)).directions
        centre = everything.double().mean(0)
        pca = {
            name: Dictionary(((clean.acts[site].double() - centre) @ axes.double().T).float(), axes)
            for name, clean in world.clean.items()
        }

        def of(dictionary: dict[str, Dictionary], chosen: Tensor) -> Swap:
            def swap(name: str, pairs: Pairs) -> Tensor:
                one, x = dictionary[name], world.clean[name].acts[site]
                moved = one.codes[pairs[:, 1]][:, chosen] - one.codes[pairs[:, 0]][:, chosen]
                both = (kept[name][pairs[:, 0]] & kept[name][pairs[:, 1]])[:, None]
                return x[pairs[:, 0]] + torch.where(both, moved @ one.directions[chosen], 0.0)

            return swap

        def whole(name: str, pairs: Pairs) -> Tensor:
            return world.clean[name].acts[site][pairs[:, 1]]

        scores: dict[str, Score] = {}
        details: dict[str, Any] = {}
        drawn: dict[str, list[Tensor]] = {kind: [] for kind in SAID}
        reached: list[float] = []
        notes: list[str] = []
        for name in world.prompts:
            all_of = of(own, torch.arange(subject.sae.cfg.d_sae))
            reach = self._reach(world, name, site, all_of, whole)
            reached += [] if reach is None else [reach]
            scores[f"{name}/reach"] = resampling.exact(
                reach,
                len(world.every),
                unit="ratio",
                better="higher",
                label=f"{name}: share of the whole swap's change of logits that all latents make",
            )
            why = _too_few(world, name)
            chosen = {
                kind: self._choose(world, name, site, (one, slopes), of)
                for kind, one in (("", own), ("pca_", pca))
            }
            latents = chosen[""]
            chance = generator(world.seed, "disentanglement", "random", name)
            train = torch.cat([d.codes[world.parts["train"]] for d in own.values()])
            random = dictionaries.alike((train != 0).double().mean(0), latents, chance)
            swaps = {
                "": of(own, latents),
                "random_": of(own, random),
                "pca_": of(pca, chosen["pca_"]),
                "whole_": whole,
            }
            for kind, swap in swaps.items():
                cause, isolation = self._asked(world, name, site, swap, "test")
                values = _over(cause, isolation, world.parts["test"], world.draws)
                asked = [int(cause.n.sum()), sum(int(h.n.sum()) for h in isolation.values())]
                trials = {"cause": asked[0], "isolation": asked[1], "score": sum(asked)}
                if not why:
                    drawn[kind].append(values["score"])
                for what, found in values.items():
                    label = f"{name}, {SAID[kind]} swapped: {what}"
                    n = int((cause.n > 0).sum())
                    scores[f"{name}/{kind}{what}"] = (
                        resampling.undefined(why, n, unit=UNIT, label=label)
                        if why
                        else scored(
                            found,
                            n,
                            unit=UNIT,
                            label=label,
                            span=(0.0, 1.0),
                            trials=trials[what],
                            better="higher" if (kind, what) == ("", "score") else "neither",
                            freedom=_freedom(n),
                        )
                    )
            details[name] = self._said(world, name) | {
                "latents": latents.tolist(),
                "pca": len(chosen["pca_"]),
                "not_kept_by_the_rule": int((~kept[name]).sum()),
            }
            at_most = scores[f"{name}/whole_cause"].value
            if at_most is not None and at_most < 0.5:  # noqa: PLR2004
                notes.append(
                    f"{name}: swapping the whole activation changes {at_most:.0%} of the answers, "
                    f"so latents cannot change more; take an SAE of an earlier site"
                )
        scores |= self._means(drawn, world)
        scores["reach"] = resampling.exact(
            sum(reached) / len(reached) if reached else None,
            len(world.every),
            unit="ratio",
            better="higher",
            label="share of the whole swap's change of logits that all latents make",
        )
        said = {
            "facts": world.facts.provenance,
            "sha256": world.facts.sha256,
            "things": {part: len(things) for part, things in world.parts.items()},
            "attributes": details,
        }
        return scores, said, notes

    def _means(self, drawn: dict[str, list[Tensor]], world: _World) -> dict[str, Score]:
        """Return the score of each kind as a mean over the attributes that have one."""
        found, n = {}, len(world.parts["test"])
        # A pair is asked of every attribute that has a score.
        pairs = sum(len(p) for p in world.pairs["test"].values())
        for kind, each in drawn.items():
            label = f"mean of cause and isolation (of nothing: 0.5), {SAID[kind]} swapped"
            why = f"no attribute has {LEAST_UNITS} things whose answer the model knows"
            found[f"{kind}disentanglement"] = (
                scored(
                    torch.stack(each).mean(0),
                    n,
                    unit=UNIT,
                    label=label,
                    span=(0.0, 1.0),
                    trials=pairs * len(each),
                    better="neither" if kind else "higher",
                    reason=f"over {len(each)} attributes",
                    freedom=_freedom(n),
                )
                if each
                else resampling.undefined(why, 0, unit=UNIT, label=label)
            )
        return found

    def _choose(
        self,
        world: _World,
        name: str,
        site: Site,
        on: tuple[dict[str, Dictionary], dict[str, Tensor]],
        of: Callable[[dict[str, Dictionary], Tensor], Swap],
    ) -> Int[Tensor, "k"]:
        """Return the latents to swap: in order of use on train, their number by validation.

        Among equals fewer are taken; none, where no pair is there to choose on.
        """
        dictionary, slopes = on
        worth: Tensor = torch.zeros(len(dictionary[name].directions), dtype=torch.float64)
        others = [other for other in world.prompts if other != name]
        for other in world.prompts:
            pairs, one = world.pairs["train"][other], dictionary[other]
            if not len(pairs):
                continue
            moved = (one.codes[pairs[:, 1]] - one.codes[pairs[:, 0]]).double()
            effect = (moved * (slopes[other].double() @ one.directions.double().T)).mean(0)
            worth += effect if other == name else -effect / len(others)
        order = worth.sort(descending=True, stable=True).indices
        order = order[worth[order] > 0]
        best, value = order[:0], -1.0
        for n in sorted({min(k, len(order)) for k in self.latents} - {0}):
            cause, isolation = self._asked(
                world, name, site, of(dictionary, order[:n]), "validation"
            )
            shares = [h.share for h in isolation.values() if float(h.n.sum())]
            if not float(cause.n.sum()) or not shares:
                break
            found = (cause.share + sum(shares) / len(shares)) / 2
            if found > value:
                best, value = order[:n], found
        return best

    def _asked(
        self, world: _World, name: str, site: Site, swap: Swap, part: str
    ) -> tuple[_Hits, dict[str, _Hits]]:
        """Return how often a swap changed the attribute's answer, and kept those of the others."""
        n, cause, isolation = len(world.facts.entities), None, {}
        for other, prompts in world.prompts.items():
            pairs = world.pairs[part][other]
            logits = world.asked.swapped(prompts, pairs[:, 0], site, swap(other, pairs))
            said = logits.argmax(1) if logits.shape[1] else torch.zeros(0, dtype=torch.int64)
            wanted = pairs[:, 1] if other == name else pairs[:, 0]
            hits = _Hits.of(pairs, (said == prompts.answer[wanted]).double(), n)
            if other == name:
                cause = hits
            else:
                isolation[other] = hits
        assert cause is not None  # `name` is one of them
        return cause, isolation

    def _reach(
        self, world: _World, name: str, site: Site, all_of: Swap, whole: Swap
    ) -> float | None:
        """Return how much of the whole swap's change of logits the swap of all latents makes."""
        prompts, pairs = world.prompts[name], world.every
        before = world.clean[name].logits[pairs[:, 0]].double()
        made, wanted = (
            world.asked.swapped(prompts, pairs[:, 0], site, swap(name, pairs)).double()
            for swap in (all_of, whole)
        )
        change = float((before - wanted).square().sum())
        return 1 - float((made - wanted).square().sum()) / change if change > 0 else None

    def _said(self, world: _World, name: str) -> dict[str, Any]:
        prompts, clean = world.prompts[name], world.clean[name]
        asked = int((prompts.answer != NONE).sum())
        known = int(clean.known(prompts).sum())
        counts = torch.bincount(prompts.answer[prompts.answer != NONE])
        return {
            "prompt": world.facts.prompts[name],
            "asked": asked,
            "known": known,
            "not_known": asked - known,
            "left_out": len(prompts.answer) - asked,
            "answers": len(prompts.candidates),
            "commonest_share": int(counts.max()) / asked if asked else None,
            "pairs": {part: len(world.pairs[part][name]) for part in world.parts},
        }


def _pairs(
    things: Int[Tensor, "m"], answer: Int[Tensor, "n"], most: int, chance: torch.Generator
) -> Pairs:
    """Return pairs of things whose answers differ, each thing as often a base as any other."""
    found: list[tuple[int, int]] = []
    while len(found) < most:
        before = len(found)
        for base in things[torch.randperm(len(things), generator=chance)].tolist():
            others = things[answer[things] != answer[base]]
            if len(others) and len(found) < most:
                source = others[int(torch.randint(len(others), (1,), generator=chance))]
                found.append((base, int(source)))
        if len(found) == before:
            break
    return torch.tensor(found, dtype=torch.int64).view(-1, 2)


def _coded(placed: Placed, x: Tensor) -> Dictionary:
    with torch.no_grad():
        codes = placed.sae.encode(x.to(placed.directions.device)).dense()
    return Dictionary(codes.cpu(), placed.directions.float().cpu())


def _kept(subject: Subject, world: _World) -> dict[str, Tensor]:
    """Return, by attribute, the things at whose name the SAE's rules keep the token."""
    found = {}
    for name, prompts in world.prompts.items():
        tokens = prompts.rows.tokens[torch.arange(len(prompts.at)), prompts.at]
        found[name] = subject.rule.keep(tokens, world.clean[name].acts[subject.read])
    return found


def _too_few(world: _World, name: str) -> str:
    """Return why an attribute has no score; "" where it has one."""
    things = len(world.pairs["test"][name][:, 0].unique())
    if things < LEAST_UNITS:
        known = int(world.clean[name].known(world.prompts[name]).sum())
        return (
            f"of {len(world.facts.entities)} things the model knows the answer of {known}, "
            f"{things} of the test part; {LEAST_UNITS} are needed"
        )
    if not any(len(p) for other, p in world.pairs["test"].items() if other != name):
        return (
            "the model knows no other attribute of the test part, so there is none to leave alone"
        )
    return ""


def _freedom(n: int) -> float:
    """Return the degrees of freedom of a spread over pairs of n things.

    Bases are drawn anew, but each thing is a source as well, and pairs that share one are alike. Of
    n things at most n / 2 pairs share none.
    """
    return n / 2 - 1


def _over(
    cause: _Hits, isolation: dict[str, _Hits], test: Int[Tensor, "m"], draws: Draws
) -> dict[str, Tensor]:
    """Return cause, isolation and their mean, for the test things as they are and each resample."""

    def share(hits: _Hits) -> Tensor:
        return (draws.weights @ hits.hits[test]) / (draws.weights @ hits.n[test])

    caused = share(cause)
    each = [share(h) for h in isolation.values() if float(h.n.sum())]
    isolated = torch.stack(each).nanmean(0) if each else torch.full_like(caused, torch.nan)
    return {"cause": caused, "isolation": isolated, "score": (caused + isolated) / 2}
