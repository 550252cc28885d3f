"""Cross data: what an SAE keeps of other texts than the one it was trained on."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.activations.rules import TokenRule
from saekit.core.config import setting
from saekit.core.errors import ConfigError
from saekit.core.result import Result, Score
from saekit.data.held_out import kept_from
from saekit.data.open import open_corpus
from saekit.data.tokenise import TokenStream
from saekit.evals.base import Eval, Subject, Tools, made_from, registry
from saekit.evals.core import Core
from saekit.studies.faithful.sequences import held_out, shape_of

OWN = "own"
OURS = ("ce_rise", "ce_recovered_zero", "ce_recovered_mean", "fvu", "l0")
# Names of the published code, by the metrics that they are once every token is replaced.
PUBLISHED = {"ce_recovered_zero": "recovery_from_zero", "ce_recovered_mean": "recovery_from_mean"}


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class CrossData(Eval):
    """Core scores on several texts: the SAE's own held-out text, and others.

    Scores are named ``TEXT/fvu``; ``own`` is the held-out part of the text that the SAE was
    trained on, or of the one it is measured on. Of every text the held-out part is read. Whether a
    document is held out depends on its own words alone, and every text is dealt as that of training
    was, so that no text of training is in any of them. A loss on a text says little alone: set
    several SAEs next to each other (`saekit.studies.faithful.figures.cross_data`).

    Args:
        corpora: texts, by name or file, as for ``--corpus``; a file is named by its stem.
        n_tokens: tokens read of each text.
        ce_tokens: how many of them pass through the whole model.
        n_blocks: the most blocks of whole documents for the intervals.
        batch_rows: the most rows of a forward pass.
        published: also ``recovery_from_zero`` and ``recovery_from_mean`` as the published code has
            them, with every token replaced, special ones and those of high norm too.

    Raises:
        ConfigError: a number is out of range, or a text comes twice.

    Cost:
        That of core for each text; twice with `published`.

    Reads:
        Held-out rows of every text.

    Source:
        FaithfulSAE, arXiv:2506.17673 (cross-dataset metrics); losses and FVU are those of core.
        Differs: held-out text; BOS left out; FVU in place of one explained variance a sequence;
        intervals over documents.
    """

    name: ClassVar[str] = "cross_data"
    version: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"lm"})
    headline: ClassVar[tuple[str, ...]] = ("*/ce_rise", "*/fvu")

    corpora: tuple[str, ...] = ()
    n_tokens: int = setting(2**15, least=1)
    ce_tokens: int = setting(2**14, least=0)
    n_blocks: int = setting(128, least=1)
    batch_rows: int = setting(8, least=1)
    published: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [OWN, *(label_of(word) for word in self.corpora)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(
                f"Texts of `corpora` have one name each, their own or the stem of their file; "
                f"{', '.join(sorted(twice))} comes twice. Rename a file, or leave one out."
            )

    @classmethod
    @override
    def example(cls) -> "CrossData":
        return cls(n_tokens=1024, ce_tokens=768)

    @property
    def core(self) -> Core:
        """The evaluation of one text."""
        return Core(
            n_tokens=self.n_tokens,
            ce_tokens=self.ce_tokens,
            n_blocks=self.n_blocks,
            batch_rows=self.batch_rows,
        )

    @override
    def run(self, subject: Subject, tools: Tools) -> Result:
        self.check(subject)
        assert subject.lm is not None  # `check` refuses it
        began = time.monotonic()
        shape = shape_of(held_out(tools, self.batch_rows), subject.lm)
        streams: dict[str, Tools] = {OWN: tools}
        said: dict[str, Any] = {OWN: {"trained_on": subject.trained.get("corpus")}}
        for word in self.corpora:
            corpus = kept_from(open_corpus(word), subject.trained.get("corpus"))
            stream = TokenStream(
                corpus,
                tools.split,
                subject.lm.tokenizer,
                n_ctx=shape.n_ctx,
                bos_each_row=shape.bos_id is not None,
            )
            streams[label_of(word)] = tools._replace(rows=stream.rows)
            said[label_of(word)] = {"corpus": corpus.to_dict()}
        scores: dict[str, Score] = {}
        notes: list[str] = []
        for name, own in streams.items():
            found = self.core.run(subject, own)
            said[name] |= _said(found)
            notes += [f"{name}: {note}" for note in found.provenance["notes"]]
            scores |= _named(name, found, {metric: metric for metric in OURS})
            if self.published:
                every = subject._replace(rule=_every_token(subject), write_rule=None)
                scores |= _named(name, self.core.run(every, own), PUBLISHED)
        made = made_from(subject, tools.seed, began) | {"notes": notes}
        return self.result(scores, {"texts": said}, made)


def label_of(word: str) -> str:
    """Return what a text is called in scores: its name, or the stem of its file."""
    path = Path(word)
    return path.stem if path.suffix else word.rstrip("/").rpartition("/")[2]


def _every_token(subject: Subject) -> Any:
    return subject.rule._replace(rule=TokenRule(special=False, max_norm=None), special_ids=())


def _named(text: str, found: Result, names: Mapping[str, str]) -> dict[str, Score]:
    return {
        f"{text}/{name}": replace(
            found.scores[metric], label=f"{text}: {found.scores[metric].label or metric}"
        )
        for metric, name in names.items()
    }


def _said(found: Result) -> dict[str, Any]:
    names = ("documents", "rows", "n_ctx", "scored_tokens", "losses", "tokens_sha256")
    return {name: found.details[name] for name in names}
