"""The study: a model's own text against others, SAEs over seeds on each, and which are better."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from saekit.core import provenance
from saekit.core.border import reading
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, FormatError, TrainingError
from saekit.core.files import read_object, write_json
from saekit.core.lock import claimed
from saekit.core.parts import check_empty
from saekit.core.result import Result, Table
from saekit.data import table_files
from saekit.data.base import Corpus
from saekit.data.corpora.generated import Generated
from saekit.data.corpora.mixture import Mixture
from saekit.data.open import open_corpus
from saekit.evals.base import Eval
from saekit.evals.compare import (
    CompareSettings,
    aligned,
    compare_open,
    difference_text,
    number_text,
)
from saekit.evals.core import Core
from saekit.evals.evaluate import measure_all, measure_together
from saekit.hub.opening import OpenSAE, opened
from saekit.models.base import LanguageModel
from saekit.models.hf import load as load_model
from saekit.report import style
from saekit.studies.corpus.generate import Generation, generate
from saekit.studies.corpus.measure import Measurement, measure
from saekit.studies.corpus.measure import write as write_measures
from saekit.studies.faithful import verdict
from saekit.studies.faithful.evals.fake_features import FakeFeatures
from saekit.studies.faithful.evals.probing import Probing
from saekit.studies.faithful.evals.seed_stability import SeedStability
from saekit.studies.faithful.probing import logistic
from saekit.studies.faithful.verdict import Evidence
from saekit.training.building import DEFAULT_MODEL, as_run
from saekit.training.record import completed, is_done
from saekit.training.run import Run
from saekit.training.sources import given
from saekit.training.sweep_loop import SWEEP, sweep_runs
from saekit.training.train import described

OWN = "generated"  # the text that the model writes itself
STUDY, RESULT, VERDICTS = "study.json", "faithful.json", "verdicts"
MEASURES, COMPARISON = "measures.json", "comparison.json"  # what says that a part is done
LOSSES = {"fvu": "FVU", "ce_rise": "CE rise"}
PLAIN = re.compile(r"[^./\\|\x00-\x1f\x7f][^/\\|\x00-\x1f\x7f]{0,99}")  # name of a text
SPARE = 1.15  # of own text, over what training reads: rows are cut, and outliers do not count


@dataclass(frozen=True, kw_only=True)
class Faithful(Config):
    """What a run of the study trains and measures.

    Args:
        texts: corpora to train on, by name or file; ``generated`` is text that the model writes.
            The first is compared with each of the others.
        seeds: of training; each decides initialisation and order.
        tokens: tokens of each text that SAEs are trained on.
        epochs: passes over them.
        site: place in the model that SAEs read; null: resid_post of the layer a third of the way
            up.
        arch: architecture of the SAEs.
        d_sae: number of latents; null: 8 for each dimension.
        k: latents on per token, where the architecture has such a number; null: its default.
        training: other settings of a run, as ``batch_tokens=1024``.
        generation: how the model's own text is written.
        measurement: how texts are measured.
        losses: how reconstruction and losses are compared, on the held-out part of every text.
        stability: which latents seeds share.
        fakes: what fires on noise.
        probing: what probes find in codes.

    Source:
        FaithfulSAE, arXiv:2506.17673.
        Differs: see each part; seeds and resamples in every interval; verdicts by Holm's method.
    """

    name: ClassVar[str] = "faithful"
    version: ClassVar[int] = 1

    texts: tuple[str, ...] = (OWN, "packaged")
    seeds: tuple[int, ...] = setting((0, 1, 2), least=0)
    tokens: int = setting(300_000, least=1)
    epochs: int = setting(1, least=1)
    site: str | None = None
    arch: str = "topk"
    d_sae: int | None = setting(None, least=1)
    k: int | None = setting(None, least=1)
    training: tuple[str, ...] = ()
    generation: Generation = Generation()
    measurement: Measurement = Measurement()
    losses: CompareSettings = CompareSettings(
        core=Core(n_tokens=2**15, ce_tokens=2**13), metrics=tuple(LOSSES)
    )
    stability: SeedStability = SeedStability()
    fakes: FakeFeatures = FakeFeatures()
    probing: Probing = Probing()

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [name_of(text) for text in self.texts]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigError(
                f"The study compares two texts or more, each of a name of its own; got "
                f"{', '.join(names) or 'none'}."
            )
        for name in names:
            if PLAIN.fullmatch(name) is None:
                raise ConfigError(
                    f"A text is called by its name or the stem of its file, which become folders "
                    f"and parts of scores; got {name!r:.200}. Rename the file: no / \\ | in it, no "
                    f"point in front, at most 100 characters."
                )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"`seeds` are different numbers, at least one; got {self.seeds}.")


@dataclass(frozen=True)
class FaithfulRun:
    """What a run gave. `print` shows its verdicts.

    Args:
        folder: where everything is.
        verdicts: a row for each score and other text.
        result: all scores, JSON-ready in ``faithful.json``.
    """

    folder: Path
    verdicts: Table
    result: dict[str, Any]

    def __str__(self) -> str:
        return "\n".join(lines(self))


def name_of(text: str) -> str:
    """Return what a text is called: its name, or the stem of its file."""
    path = Path(text)
    return path.stem if path.suffix else text.rstrip("/").rpartition("/")[2]


def run(
    lm: LanguageModel | str = DEFAULT_MODEL,
    config: Faithful | None = None,
    *,
    out: Path | str,
    shown: bool = True,
) -> FaithfulRun:
    """Write the model's own text, train SAEs over seeds on each text, and compare them.

    Every part is kept in the folder and not done again: the same call goes on after a kill and ends
    with the same tables.

    Args:
        lm: the language model, or its name.
        config: what is trained and measured.
        out: the folder.
        shown: show progress on stderr.

    Raises:
        ConfigError: the folder holds a study with other settings, or a setting is wrong.
        TrainingError: an SAE could not be trained.
        MissingExtraError: matplotlib or scikit-learn is not installed.
    """
    style.check()
    logistic.check()
    model = load_model(lm) if isinstance(lm, str) else lm
    study = _Study(config or Faithful(), model, Path(out), shown)
    kept = f"Run the same command again: {study.folder}."
    with claimed(study.folder, "saekit faithful run", kept):
        texts = study.texts()  # refused before anything is written
        common = Mixture(
            parts=tuple(texts.values()), weights=(1.0,) * len(texts), when_short="go_on"
        )
        asked = {"faithful": study.cfg.to_dict(), "model": model.provenance()}
        _same(study.folder / STUDY, asked)
        study.write_own(texts)
        study.measure_texts(texts)
        saes = {name: study.trained(name, text) for name, text in texts.items()}
        every = [one for some in saes.values() for one in some]
        found = _Found(
            fakes=study.of_each(study.cfg.fakes, every, common),
            probes=study.of_each(study.cfg.probing, every, common),
            stability={name: study.stability(name, some, common) for name, some in saes.items()},
            losses={name: study.losses(name, saes, text) for name, text in texts.items()},
        )
        return study.finish(saes, found)


def _same(path: Path, wanted: Mapping[str, Any]) -> None:
    """Write what a new study is, or refuse to go on with another one."""
    wanted = json.loads(json.dumps(wanted))
    if not path.exists():
        check_empty(path.parent)
        write_json(path, wanted)
        return
    before = read_object(path)
    old, new = before.get("faithful"), wanted["faithful"]
    if not isinstance(old, dict):
        raise FormatError(f"{path} is not of a study of `saekit faithful run`.")
    old = completed(old, Faithful)  # an earlier version has fewer settings
    differ = [k for k in new if old.get(k) != new[k]]
    differ += ["the model"] if before.get("model") != wanted["model"] else []
    if differ:
        raise ConfigError(
            f"{path.parent} holds a study with another {', '.join(differ)}. Choose another folder, "
            f"or give the settings it was begun with ({path})."
        )


class _Found(NamedTuple):
    """What was measured of all SAEs."""

    fakes: dict[Path, Result]
    probes: dict[Path, Result]
    stability: dict[str, Result | None]  # by text; None: it has one seed
    losses: dict[str, tuple[Table, Table]]  # by the text measured on: pairs, and SAEs


class _Study(NamedTuple):
    """A study under way: each part is looked up in the folder, and made where it is missing."""

    cfg: Faithful
    lm: LanguageModel
    folder: Path
    shown: bool

    def texts(self) -> dict[str, Corpus]:
        """Return every text; the model's own need not be written yet."""
        own = Generated(path=str((self.folder / "text" / OWN).absolute()))
        return {name_of(w): own if w == OWN else open_corpus(w) for w in self.cfg.texts}

    def write_own(self, texts: Mapping[str, Corpus]) -> None:
        """Write the model's own text, if it is among these."""
        own = texts.get(OWN)
        if OWN in self.cfg.texts and isinstance(own, Generated):
            held_out = max(self.cfg.losses.core.n_tokens, self.cfg.stability.n_tokens)
            trained_on = 1 - own.test_share - own.validation_share
            needed = max(self.cfg.tokens / trained_on, held_out / own.test_share) * SPARE
            how = self.cfg.generation
            generate(self.lm, Path(own.path), tokens=round(needed), how=how, shown=self.shown)

    def measure_texts(self, texts: Mapping[str, Corpus]) -> None:
        """Write what the texts are like, and figures of it."""
        out = self.folder / "text" / "measures"
        if not (out / MEASURES).exists():
            found = measure(dict(texts), self.lm, self.cfg.measurement, shown=self.shown)
            # The scores are moved last, for they say that all is there.
            write_measures(found, out / "begun", self.lm)
            for path in sorted((out / "begun").iterdir(), key=lambda p: p.name == MEASURES):
                path.replace(out / path.name)
            (out / "begun").rmdir()

    def trained(self, name: str, text: Corpus) -> list[Path]:
        """Return the folders of the SAEs of a text in the order of seeds, trained in one sweep."""
        out = self.folder / "saes" / name
        runs = {f"seed{seed}": self._run(text, seed) for seed in self.cfg.seeds}
        if not all((out / n).exists() and is_done(out / n) for n in runs):
            broken = sweep_runs(runs, self.lm, out, resume=(out / SWEEP).exists(), shown=self.shown)
            if broken:
                why = "; ".join(f"{n}: {reason}" for n, reason in broken.items())
                raise TrainingError(f"SAEs of {name} could not be trained: {why}")
        return [out / n for n in runs]

    def _run(self, text: Corpus, seed: int) -> Run:
        cfg = self.cfg
        words = given(
            site=[cfg.site] if cfg.site else None,
            sae=cfg.arch,
            d_sae=cfg.d_sae,
            k=cfg.k,
            corpus=text,
            tokens=cfg.tokens,
            epochs=cfg.epochs,
            seed=seed,
        )
        _, raw = described(self.lm, words, {})
        return as_run(raw, self.lm, cfg.training)

    def _opened(self, folders: Sequence[Path], text: Corpus) -> list[OpenSAE]:
        return [opened(folder, self.lm, text) for folder in folders]

    def of_each(self, config: Eval, folders: Sequence[Path], text: Corpus) -> dict[Path, Result]:
        """Return the result of every SAE; all are measured in one pass of the model."""
        paths = {folder: folder / "eval" / f"{config.name}.json" for folder in folders}
        if not all(path.exists() for path in paths.values()):
            saes = self._opened(folders, text)
            results = measure_all(saes, config, None, 0, self.shown, tables=True)
            for path, result in zip(paths.values(), results, strict=True):
                result.write(path)
        return {folder: Result.read(path) for folder, path in paths.items()}

    def stability(self, name: str, folders: Sequence[Path], text: Corpus) -> Result | None:
        """Return which latents the seeds of a text share; None: there is one seed."""
        if len(folders) == 1:
            return None
        config = self.cfg.stability
        path = self.folder / "saes" / name / "eval" / f"{config.name}.json"
        if not path.exists():
            saes = self._opened(folders, text)
            measure_together(saes, config, None, 0, self.shown, tables=True).write(path)
        return Result.read(path)

    def losses(
        self, name: str, saes: Mapping[str, Sequence[Path]], text: Corpus
    ) -> tuple[Table, Table]:
        """Return pairs and SAEs of a comparison of all SAEs on the held-out part of a text."""
        out = self.folder / "losses" / name
        if not (out / COMPARISON).exists():
            every = self._opened([one for some in saes.values() for one in some], text)
            sizes = {group: len(some) for group, some in saes.items()}
            compare_open(every, sizes, self.cfg.losses, shown=self.shown).write(out)
        with reading(out / COMPARISON, "a comparison of SAEs"):
            made = read_object(out / COMPARISON)
            return Table(columns=made["pairs"]), Table(columns=made["saes"])

    def finish(self, saes: Mapping[str, Sequence[Path]], found: _Found) -> FaithfulRun:
        """Write the verdicts, and everything that the page shows."""
        first, *others = saes
        evidence = {other: _evidence(first, other, saes, found) for other in others}
        verdicts = verdict.table(first, evidence)
        cross = cross_table({name: each for name, (_, each) in found.losses.items()})
        folders = {
            name: [str(one.relative_to(self.folder)) for one in some] for name, some in saes.items()
        }
        result = {
            "kind": "faithful",
            "version": self.cfg.version,
            "text": first,
            "said": verdict.sentences(verdicts),
            "notes": verdict.notes(verdicts),
            "verdicts": verdicts.columns,
            "cross_data": cross.columns,
            "saes": folders,
            "provenance": provenance.collect(0),
        }
        table_files.write(cross, self.folder / "cross_data")
        table_files.write(verdicts, self.folder / VERDICTS)
        write_json(self.folder / RESULT, result)
        return FaithfulRun(self.folder, verdicts, result)


def _evidence(
    first: str, other: str, saes: Mapping[str, Sequence[Path]], found: _Found
) -> list[Evidence]:
    """Return how SAEs of two texts differ in every score."""
    ratio = "shared_feature_ratio"
    lines_of: list[Evidence] = []
    one, two = found.stability[first], found.stability[other]
    if one is not None and two is not None:
        pair = one.scores[ratio], two.scores[ratio]
        lines_of.append(verdict.apart("shared feature ratio", *pair))
    lines_of += verdict.of_fakes(*([found.fakes[f] for f in saes[n]] for n in (first, other)))
    lines_of += verdict.of_probes(*([found.probes[f] for f in saes[n]] for n in (first, other)))
    for measured_on, (pairs, _) in found.losses.items():
        rows = [row for row in pairs.rows() if (row["a"], row["b"]) == (first, other)]
        both = Table(columns={key: [row[key] for row in rows] for key in pairs.columns})
        lines_of += verdict.of_comparison(both, measured_on, LOSSES)
    return lines_of


def cross_table(saes: Mapping[str, Table]) -> Table:
    """Return a row for each text of training, text of measuring and metric: means over seeds.

    Args:
        saes: the SAEs' scores, by the text that they were measured on.
    """
    names = ("trained_on", "measured_on", "metric", "value", "least", "most", "seeds")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for measured_on, table in saes.items():
        for group in dict.fromkeys(table.columns["group"]):
            rows = [row for row in table.rows() if row["group"] == group]
            for metric in (one for one in ("l0", *LOSSES) if one in table.columns):
                values = [row[metric] for row in rows if row[metric] is not None]
                mean = sum(values) / len(values) if values else None
                ends = (min(values), max(values)) if values else (None, None)
                line = (group, measured_on, metric, mean, *ends, len(values))
                for name, value in zip(names, line, strict=True):
                    columns[name].append(value)
    return Table(columns=columns)


def lines(found: FaithfulRun) -> list[str]:
    """Return the verdicts as aligned lines, and what they come to in words."""
    text = found.result["text"]
    heads = (
        "score",
        "good is",
        f"of {text}",
        "against",
        "of that",
        "difference [95 %]",
        "p (Holm)",
        "verdict",
    )
    rows = [
        (
            row["score"],
            row["better"],
            number_text(row["value"]),
            row["other"],
            number_text(row["value_other"]),
            difference_text(row),
            "-" if row["p_holm"] is None else f"{row['p_holm']:.2g}",
            row["verdict"],
        )
        for row in found.verdicts.rows()
    ]
    holm = f"better is said where p, by Holm's method over all rows, is below {verdict.LEVEL}"
    notes = [f"note     {note}" for note in (*found.result["notes"], holm)]
    return [*aligned([heads, *rows]), *notes, "", *found.result["said"]]
