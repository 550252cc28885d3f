"""Absorption: does a latent for a letter stay off where another latent has the word?"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.core.errors import DataError
from saekit.core.finite import check_finite
from saekit.core.progress import Progress
from saekit.core.result import Result, Score, Table
from saekit.core.seeds import generator
from saekit.core.stats.means import FEW, mean_interval
from saekit.core.stats.resamples import UNSEEN
from saekit.evals._plan import plan
from saekit.evals._reconstruction import float32_on
from saekit.evals.base import SharedEval, Subject, Tools, made_from, registry
from saekit.evals.core import Core
from saekit.models.hf import about_parameters
from saekit.models.sites import Site
from saekit.saes.base import SAE
from saekit.studies.faithful.coding import model_of
from saekit.studies.faithful.sequences import Padded, held_out, shape_of
from saekit.studies.faithful.untrained import untrained
from saekit.studies.structure import probes
from saekit.studies.structure.absorbing import Letter, Thresholds, bootstrap, of_letters, shuffled
from saekit.studies.structure.words import Words, asked, drawn, own_words, vocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LEAST_PARAMETERS = 10**9
LEAST_LATENTS = 2**14
LEAST_LETTERS = 20
FLOOR_ROWS = 16  # of held-out text, for the size and the sparsity of an untrained SAE
ENCODED = 1024  # words at once
UNTRAINED, SHUFFLED = "untrained", "shuffled"
SAID = {"": "", UNTRAINED: "untrained SAE: ", SHUFFLED: "codes of other words: "}
SHOWN_WORDS = 50  # absorbed words of a letter in the details


class _Words(NamedTuple):
    """Activations of words at an SAE's site, and what a probe of letters makes of them."""

    x: Float[Tensor, "n d"]
    letters: Int[Tensor, "n"]
    names: list[str]
    n_train: int
    left_out: int  # words whose token the SAE's rules leave out
    probe: probes.Linear
    probe_f1: dict[int, float]  # on test words, by letter that is measured
    skipped: dict[str, str]  # letters that are not measured: why

    @property
    def measured(self) -> probes.Linear:
        """The probe of the letters that are measured."""
        some = list(self.probe_f1)
        return probes.Linear(self.probe.weights[some], self.probe.bias[some])

    def places(self, words: slice) -> Int[Tensor, "n"]:
        """Return of which measured letter some words are, as `measured` counts them; -1: none."""
        place = torch.full((len(LETTERS),), -1)
        place[list(self.probe_f1)] = torch.arange(len(self.probe_f1))
        return place[self.letters[words]]


class _Found(NamedTuple):
    """What a dictionary makes of the measured letters."""

    letters: dict[int, Letter]

    def means(self, name: str) -> list[float]:
        """Return the mean over words of each letter."""
        return [float(getattr(one, name).double().mean()) for one in self.letters.values()]


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Absorption(SharedEval):
    """First letters of words: how many latents share one, and in which words others take it over.

    The model reads lines such as " apple has the first letter: A" and then a word; activations are
    those at the word's last token. Words are drawn by the seed from the model's own vocabulary. For
    each letter a logistic regression on the activation is fitted on train words; its direction says
    what of an activation is the letter. Letters that it tells with an F1 below `min_f1` on test
    words, or that have fewer than `least_words` of them, are left out and counted.

    `split_latents`: latents that tell the letter, the mean over letters. `absorption_fraction` and
    `full_absorption`: see `thresholds`. `main_share`: how much of the letter's projection its own
    latents carry. `recon_f1` is the F1 of the same probe on what the SAE predicts.

    Low absorption alone is no merit: a dictionary without latents for letters has none to absorb.
    So these scores are better in neither direction. Read them together, with `main_f1`, the F1 of
    a letter's latents, and next to the same of an untrained SAE as wide and as sparse
    (`_untrained`) and of the SAE's codes dealt out to other words (`_shuffled`).

    Intervals are over letters (jackknife); `details` has each letter's, over its test words.

    Args:
        words: words of your own, of the letters a to z; empty: lower-case words of two letters or
            more that are one token of the model's vocabulary.
        n_words: the most; null: all. Published: all.
        examples: words with their letters in front of each, the same for all. Published: 10.
        template: a line of an example, up to the letter.
        test_share: of the words, which probes are not fitted to.
        min_f1: of the probe on activations.
        least_words: test words that a letter must have.
        thresholds: what counts as absorption, as published.
        n_draws: resamples for a letter's interval.
        batch_rows: the most words of a forward pass.

    Raises:
        ConfigError: a number is out of range, or the SAE predicts another site than it reads.

    Cost:
        Each word with its examples to the site once; of each SAE two k-sparse probes a letter.

    Reads:
        Words; of the held-out rows how they begin, and some for the untrained SAE.

    Source:
        Chanin et al. 2024, arXiv:2409.14507; Karvonen et al. 2025, arXiv:2503.09532 (SAEBench
        absorption_first_letter).
        Differs: one set of examples for all words; lower-case words; see `of_letters`; intervals,
        floors.
    """

    name: ClassVar[str] = "absorption"
    version: ClassVar[int] = 2  # intervals
    needs: ClassVar[frozenset[str]] = frozenset({"lm"})
    one_site: ClassVar[bool] = True
    headline: ClassVar[tuple[str, ...]] = (
        "absorption_fraction",
        "full_absorption",
        "split_latents",
        "main_share",
    )

    words: tuple[str, ...] = ()
    n_words: int | None = setting(3000, least=10)
    examples: int = setting(3, least=0)
    template: str = "{word} has the first letter:"
    test_share: float = setting(0.2, above=0, below=1)
    min_f1: float = setting(0.6, least=0, most=1)
    least_words: int = setting(5, least=1)
    thresholds: Thresholds = Thresholds()
    n_draws: int = setting(1000, least=0)
    batch_rows: int = setting(32, least=1)

    @classmethod
    @override
    def example(cls) -> "Absorption":
        words = tuple(letter * n for letter in "abcdef" for n in range(1, 16))
        return cls(words=words, examples=1, test_share=0.4, least_words=3, n_draws=20)

    @override
    def cautions(self, subject: Subject) -> tuple[str, ...]:
        found = []
        n = LEAST_PARAMETERS if subject.lm is None else about_parameters(subject.lm)
        if n < LEAST_PARAMETERS:
            found.append(
                f"the model has {n / 1e6:,.0f} million parameters; absorption means little below "
                f"1,000 million, where models hardly know how words are spelled"
            )
        if (d_sae := subject.sae.cfg.d_sae) < LEAST_LATENTS:
            found.append(
                f"the SAE has {d_sae:,} latents; below 16,384 there are few latents for single "
                f"words, and little is absorbed"
            )
        return tuple(found)

    @override
    def run_checked(self, subjects: Sequence[Subject], tools: Tools) -> list[Result]:
        """Measure SAEs of one model, which reads each word once for all of them."""
        began, lm = time.monotonic(), model_of(subjects)
        text = held_out(tools, FLOOR_ROWS)
        known = own_words(self.words, lm) if self.words else vocabulary(lm)
        split = drawn(known, self.n_words, self.examples, self.test_share, tools.seed)
        words = asked(lm, known, split, self.template, shape_of(text, lm).bos_id)
        rows = Padded(text.tokens, torch.ones_like(text.tokens, dtype=torch.bool))
        floors = untrained(subjects, rows, self.batch_rows, tools.seed)
        x, kept = self._read(subjects, words, shown=tools.shown)
        shared: dict[Any, _Words] = {}
        below: dict[Any, _Found] = {}  # SAEs that are as wide and as sparse have one floor
        results = []
        for subject, floor, mask in zip(subjects, floors, kept, strict=True):
            key = (subject.read, mask.numpy().tobytes())
            if key not in shared:
                shared[key] = self._probed(words, x[subject.read], mask, tools.seed)
            cpu = torch.device("cpu")
            found = self._measured(float32_on(subject.sae, cpu), shared[key], tools.seed)
            if (floor.sae, key) not in below:
                sae = float32_on(floor.sae, cpu)
                below[floor.sae, key] = self._letters(sae, shared[key], *_codes(sae, shared[key]))
            found[UNTRAINED] = below[floor.sae, key]
            results.append(self._result(subject, words, shared[key], found, (tools, began)))
        return results

    @torch.no_grad()
    def _read(
        self, subjects: Sequence[Subject], words: Words, *, shown: bool
    ) -> tuple[dict[Site, Tensor], list[Bool[Tensor, "n"]]]:
        """Return activations at each word's last token by site, and which count for each SAE."""
        lm = model_of(subjects)
        n, n_ctx = words.rows.shape
        planned = plan(subjects, n_ctx, n, Core(ce_tokens=0, batch_rows=self.batch_rows))
        planned.say(shown=shown)
        bar = Progress(self.name, n * n_ctx, shown=shown)
        sites = list(dict.fromkeys(subject.read for subject in subjects))
        found: dict[Site, list[Tensor]] = {site: [] for site in sites}
        kept: list[list[Tensor]] = [[] for _ in subjects]
        for first in range(0, n, planned.rows):
            tokens = words.rows[first : first + planned.rows].to(lm.device)
            at = words.last[first : first + planned.rows].to(lm.device)
            acts = lm.read(tokens, sites)
            check_finite(acts, first)
            each = torch.arange(len(tokens), device=lm.device)
            for site in sites:
                found[site].append(acts[site][each, at].float().cpu())
            for subject, masks in zip(subjects, kept, strict=True):
                masks.append(subject.rule.keep(tokens, acts[subject.read])[each, at].cpu())
            bar.add(tokens.numel())
        bar.close()
        return {s: torch.cat(parts) for s, parts in found.items()}, [torch.cat(m) for m in kept]

    def _probed(self, words: Words, x: Tensor, mask: Bool[Tensor, "n"], seed: int) -> _Words:
        """Fit the probes of letters on activations, and say which letters they tell."""
        n_train = int(mask[: words.n_train].sum())
        x, letters = x[mask], words.letters[mask]
        names = [word for word, keep in zip(words.words, mask.tolist(), strict=True) if keep]
        if n_train < 2 or len(x) == n_train:  # noqa: PLR2004 - nothing could be told apart
            raise DataError(
                f"The SAE's rules leave {n_train} words to train on and {len(x) - n_train} to test "
                f"on, of {len(mask)}. Name other words, or measure at another site."
            )
        is_letter = letters[:, None] == torch.arange(len(LETTERS))
        probe = probes.linear(x[:n_train], is_letter[:n_train], generator(seed, "penalty"))
        told = probe.scores(x[n_train:]) > 0
        found: dict[int, float] = {}
        skipped: dict[str, str] = {}
        for q, letter in enumerate(LETTERS):
            right = is_letter[n_train:, q]
            f1, n = probes.f1(told[:, q], right), int(right.sum())
            if n < self.least_words:
                skipped[letter] = f"{n} test words"
            elif f1 < self.min_f1 or not bool((told[:, q] & right).any()):
                skipped[letter] = f"F1 of the probe {f1:.2f}"
            else:
                found[q] = f1
        left_out = int((~mask).sum())
        return _Words(x, letters, names, n_train, left_out, probe, found, skipped)

    @torch.no_grad()
    def _letters(self, sae: SAE, read: _Words, train: Codes, test: Codes) -> _Found:
        """Return what codes of train and test words make of the letters that are measured."""
        if not read.probe_f1:
            return _Found({})
        n = read.n_train
        letters = read.places(slice(0, n)), read.places(slice(n, None))
        made = of_letters(sae, train, test, letters, read.x[n:], read.measured, self.thresholds)
        return _Found(dict(zip(read.probe_f1, made, strict=True)))

    @torch.no_grad()
    def _measured(self, sae: SAE, read: _Words, seed: int) -> dict[str, Any]:
        """Return what the SAE, its codes dealt out and its reconstructions make of the letters."""
        train, test = _codes(sae, read)
        own = self._letters(sae, read, train, test)
        if not own.letters:
            return {"": own, SHUFFLED: own}
        chance = generator(seed, SHUFFLED)
        dealt = self._letters(sae, read, shuffled(train, chance), shuffled(test, chance))
        yes, right = (
            read.measured.scores(sae.decode(test)) > 0,
            read.places(slice(read.n_train, None)),
        )
        recon = [probes.f1(yes[:, i], right == i) for i in range(yes.shape[1])]
        return {"": own, SHUFFLED: dealt, "recon": recon}

    def _result(
        self,
        subject: Subject,
        words: Words,
        read: _Words,
        found: Mapping[str, Any],
        said: tuple[Tools, float],
    ) -> Result:
        tools, began = said
        own: _Found = found[""]
        none = (
            f"no letter has {self.least_words} test words and an F1 of {self.min_f1:g} or more of "
            f"the probe on activations"
        )

        def over(values: list[float], label: str, unit: str, better: Any = "neither") -> Score:
            return _over_letters(values, label, unit, better, none)

        scores: dict[str, Score] = {}
        for name in ("", UNTRAINED, SHUFFLED):
            one, end, head = found[name], f"_{name}" if name else "", SAID[name]
            scores |= {
                f"absorption_fraction{end}": over(
                    one.means("fraction"), f"{head}absorption fraction", "share of the letter"
                ),
                f"full_absorption{end}": over(
                    one.means("full"), f"{head}words absorbed in full", "share of words"
                ),
                f"main_share{end}": over(
                    one.means("kept"), f"{head}letter in its own latents", "share of projection"
                ),
                f"main_f1{end}": over(
                    [letter.f1 for letter in one.letters.values()],
                    f"{head}F1 of a letter's own latents",
                    "ratio",
                ),
                f"split_latents{end}": over(
                    [float(len(letter.main)) for letter in one.letters.values()],
                    f"{head}latents for one letter",
                    "latents",
                ),
            }
        scores["recon_f1"] = over(
            found.get("recon", []), "F1 of the probe on reconstructions", "ratio", "higher"
        )
        scores["probe_f1"] = over(
            list(read.probe_f1.values()), "F1 of the probe on activations", "ratio"
        )
        tools.keep(subject, self.name, _table(own, subject.sae.cfg.d_sae))
        notes = list(self.cautions(subject))
        if len(own.letters) < LEAST_LETTERS:
            notes.append(
                f"{len(own.letters)} letters are measured; published scores are of {LEAST_LETTERS} "
                f"or more"
            )
        details = {
            "letters": {
                LETTERS[q]: self._told(q, one, read, tools.seed) for q, one in own.letters.items()
            },
            "letters_left_out": read.skipped,
            "words": {
                "train": read.n_train,
                "test": len(read.x) - read.n_train,
                "left_out_by_rule": read.left_out,
                "to_choose_from": words.in_vocabulary,
            },
            "examples": list(words.examples),
            "seed": tools.seed,
            "notes": notes,
        }
        made = made_from(subject, tools.seed, began) | {"read": str(subject.read), "notes": notes}
        return self.result(scores, details, made)

    def _told(self, q: int, one: Letter, read: _Words, seed: int) -> dict[str, Any]:
        """Return what became of a letter, JSON-ready."""
        chance = generator(seed, "letter", LETTERS[q])
        tests = read.names[read.n_train :]
        absorbed = [
            [tests[i], int(latent), round(share, 4), bool(full)]
            for i, latent, share, full in zip(
                one.words.tolist(),
                one.absorbing.tolist(),
                one.fraction.tolist(),
                one.full.tolist(),
                strict=True,
            )
            if latent >= 0
        ]
        return {
            "probe_f1": read.probe_f1[q],
            "words": len(one.words),
            "main": one.main,
            "main_f1": one.f1,
            "f1_by_latents": one.f1_by_latents,
            "absorption_fraction": bootstrap(one.fraction, self.n_draws, chance),
            "full_absorption": bootstrap(one.full, self.n_draws, chance),
            "main_share": bootstrap(one.kept, self.n_draws, chance),
            "absorbed": absorbed[:SHOWN_WORDS],
            "n_absorbed": len(absorbed),
        }


@torch.no_grad()
def _codes(sae: SAE, read: _Words) -> tuple[Codes, Codes]:
    """Return codes of train words and of test words."""
    codes = Codes.cat([sae.encode(part) for part in read.x.split(ENCODED)])
    return codes.take(slice(0, read.n_train)), codes.take(slice(read.n_train, codes.n_rows))


def _over_letters(values: list[float], label: str, unit: str, better: Any, none: str) -> Score:
    if not values:
        return Score(value=None, n=0, unit=unit, better=better, reason=none, label=label)
    found, n = mean_interval(torch.tensor(values, dtype=torch.float64), skewed=True), len(values)
    value, low, high = (float(v) for v in found)
    most = 1.0 if unit != "latents" else math.inf  # no share or F1 is above it
    why = FEW if math.isnan(low) else ""
    if low == high and most == 1.0:  # of letters that are all alike as of trials (Hanley)
        low, high = value - UNSEEN / n * value, value + UNSEEN / n * (1 - value)
    elif low == high:
        why = f"no interval: all {n} letters come out alike"
    ends = {} if why else {"low": max(low, 0.0), "high": min(high, most)}
    return Score(value=value, n=n, unit=unit, better=better, reason=why, label=label, **ends)


def _table(found: _Found, d_sae: int) -> Table:
    """Return of each latent the letter that it is for, and how many words it took over."""
    letter: list[str | None] = [None] * d_sae
    words = [0] * d_sae
    for q, one in found.letters.items():
        for latent in one.main:
            letter[latent] = LETTERS[q]
        for latent in one.absorbing.tolist():
            if latent >= 0:
                words[latent] += 1
    columns = {"latent": list(range(d_sae)), "letter": letter, "absorbed_words": words}
    return Table(columns=columns, units={"absorbed_words": "words"})
