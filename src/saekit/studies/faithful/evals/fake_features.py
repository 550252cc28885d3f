"""Fake features: how many latents fire on noise as they do on text."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
from jaxtyping import Int
from torch import Tensor
from typing_extensions import override

from saekit.core import machine, provenance
from saekit.core.config import setting
from saekit.core.errors import ConfigError, DataError, ResourceError
from saekit.core.files import digest
from saekit.core.progress import Progress
from saekit.core.result import Result, Score, Table
from saekit.core.seeds import generator
from saekit.data.tokenise import Rows
from saekit.evals._plan import plan
from saekit.evals.base import SharedEval, Subject, Tools, made_from, registry
from saekit.evals.core import Core
from saekit.studies.faithful.coding import model_of
from saekit.studies.faithful.fakes import firing, statistics
from saekit.studies.faithful.fakes.definitions import PRESETS, Definition, sized
from saekit.studies.faithful.fakes.firing import Sizes, Tally
from saekit.studies.faithful.fakes.noises.base import Place
from saekit.studies.faithful.fakes.noises.base import registry as noises
from saekit.studies.faithful.fakes.statistics import Drawn, Wording
from saekit.studies.faithful.lists import written
from saekit.studies.faithful.sequences import Padded, held_out, shape_of
from saekit.studies.faithful.untrained import untrained

FLOOR = "untrained"
FEW_ROWS = 8  # that an untrained SAE is scaled by
RESAMPLED = 16  # bytes of a sequence in a resample: how often it comes, and copies of that
AGAIN = "other_text"  # text in the place of noise: what `excess` is by chance


class _Found(NamedTuple):
    """What fires of one SAE: on text, and on each noise."""

    sizes: Sizes
    thresholds: Tensor
    text: Tally
    noises: dict[str, Tally]


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class FakeFeatures(SharedEval):
    """How many latents fire on noise, in more than a share of random sequences.

    A latent fires in a sequence where its largest activation there is over its threshold, half
    of its largest activation on held-out text, and is fake if it does in more than 5 % of
    random sequences. A latent that fires everywhere is fake too, so `excess` counts those that
    are fake and do not fire in more than 5 % of sequences of text; `dense` are those that do.
    Latents near 5 % are on one side of it here and on the other there by chance, so other text in
    the place of noise has an excess too: ``other_text/excess``, and `above_text` is what a noise
    has beyond that. `surely_fake` leaves out whatever chance may have put on its side. Text for
    thresholds, for `dense` and in the place of noise share no row.

    Each noise has its own scores, as ``uniform_tokens/excess``. Next to them stand those of an
    untrained TopK of the same widths with as many latents on per token, on the same sequences.
    Intervals are over sequences, see `saekit.studies.faithful.fakes.statistics`. All
    SAEs that are measured with one seed see one noise, and `difference` there compares two. A
    table with a row for each latent goes to RUN/analysis/fake_features.csv.

    Args:
        definition: what is fake: "relative" is over half of the latent's largest activation on
            text, in over 5 % of sequences; "notes", "r1" and "r2" are the three published ones,
            whose thresholds are 0 or 1 act unit. The settings below that are null are those of the
            definition.
        mode: "sequence": fires in a share of sequences; "token": at a share of tokens.
        statistic: of the activations in a sequence: the largest, or their sum.
        tau: threshold, in what `scale` says.
        scale: "max" and "rms" of a latent on text, or "absolute", act units.
        p: share of sequences or tokens.
        n_seqs: sequences of each noise, and three times as many of text where there are.
        seq_len: tokens of a sequence, BOS included; 0: those of the SAE's rows.
        noises: which (`saekit list noises`); empty: that of the definition, and unigram.
        n_draws: resamples for the intervals.
        batch_rows: the most sequences of a forward pass.

    Raises:
        ConfigError: a number is out of range, a noise is named twice, or the model reads no such
            sequences.

    Cost:
        n_seqs sequences to the site, for each noise and three times for text.

    Reads:
        Held-out rows.

    Source:
        FaithfulSAE, arXiv:2506.17673 (fake feature ratio).
        Differs: thresholds relative to each latent; special tokens left out of the noise; those
        that fire on text told apart; an untrained floor; seeded, with intervals.
    """

    name: ClassVar[str] = "fake_features"
    version: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"lm"})
    headline: ClassVar[tuple[str, ...]] = ("*/fake", "*/surely_fake", "*/above_text", f"-{AGAIN}/*")

    definition: str = setting("relative", choices=tuple(PRESETS))
    mode: Literal["sequence", "token"] | None = None
    statistic: Literal["max", "sum"] | None = None
    tau: float | None = setting(None, least=0)
    scale: Literal["max", "rms", "absolute"] | None = None
    p: float | None = setting(None, above=0, below=1)
    n_seqs: int | None = setting(None, least=1)
    seq_len: int | None = setting(None, least=0)
    noises: tuple[str, ...] = ()
    n_draws: int = setting(1000, least=0)
    batch_rows: int = setting(8, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.noises)) < len(self.noises):
            raise ConfigError(f"`noises` names each once; got {', '.join(self.noises)}.")

    @classmethod
    @override
    def example(cls) -> "FakeFeatures":
        return cls(n_seqs=20, n_draws=50, noises=("uniform_tokens",))

    def defined(self, n_ctx: int) -> Definition:
        """Return the definition with what the settings change, for rows of `n_ctx` tokens."""
        base = PRESETS[self.definition]
        own = {name: getattr(self, name) for name in base._fields if hasattr(self, name)}
        return sized(base._replace(**{k: v for k, v in own.items() if v is not None}), n_ctx)

    @override
    def run_checked(self, subjects: Sequence[Subject], tools: Tools) -> list[Result]:
        began = time.monotonic()
        n_ctx = held_out(tools, 1).tokens.shape[1]
        n_rows = 3 * self.defined(n_ctx).n_seqs
        text = held_out(tools, n_rows, self.batch_rows)
        notes = provenance.shortfall(n_rows, len(text.tokens), f"{tools.split} text", "rows")
        found, said = self._measured(subjects, text, tools)
        results = []
        n = len(subjects)
        for subject, own, floor in zip(subjects, found[:n], found[n:], strict=True):
            scores, details, table = self._scored(own, floor, said, tools.seed)
            tools.keep(subject, self.name, table)
            made = made_from(subject, tools.seed, began) | {"notes": notes}
            results.append(self.result(scores, details, made))
        return results

    def _measured(
        self, subjects: Sequence[Subject], text: Rows, tools: Tools
    ) -> tuple[list[_Found], dict[str, Any]]:
        """Run every forward pass, for all SAEs at once; floors come after the SAEs."""
        lm = model_of(subjects)
        definition = self.defined(text.tokens.shape[1])
        if definition.seq_len > lm.n_ctx_max:
            raise ConfigError(
                f"Sequences have {definition.seq_len} tokens; {lm.name} reads {lm.n_ctx_max} at "
                f"most. Set seq_len."
            )
        if definition.seq_len < 1 + (shape_of(text, lm).bos_id is not None):
            raise ConfigError(
                f"Sequences of {definition.seq_len} tokens have none beside BOS. Raise seq_len."
            )
        calibration, held, again = _thirds(text, definition)
        names = self.noises or tuple(dict.fromkeys((definition.noise, "unigram")))
        self._check_memory(definition, subjects, len(names))
        shape = shape_of(text, lm)._replace(n_ctx=definition.seq_len)
        place = Place(lm.tokenizer, lm.vocab_size, shape, text)
        drawn = {
            name: noises.get(name)().draw(
                definition.n_seqs, place, generator(tools.seed, "noise", name)
            )
            for name in names
        } | {AGAIN: again.text}
        size = plan(
            subjects,
            definition.seq_len,
            definition.n_seqs,
            Core(ce_tokens=0, batch_rows=self.batch_rows),
        )
        size.say(shown=tools.shown)
        every = [calibration.text, held.text, *drawn.values()]
        bar = Progress(self.name, sum(int(p.real.sum()) for p in every), shown=tools.shown)
        few = calibration.text.rows(slice(0, FEW_ROWS))
        floors = untrained(subjects, few, size.rows, tools.seed)
        both = [*subjects, *floors]
        sizes = firing.sizes_on(both, calibration.text, size.rows, bar)
        thresholds = [s.thresholds(definition.tau, definition.scale) for s in sizes]
        tallies: dict[str, list[Tally]] = {}
        for name, sequences in {"": held.text, **drawn}.items():
            blank = [Tally(definition, t, len(sequences.tokens)) for t in thresholds]
            firing.tallies_on(both, blank, sequences, size.rows, bar)
            tallies[name] = blank
        bar.close()
        found = [
            _Found(sizes[i], thresholds[i], tallies[""][i], {n: tallies[n][i] for n in drawn})
            for i in range(len(both))
        ]
        said = {
            "definition": definition._asdict(),
            "noises": {n: _sha256(s) for n, s in drawn.items()},
            "settings": {n: {"name": n} if n == AGAIN else noises.get(n)().said() for n in drawn},
            "text": held.said(),
            "calibration": calibration.said(),
            "groups": {"": held.groups, AGAIN: again.groups},
        }
        return found, said

    def _check_memory(
        self, definition: Definition, subjects: Sequence[Subject], n_noises: int
    ) -> None:
        """Refuse more sequences or resamples than there is memory for."""
        hits = 2 if definition.mode == "token" else 1
        widths = 2 * sum(s.sae.cfg.d_sae for s in subjects)
        n = definition.n_seqs
        drawn = n * n_noises * (8 * definition.seq_len + hits * widths)
        wanted = drawn + RESAMPLED * n * self.n_draws
        free = machine.free_memory(torch.device("cpu"))
        if free is not None and wanted > free:
            raise ResourceError(
                f"{n:,} sequences of {n_noises} noises and {self.n_draws:,} resamples need "
                f"{wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. Lower n_seqs or n_draws."
            )

    def _scored(
        self, own: _Found, floor: _Found, said: dict[str, Any], seed: int
    ) -> tuple[dict[str, Score], dict[str, Any], Table]:
        definition = Definition(**said["definition"])
        d_sae, p = len(own.thresholds), definition.p
        on_text, n_text = own.text.rates(), len(said["groups"][""].unique())
        columns: dict[str, list[Any]] = {
            "latent": list(range(d_sae)),
            "threshold": own.thresholds.tolist(),
            "text_rate": on_text.tolist(),
        }
        scores: dict[str, Score] = {}
        by_noise = {}
        unit = "tokens" if definition.mode == "token" else "sequences"
        every = {name: self._counted(own, name, said, seed) for name in own.noises}
        for name, tally in own.noises.items():
            rates = tally.rates()
            counted, n = every[name]
            below, _ = self._counted(floor, name, said, seed)
            firing.check_bound(counted.seen["fake"], tally.l0, definition)
            for what, plain in _WORDS.items():
                wording = plain._replace(label=f"{plain.label} ({name})")
                if name == AGAIN:
                    wording = Wording(f"{plain.label} (other text in its place)")
                scores[f"{name}/{what}"] = statistics.share(counted, what, d_sae, n, wording)
                of_floor = Wording(f"{wording.label}, untrained SAE")
                scores[f"{name}/{what}_{FLOOR}"] = statistics.share(below, what, d_sae, n, of_floor)
            sure = statistics.surely(rates, on_text, p, n, n_text)
            scores[f"{name}/surely_fake"] = Score(
                value=int(sure.sum()) / d_sae,
                n=d_sae,
                unit="share of latents",
                better="neither",
                reason="no interval: a test of each latent",
                label=f"fires on noise and not on text, neither by chance ({name})",
            )
            columns[f"{name}_surely_fake"] = sure.tolist()
            if name != AGAIN:
                scores[f"{name}/above_text"] = _above(name, every, d_sae)
            bound = tally.l0 / p if definition.mode == "token" else float(d_sae)
            by_noise[name] = {
                "noise": said["settings"][name],
                "sha256": said["noises"][name],
                "n": n,
                "latents": counted.seen,
                f"latents_{FLOOR}": below.seen,
                "silent_on_text": int(((rates > p) & (own.sizes.largest == 0)).sum()),
                "undecided": statistics.undecided(rates, p, n),
                "l0": tally.l0,
                f"l0_{FLOOR}": floor.noises[name].l0,
                "most_possible": min(d_sae, int(bound)),
                "tokens": int(tally.tokens.sum()),
                "draws": {what: written(counted.draws[what].tolist()) for what in _WORDS},
            }
            columns[f"{name}_rate"] = rates.tolist()
            columns[f"{name}_fake"] = (rates > p * statistics.OVER).tolist()
        first, _ = every[AGAIN]
        scores["text/dense"] = statistics.share(
            first, "dense", d_sae, n_text, Wording(f"dense: over {p:.0%} of text's {unit}")
        )
        text = {k: v for k, v in said["text"].items()} | {
            "documents": n_text,
            "l0": own.text.l0,
            "tokens": int(own.text.tokens.sum()),
        }
        details = {
            "definition": said["definition"],
            "d_sae": d_sae,
            "noises": by_noise,
            "text": text,
            "calibration": said["calibration"] | {"l0": own.sizes.l0},
            "never_on_in_calibration": int((own.sizes.largest == 0).sum()),
        }
        units = {c: f"share of {unit}" for c in columns if c.endswith("_rate")}
        return scores, details, Table(columns=columns, units=units | {"threshold": "act units"})

    def _counted(
        self, found: _Found, noise: str, said: dict[str, Any], seed: int
    ) -> tuple[Drawn, int]:
        """Return counts of latents on a noise and on text, and how many sequences it has."""
        definition = Definition(**said["definition"])
        on_noise = statistics.units_of(found.noises[noise], said["groups"].get(noise))
        on_text = statistics.units_of(found.text, said["groups"][""])
        if not len(on_noise.sizes) or not len(on_text.sizes):
            where = noise if not len(on_noise.sizes) else "the held-out text"
            raise DataError(
                f"The SAE's rules leave no token of {where}. Use another noise or rule."
            )
        counted = statistics.count(on_noise, on_text, definition.p, self.n_draws, seed)
        return counted, len(on_noise.sizes)


_WORDS = {
    "fake": Wording("fires on noise"),
    "excess": Wording("fires on noise, not dense on text", "lower"),
}


def _above(noise: str, every: dict[str, tuple[Drawn, int]], d_sae: int) -> Score:
    """Return how much more excess there is on a noise than on other text, paired by draw."""
    (one, n), (other, n_text) = every[noise], every[AGAIN]
    least = min(n, n_text)
    value = (one.seen["excess"] - other.seen["excess"]) / d_sae
    draws = (one.draws["excess"] - other.draws["excess"]).double() / d_sae
    low, high, reason = statistics.ends(value, draws, least)
    return Score(
        value=value,
        low=low,
        high=high,
        n=least,
        unit="share of latents",
        better="neither",
        reason=reason,
        label=f"fires on noise, not dense on text, above other text ({noise})",
    )


class _Part(NamedTuple):
    """Some rows of text, and the document that each begins in."""

    text: Padded
    groups: Int[Tensor, "n"]

    def said(self) -> dict[str, Any]:
        return {"sequences": len(self.groups), "sha256": _sha256(self.text)}


def _thirds(text: Rows, definition: Definition) -> list[_Part]:
    """Return rows for thresholds, rows to compare noise with, and rows in the place of noise.

    Rows are cut to the length of the noise's sequences where these are shorter.
    """
    n = min(definition.n_seqs, len(text.tokens) // 3)
    if not n:
        raise DataError(
            f"The held-out text has {len(text.tokens)} rows of tokens; three are needed at least: "
            f"for thresholds, to compare with, and in the place of noise. Give more text."
        )
    tokens = text.tokens[:, : definition.seq_len]
    first = text.doc_ids[:, min(1, text.doc_ids.shape[1] - 1)]  # of the first token after BOS
    whole = torch.ones_like(tokens, dtype=torch.bool)
    cuts = [slice(i * n, (i + 1) * n) for i in range(3)]
    return [_Part(Padded(tokens[c], whole[c]), first[c]) for c in cuts]


def _sha256(text: Padded) -> str:
    return digest([text.tokens.numpy().tobytes(), text.real.numpy().tobytes()])
