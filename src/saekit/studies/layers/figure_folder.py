"""Every figure of an SAE over layers, in one folder."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.errors import ConfigError
from saekit.data.tokenise import TokenStream
from saekit.hub.shared import SharedSAE
from saekit.models.base import LanguageModel
from saekit.models.sites import EMBED
from saekit.report import style
from saekit.studies.layers.distributions import distribution
from saekit.studies.layers.figures import (
    adjacent_cosine,
    embedding_cosine,
    layer_distance,
    layer_heatmap,
    layer_mean,
    layer_std,
    mmcs,
    prompt_heatmap,
)
from saekit.studies.layers.geometry import cosine_by_distance, nearest_tokens
from saekit.studies.layers.lens import Lens
from saekit.studies.layers.prompt import PromptReading
from saekit.studies.layers.stream import adjacent_cosines
from saekit.studies.layers.survey import Survey

N_NEAREST = 8  # tokens a latent in the CSV, as published


def draw_all(  # noqa: PLR0913 - each is a choice of the reader
    found: Survey,
    shared: SharedSAE,
    lm: LanguageModel,
    stream: TokenStream,
    out: Path,
    *,
    prompt: str,
    tokens: int,
    suffix: str = "svg",
    lens: Lens | None = None,
    shown: bool = True,
) -> list[Path]:
    """Draw the figures of the paper for one SAE and return their files.

    Args:
        found: of a corpus.
        shared: the SAE, at the layers of the survey.
        lm: its model.
        stream: text for cosines of residual vectors.
        out: folder; each figure has its CSV beside it.
        prompt: for the prompt heatmap.
        tokens: of text, for those cosines.
        suffix: of the figures.
        lens: a change of basis for residual vectors and the prompt.
        shown: show progress on stderr.

    Raises:
        ConfigError: `suffix` is not one of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    ending = f".{suffix.lstrip('.')}"
    if ending not in style.SUFFIXES:
        raise ConfigError(f"`--suffix` is one of {', '.join(style.SUFFIXES)}; got {suffix}.")
    name = f"{lm.name}, {shared.d_sae:,} latents, {len(shared.sites)} layers"
    sums = found.sums
    spread = distribution(sums.totals, sums.numbers)
    directions = shared.sae.directions().detach()
    made = {
        n: out / f"{n}{ending}"
        for n in (
            "layer_heatmap",
            "layer_std",
            "layer_mean",
            "prompt_heatmap",
            "mmcs",
            "adjacent_cosine",
            "embedding_cosine",
            "layer_distance",
        )
    }
    of_tokens = f", {sums.n_tokens:,} tokens"
    layer_heatmap.draw(spread, found.sites, made["layer_heatmap"], title=name, population=of_tokens)
    about = shared.facts() | {"model": lm.name, "lens": lens is not None}
    layer_std.draw({name: sums}, {name: about}, made["layer_std"])
    layer_mean.draw(spread, sums.numbers, made["layer_mean"], title=name)
    prompt_heatmap.draw(PromptReading(shared, lm, prompt, lens=lens), made["prompt_heatmap"])
    mmcs.draw({name: directions}, {name: about}, made["mmcs"])
    if len(shared.sites) > 1:
        rules = {str(s): shared.rule(s) for s in shared.sites}
        n_rows = max(1, math.ceil(tokens / stream.n_ctx))
        cosines = adjacent_cosines(
            lm, stream, rules, shared.sites, n_rows=n_rows, lens=lens, shown=shown
        )
        adjacent_cosine.draw(cosines, made["adjacent_cosine"], title=lm.name)
    else:
        del made["adjacent_cosine"]  # one layer has no neighbour
    if directions.shape[1] == lm.d_model:
        n = min(N_NEAREST, lm.vocab_size)
        near = nearest_tokens(directions, embedding(lm), n)
        out_of = nearest_tokens(directions, lm.unembedding().float(), n)
        embedding_cosine.draw(spread, near, out_of, lm.tokenizer, made["embedding_cosine"])
    else:
        del made["embedding_cosine"]
    pairs = cosine_by_distance(directions, spread.mean, sums.numbers)
    layer_distance.draw(pairs, made["layer_distance"], title=name)
    return list(made.values())


def embedding(lm: LanguageModel) -> Float[Tensor, "vocab d_model"]:
    """Return what every token puts into the residual stream, float32."""
    found = []
    ids: Sequence[Tensor] = torch.arange(lm.vocab_size).split(lm.n_ctx_max)
    for part in ids:
        found.append(lm.read(part[None], [EMBED])[EMBED][0].float())
    return torch.cat(found)
