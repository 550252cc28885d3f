"""Indexing: encode a corpus once, keep every code, and find each latent's best contexts."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from saekit.activations.harvest import Harvest
from saekit.activations.latents import LatentStore, LatentStoreWriter, is_store
from saekit.activations.pairs import Pair
from saekit.activations.passes import pass_rows
from saekit.analysis.act_histogram import ActHistogram
from saekit.analysis.contexts import contexts, latent_records
from saekit.analysis.latent_stats import LatentStats
from saekit.analysis.logit_lens import top_logits
from saekit.analysis.max_acts import MaxActs
from saekit.core import provenance
from saekit.core.errors import ConfigError, DataError
from saekit.core.files import need_space, to_json_line, write_text
from saekit.core.lock import made_whole
from saekit.core.progress import Progress
from saekit.core.sealed import write_sealed
from saekit.data.base import Corpus, Split
from saekit.data.tokenise import TokenStream
from saekit.hub.opening import said_of
from saekit.hub.trained import TrainedSAE, weights_digest
from saekit.models.base import LanguageModel, refuse_edits
from saekit.models.sites import Site

TOP_LOGITS = 8
SPREAD = 5  # contexts of a latent from its whole range of activations, one each fifth of it
LATENTS, CONTEXTS, INDEX = "latents.csv", "contexts.json", "index.json"


def make_index(
    loaded: TrainedSAE,
    lm: LanguageModel,
    out: Path,
    *,
    tokens: int,
    text: tuple[Corpus, Split] | None = None,
    max_acts: MaxActs | None = None,
    shown: bool = True,
) -> dict[str, Any]:
    """Write a LatentStore of a corpus, `latents.csv` and `contexts.json`; return counts.

    A crosscoder is indexed by token, from all its sites; what its latents promote is by what
    they write at the last. Of an SAE of windows each token of a window has its own code, and
    tokens that fall in no window have none.

    Args:
        loaded: the SAE and its card.
        lm: the model it was trained on.
        out: folder to make; an earlier index in it stays until this one is whole.
        tokens: tokens of text that count, at least 1; fewer where the text is shorter.
        text: a corpus and which part of it; the text of the training run where None.
        max_acts: which contexts to keep; the strongest 8 where None.
        shown: show progress on stderr.

    Returns:
        ``tokens``, ``entries``, ``rows``, ``seconds``.

    Raises:
        ConfigError: one of several sites is needed and none was named, or the SAE codes them
            jointly and one was; `tokens` is below 1; or `out` holds something else than an index.
        DataError: the text holds no token that counts.
    """
    refuse_edits(lm)
    began = time.monotonic()
    card, sae = loaded.card, loaded.sae
    ways = dict(zip(card.pair.reads, card.pair.writes, strict=True))
    if len(ways) != 1 and card.at is None and not sae.cfg.event:
        raise ConfigError(
            f"Several sites share this SAE: {', '.join(map(str, ways))}. Load it for one of them."
        )
    if "site" in sae.cfg.event and card.at is not None:
        raise ConfigError(
            f"`{sae.cfg.name}` codes {', '.join(map(str, ways))} jointly and is indexed at all of "
            f"them; got {card.at}. Leave the site out."
        )
    # What is coded jointly is read as in training; of sites that share an SAE, one.
    # The site predicted comes along: the rules of both decide which tokens are kept.
    one = Pair(read=(str(card.site),), write=(str(ways[card.site]),))
    pair = card.pair if sae.cfg.event else one
    if tokens < 1:
        raise ConfigError(f"`tokens` must be at least 1; got {tokens}.")
    corpus, split = text or (Corpus.from_dict(card.run["corpus"]), "train")
    bos = card.bos_id(lm.tokenizer) is not None
    stream = TokenStream(corpus, split, lm.tokenizer, n_ctx=card.n_ctx, bos_each_row=bos)
    rule = card.rules[str(pair.reads[0])].rule
    rows = pass_rows(lm, card.n_ctx)
    harvest = Harvest(lm, stream, pair, rule, batch_rows=rows, fitted=card.rules)
    names = (LATENTS, CONTEXTS, INDEX)
    with made_whole(out, "saekit index", replaces=lambda old: is_store(old, names)) as part:
        need_space(out, tokens * 32 * 24)
        writer = LatentStoreWriter(
            part,
            n_ctx=card.n_ctx,
            d_sae=sae.cfg.d_sae,
            meta={
                "card": card.to_dict(),
                "split": split,
                "site": pair.label,
                "weights": weights_digest(sae),
            },
        )
        n_tokens = _encode(harvest, loaded, writer, tokens, shown)
        if not n_tokens:
            raise DataError("The text holds no token that counts; give the corpus more text.")
        store = writer.close()
        written = ways[pair.reads[-1]]  # of several that are written, the last
        found = _tables(store, loaded, written, lm, part, max_acts or MaxActs(n=8))
        counts = {"tokens": store.n_tokens, "rows": store.n_rows, "entries": found}
        seconds = time.monotonic() - began
        write_sealed(
            part / INDEX,
            counts
            | {"seconds": seconds, "split": split, "site": pair.label}
            | {"logits_of": str(written), "window": pair.window}
            | {"corpus": stream.provenance(), "harvest": harvest.counts._asdict()}
            | {"provenance": provenance.collect(), "said": said_of(card) | {"bos": bos}},
            [part / LATENTS, part / CONTEXTS],
        )
    return counts | {"seconds": seconds}


@torch.no_grad()
def _encode(
    harvest: Harvest, loaded: TrainedSAE, writer: LatentStoreWriter, tokens: int, shown: bool
) -> int:
    """Write the codes of `tokens` tokens, to the end of the row they end in."""
    progress = Progress("index", tokens, shown=shown)
    n_tokens = 0
    for rows in harvest.stream.rows(harvest.batch_rows):
        acts = harvest.select(rows, harvest.read(rows))
        codes = loaded.sae.encode(acts.x.float())
        row, pos = acts.row, acts.pos
        if harvest.pair.window:  # a code for each place of a window
            place = torch.arange(harvest.pair.window, device=pos.device)
            row = row.repeat_interleave(len(place))
            pos = (pos[:, None] + place).flatten()
            codes = codes._replace(batch=(len(pos),))
        writer.add(rows, row, pos, codes)
        n_tokens += len(pos)
        progress.add(len(pos))
        if n_tokens >= tokens:
            break
    progress.close()
    return n_tokens


def _tables(
    store: LatentStore,
    loaded: TrainedSAE,
    written: Site,
    lm: LanguageModel,
    out: Path,
    max_acts: MaxActs,
) -> int:
    """Write what is read of a store by people, and return its number of entries."""
    stats = LatentStats().run(store)
    stats.write_csv(out / LATENTS)
    found = contexts(store, max_acts.peaks(store), lm.tokenizer.pieces)
    # The strongest contexts flatter a latent: a few from its whole range stand next to them.
    spread = replace(max_acts, n=SPREAD, examples="intervals")
    others = contexts(store, spread.peaks(store), lm.tokenizer.pieces)
    histogram = ActHistogram().counts(store)
    logits = None
    if written.point != "mlp_in" and loaded.sae.cfg.d_out == lm.d_model:
        directions = loaded.sae.directions().detach()
        last = directions.flatten(0, -3)[-1] if directions.ndim > 2 else directions
        logits = top_logits(lm.model_at(written), last, TOP_LOGITS).records()
    records = latent_records(stats, found, logits, others, histogram)
    write_text(out / CONTEXTS, to_json_line(records))
    return int(store.counts.sum())
