"""Answers about one prompt as an application asks for them: one JSON-ready value a question."""

from collections.abc import Sequence
from typing import Any

from saekit.saes.standardised import Standardised
from saekit.studies.layers.prompt import PromptReading, Steering, example_records
from saekit.studies.layers.survey import Survey


def answers(
    reading: PromptReading,
    steered: Sequence[Steering] = (),
    survey: Survey | None = None,
    *,
    n_logits: int = 16,
    bins: int = 64,
) -> dict[str, Any]:
    """Return what the original's web application asks its server, for one prompt.

    Keys are the questions: ``params``; ``tokens``; ``metrics`` of each layer;
    ``latent_activations``, where only active latents are listed, as ``[position, latent,
    strength]`` by layer, with the largest strength of each token; ``layer_histograms``;
    ``logits_input``; ``logits_recon`` by layer; ``logits_steer``, one for each steering; and
    ``examples`` by ``SITE/latent``, of the latents that are active on the prompt.

    Args:
        reading: of the prompt.
        steered: directions to add.
        survey: of a corpus with the same SAE; None: no examples.
        n_logits: tokens of a list of logits; fewer where the vocabulary is smaller.
        bins: of the histograms.

    Raises:
        ConfigError: a steering names a layer, latent or position that there is not.
    """
    n = min(n_logits, reading.lm.vocab_size)
    return {
        "params": _params(reading),
        "tokens": reading.token_list(),
        "metrics": reading.metrics(),
        "latent_activations": {"values": reading.entries(), "max": _largest(reading)},
        "layer_histograms": reading.histograms(bins),
        "logits_input": reading.logits_input(n),
        "logits_recon": {
            str(site): reading.logits_reconstructed(str(site), n) for site in reading.codes
        },
        "logits_steer": [one._asdict() | reading.logits_steered(one, n) for one in steered],
        "examples": _examples(reading, survey),
    }


def _params(reading: PromptReading) -> dict[str, Any]:
    shared = reading.shared
    cfg = shared.sae.cfg
    return {
        "model": reading.lm.name,
        "sites": [str(s) for s in shared.sites],
        "layers": shared.numbers,
        "d_sae": cfg.d_sae,
        "expansion": cfg.d_sae / cfg.d_in,
        "k": shared.k,
        "standardised": isinstance(cfg, Standardised),
        "bos": shared.card.bos,
        "lens": None if reading.lens is None else reading.lens.sha256,
    }


def _largest(reading: PromptReading) -> dict[str, list[float]]:
    """Return the largest strength of each token, by layer; 0 where no latent is on."""
    found = {}
    for site, rows in reading.entries().items():
        largest = [0.0] * len(reading.ids)
        for position, _, strength in rows:
            largest[int(position)] = max(largest[int(position)], strength)
        found[site] = largest
    return found


def _examples(reading: PromptReading, survey: Survey | None) -> dict[str, Any]:
    if survey is None:
        return {}
    found = {}
    for site, codes in reading.codes.items():
        if str(site) in survey.sites:
            index = survey.sites.index(str(site))
            for latent in codes.latent.unique().tolist():
                kept = survey.examples.of(index, latent)
                found[f"{site}/{latent}"] = example_records(kept, reading.lm.tokenizer.pieces)
    return found
