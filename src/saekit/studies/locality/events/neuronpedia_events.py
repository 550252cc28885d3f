"""Texts that Neuronpedia keeps of latents as events, and whether our activations match theirs."""

from collections.abc import Sequence
from typing import Any

import torch

from saekit.core.errors import ConfigError
from saekit.core.result import Table
from saekit.models.base import LanguageModel, Tokenizer
from saekit.models.sites import Site, parse_site
from saekit.saes.base import SAE
from saekit.studies.locality.events.base import Event
from saekit.studies.locality.events.neuronpedia import Activation, Record
from saekit.studies.locality.influence.latent_gradient import Encoder

EXAMPLES = 3  # texts named that could not be read
ABSOLUTE, RELATIVE = 0.5, 0.05  # a match is as near as one of these
SENTENCE_PIECE = "\u2581"  # how sentence pieces write a blank


def events_of(
    record: Record, tokenizer: Tokenizer, n: int = 32
) -> tuple[list[Event], dict[str, Any]]:
    """Return a latent's events, the strongest first, and a record of what became of its texts.

    The same tokens with the same peak count once. A text is used where every token's string
    is one token of the tokenizer, and reads the same when decoded: others would be another
    text for the model. BOS at its beginning is taken off, for scoring puts it there.

    Args:
        record: from `neuronpedia.Cache.get`.
        tokenizer: of the model.
        n: events at most, at least 1.

    Raises:
        ConfigError: `n` is below 1, or the tokenizer has no BOS, which these texts begin with.
    """
    if n < 1:
        raise ConfigError(f"`n` must be at least 1 event a latent; got {n}.")
    if tokenizer.bos_id is None:
        raise ConfigError(
            "Texts of Neuronpedia begin with BOS, and this tokenizer has none. Use events of a "
            "corpus (saekit locality events)."
        )
    first: dict[tuple[tuple[str, ...], int], Activation] = {}
    for activation in record.activations:
        first.setdefault((activation.tokens, activation.peak), activation)
    alone = sorted(first.values(), key=lambda a: -abs(a.value))
    found, failed = [], []
    for activation in alone:
        ids, peak = _ids(activation, tokenizer)
        if ids is None or peak < 0:
            failed.append(activation)
        elif len(found) < n and activation.value != 0:
            text = tuple(ids[: peak + 1])
            found.append(Event(record.index, len(found), activation.value, text))
    log = {
        "n_neuronpedia": len(record.activations),
        "n_after_dedup": len(alone),
        "n_duplicates": len(record.activations) - len(alone),
        "n_vocab_dropped": len(failed),
        "n_kept": len(found),
        "roundtrip_failure_examples": ["".join(a.tokens)[:200] for a in failed[:EXAMPLES]],
    }
    return found, log


def _ids(activation: Activation, tokenizer: Tokenizer) -> tuple[list[int] | None, int]:
    """Return token ids without BOS, None where one cannot be told, and the place of the peak."""
    tokens, peak = activation.tokens, activation.peak
    assert tokenizer.bos_id is not None
    if tokens[0] in (tokenizer.pieces([tokenizer.bos_id])[0], "<bos>", "<|begin_of_text|>"):
        tokens, peak = tokens[1:], peak - 1
    texts = [t.replace(SENTENCE_PIECE, " ") for t in tokens]
    encoded = tokenizer.encode(texts)
    if any(len(ids) != 1 for ids in encoded):
        return None, peak
    ids = [one for (one,) in encoded]
    if any(tokenizer.decode([i]) != t for i, t in zip(ids, texts, strict=True)):
        return None, peak
    return ids, peak


@torch.no_grad()
def match(
    lm: LanguageModel, sae: SAE, site: Site | str, events: Sequence[Event], bos_id: int | None
) -> Table:
    """Return whether our activation at each peak is the one that an event says.

    Columns: feature_id, expected, activation, abs_diff, rel_diff, ok. It is ok where they
    differ by at most 0.5, or by at most 5 % of what is expected.

    Args:
        lm: the model.
        sae: reading `site`.
        site: where.
        events: one a latent is enough.
        bos_id: token before each text; None for none.
    """
    place = lm.check_site(parse_site(site) if isinstance(site, str) else site)
    encoder = Encoder(sae)
    head = [] if bos_id is None else [bos_id]
    columns: dict[str, list[Any]] = {
        c: [] for c in ("feature_id", "expected", "activation", "abs_diff", "rel_diff", "ok")
    }
    for event in events:
        x = lm.read(torch.tensor([head + list(event.ids)]), [place])[place][:, -1].float()
        found = encoder.at(x, torch.tensor([0]), torch.tensor([event.latent]))
        got = float(found.activation)
        apart = abs(got - event.value)
        share = apart / abs(event.value) if event.value else float("inf")
        row = (event.latent, event.value, got, apart, share, apart <= ABSOLUTE or share <= RELATIVE)
        for values, value in zip(columns.values(), row, strict=True):
            values.append(value)
    return Table(columns=columns, units={"expected": "act units", "activation": "act units"})
