"""The contract every evaluation keeps: a subject and tools go in, a Result comes out."""

import abc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, NamedTuple

from typing_extensions import override

import saekit.evals as package
from saekit.activations.rules import FittedRule
from saekit.core import provenance
from saekit.core.config import Config
from saekit.core.errors import ConfigError, DataError, ShapeError
from saekit.core.finite import all_finite
from saekit.core.registry import Registry
from saekit.core.result import Result, Score, Table
from saekit.data.base import HeldOut
from saekit.data.tokenise import Rows
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.saes.base import SAE


class SitePair(NamedTuple):
    """One site an SAE reads, and the one it predicts from it."""

    read: Site
    write: Site  # the same as `read` unless the SAE is a transcoder
    rule: FittedRule  # which tokens count at `read`
    write_rule: FittedRule | None = None  # and at `write`, where that is another site


class Subject(NamedTuple):
    """What is evaluated: an SAE, and where in which language model it stands."""

    sae: SAE
    lm: LanguageModel | None
    read: Site
    write: Site  # the same as `read` unless the SAE is a transcoder
    rule: FittedRule  # which tokens count at `read`
    name: str
    beside: tuple[SitePair, ...] = ()  # further sites coded jointly with the first
    window: int = 0  # tokens of a jointly coded window; 0: single tokens
    write_rule: FittedRule | None = None  # which tokens count at `write`, if it is another site
    trained: Mapping[str, Any] = {}  # settings of its training, as far as its card says them

    @property
    def ways(self) -> tuple[SitePair, ...]:
        """All sites that are coded jointly, in the order the SAE takes them."""
        return (SitePair(self.read, self.write, self.rule, self.write_rule), *self.beside)

    @property
    def event(self) -> tuple[str, ...]:
        """The axes that are coded jointly here, as architectures name them."""
        return (("site",) if self.beside else ()) + (("seq",) if self.window else ())


def _keep_nothing(subject: "Subject", name: str, table: Table) -> None:
    pass


class Tools(NamedTuple):
    """What an evaluation works with, beside its subject.

    Args:
        rows: a function of a batch size: it yields held-out text in batches of that many rows,
            always from the beginning and in the same order.
        seed: decides every draw.
        shown: show progress on stderr.
        split: which split the rows are of, for an evaluation that reads other text as well.
        keep: given a subject, a name and a table with a row for each latent, writes the table to
            RUN/analysis of that SAE, where `saekit query` and the pages find its columns; or does
            nothing.
    """

    rows: Callable[[int], Iterable[Rows]]
    seed: int = 0
    shown: bool = False
    keep: Callable[[Subject, str, Table], None] = _keep_nothing
    split: HeldOut = "test"


@dataclass(frozen=True, kw_only=True)
class Eval(Config, abc.ABC):
    """A procedure from a subject to scores, as a value."""

    version: ClassVar[int]  # raised when the same input gives another number
    needs: ClassVar[frozenset[str]] = frozenset()  # of a subject: "lm"
    events: ClassVar[frozenset[str]] = frozenset()  # axes that an SAE may code jointly
    one_site: ClassVar[bool] = False  # True: only SAEs that predict the site they read
    joint: ClassVar[bool] = False  # its scores are of several SAEs together: see `JointEval`
    # Scores that a table of several evaluations shows: names, or patterns as "*/sae_accuracy";
    # what a pattern after a "-" names is left out again.
    headline: ClassVar[tuple[str, ...]] = ()
    reads_text: ClassVar[bool] = True  # False: it asks for no held-out row
    ranks: ClassVar[bool] = True  # False: reported where asked for; no SAE is called better by it

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the evaluation class called `name`."""
        return registry.get(name)

    @classmethod
    @abc.abstractmethod
    def example(cls) -> "Eval":
        """Return the cheapest instance worth testing."""

    @abc.abstractmethod
    def run(self, subject: Subject, tools: Tools) -> Result:
        """Evaluate; an error is raised, never turned into a number.

        Raises:
            ConfigError: the subject lacks what the evaluation needs.
            DataError: the text or the activations cannot be used.
        """

    def run_all(self, subjects: Sequence[Subject], tools: Tools) -> list[Result]:
        """Evaluate several SAEs of one model on the same text: a result for each, in their order.

        An evaluation that can share the model's pass over the text among the SAEs does so here; the
        numbers are those that `run` gives for each alone.

        Raises: as `run`.
        """
        return [self.run(subject, tools) for subject in subjects]

    def check(self, subject: Subject) -> None:
        """Refuse a subject that this evaluation cannot be run on.

        Raises:
            ConfigError: it has no language model and one is needed; its SAE codes several
                sites or positions jointly, or predicts another site than it reads, and this
                evaluation cannot measure that; or its sites are not those of the SAE.
            UnknownNameError: the language model has no such site.
            ShapeError: the widths of the sites are not those of the SAE.
            DataError: a weight of the SAE is not finite.
        """
        check_weights(subject)
        cfg = subject.sae.cfg
        if not self.events.issuperset(cfg.event):
            raise ConfigError(
                f"`{self.name}` cannot measure {subject.name}, which codes "
                f"{' and '.join(cfg.event)} jointly; it measures SAEs of single activations"
                f"{''.join(f' or of joint {axis}' for axis in sorted(self.events))}. Use another "
                f"evaluation, such as core."
            )
        n_sites = getattr(cfg, "n_sites", 1)
        if cfg.event != subject.event or len(subject.ways) != n_sites:
            raise ConfigError(
                f"{subject.name} codes {' and '.join(cfg.event) or 'nothing'} jointly, "
                f"n_sites={n_sites}; the subject has {len(subject.ways)} sites and "
                f"window={subject.window}. Give it the sites (`beside`) and the window that the "
                f"SAE was trained with."
            )
        if subject.lm is not None:
            _check_sites(subject, subject.lm)
        elif "lm" in self.needs:
            raise ConfigError(
                f"`{self.name}` needs the language model of {subject.name}; got none. "
                f"Load it with saekit.load_model and pass it on."
            )
        if self.one_site and subject.read != subject.write:
            raise ConfigError(
                f"`{self.name}` measures SAEs that predict the activation that they read; "
                f"{subject.name} reads {subject.read} and predicts {subject.write}. Use core."
            )

    def cautions(self, subject: Subject) -> tuple[str, ...]:
        """Return why the scores of this subject may mean little, such as a model that is too small.

        Each reason is a sentence that tables show next to the scores. The subject is measured all
        the same.
        """
        return ()

    def result(
        self, scores: dict[str, Score], details: dict[str, Any], provenance: dict[str, Any]
    ) -> Result:
        """Return scores with the name, version and configuration that made them."""
        return Result(
            name=self.name,
            version=self.version,
            config=self.to_dict(),
            scores=scores,
            details=details,
            provenance=provenance,
        )


def _check_sites(subject: Subject, lm: LanguageModel) -> None:
    """Refuse sites that the model lacks, or that are of another width than the SAE."""
    cfg = subject.sae.cfg
    reads = [(way.read, cfg.d_in) for way in subject.ways]
    for site, width in [*reads, *((way.write, cfg.d_out) for way in subject.ways)]:
        found = lm.width(lm.check_site(site))
        if found != width:
            raise ShapeError(
                f"{subject.name} has width {width} at {site}, where {lm.name} has {found}. Choose "
                f"the site and the model that it was trained on."
            )


class SharedEval(Eval):
    """An evaluation that measures several SAEs at once; of one alone it does the same."""

    @abc.abstractmethod
    def run_checked(self, subjects: Sequence[Subject], tools: Tools) -> list[Result]:
        """Evaluate one or more SAEs that `check` has let pass: a result for each, in their order.

        Raises: as `run`.
        """

    @override
    def run(self, subject: Subject, tools: Tools) -> Result:
        return self.run_all([subject], tools)[0]

    @override
    def run_all(self, subjects: Sequence[Subject], tools: Tools) -> list[Result]:
        for subject in subjects:
            self.check(subject)
        return self.run_checked(subjects, tools) if subjects else []


class JointEval(Eval):
    """An evaluation whose scores are of several SAEs together, such as how far seeds agree."""

    joint: ClassVar[bool] = True

    @abc.abstractmethod
    def run_together(self, subjects: Sequence[Subject], tools: Tools) -> Result:
        """Evaluate SAEs of one model together; an error is raised, never turned into a number.

        Raises:
            ConfigError: there are fewer than two, or one lacks what the evaluation needs.
            DataError: the text or the activations cannot be used.
        """

    @override
    def run(self, subject: Subject, tools: Tools) -> Result:
        raise ConfigError(
            f"`{self.name}` measures several SAEs together; got {subject.name} alone. Name two or "
            f"more: saekit eval A B --eval {self.name}"
        )

    def check_all(self, subjects: Sequence[Subject]) -> None:
        """Refuse subjects that cannot be measured together; each is checked as one alone is.

        Raises:
            ConfigError: there are fewer than two, they stand in several models, or a name comes
                twice.
        """
        if len(subjects) < 2:  # noqa: PLR2004 - of one there is nothing to compare
            name = subjects[0].name if subjects else "no SAE"
            raise ConfigError(
                f"`{self.name}` measures several SAEs together; got {name}. Name two or more: "
                f"saekit eval A B --eval {self.name}"
            )
        for subject in subjects:
            self.check(subject)
        if len({id(subject.lm) for subject in subjects}) > 1:
            raise ConfigError(
                f"`{self.name}` measures SAEs of one language model together; got several models. "
                f"Name SAEs of one."
            )
        names = [subject.name for subject in subjects]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(
                f"SAEs that are measured together need names that differ; {', '.join(twice)} comes "
                f"twice."
            )


def picked(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the names that fit a pattern and none that begins with "-", in their order."""
    out = [one[1:] for one in patterns if one.startswith("-")]
    return [
        name
        for name in names
        if any(fnmatchcase(name, one) for one in patterns)
        and not any(fnmatchcase(name, one) for one in out)
    ]


def check_weights(subject: Subject) -> None:
    """Refuse an SAE with weights that are not finite: its latents might merely look dead.

    Raises:
        DataError: it has some.
    """
    for name, weight in subject.sae.state_dict().items():
        if not all_finite(weight):
            raise DataError(
                f"`{name}` of {subject.name} has values that are not finite. Its training "
                f"diverged, or its file is damaged: train or load it again."
            )


def made_from(subject: Subject, seed: int, began: float) -> dict[str, Any]:
    """Return what the numbers of a subject came from, and how long they took.

    Args:
        subject: what was evaluated.
        seed: of what was drawn.
        began: when the evaluation began, by `time.monotonic`.
    """
    return provenance.collect(seed) | {
        "subject": subject.name,
        "sae": subject.sae.cfg.to_dict(),
        "model": None if subject.lm is None else subject.lm.provenance(),
        "seconds": round(time.monotonic() - began, 3),
    }


registry = Registry[Eval]("evaluation", package, of_studies="evals")
