"""Unlearning: do latents of one kind of text, held below 0, cost the model that kind alone?"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import ConfigError
from saekit.core.progress import Progress
from saekit.core.result import Result, Score
from saekit.core.seeds import generator
from saekit.data.labelled.base import Source
from saekit.evals.base import SharedEval, Subject, Tools, registry
from saekit.studies.causal import dictionaries, edits, reading, resampling
from saekit.studies.causal.edits import Change, Placed
from saekit.studies.causal.sources import PARTS, Texts, source_name, texts_of
from saekit.studies.faithful.coding import coded, model_of
from saekit.studies.faithful.probing.features import padded
from saekit.studies.faithful.sequences import Padded, shape_for

UNIT = "nats/token"
NO_FLOOR = "no multiple of random latents stays within the bound on validation"


class _Rows(NamedTuple):
    """Texts to forget and to retain, as rows of tokens, by part."""

    forget: dict[str, Padded]
    retain: dict[str, Padded]


class _Counts(NamedTuple):
    """How often each latent is on, and how strong it then is."""

    forget: Float[Tensor, "d_sae"]  # share of tokens
    retain: Float[Tensor, "d_sae"]
    strength: Float[Tensor, "d_sae"]  # mean activation where it is on, in texts to forget

    @property
    def frequency(self) -> Float[Tensor, "d_sae"]:
        """Share of the tokens of both, each weighing the same."""
        return (self.forget + self.retain) / 2


class _Setting(NamedTuple):
    """One way to clamp, and what it did on the validation part."""

    most_retain: float
    latents: Int[Tensor, "k"]
    multiplier: float
    forget: float
    retain: float


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Unlearning(SharedEval):
    """Latents of texts to forget are held at a negative value: what is forgotten, what else lost?

    Wherever such a latent is on it is set to a negative multiple of its own mean activation, with
    the error of the SAE kept. `forget_rise` is how much the loss on held-out texts to forget rises,
    `retain_rise` that on held-out texts to retain. Latents are chosen on train text: those on at no
    more than a share of retain tokens, the most frequent in forget texts first. The share, the
    number of latents and the multiple are chosen on validation text: the largest rise on forget
    texts among the settings whose rise on retain texts stays within `most_harm`. Scores are of test
    text, and `unlearning` is the difference of the two rises there. It is undefined where no
    setting stays within the bound.

    Labelled texts have no validation part: settings are chosen on train texts on which no latent
    was chosen. With split="validation" halves of the validation text of a corpus take the places of
    validation and test.

    The floor is as many random latents of like frequency, whose multiple is chosen in the same way
    (`random_...`). `reach` is how far switching off every latent moves predictions on forget texts
    towards those without any of them: what stays in the SAE's error cannot be forgotten.

    Args:
        forget: texts to forget: ``TASK/CLASS`` of labelled texts, or corpora (a name or a file).
        retain: texts to retain, in the same words.
        source: where named tasks are read from, as of `probing`.
        shares: shares of retain tokens that a latent may be on at, at most.
        latents: numbers of latents.
        multipliers: how far below 0, in multiples of a latent's mean activation.
        most_harm: the largest rise of loss on retain texts, nats/token.
        n_train: the most texts of a word to choose latents on.
        n_test: the most texts of a word to choose settings on, and as many to test on.
        n_ctx: tokens of a text, longer ones are cut; 0: those of the SAE's rows.
        batch_rows: the most texts of a forward pass.

    Raises:
        ConfigError: a number is out of range, or the SAE predicts another site than it reads.
        UnknownNameError: there is no such class or corpus.

    Cost:
        The validation texts through the whole model once for each setting, and once more for each
        multiple; the test texts 6 times.

    Reads:
        Texts to forget and to retain; of the held-out rows only how they are made.

    Source:
        Farrell, Lau and Conmy 2024, arXiv:2410.19278; Karvonen et al. 2025, arXiv:2503.09532.
        Differs: losses on texts in place of multiple-choice questions; multiples of a latent's own
        mean; settings chosen on validation, not on the test; a floor; intervals.
    """

    name: ClassVar[str] = "unlearning"
    version: ClassVar[int] = 3  # settings chosen on validation text
    needs: ClassVar[frozenset[str]] = frozenset({"lm"})
    one_site: ClassVar[bool] = True
    headline: ClassVar[tuple[str, ...]] = ("unlearning", "random_unlearning", "retain_rise")

    forget: tuple[str, ...] = ("ag_news/Sports",)
    retain: tuple[str, ...] = ("ag_news/World", "ag_news/Business", "ag_news/Sci/Tech")
    source: Source = "auto"
    shares: tuple[float, ...] = setting((0.001, 0.01), above=0, most=1)
    latents: tuple[int, ...] = setting((10, 20), least=1)
    multipliers: tuple[float, ...] = setting((1.0, 3.0, 10.0), above=0)
    most_harm: float = setting(0.05, above=0)
    n_train: int = setting(150, least=1)
    n_test: int = setting(30, least=1)
    n_ctx: int = setting(0, least=0)
    batch_rows: int = setting(16, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("forget", "retain", "shares", "latents", "multipliers"):
            if not getattr(self, field):
                raise ConfigError(f"`{field}` names at least one; got none.")
        if both := set(self.forget) & set(self.retain):
            raise ConfigError(
                f"Texts are either to forget or to retain; {', '.join(sorted(both))} is both."
            )

    @classmethod
    @override
    def example(cls) -> "Unlearning":
        return cls(
            forget=("code_or_prose/code",),
            retain=("code_or_prose/prose",),
            latents=(4,),
            multipliers=(1.0,),
            n_train=16,
            n_test=8,
        )

    @override
    def cautions(self, subject: Subject) -> tuple[str, ...]:
        return (
            *reading.too_small(subject, "know a subject apart from others"),
            *reading.too_narrow(subject, max(self.latents)),
        )

    @override
    def run_checked(self, subjects: Sequence[Subject], tools: Tools) -> list[Result]:
        """Measure SAEs on the same texts; the model's untouched losses are taken once."""
        began = time.monotonic()
        lm = model_of(subjects)
        shape = shape_for(lm, tools, self.n_ctx)
        trained = [(s.name, s.trained.get("corpus")) for s in subjects]
        texts = [
            texts_of(words, self.source, (self.n_train, self.n_test), trained, tools.split)
            for words in (self.forget, self.retain)
        ]
        rows = _Rows(*({p: padded(getattr(t, p), lm, shape) for p in PARTS} for t in texts))
        bar = Progress(self.name, None, shown=tools.shown)
        counts = self._counts(subjects, rows, bar)
        clean: dict[Any, dict[str, dict[str, Tensor]]] = {}
        results = []
        for subject, count in zip(subjects, counts, strict=True):
            special = subject.rule.special_ids
            if special not in clean:
                clean[special] = {
                    part: self._losses(subject, rows, part, None, bar) for part in PARTS[1:]
                }
            scores, details = self._measured(
                subject, (rows, count, clean[special]), tools.seed, bar
            )
            notes = list(
                dict.fromkeys(
                    f"{source_name(word)}: {note}"
                    for t in texts
                    for word, made in t.provenance.items()
                    for note in made.get("notes", [])
                )
            )
            details |= {k: _said(t) for k, t in zip(("forget", "retain"), texts, strict=True)}
            found = scores, {"n_ctx": shape.n_ctx} | details
            results.append(reading.result_of(self, subject, found, notes, tools.seed, began))
        bar.close()
        return results

    def _counts(self, subjects: Sequence[Subject], rows: _Rows, bar: Progress) -> list[_Counts]:
        """Return how often latents are on in the train part: one pass for all SAEs."""
        widths = [s.sae.cfg.d_sae for s in subjects]
        found: list[list[Tensor]] = [[] for _ in subjects]
        for kind in (rows.forget, rows.retain):
            on = [torch.zeros(width, dtype=torch.float64) for width in widths]
            sums = [torch.zeros(width, dtype=torch.float64) for width in widths]
            tokens = [0] * len(subjects)
            for _, each in coded(subjects, kind["train"], self.batch_rows, bar):
                for i, one in enumerate(each):
                    live = one.codes.live()
                    latents, values = live.latents.cpu(), live.values.double().cpu()
                    on[i].index_add_(0, latents, torch.ones_like(values))
                    sums[i].index_add_(0, latents, values)
                    tokens[i] += live.n_rows
            for i in range(len(subjects)):
                found[i] += [on[i] / max(tokens[i], 1), sums[i] / on[i].clamp_min(1)]
        return [_Counts(forget, retain, strength) for forget, strength, retain, _ in found]

    def _losses(
        self, subject: Subject, rows: _Rows, part: str, change: Change | None, bar: Progress
    ) -> dict[str, Float[Tensor, "n"]]:
        """Return the mean loss of each text of a part, by what is to become of it."""
        lm, special = model_of([subject]), subject.rule.special_ids
        return {
            kind: edits.losses(lm, which[part], change, special, self.batch_rows, bar)
            for kind, which in rows._asdict().items()
        }

    def _measured(
        self,
        subject: Subject,
        on: tuple[_Rows, _Counts, dict[str, dict[str, Tensor]]],
        seed: int,
        bar: Progress,
    ) -> tuple[dict[str, Score], dict[str, Any]]:
        rows, counts, clean = on
        placed = Placed.of(subject)

        def rises(part: str, latents: Tensor, multiplier: float) -> dict[str, Tensor]:
            change = placed.clamped(latents, -multiplier * counts.strength[latents])
            after = self._losses(subject, rows, part, change, bar)
            return {kind: after[kind] - clean[part][kind] for kind in after}

        def tried(share: float, latents: Tensor) -> list[_Setting]:
            found = []
            for multiplier in self.multipliers:
                each = rises("validation", latents, multiplier)
                forget, retain = (float(each[kind].nanmean()) for kind in ("forget", "retain"))
                found.append(_Setting(share, latents, multiplier, forget, retain))
            return found

        settings: list[_Setting] = []
        seen: set[tuple[int, ...]] = set()
        for share in self.shares:
            for n in self.latents:
                latents = _rare(counts, share, n)
                if len(latents) and tuple(latents.tolist()) not in seen:
                    seen.add(tuple(latents.tolist()))
                    settings += tried(share, latents)
        best = _best(settings, self.most_harm)
        scores: dict[str, Score] = {}
        floor = None
        if best is not None:
            chance = generator(seed, "unlearning", "random")
            drawn = dictionaries.alike(counts.frequency, best.latents, chance)
            floor = _best(tried(best.most_retain, drawn), self.most_harm) if len(drawn) else None
        why = "" if best else _why_none(settings, self.most_harm, self.shares)
        for head, one in (("", best), ("random_", floor)):
            found = None if one is None else rises("test", one.latents, one.multiplier)
            scores |= _scores(head, found, why or NO_FLOOR)
        scores["reach"] = resampling.exact(
            edits.reach(placed, rows.forget["test"], self.batch_rows, bar),
            len(rows.forget["test"].tokens),
            unit="ratio",
            better="higher",
            label="how far switching off every latent goes towards predictions without them",
        )
        details = {
            "chosen": None if best is None else _shown(best),
            "random": None if floor is None else _shown(floor),
            "validation": [_shown(s) | {"latents": len(s.latents)} for s in settings],
            "clean": {kind: float(values.nanmean()) for kind, values in clean["test"].items()},
        }
        return scores, details


def _rare(counts: _Counts, share: float, n: int) -> Int[Tensor, "k"]:
    """Return latents rarely on in retain texts, the most frequent in forget texts first."""
    order = counts.forget.sort(descending=True, stable=True).indices
    return order[(counts.retain[order] <= share) & (counts.forget[order] > 0)][:n]


def _best(settings: list[_Setting], most_harm: float) -> _Setting | None:
    """Return the setting with the largest rise on forget texts that stays within the bound."""
    within = [s for s in settings if s.retain <= most_harm]
    return max(within, key=lambda s: s.forget, default=None)


def _why_none(settings: list[_Setting], most_harm: float, shares: tuple[float, ...]) -> str:
    if not settings:
        return (
            f"no latent is on in texts to forget and at no more than {max(shares):.1%} of the "
            f"tokens of texts to retain"
        )
    least = min(s.retain for s in settings)
    return (
        f"every setting costs texts to retain more than {most_harm:g} nats/token on validation, "
        f"the mildest {least:.3g}"
    )


def _scores(head: str, found: dict[str, Tensor] | None, why: str) -> dict[str, Score]:
    said = "random latents of like frequency" if head else "latents of texts to forget"
    labels = {
        "unlearning": f"{said} held below 0: rise on texts to forget less that on others",
        "forget_rise": f"{said} held below 0: rise of the loss on texts to forget",
        "retain_rise": f"{said} held below 0: rise of the loss on texts to retain",
    }
    if found is None:
        return {
            f"{head}{name}": resampling.undefined(why, 0, unit=UNIT, label=label)
            for name, label in labels.items()
        }
    scores = {
        f"{head}{kind}_rise": resampling.of_units(
            values[values.isfinite()], unit=UNIT, label=labels[f"{kind}_rise"]
        )
        for kind, values in found.items()
    }
    apart = resampling.difference(
        found["forget"],
        found["retain"],
        unit=UNIT,
        label=labels["unlearning"],
        better="neither" if head else "higher",
    )
    return {f"{head}unlearning": apart} | scores


def _shown(one: _Setting) -> dict[str, Any]:
    return {
        "most_retain": one.most_retain,
        "latents": one.latents.tolist(),
        "multiplier": one.multiplier,
        "forget_rise": one.forget,
        "retain_rise": one.retain,
    }


def _said(texts: Texts) -> dict[str, Any]:
    counts = {part: len(getattr(texts, part)) for part in PARTS}
    return {"provenance": texts.provenance, "sha256": texts.sha256, "texts": counts}
