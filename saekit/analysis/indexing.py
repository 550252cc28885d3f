"""Indexing: encode a corpus once, keep every code, and find each latent's best contexts."""

import time
from pathlib import Path
from typing import Any

import torch

from saekit.activations.harvest import Harvest
from saekit.activations.latents import LatentStore, LatentStoreWriter
from saekit.activations.pairs import Pair
from saekit.activations.passes import pass_rows
from saekit.analysis.contexts import contexts, latent_records
from saekit.analysis.latent_stats import LatentStats
from saekit.analysis.logit_lens import top_logits
from saekit.analysis.max_acts import MaxActs
from saekit.core import provenance
from saekit.core.errors import ConfigError, DataError
from saekit.core.files import need_space, to_json_line, write_json, write_text
from saekit.core.progress import Progress
from saekit.data.base import Corpus, Split
from saekit.data.tokenise import TokenStream
from saekit.hub.native import Loaded
from saekit.hub.opening import said_of
from saekit.models.base import LanguageModel
from saekit.models.sites import Site

TOP_LOGITS = 8


def make_index(
    loaded: Loaded,
    lm: LanguageModel,
    out: Path,
    *,
    tokens: int,
    text: tuple[Corpus, Split] | None = None,
    max_acts: MaxActs | None = None,
    shown: bool = True,
) -> dict[str, Any]:
    """Write a LatentStore of a corpus, `latents.csv` and `contexts.json`; return counts.

    Args:
        loaded: the SAE and its card.
        lm: the model it was trained on.
        out: folder to make; an earlier index in it is replaced.
        tokens: tokens of text that count, at least 1; fewer where the text is shorter.
        text: a corpus and which part of it; the text of the training run where None.
        max_acts: which contexts to keep; the strongest 8 where None.
        shown: show progress on stderr.

    Returns:
        ``tokens``, ``entries``, ``rows``, ``seconds``.

    Raises:
        ConfigError: the SAE codes several sites jointly, or `tokens` is below 1.
        DataError: the text holds no token that counts.
    """
    began = time.monotonic()
    card, sae = loaded.card, loaded.sae
    if sae.cfg.event:
        raise ConfigError(
            f"Only SAEs of single activations can be indexed so far; `{sae.cfg.name}` codes "
            f"{' and '.join(sae.cfg.event)} jointly."
        )
    ways = dict(zip(card.pair.reads, card.pair.writes, strict=True))
    if len(ways) != 1 and card.at is None:
        raise ConfigError(
            f"Several sites share this SAE: {', '.join(map(str, ways))}. Load it for one of them."
        )
    read = card.site
    if tokens < 1:
        raise ConfigError(f"`tokens` must be at least 1; got {tokens}.")
    corpus, split = text or (Corpus.from_dict(card.run["corpus"]), "train")
    bos = card.bos_id(lm.tokenizer) is not None
    stream = TokenStream(corpus, split, lm.tokenizer, n_ctx=card.n_ctx, bos_each_row=bos)
    rule, pair = card.rules[str(read)].rule, Pair(read=(str(read),), write=(str(ways[read]),))
    rows = pass_rows(lm, card.n_ctx)
    harvest = Harvest(lm, stream, pair, rule, batch_rows=rows, fitted=card.rules)
    need_space(out, tokens * 32 * 24)
    writer = LatentStoreWriter(
        out, n_ctx=card.n_ctx, d_sae=sae.cfg.d_sae, meta={"card": card.to_dict(), "split": split}
    )
    n_tokens = _encode(harvest, loaded, writer, tokens, shown)
    if not n_tokens:
        raise DataError("The text holds no token that counts; give the corpus more text.")
    store = writer.close()
    found = _tables(store, loaded, ways[read], lm, out, max_acts or MaxActs(n=8))
    counts = {"tokens": store.n_tokens, "rows": store.n_rows, "entries": found}
    seconds = time.monotonic() - began
    write_json(
        out / "index.json",
        counts
        | {"seconds": seconds, "split": split, "site": str(read), "corpus": stream.provenance()}
        | {"harvest": harvest.counts._asdict(), "provenance": provenance.collect()}
        | {"said": said_of(card) | {"bos": bos}},
    )
    return counts | {"seconds": seconds}


@torch.no_grad()
def _encode(
    harvest: Harvest, loaded: Loaded, writer: LatentStoreWriter, tokens: int, shown: bool
) -> int:
    """Write the codes of `tokens` tokens, to the end of the row they end in."""
    progress = Progress("index", tokens, shown=shown)
    n_tokens = 0
    for rows in harvest.stream.rows(harvest.batch_rows):
        acts = harvest.select(rows, harvest.read(rows))
        codes = loaded.sae.encode(acts.x.float())
        writer.add(rows, acts.row, acts.pos, codes)
        n_tokens += len(acts.x)
        progress.add(len(acts.x))
        if n_tokens >= tokens:
            break
    progress.close()
    return n_tokens


def _tables(
    store: LatentStore,
    loaded: Loaded,
    written: Site,
    lm: LanguageModel,
    out: Path,
    max_acts: MaxActs,
) -> int:
    """Write what is read of a store by people, and return its number of entries."""
    stats = LatentStats().run(store)
    stats.write_csv(out / "latents.csv")
    found = contexts(store, max_acts.peaks(store), lm.tokenizer.pieces)
    logits = None
    if written.point != "mlp_in" and loaded.sae.cfg.d_out == lm.d_model:
        logits = top_logits(lm, loaded.sae.directions().detach(), TOP_LOGITS).records()
    write_text(out / "contexts.json", to_json_line(latent_records(stats, found, logits)))
    return int(store.counts.sum())
