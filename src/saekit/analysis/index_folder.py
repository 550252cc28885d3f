"""Index: what `saekit index` left in a folder, and `saekit.index`, which makes it."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from saekit.activations.latents import LatentStore
from saekit.analysis.indexing import CONTEXTS, LATENTS, make_index
from saekit.analysis.max_acts import MaxActs
from saekit.core.errors import ConfigError, UnknownNameError
from saekit.core.files import read_object
from saekit.core.result import Table
from saekit.data import table_files
from saekit.data.base import SPLITS, Corpus
from saekit.hub.native import load
from saekit.hub.opening import opened
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel

SHOWN_CONTEXTS = 8
SHOWN_ACT = 0.5  # share of a context's peak from which a token is marked


@final
class Contexts(list[dict[str, Any]]):
    """Texts in which a latent is on, the strongest first; `print` marks where."""

    def __init__(self, latent: int, records: list[dict[str, Any]], words: dict[str, Any]):
        super().__init__(records)
        self.latent, self.words = latent, words

    def __repr__(self) -> str:
        lines = [f"latent {self.latent}: {len(self)} contexts, the strongest first"]
        for name in ("promoted", "suppressed"):
            if tokens := self.words.get(name):
                listed = ", ".join(repr(token) for token, _ in tokens)
                lines.append(f"  {name:<10} {listed}")
        lines += [f"  {c['value']:8.4g}  {_marked(c)}" for c in self[:SHOWN_CONTEXTS]]
        return "\n".join(lines)


def _marked(context: dict[str, Any]) -> str:
    """Return a context as one line, with the tokens at which the latent is strong in brackets."""
    least = SHOWN_ACT * abs(context["value"])
    parts = [
        f"[{token}]" if act and abs(act) >= least else token
        for token, act in zip(context["tokens"], context["acts"], strict=True)
    ]
    return "".join(parts).replace("\n", " ")


@final
class Index:
    """What an SAE's latents were on at in a corpus.

    Args:
        folder: what `saekit index` made.
        made: what making it counted, where it was made just now.

    Raises:
        FormatError: it holds no index, or a file of it is damaged.
    """

    def __init__(self, folder: Path | str, made: dict[str, Any] | None = None):
        self.folder = Path(folder)
        self.store = LatentStore.open(self.folder)
        self.made = made or {}

    def __repr__(self) -> str:
        store = self.store
        return f"Index({self.folder}: {store.d_sae:,} latents over {store.n_tokens:,} tokens)"

    @functools.cached_property
    def latents(self) -> Table:
        """How often and how strongly each latent is on, a row each."""
        rows = list(table_files.rows(self.folder / LATENTS))
        names = rows[0].keys() if rows else ()
        return Table(columns={n: [_number(row[n]) for row in rows] for n in names})

    @functools.cached_property
    def _records(self) -> dict[int, dict[str, Any]]:
        records = read_object(self.folder / CONTEXTS)["latents"]
        return {record["latent"]: record for record in records}

    def record(self, latent: int) -> dict[str, Any]:
        """Return all that the index keeps of a latent, as the report page shows it.

        Raises:
            UnknownNameError: there is no such latent.
        """
        if latent not in self._records:
            raise UnknownNameError(
                f"There is no latent {latent}; this index has latents 0..{self.store.d_sae - 1}."
            )
        return self._records[latent]

    def contexts(self, latent: int, *, spread: bool = False) -> Contexts:
        """Return the texts in which a latent is strongest.

        Args:
            latent: its number.
            spread: texts from its whole range of activations instead.

        Raises:
            UnknownNameError: there is no such latent.
        """
        record = self.record(latent)
        return Contexts(latent, record["spread" if spread else "contexts"], record)


def _number(text: str) -> float | int | None:
    if not text:
        return None
    number = float(text)
    return int(number) if number.is_integer() and "." not in text and "e" not in text else number


def index(  # noqa: PLR0913 - the words of `saekit index`
    sae: TrainedSAE | Path | str,
    lm: LanguageModel | None = None,
    *,
    tokens: int = 300_000,
    contexts: int = 8,
    corpus: Corpus | Path | str | Sequence[str] | None = None,
    split: str = "train",
    site: str | None = None,
    out: Path | str | None = None,
    shown: bool = True,
) -> Index:
    """Encode a text and keep where each latent is on, and the contexts in which it is strongest.

    Args:
        sae: the SAE, or the folder it is in.
        lm: its language model; None: the one that its card names.
        tokens: tokens of text that count, at least 1; fewer where the text is shorter.
        contexts: strongest contexts kept per latent.
        corpus: other text, by name or file, or a list of texts; None: that of training.
        split: part of the text: "train" or "test".
        site: which site, where several share the SAE.
        out: the folder to make; None: ``index`` in the folder of the SAE.
        shown: show progress on stderr.

    Raises:
        ConfigError: a number is out of range, or no folder is known.
        DataError: the text holds no token that counts.
    """
    if split not in SPLITS:
        raise ConfigError(f"`split` must be one of {', '.join(SPLITS)}; got {split!r}.")
    loaded = sae if isinstance(sae, TrainedSAE) else load(sae, site=site)
    if out is None and loaded.folder is None:
        raise ConfigError("This SAE is in no folder yet, so name one for the index: out=.")
    folder = Path(out) if out is not None else loaded.folder / "index"  # type: ignore[operator]
    loaded, model, text = opened(loaded, lm, corpus)
    made = make_index(
        loaded,
        model,
        folder,
        tokens=tokens,
        text=(text, "train" if split == "train" else "test"),
        max_acts=MaxActs(n=contexts),
        shown=shown,
    )
    return Index(folder, made)
