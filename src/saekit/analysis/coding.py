"""Coding: text through the model once, to the codes of several SAEs; goes on where it was."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from saekit.activations.harvest import Counts, Harvest
from saekit.activations.latents import WRITTEN, LatentStore, LatentStoreWriter, holds_store
from saekit.activations.pairs import Pair
from saekit.activations.passes import pass_rows
from saekit.activations.shared import SharedPasses
from saekit.core import parts
from saekit.core.errors import ConfigError, DataError
from saekit.core.progress import Progress
from saekit.core.sealed import read_sealed, write_sealed
from saekit.data.tokenise import Rows, TokenStream
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel
from saekit.models.sites import Site

SHARD_TOKENS = 2**16
STORE, SETTINGS = "codes", "work.json"


class Coder:
    """One SAE that codes a text, into a folder in which it goes on after a break.

    Args:
        loaded: the SAE, its card without gaps.
        weights: digest of its weights.
        lm: the language model.
        stream: the text.
        tokens: tokens that count, to the end of the rows in which they end.
        work: its folder.

    Raises:
        ConfigError: one of several sites is needed and none was named, or the SAE codes them
            jointly and one was; or what is in the folder was begun with other settings.
    """

    def __init__(
        self,
        loaded: TrainedSAE,
        weights: str,
        lm: LanguageModel,
        stream: TokenStream,
        *,
        tokens: int,
        work: Path,
    ):
        self.loaded, self.stream, self.tokens, self.work = loaded, stream, tokens, work
        self.lm, self.weights = lm, weights
        self.pair, self.written = pair_of(loaded)
        self.batch_rows = pass_rows(lm, stream.n_ctx)
        self.shard_rows = max(SHARD_TOKENS // stream.n_ctx // self.batch_rows, 1) * self.batch_rows
        self.counts = Counts()
        self._harvest: Harvest | None = None
        self._writer: LatentStoreWriter | None = None
        self.store: LatentStore | None = None
        self._begin()

    def _settings(self) -> dict[str, Any]:
        """Return what an indexing goes on with: with others its codes would not fit together."""
        rules = {site: rule.to_dict() for site, rule in self.loaded.card.rules.items()}
        return {
            "tokens": self.tokens,
            "text": self.stream.digest,
            "split": self.stream.split,
            "site": self.pair.label,
            "model": self.lm.provenance(),
            "weights": self.weights,
            "rules": rules,
            "rows of a shard": self.shard_rows,
        }

    def _begin(self) -> None:
        path, settings = self.work / SETTINGS, self._settings()
        if path.is_file():
            found = read_sealed(path)
            differ = [
                f"{k} (then {found.get(k)}, now {v})" if isinstance(v, int) else k
                for k, v in settings.items()
                if _plain(found.get(k)) != _plain(v)
            ]
            if differ:
                raise ConfigError(
                    f"{self.work} holds an indexing that was broken off, of other settings: "
                    f"{', '.join(differ)}. Begin anew with --fresh (fresh=True), or give the same "
                    f"settings to go on."
                )
            parts.remove_leftovers(self.work)
        else:
            parts.remove(self.work)
            parts.new_folder(self.work)
            write_sealed(path, settings)
        if holds_store(self.work / STORE):
            self.store = LatentStore.open(self.work / STORE)
            (self.work / STORE / WRITTEN).unlink(missing_ok=True)  # its writer was killed before
            self.counts = Counts(**self.store.meta["harvest"])
            return
        self._writer = LatentStoreWriter(
            self.work / STORE,
            n_ctx=self.stream.n_ctx,
            d_sae=self.loaded.sae.cfg.d_sae,
            meta={
                "card": self.loaded.card.to_dict(),
                "split": self.stream.split,
                "site": self.pair.label,
                "weights": self.weights,
            },
            shard_tokens=self.shard_rows * self.stream.n_ctx,
            goes_on=True,
        )
        self.counts = Counts(**self._writer.beside.get("harvest", {}))
        self.n_tokens = self._writer.n_tokens
        if self.n_tokens >= self.tokens:
            self._close()

    @property
    def next_row(self) -> int | None:
        """The row that it goes on with; None where it has all codes."""
        return None if self._writer is None else self._writer.next_row

    def begin(self, model: LanguageModel) -> None:
        """Make ready to read rows through a model, which others may read through too."""
        rule = self.loaded.card.rules[str(self.pair.reads[0])].rule
        self._harvest = Harvest(
            model,
            self.stream,
            self.pair,
            rule,
            batch_rows=self.batch_rows,
            fitted=self.loaded.card.rules,
        )
        self._harvest.counts = self.counts

    @torch.no_grad()
    def take(self, rows: Rows) -> None:
        """Code some rows that were not coded before."""
        writer, harvest = self._writer, self._harvest
        if writer is None or harvest is None or rows.first_row < writer.next_row:
            return
        acts = harvest.select(rows, harvest.read(rows))
        codes = self.loaded.sae.encode(acts.x.float())
        row, pos = acts.row, acts.pos
        if self.pair.window:  # a code for each place of a window
            place = torch.arange(self.pair.window, device=pos.device)
            row = row.repeat_interleave(len(place))
            pos = (pos[:, None] + place).flatten()
            codes = codes._replace(batch=(len(pos),))
        self.counts = harvest.counts
        writer.beside = {"harvest": self.counts._asdict(), "seen": self.stream.seen}
        writer.add(rows, row, pos, codes)
        self.n_tokens += len(pos)
        if self.n_tokens >= self.tokens:
            self._close()

    def end(self) -> None:
        """Close what the text was too short for.

        Raises:
            DataError: the text holds no token that counts.
        """
        if self._writer is not None:
            if not self.n_tokens:
                raise DataError("The text holds no token that counts; give the corpus more text.")
            self._close()

    def _close(self) -> None:
        assert self._writer is not None
        # How much of the text was read is known to who read it, and is noted next to the codes.
        seen = self._writer.beside.get("seen") if self._harvest is None else None
        read = {} if seen is None else {"seen": seen}
        self._writer.meta |= {
            "harvest": self.counts._asdict(),
            "corpus": self.stream.provenance() | read,
        }
        self.store, self._writer = self._writer.close(), None


def code(coders: Sequence[Coder], lm: LanguageModel, *, shown: bool) -> None:
    """Have SAEs of one text and model code it in one pass of the model.

    Args:
        coders: of streams that are the same.
        lm: the model.
        shown: show progress on stderr.

    Raises:
        DataError: the text holds no token that counts.
    """
    left = [coder for coder in coders if coder.next_row is not None]
    if not left:
        return
    sites = list(dict.fromkeys(site for coder in left for site in coder.pair.sites))
    model = lm if len(left) == 1 else SharedPasses(lm, sites, recent=1)
    for coder in left:
        coder.begin(model)
    slowest = min(left, key=lambda coder: coder.next_row or 0)
    progress = Progress("index", max(coder.tokens for coder in left), shown=shown)
    progress.start_at(slowest.n_tokens)
    stream, batch_rows = slowest.stream, slowest.batch_rows
    for rows in stream.rows(batch_rows, first_row=slowest.next_row or 0):
        for coder in left:
            coder.take(rows)
        progress.reach(slowest.n_tokens)
        if all(coder.next_row is None for coder in left):
            break
    for coder in left:
        coder.end()
    progress.close()


def pair_of(loaded: TrainedSAE) -> tuple[Pair, Site]:
    """Return the sites that an SAE is indexed at, and of those it writes the last.

    Raises:
        ConfigError: one of several sites is needed and none was named, or the SAE codes them
            jointly and one was.
    """
    card, event = loaded.card, loaded.cfg.event
    ways = dict(zip(card.pair.reads, card.pair.writes, strict=True))
    if len(ways) != 1 and card.at is None and not event:
        raise ConfigError(
            f"Several sites share this SAE: {', '.join(map(str, ways))}. Load it for one of them."
        )
    if "site" in event and card.at is not None:
        raise ConfigError(
            f"`{loaded.cfg.name}` codes {', '.join(map(str, ways))} jointly and is indexed at all "
            f"of them; got {card.at}. Leave the site out."
        )
    # What is coded jointly is read as in training; of sites that share an SAE, one.
    # The site predicted comes along: the rules of both decide which tokens are kept.
    one = Pair(read=(str(card.site),), write=(str(ways[card.site]),))
    pair = card.pair if event else one
    return pair, ways[pair.reads[-1]]


def work_of(out: Path) -> Path:
    """Return the folder, next to an index, in which its codes are made."""
    return out.with_name(f".{out.name}.work")


def forget(out: Path) -> None:
    """Delete what an indexing that was broken off left next to its place."""
    parts.remove(work_of(out))


def _plain(value: Any) -> Any:
    """Return a value as it comes back from JSON."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
