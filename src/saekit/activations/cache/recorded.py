"""Recorded: a model and its text as a store holds them, so that training needs neither."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.activations.cache.store import Store
from saekit.activations.harvest import Harvest
from saekit.activations.pairs import Pair
from saekit.activations.rules import FittedRule, TokenRule
from saekit.core.errors import ConfigError, DataError, UnknownNameError
from saekit.data.tokenise import Rows
from saekit.models.base import LanguageModel, Replace, Tokenizer
from saekit.models.sites import Site


@final
class RecordedTokenizer(Tokenizer):
    """The special ids of a tokenizer, without its text."""

    def __init__(self, raw: dict[str, Any]):
        self.bos_id, self.eos_id, self.pad_id = raw["bos_id"], raw["eos_id"], raw["pad_id"]
        self.special_ids = frozenset(raw["special_ids"])
        self.vocab_size, self.digest = raw["vocab_size"], raw["digest"]

    @override
    def encode(self, texts: str | Sequence[str]) -> list[list[int]]:
        _absent("tokenizer")

    @override
    def decode(self, ids: Sequence[int]) -> str:
        _absent("tokenizer")

    @override
    def pieces(self, ids: Sequence[int]) -> list[str]:
        _absent("tokenizer")


@final
class RecordedModel(LanguageModel):
    """The language model a store was written with, as far as training needs to know it.

    It has the sites of the store and says what it is; activations come from its `harvest`.

    Args:
        store: activations.
        device: where batches go.
    """

    def __init__(self, store: Store, device: torch.device | str = "cpu"):
        raw = store.manifest["model"]
        self.store = store
        self.name, self.revision, self.family = raw["name"], raw["revision"], raw["family"]
        self.n_layers = store.manifest["n_layers"]
        self.d_model = store.manifest["d_model"]
        self.n_ctx_max = store.manifest["n_ctx_max"]
        self.tokenizer = RecordedTokenizer(store.manifest["tokenizer"])
        self.vocab_size = self.tokenizer.vocab_size
        self.dtype, self.device = store.dtype, torch.device(device)

    @staticmethod
    def open(folder: Path, device: torch.device | str = "cpu") -> "RecordedModel":
        """Return the model of the store in a folder.

        Raises:
            FormatError: there is none, or its manifest is damaged.
        """
        return RecordedModel(Store.open(folder), device)

    def harvest(self, pair: Pair, rule: TokenRule, asked: Mapping[str, Any]) -> "CachedHarvest":
        """Return the activations of the store as a harvest of the text it was written from.

        Args:
            pair: sites, all of them in the store.
            rule: which tokens count; its numbers come from the first rows, as always.
            asked: settings of the run by name, as JSON has them: each that the store was
                written with must be the same.

        Raises:
            ConfigError: the store was written with other settings; the first is named.
            UnknownNameError: it lacks a site.
            DataError: it is empty.
        """
        written = self.store.manifest["config"]
        for field, value in {"split": "train", **asked}.items():
            if written[field] != value:
                raise ConfigError(
                    f"`{field}` does not fit the cache in {self.store.folder}: it was written "
                    f"with {written[field]!r}; got {value!r}. Set `{field}` to that, or write "
                    f"another cache."
                )
        if rule.special and self.store.manifest.get("token_ids") is False:
            raise ConfigError(
                f"`rule.special` does not fit the cache in {self.store.folder}: it holds no token "
                f"ids, so special tokens cannot be told. Set `rule.special` to false."
            )
        if not self.store.n_rows:
            raise DataError(f"The cache in {self.store.folder} holds no rows yet; {more(self)}.")
        return CachedHarvest(self, RecordedRows(self.store), pair, rule)

    @override
    def sites(self) -> list[Site]:
        return list(self.store.sites)

    @override
    def check_site(self, site: Site) -> Site:
        if site not in self.store.sites:
            raise UnknownNameError(
                f"The cache in {self.store.folder} has {', '.join(map(str, self.store.sites))}; "
                f"got {site}. Read what it has, or write a cache with that site."
            )
        return site

    @override
    def width(self, site: Site) -> int:
        return self.store.sites[site]

    @override
    def _read(
        self,
        tokens: Tensor,
        sites: Sequence[Site],
        *,
        replace: Mapping[Site, Replace] | None = None,
        grad: bool = False,
    ) -> Any:
        _absent("model")

    @override
    def separated(self) -> LanguageModel:
        raise ConfigError(
            "A cache was written from rows whose documents see one another. Set "
            "`separate_documents` to false, or train on the model."
        )

    @override
    def shuffled(self, seed: int) -> Any:
        _absent("model")

    @override
    def _logits(
        self, tokens: Tensor, replace: Mapping[Site, Replace] | None = None, *, grad: bool = False
    ) -> Any:
        _absent("model")

    @override
    def final(self, tokens: Tensor, replace: Mapping[Site, Replace] | None = None) -> Any:
        _absent("model")

    @override
    def unembed(self, final: Tensor) -> Any:
        _absent("model")

    @override
    def continue_tokens(self, prompts: Sequence[Sequence[int]], n: int, **how: Any) -> Any:
        _absent("model")

    @override
    def logit_effects(self, directions: Tensor) -> Any:
        _absent("model")

    @override
    def unembedding(self) -> Any:
        _absent("model")

    @override
    def provenance(self) -> dict[str, Any]:
        return dict(self.store.manifest["model"])


@final
class RecordedRows:
    """The rows of a store, as a stream of tokens."""

    def __init__(self, store: Store):
        self.store = store

    def rows(
        self, batch_rows: int, first_row: int = 0, n_rows: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows in order, in the batches a model would have been given."""
        end = self.store.n_rows if n_rows is None else min(first_row + n_rows, self.store.n_rows)
        for row in range(first_row, end, batch_rows):
            yield self.store.text(row, min(batch_rows, end - row))

    def provenance(self) -> dict[str, Any]:
        """Return what identifies the rows, and how they were stored."""
        store = self.store
        return store.manifest["text"] | {
            "cache": {
                "identity": store.identity,
                "precision": store.precision,
                "added_fvu": store.manifest["added_fvu"],
            }
        }


@final
class CachedHarvest(Harvest):
    """Activations from a store instead of a model; in all else a harvest."""

    def __init__(
        self,
        model: RecordedModel,
        stream: RecordedRows,
        pair: Pair,
        rule: TokenRule,
        fitted: dict[str, FittedRule] | None = None,
    ):
        self.store = model.store
        self.more = more(model)
        super().__init__(
            model, stream, pair, rule, batch_rows=model.store.batch_rows, fitted=fitted
        )

    @override
    def at(self, pair: Pair) -> "CachedHarvest":
        assert isinstance(self.model, RecordedModel) and isinstance(self.stream, RecordedRows)
        rule = self.rules[pair.read[0]].rule
        return CachedHarvest(self.model, self.stream, pair, rule, self.rules)

    @override
    def read(self, rows: Rows) -> dict[Site, Float[Tensor, "batch n_ctx width"]]:
        n = len(rows.tokens)
        return {
            site: self.store.acts(site, rows.first_row, n).to(self.model.device)
            for site in self.pair.sites
        }


def more(model: RecordedModel) -> str:
    """Return what to do where a store holds too little."""
    store = model.store
    if store.manifest["imported"] or store.ended:
        return "make a cache of more text"
    return f"go on with the cache: saekit cache write --resume {store.folder} --tokens N"


def _absent(what: str) -> NoReturn:
    raise ConfigError(
        f"A cache of activations has no {what} to run. Load the language model for this."
    )
