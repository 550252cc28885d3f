"""Mixture: several corpora as one, in stated shares of text."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import ConfigError
from saekit.data.base import Corpus, Document, Shares, Split, registry
from saekit.data.split import Deduper


@registry.register
@dataclass(frozen=True, kw_only=True)
class Mixture(Corpus):
    """Documents of several corpora, interleaved so that each has its share of the characters.

    The next document is always of the part that is furthest behind its share, so the shares
    hold from the beginning on to within a document, and the order is fixed. A text that
    two parts have comes once. Each part keeps its own split; parts that split by share of
    documents must have the same, for a text of both would else be train here and test there.

    Args:
        parts: corpora; none of them a mixture.
        weights: share of the characters of each; they need not sum to 1.
        when_short: what happens when a part has ended: "stop" ends the mixture, whose shares
            then hold to the end; "go_on" shares its place out among the others.

    Raises:
        ConfigError: numbers of parts and weights differ, a weight is not above 0, a part is
            a mixture, or parts are split by different shares.

    Source:
        None: a weighted round robin.
    """

    name: ClassVar[str] = "mixture"

    parts: tuple[Corpus, ...]
    weights: tuple[float, ...] = setting(above=0)
    when_short: Literal["stop", "go_on"] = "stop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts or len(self.parts) != len(self.weights):
            raise ConfigError(
                f"A mixture needs a weight for each part; got {len(self.parts)} parts and "
                f"{len(self.weights)} weights."
            )
        if any(part.name == "mixture" for part in self.parts):
            raise ConfigError("A part of a mixture is a mixture; name its parts instead.")
        shares = {part.shares for part in self.parts} - {None}
        if len(shares) > 1:
            named = (f"{s.validation:g} and {s.test:g}" for s in shares if s is not None)
            raise ConfigError(
                f"Parts of a mixture are split by different shares, {'; '.join(sorted(named))}; a "
                f"text of two of them could be train and test. Give them one `validation_share` "
                f"and one `test_share`."
            )

    @property
    @override
    def label(self) -> str:
        return " + ".join(part.label for part in self.parts)

    @property
    @override
    def streamed(self) -> bool:
        return any(part.streamed for part in self.parts)

    @property
    @override
    def holds_chats(self) -> bool:
        return any(part.holds_chats for part in self.parts)

    @property
    @override
    def marks_ends(self) -> bool:
        return all(part.marks_ends for part in self.parts)

    @property
    @override
    def mixes_ends(self) -> bool:
        return any(part.marks_ends for part in self.parts) and not self.marks_ends

    @property
    @override
    def shares(self) -> Shares | None:
        return next((part.shares for part in self.parts if part.shares is not None), None)

    @override
    def with_shares(self, shares: Shares) -> "Mixture":
        return replace(self, parts=tuple(part.with_shares(shares) for part in self.parts))

    @override
    def documents(self, split: Split) -> Iterator[Document]:
        going = {i: part.documents(split) for i, part in enumerate(self.parts)}
        given = dict.fromkeys(going, 0.0)  # characters so far, over the weight
        seen = Deduper()
        while going:
            i = min(going, key=lambda j: (given[j], j))
            document = next(going[i], None)
            if document is None:
                if self.when_short == "stop":
                    return
                del going[i]
                continue
            if seen.is_new(document.text):
                given[i] += len(document.text) / self.weights[i]
                yield document

    @override
    def provenance(self) -> dict[str, Any]:
        rule = "that of each part"
        return {"parts": [part.provenance() for part in self.parts], "split_rule": rule}
