"""Caching: the activations of a text written to a store, stopped and gone on with at will."""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from saekit.activations.cache.precision import Channels, Precision, added_fvu
from saekit.activations.cache.store import CHANNELS, MANIFEST, Store, begin, described
from saekit.activations.cache.store_writer import StoreWriter, bytes_of_row
from saekit.activations.harvest import CALIBRATION_ROWS, Harvest
from saekit.activations.pairs import Pair
from saekit.activations.passes import pass_rows
from saekit.activations.rules import TokenRule, keep_everywhere
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError, DataError, Interrupted, ResourceError
from saekit.core.files import need_space
from saekit.core.lock import NAME, claimed
from saekit.core.parts import check_empty
from saekit.core.progress import Progress
from saekit.data.base import Corpus, Split
from saekit.data.tokenise import TokenStream
from saekit.models.base import LanguageModel
from saekit.models.sites import Site, parse_site


@dataclass(frozen=True, kw_only=True)
class Caching(Config):
    """What a store holds, as a value; how much of it there is can grow.

    Args:
        model: hub name, folder, or name of an embedded model.
        revision: hub commit, tag or branch; null: the newest, whose commit is recorded.
        sites: by name, as ``("L10.resid_post",)``; any number, of any widths.
        corpus: the text.
        split: which part of it; training reads "train".
        n_ctx: tokens of a row, special ones included.
        bos: begin each row with the tokenizer's BOS, where it has one.
        rule: which tokens count towards the number asked for; all are stored, and a reader may use
            another rule.
        precision: of stored activations; see `precision.encode`.
        shard_bytes: size of a file, about; it is held in memory while it is written.

    Raises:
        ConfigError: no site, a site twice, or a value out of range.
    """

    name: ClassVar[str] = "cache"
    model: str
    revision: str | None = None
    sites: tuple[str, ...]
    corpus: Corpus
    split: Split = "train"
    n_ctx: int = setting(128, least=2, unit="tokens")
    bos: bool = True
    rule: TokenRule = TokenRule()
    precision: Precision = "bfloat16"
    shard_bytes: int = setting(2**26, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        Pair(read=self.sites)  # checks the names

    @property
    def places(self) -> list[Site]:
        """The sites."""
        return [parse_site(name) for name in self.sites]

    def harvest(self, model: LanguageModel) -> Harvest:
        """Return the harvest that is written."""
        stream = TokenStream(
            self.corpus, self.split, model.tokenizer, n_ctx=self.n_ctx, bos_each_row=self.bos
        )
        rows = pass_rows(model, self.n_ctx)
        return Harvest(model, stream, Pair(read=self.sites), self.rule, batch_rows=rows)


def write(
    caching: Caching,
    model: LanguageModel,
    folder: Path,
    *,
    tokens: int,
    stopped: Callable[[], str | None] = lambda: None,
    shown: bool = True,
) -> Store:
    """Write a store, or go on with the one in `folder`, until it holds so many tokens.

    Forward passes are those of training: the same rows together, so that what is stored is
    bit for bit what training would have read, where the precision keeps all bits.

    Args:
        caching: what is stored.
        model: the language model `caching.model` names, loaded.
        folder: new, empty, or with a store of the same `caching`.
        tokens: tokens that count at every site, at least 1. The last rows may bring more.
        stopped: asked after each forward pass; a word for why to stop. What was read is
            written first.
        shown: show the size before, and progress, on stderr.

    Raises:
        ConfigError: the folder holds another store, or something else, or the text changed.
        DataError: the text has fewer tokens (what there is was written), or the precision
            cannot hold an activation.
        Interrupted: `stopped` gave a word.
        ResourceError: the disk is too small, or became full: what was written stays, and
            the same call goes on with it.
    """
    if tokens < 1:
        raise ConfigError(f"`tokens` must be at least 1; got {tokens}.")
    kept = f"Shards that were written are kept. {_go_on(folder, tokens)}"
    with claimed(folder, "saekit cache write", kept):
        _check_folder(caching, model, folder)
        harvest = caching.harvest(model)
        store = _opened(caching, harvest, folder)
        if shown:
            sys.stderr.write(f"cache     {expected(store, tokens)}\n")
        need_space(folder, _missing_bytes(store, tokens))
        writer = StoreWriter(store, store.channels)
        progress = Progress("cache", tokens, shown=shown)
        progress.start_at(store.n_kept)
        try:
            _fill(writer, harvest, tokens, stopped, progress)
        except ResourceError as error:
            raise ResourceError(f"{error} {_go_on(folder, tokens)}") from error
        finally:
            progress.close()
    return store


def repair(model: LanguageModel, folder: Path, *, shown: bool = True) -> list[str]:
    """Write the damaged shards of a store again, and only them; return their files.

    Raises:
        ConfigError: model or text are not those of the store, or the store was imported.
    """
    store = Store.open(folder)
    if store.manifest["imported"]:
        raise ConfigError(f"{folder} was imported and has no text to write it from; import again.")
    caching = Caching.from_dict(store.manifest["config"])
    with claimed(folder, "saekit cache write --repair", "Shards that were mended stay so."):
        _check_folder(caching, model, folder)
        damaged = store.damaged()
        harvest = caching.harvest(model)
        _check_text(harvest, store)
        writer = StoreWriter(store, store.channels)
        progress = Progress(
            "repair", sum(store.records[i].n_rows for i in damaged), "rows", shown=shown
        )
        for index in damaged:
            record = store.records[index]
            # In the forward passes of the first time.
            for rows in harvest.stream.rows(
                store.batch_rows, first_row=record.first_row, n_rows=record.n_rows
            ):
                writer.hold(rows, harvest.read(rows))
                progress.add(len(rows.tokens))
            writer.replace(index)
        progress.close()
    return [store.records[index].file for index in damaged]


def expected(store: Store, tokens: int) -> str:
    """Return a line about the size that a store of so many tokens will have."""
    rows = _rows_for(store, tokens)
    total = rows * bytes_of_row(store.sites, store.n_ctx, store.precision)
    there = f", {store.n_bytes / 1e9:.3f} GB of it there" if store.n_rows else ""
    sites = ", ".join(f"{site} [{width}]" for site, width in store.sites.items())
    return f"{total / 1e9:.3f} GB for {tokens:,} tokens of {sites} in {store.precision}{there}"


def _fill(
    writer: StoreWriter,
    harvest: Harvest,
    tokens: int,
    stopped: Callable[[], str | None],
    progress: Progress,
) -> None:
    store = writer.store
    kept = store.n_kept
    for rows in harvest.stream.rows(store.batch_rows, first_row=store.n_rows):
        if kept >= tokens:
            break
        acts = harvest.read(rows)
        found = int(keep_everywhere(harvest.rules, rows.tokens, acts).sum())
        writer.add(rows, acts, found)
        kept += found
        progress.reach(kept)
        if (why := stopped()) is not None and kept < tokens:
            writer.flush()
            raise Interrupted(
                f"{why} after {kept:,} of {tokens:,} tokens; they are written. "
                f"{_go_on(store.folder, tokens)}"
            )
    writer.flush()
    if kept < tokens:
        writer.end()
        raise DataError(
            f"The text ended after {kept:,} tokens that count; {tokens:,} were asked. They are "
            f"written, and {store.folder} can be used. Lower `tokens`, or cache more text."
        )


def _go_on(folder: Path, tokens: int) -> str:
    return f"Go on with: saekit cache write --resume {folder} --tokens {tokens}"


def _check_folder(caching: Caching, model: LanguageModel, folder: Path) -> None:
    """Refuse to write where something else is."""
    if not (folder / MANIFEST).exists():
        # One that was killed before its manifest was written has left no more than this.
        begun = folder.is_dir() and [p.name for p in folder.iterdir() if p.name != NAME]
        if begun != [CHANNELS]:
            check_empty(folder, "It holds no cache. Choose another folder.")
        return
    manifest = Store.open(folder).manifest
    pairs = [("", caching.to_dict(), manifest["config"])]
    pairs.append(("model.", model.provenance(), manifest["model"]))
    for prefix, asked, written in pairs:
        for field, value in asked.items():
            if _elsewhere(prefix + field, asked, written):
                continue
            if written.get(field) != value:
                raise ConfigError(
                    f"{folder} holds a cache with `{prefix}{field}` {written.get(field)!r}; got "
                    f"{value!r}. Choose another folder, or go on with what is there: "
                    f"saekit cache write --resume {folder} --tokens N"
                )


def _elsewhere(name: str, asked: Mapping[str, Any], written: Mapping[str, Any]) -> bool:
    """Return whether a model is the same though its folder has another name now.

    Its revision, which is compared as well, is a digest of its files.
    """
    if name == "model":
        return Path(str(asked[name])).is_dir()
    known = written.get("revision") is not None
    return name == "model.name" and known and Path(str(asked["name"])).is_dir()


def _opened(caching: Caching, harvest: Harvest, folder: Path) -> Store:
    """Return the store in a folder, begun where there is none."""
    if not (folder / MANIFEST).exists():
        sample, kept_a_row = _calibration(harvest)
        channels = {site: Channels.of(acts) for site, acts in sample.items()}
        lost = {str(s): added_fvu(a, caching.precision, channels[s]) for s, a in sample.items()}
        begin(
            folder,
            channels if caching.precision == "int8w" else {},
            {
                "config": caching.to_dict(),
                **described(harvest.model, harvest.pair.sites),
                "text": {k: v for k, v in harvest.stream.provenance().items() if k != "seen"},
                "rules": {site: rule.to_dict() for site, rule in harvest.rules.items()},
                "added_fvu": lost,
                "kept_a_row": kept_a_row,
                "batch_rows": harvest.batch_rows,
                "imported": None,
            },
        )
    store = Store.open(folder)
    _check_text(harvest, store)
    return store


def _check_text(harvest: Harvest, store: Store) -> None:
    """Refuse to go on with another text than the store was begun with."""
    if harvest.stream.provenance()["digest"] != store.manifest["text"]["digest"]:
        raise ConfigError(
            f"The text of `corpus` is not what it was when {store.folder} was begun: its rows "
            f"would not go on. Put the text back, or write another cache."
        )


def _calibration(harvest: Harvest) -> tuple[dict[Site, Tensor], float]:
    """Return activations that count, of the first rows by site, and how many a row has."""
    found: dict[Site, list[Tensor]] = {site: [] for site in harvest.pair.sites}
    n_kept = n_rows = 0
    for rows in harvest.stream.rows(harvest.batch_rows, n_rows=CALIBRATION_ROWS):
        acts = harvest.read(rows)
        masks = {s: harvest.rules[str(s)].keep(rows.tokens, a) for s, a in acts.items()}
        for site, mask in masks.items():
            found[site].append(acts[site][mask].cpu())
        n_kept += int(torch.stack(list(masks.values())).all(0).sum())
        n_rows += len(rows.tokens)
    return {site: torch.cat(parts) for site, parts in found.items()}, n_kept / n_rows


def _rows_for(store: Store, tokens: int) -> int:
    """Return how many rows have so many tokens that count, as the first rows have them."""
    if store.n_kept >= tokens:
        return store.n_rows
    a_row = max(store.manifest["kept_a_row"], 1e-9)
    passes = math.ceil((tokens - store.n_kept) / (a_row * store.batch_rows))
    return store.n_rows + passes * store.batch_rows


def _missing_bytes(store: Store, tokens: int) -> int:
    missing = _rows_for(store, tokens) - store.n_rows
    return missing * bytes_of_row(store.sites, store.n_ctx, store.precision)
