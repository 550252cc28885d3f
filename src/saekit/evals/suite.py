"""`saekit.evaluate_suite`: several evaluations of SAEs, with what makes scores believable."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from saekit.activations.memo import Memo
from saekit.core import provenance
from saekit.core.config import Config, read_setting
from saekit.core.errors import ConfigError, FormatError, SaekitError
from saekit.core.files import write_json
from saekit.core.folder_names import distinct_names
from saekit.core.lock import claimed
from saekit.core.result import Result, Score, Table, split_lines
from saekit.data.base import Corpus, HeldOut
from saekit.evals import _evidence
from saekit.evals._cells import (
    Cells,
    Failed,
    Member,
    Outcome,
    failure_of,
    floor_key,
    identity,
    key_of,
    measure_each,
    measure_together,
)
from saekit.evals._differences import seeds_together
from saekit.evals.base import Eval, JointEval, Subject, Tools
from saekit.evals.compare import aligned, number_text
from saekit.evals.evaluate import configured, read_alike, stream_of, subject_of
from saekit.evals.floors.base import Ground
from saekit.evals.floors.base import registry as floors
from saekit.evals.suites.base import Part, StudyResults, Suite, registry
from saekit.hub.names import results_folder
from saekit.hub.opening import AnySAE, OpenSAE, each_of, opened, said_of
from saekit.hub.trained import TrainedSAE, weights_digest
from saekit.metrics.base import registry as metrics
from saekit.models.base import LanguageModel

FILE, TABLE = "suite.json", "suite.csv"
PAIRED = (
    "two SAEs that are measured on the same text are told apart from a smaller difference: saekit "
    "compare A B"
)
OWN_NULLS = "its scores are of several SAEs together; what chance gives is in its result"
AS_IT_LIES = "read where it lies; no floor was measured here"
NO_LANGUAGE = Failed("that model predicts no better than guessing, so its losses tell nothing")
OF_WEIGHTS = Failed("it has the weights of the SAE, and this evaluation reads nothing else")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteSettings(Config):
    """How a suite is run.

    Args:
        suite: which (`saekit list suites`).
        tier: "small" runs offline in minutes on a CPU; "full" reads more, and data of the hub.
        floors: which (`saekit list floors`); null: those of the suite; empty: none.
        seed: of all that is drawn.
        changes: settings of evaluations, such as ``core.n_tokens=4096``.
        split: "test", for what is reported, or "validation", to choose between settings.

    Raises:
        UnknownNameError: there is no such suite or floor.
        ConfigError: a change is of an evaluation that the suite does not run.
    """

    name: ClassVar[str] = "suite"
    suite: str = "standard"
    tier: Literal["small", "full"] = "small"
    floors: tuple[str, ...] | None = None
    seed: int = 0
    changes: tuple[str, ...] = ()
    split: HeldOut = "test"

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = [part.eval for part in self.of.parts]
        for name in self.floor_names:
            floors.get(name)
        for change in self.changes:
            if read_setting(change)[0].partition(".")[0] not in parts:
                raise ConfigError(
                    f"A setting of a suite reads EVALUATION.SETTING=VALUE, such as "
                    f"core.n_tokens=4096; EVALUATION is one of {', '.join(parts)}. Got `{change}`."
                )

    @property
    def of(self) -> type[Suite]:
        """The suite."""
        return registry.get(self.suite)

    @property
    def floor_names(self) -> tuple[str, ...]:
        """The floors that are measured."""
        return self.of.floors if self.floors is None else tuple(dict.fromkeys(self.floors))

    def config(self, part: Part) -> Eval | Failed:
        """Return an evaluation of the suite, or why there is none.

        Raises:
            ConfigError: it refuses a setting of the user's.
        """
        try:
            plain = part.config(self.tier)
        except SaekitError as error:
            return failure_of(error)
        read = [read_setting(change) for change in self.changes]
        mine = {p.partition(".")[2]: v for p, v in read if p.partition(".")[0] == part.eval}
        return configured(plain, None, mine)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """What a suite of evaluations gave. `print` shows it.

    Args:
        rows: a row for each SAE, evaluation and headline score.
        failures: what failed, with the traceback where the error was unexpected.
        provenance: what was measured, and with which code and settings.
    """

    rows: Table
    failures: list[dict[str, str]]
    provenance: dict[str, Any]

    def __str__(self) -> str:
        return "\n".join(lines(self))

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each status."""
        status = self.rows.columns["status"]
        return {one: status.count(one) for one in ("ok", "undefined", "skipped", "failed")}

    def write(self, folder: Path | str) -> Path:
        """Write ``suite.json`` and the rows as ``suite.csv``; return the first."""
        place = Path(folder)
        self.rows.write_csv(place / TABLE)
        record = {
            "kind": "suite",
            "rows": self.rows.columns,
            "failures": self.failures,
            "provenance": self.provenance,
        }
        write_json(place / FILE, record)
        return place / FILE


def evaluate_suite(  # noqa: PLR0913 - the words of `saekit eval --suite`
    saes: AnySAE | Sequence[AnySAE],
    lm: LanguageModel | None = None,
    suite: str = "standard",
    *,
    out: Path | str | None = None,
    tier: Literal["small", "full"] = "small",
    floors: Sequence[str] | None = None,
    corpus: Corpus | Path | str | Sequence[str] | None = None,
    site: str | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    split: HeldOut = "test",
    tables: bool = False,
    shown: bool = True,
) -> SuiteResult:
    """Measure SAEs by several evaluations, each score next to its floors and its noise.

    An evaluation that fails gets a row that says why, and stops no other. With `out`, every result
    is kept there under a hash of all that it depends on: the same call again measures nothing, and
    after a change of weights, text, model or a setting only what depends on it is measured again.

    Args:
        saes: an SAE, or the folder it is in; or several.
        lm: their language model; None: the one that the card of each names.
        suite: which (`saekit list suites`).
        out: a folder for the table and the cells; None: nothing is kept.
        tier: "small" runs offline in minutes on a CPU; "full" reads more, and data of the hub.
        floors: which (`saekit list floors`); None: those of the suite; empty: none.
        corpus: other text, whose held-out part is read; None: that of training.
        site: which site, where several share an SAE.
        seed: of all that is drawn.
        settings: of evaluations, such as ``{"core.n_tokens": 4096}``.
        split: "test", for what is reported, or "validation", to choose between settings.
        tables: write what evaluations find about every latent to RUN/analysis of each SAE.
        shown: show progress on stderr.

    Raises:
        ConfigError: a setting is refused, or no SAE can be opened.
        UnknownNameError: there is no such suite or floor.
    """
    asked = {"suite": suite, "tier": tier, "floors": floors, "seed": seed, "split": split}
    config = SuiteSettings.from_dict(asked | {"changes": _changes(settings or {})})
    models: dict[str, LanguageModel] = {}
    found: list[OpenSAE] = []
    broken: dict[str, SaekitError] = {}
    for i, one in enumerate(each_of(saes)):
        try:
            found.append(opened(one, lm, corpus, site, models=models))
        except SaekitError as error:
            broken[f"SAE {i + 1}" if isinstance(one, TrainedSAE) else str(one)] = error
    place = None if out is None else Path(out)
    return run_suite(found, config, site=site, out=place, broken=broken, tables=tables, shown=shown)


def _changes(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as they are typed on a command line.

    Raises:
        ConfigError: they are no settings by name, or JSON has no word for a value.
    """
    import json

    if not isinstance(settings, Mapping):
        raise ConfigError(f'Settings of a suite read {{"core.n_tokens": 4096}}; got {settings!r}.')
    try:
        return [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in settings.items()]
    except TypeError as error:
        raise ConfigError(
            "A setting is a number, text, true or false, or a list of these; got "
            f"{settings!r:.200}."
        ) from error


def run_suite(
    saes: Sequence[OpenSAE],
    config: SuiteSettings,
    *,
    site: str | None = None,
    out: Path | None = None,
    broken: Mapping[str, SaekitError] | None = None,
    tables: bool = False,
    shown: bool = True,
) -> SuiteResult:
    """Measure SAEs that are open already.

    Args:
        saes: the SAEs.
        config: how.
        site: which site, where several share an SAE.
        out: a folder for the table and the cells; None: nothing is kept.
        broken: SAEs that could not be opened, by name: they have a row that says why.
        tables: write what evaluations find of every latent to RUN/analysis of each SAE.
        shown: show progress on stderr.

    Raises: as `evaluate_suite`.
    """
    lost = dict(broken or {})
    if not saes:
        raise next(iter(lost.values()), ConfigError("A suite needs at least one SAE; got none."))
    parts = [(part, config.config(part)) for part in config.of.parts]
    kept = "What was measured is kept; run the same command again to go on."
    hold = contextlib.nullcontext() if out is None else claimed(out, "saekit eval", kept)
    with hold:
        run = _Run(saes, config, site, (Cells(out), tables), shown)
        rows = [row for part, one in parts for row in run.rows(part.eval, one)]
        rows += [row for study in config.of.studies for row in run.of_study(study)]
        for name, error in {**lost, **run.lost}.items():
            rows.append(_blank(name, "", failure_of(error)))
        found = _result(run, rows)
        if out is not None:
            found.write(out)
    return found


class _Group(NamedTuple):
    """SAEs of one model that are measured on the same rows."""

    members: dict[int, Member]  # by the place of the SAE among all
    floors: dict[tuple[int, str], Member | Failed]
    tools: Tools
    text: str  # hash of the rows


class _Run:
    """SAEs and their floors while they are measured.

    Args:
        saes: the SAEs.
        config: how they are measured.
        site: which site, where several share an SAE.
        kept: where results are, and go; and whether tables of latents go to the SAEs.
        shown: show progress on stderr.
    """

    def __init__(
        self,
        saes: Sequence[OpenSAE],
        config: SuiteSettings,
        site: str | None,
        kept: tuple[Cells, bool],
        shown: bool,
    ):
        self.saes, self.config = saes, config
        self.cells, self._tables = kept
        self.names = distinct_names([one.loaded.folder for one in saes])
        self.lost: dict[str, SaekitError] = {}
        self.notes: dict[str, list[str]] = {}  # with the SAEs that each is of
        self._site, self._shown = site, shown
        self.groups: list[_Group] = []
        for places in read_alike(saes):
            try:
                self.groups.append(self._group(places))
            except SaekitError as error:  # of a text that cannot be read
                self.lost |= dict.fromkeys([self.names[i] for i in places], error)
        if not any(group.members for group in self.groups):
            raise next(iter(self.lost.values()))
        runs = [one.loaded.card.run for one in saes]
        self.seeds = [
            alike
            for alike in seeds_together(runs)
            if len({runs[i].get("seed") for i in alike}) == len(alike) > 1
        ]
        for name, one in zip(self.names, saes, strict=True):
            self._note(name, said_of(one.loaded.card)["notes"])

    def _note(self, name: str, notes: Sequence[str]) -> None:
        for note in notes:
            names = self.notes.setdefault(note, [])
            if name not in names:
                names.append(name)

    def _group(self, places: Sequence[int]) -> _Group:
        first = self.saes[places[0]]
        held_out, train = stream_of(first, self.config.split), stream_of(first, "train")
        memo, seed = Memo(), self.config.seed
        lm = memo.model(first.lm)
        tools = Tools(rows=held_out.rows, seed=seed, shown=self._shown, split=self.config.split)
        group = _Group({}, {}, tools, held_out.digest)
        ground = Ground(train.rows, seed, {})
        known: dict[str, Member] = {}  # floors of the same content are one
        for i in places:
            try:
                subject = subject_of(self.saes[i], self._site)
            except SaekitError as error:
                self.lost[self.names[i]] = error
                continue
            subject = subject._replace(name=self.names[i], lm=lm)
            member = Member(subject.name, identity(subject), functools.partial(_same, subject))
            group.members[i] = member
            for name in self.config.floor_names:
                found = self._floor(name, member, ground, train.digest)
                if isinstance(found, Member):
                    found = known.setdefault(found.identity, found)
                group.floors[i, name] = found
        return group

    def _floor(self, name: str, of: Member, ground: Ground, text: str) -> Member | Failed:
        """Return a floor of an SAE; one that was made before is made only where it is needed."""
        floor = floors.get(name)()
        key = floor_key(name, floor.version, text, ground.seed, of.identity)
        make = functools.partial(floor.make, of.subject, ground)
        label = f"{of.name}, {floor.label}"
        if (known := self.cells.floor(key)) is not None:
            return Member(label, known, make)
        try:
            made = make()
        except Exception as error:  # whatever it is, the SAE itself is measured
            return failure_of(error)
        found = Member(label, identity(made), functools.partial(_same, made))
        self.cells.keep_floor(key, found.identity)
        return found

    def rows(self, name: str, config: Eval | Failed) -> list[dict[str, Any]]:
        """Return the rows of an evaluation, which is run where its cells lack."""
        if isinstance(config, Failed):
            return [_blank(one, name, config) for one in self._all_names()]
        if isinstance(config, JointEval):
            return self._together(config)
        found: dict[int, Outcome] = {}
        below: dict[tuple[int, str], Outcome] = {}
        keys: dict[int, str] = {}
        for group in self.groups:
            key = functools.partial(key_of, config, group.text, self.config.seed)
            below_it = {
                place: OF_WEIGHTS
                if floors.get(place[1]).of_model and not config.reads_text
                else one
                for place, one in group.floors.items()
            }
            wanted: dict[str, Member] = {}
            for member in (*group.members.values(), *below_it.values()):
                if isinstance(member, Member):
                    wanted.setdefault(key(member.identity), member)
            own = {key(member.identity) for member in group.members.values()}
            outcomes = measure_each(config, wanted, own, group.tools, self.cells)
            for i, member in group.members.items():
                keys[i] = key(member.identity)
                found[i] = outcomes[keys[i]]
                self._put_tables(i, keys[i])
            for place, floor in below_it.items():
                made = isinstance(floor, Member)
                below[place] = outcomes[key(floor.identity)] if made else floor
        return self._rows_of(config, found, below, keys)

    def _put_tables(self, i: int, key: str, place: int = 0) -> None:
        """Write the tables of latents of a cell to where the evaluation alone writes them."""
        folder = self.saes[i].loaded.folder
        if self._tables and folder is not None:
            self.cells.put_tables(key, place, results_folder(folder) / "analysis")

    def _all_names(self) -> list[str]:
        return [self.names[i] for group in self.groups for i in group.members]

    def _rows_of(
        self,
        config: Eval,
        found: Mapping[int, Outcome],
        below: Mapping[tuple[int, str], Outcome],
        keys: Mapping[int, str],
    ) -> list[dict[str, Any]]:
        by_score: dict[str, dict[int, Score]] = {}
        cautions: dict[int, str] = {}
        for i, result in found.items():
            if isinstance(result, Result):
                for score, value in _evidence.headline_of(config.headline, result).items():
                    by_score.setdefault(score, {})[i] = value
                said = config.cautions(self._subject(i))
                notes = result.provenance.get("notes", [])
                self._note(self.names[i], [note for note in notes if note not in said])
                cautions[i] = "; ".join(said)
        rows = []
        for score, values in by_score.items():
            mine = []
            for i, value in sorted(values.items()):
                row = _row(self.names[i], (config.name, score), value, found[i])
                row |= self._floors_of(i, score, value, below)
                row |= self._spread(i, values)
                row |= {"ranks": config.ranks, "cautions": cautions[i], "cell": keys[i]}
                mine.append(row)
            rows += self._with_best(mine, sorted(values))
        rows += [
            _blank(self.names[i], config.name, one)
            for i, one in found.items()
            if isinstance(one, Failed)
        ]
        return rows

    def _with_best(self, rows: Sequence[dict[str, Any]], of: Sequence[int]) -> list[dict[str, Any]]:
        """Return rows that say which is best among SAEs of one site of one model, on one text."""
        alike: dict[Any, list[int]] = {}
        for place, i in enumerate(of):
            group = next(n for n, g in enumerate(self.groups) if i in g.members)
            writes = tuple(way.write for way in self._subject(i).ways)
            alike.setdefault((group, writes), []).append(place)
        best = {
            places[k]
            for places in alike.values()
            for k in _evidence.best_of([rows[place] for place in places])
        }
        return [row | {"best": place in best} for place, row in enumerate(rows)]

    def _subject(self, i: int) -> Subject:
        return next(g.members[i].subject for g in self.groups if i in g.members)

    def _floors_of(
        self, i: int, score: str, value: Score, below: Mapping[tuple[int, str], Outcome]
    ) -> dict[str, Any]:
        row: dict[str, Any] = {}
        lacking = []
        for name in self.config.floor_names:
            floor = below[i, name]
            if floors.get(name).of_model and _is_of_losses(score):
                floor = NO_LANGUAGE
            of = floor.scores.get(score) if isinstance(floor, Result) else None
            known = None if of is None else of.value
            row |= {f"floor_{name}": known, f"above_{name}": _evidence.above(value, known)}
            if known is None and value.value is not None:  # else the floor is no riddle
                why = floor.reason if isinstance(floor, Failed) else (of.reason if of else "")
                lacking.append(f"{name}: {why or 'it has no such score'}")
        return row | {"floors_lacking": "; ".join(lacking)}

    def _spread(self, i: int, values: Mapping[int, Score]) -> dict[str, Any]:
        seeds = next((alike for alike in self.seeds if i in alike), [i])
        error, n = _evidence.spread(values[k].value if k in values else None for k in seeds)
        return {"reseed": error, "reseed_n": n if error is not None else None}

    def _together(self, config: JointEval) -> list[dict[str, Any]]:
        """Return the rows of an evaluation of several SAEs: of those that differ in the seed."""
        rows = []
        for group, alike in itertools.product(self.groups, self.seeds):
            here = [i for i in alike if i in group.members]
            some = [group.members[i] for i in here]
            if len(some) < 2:  # noqa: PLR2004 - of one there is nothing to compare
                continue
            members = [one.identity for one in some]
            key = key_of(config, group.text, self.config.seed, *members)
            subjects = [one.subject for one in some]
            result = measure_together(config, key, subjects, group.tools, self.cells)
            for place, i in enumerate(here):
                self._put_tables(i, key, place)
            name = ", ".join(one.name for one in some)
            if isinstance(result, Failed):
                rows.append(_blank(name, config.name, result))
                continue
            self._note(name, result.provenance.get("notes", []))
            said = {"ranks": config.ranks, "cell": key, "floors_lacking": OWN_NULLS}
            said["cautions"] = "; ".join(config.cautions(subjects[0]))
            rows += [
                _row(name, (config.name, score), value, result) | said
                for score, value in _evidence.headline_of(config.headline, result).items()
            ]
        why = Failed("no two SAEs here differ in the seed alone", skipped=True)
        return rows or [_blank(", ".join(self._all_names()), config.name, why)]

    def of_study(self, study: StudyResults) -> list[dict[str, Any]]:
        """Return rows of results of a study that lie in the folder of an SAE; none are made."""
        rows = []
        for i, one in enumerate(self.saes):
            folder = one.loaded.folder
            if folder is None or self.names[i] in self.lost:
                continue
            for path in sorted(results_folder(folder).glob(study.files)):
                rows += self._study_rows(self.names[i], path, study, weights_digest(one.loaded.sae))
        return rows

    def _study_rows(
        self, name: str, path: Path, study: StudyResults, weights: str
    ) -> list[dict[str, Any]]:
        try:
            result = Result.read(path)
        except FormatError as error:
            return [_blank(name, study.study, failure_of(error))]
        settings = result.config.get("explaining", result.config)
        if settings.get("weights") != weights:
            why = f"{path} is of other weights; measure it again"
            return [_blank(name, study.study, Failed(why, skipped=True))]
        return [
            _row(name, (study.study, score), value, result) | {"floors_lacking": AS_IT_LIES}
            for score, value in _evidence.headline_of(study.headline, result).items()
        ]


def _is_of_losses(score: str) -> bool:
    """Tell whether a score is read from what a model predicts, as `kl` or ``stdlib/ce_rise``."""
    name = score.rpartition("/")[2]
    return name in metrics.names() and bool(metrics.get(name).needs)


def _same(subject: Subject) -> Subject:
    return subject


def _row(name: str, of: tuple[str, str], score: Score, result: Outcome) -> dict[str, Any]:
    """Return what a row says of a score by itself."""
    eval, label = of
    found = _evidence.validity(eval, label, score.better)
    seconds = result.provenance.get("seconds_each") if isinstance(result, Result) else None
    return {
        "sae": name,
        "eval": eval,
        "score": label,
        "label": score.label or label,
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "n": score.n,
        "unit": score.unit,
        "better": score.better,
        "seconds": seconds,
        "reason": score.reason,
        "status": "ok" if score.value is not None else "undefined",
        "detectable": _evidence.detectable(score),
        "validity": found.value,
        "validity_low": found.low,
        "validity_high": found.high,
        "validity_of": found.said,
    }


def _blank(name: str, eval: str, why: Failed) -> dict[str, Any]:
    """Return the row of a cell without a result."""
    status = "skipped" if why.skipped else "failed"
    row = {"sae": name, "eval": eval, "status": status, "reason": why.reason, "trace": why.trace}
    return row | {"validity_of": _evidence.NOT_CALIBRATED}


def _result(run: _Run, rows: Sequence[Mapping[str, Any]]) -> SuiteResult:
    config = run.config
    each = [f"{part}_{name}" for name in config.floor_names for part in ("floor", "above")]
    names = (
        "sae",
        "eval",
        "score",
        "label",
        "value",
        "low",
        "high",
        "n",
        "unit",
        "better",
        "best",
        "status",
        "reason",
        "seconds",
        *each,
        "floors_lacking",
        "reseed",
        "reseed_n",
        "detectable",
        "validity",
        "validity_low",
        "validity_high",
        "validity_of",
        "ranks",
        "cautions",
        "cell",
    )
    table = Table(columns={n: [row.get(n) for row in rows] for n in names})
    failures = [
        {key: str(row.get(key, "")) for key in ("sae", "eval", "reason", "trace")}
        for row in rows
        if row["status"] == "failed"
    ]
    models = {one.lm.name: one.lm.provenance() for one in run.saes}
    made = provenance.collect(config.seed) | {
        "settings": config.to_dict(),
        "floors": {name: floors.get(name).label for name in config.floor_names},
        "models": list(models.values()),
        "corpora": list({group.text: None for group in run.groups}),
        "split": config.split,
        "text": "; ".join(dict.fromkeys(one.text.label for one in run.saes)),
        "saes": dict(zip(run.names, [said_of(one.loaded.card) for one in run.saes], strict=True)),
        "measured": run.cells.n_measured,
        "notes": _notes(run),
    }
    return SuiteResult(rows=table, failures=failures, provenance=made)


def _notes(run: _Run) -> list[str]:
    """Return what a reader of the table must know, each note with the SAEs it is about."""
    every = len(run.names)
    said = [
        note if len(names) >= every else f"{', '.join(names)}: {note}"
        for note, names in run.notes.items()
    ]
    return [*said, PAIRED]


def lines(found: SuiteResult) -> list[str]:
    """Return a suite as aligned lines: a row for each evaluation, score and SAE."""
    names = list(found.provenance["floors"])
    shown, last = [], ""
    rows = found.rows.rows()
    for row in rows:
        if row["status"] not in ("ok", "undefined"):
            continue
        head = row["eval"] if row["eval"] != last else ""
        last = row["eval"]
        shown.append(
            [
                head,
                row["score"],
                row["sae"],
                value_text(row),
                *(number_text(row[f"floor_{name}"]) for name in names),
                number_text(row["detectable"]),
                number_text(row["reseed"]),
                "" if row["validity"] is None else f"{row['validity']:+.2f}",
            ]
        )
    heads = ["", "score", "SAE", "value", *names, "tells apart", "over seeds", "validity"]
    out = aligned([heads, *shown]) if shown else []
    for status in ("failed", "skipped"):
        alike: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            if row["status"] == status:
                alike.setdefault((row["eval"], row["reason"]), []).append(row["sae"])
        out += [
            f"{status:<8} {eval}{' of ' if eval else ''}{', '.join(saes)}: {why}"
            for (eval, why), saes in alike.items()
        ]
    cautions = dict.fromkeys((row["eval"], row["cautions"]) for row in rows if row["cautions"])
    out += [f"caution  {eval}: {words}" for eval, words in cautions]
    out += split_lines(found.provenance["settings"] | found.provenance)
    notes = [*bare(rows), *lacking(rows), *found.provenance["notes"]]
    return [*out, *(f"note     {one}" for one in notes)]


def bare(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return why values or intervals are lacking: each reason once, with the scores it is of."""
    alike: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["status"] in ("ok", "undefined") and row["low"] is None and row["reason"]:
            head = "undefined: " if row["value"] is None else ""
            alike.setdefault((row["eval"], head + row["reason"]), []).append(row["score"])
    return [
        f"{', '.join(dict.fromkeys(scores))} of {eval}: {why}"
        for (eval, why), scores in alike.items()
    ]


def lacking(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return why floors of some rows are lacking: each reason once, with its evaluation."""
    some = ((row["eval"], row["floors_lacking"]) for row in rows if row["floors_lacking"])
    return [f"floors of {eval}: {why}" for eval, why in dict.fromkeys(some)]


def value_text(row: Mapping[str, Any]) -> str:
    """Return the score of a row with its interval, as a cell; a star is the best of the suite."""
    if row["value"] is None:
        return "undefined"
    ends = "" if row["low"] is None else f" [{row['low']:.4g}, {row['high']:.4g}]"
    return f"{row['value']:.4g}{ends}{' *' if row['best'] else ''}"
