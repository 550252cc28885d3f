"""Null baselines: what entropy looks like where a latent's direction, or the model, means nothing.

random     each latent's gradient is replaced by a random direction of the same norm
shuffled   the entries of all gradients are put in another order, one for all latents: the encoder
           keeps its inner products and loses its relation to the model
weights    the gradients are pulled back through the model with the entries of every weight matrix
           shuffled: the architecture's own locality
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.errors import UnknownNameError, nearest
from saekit.core.seeds import generator
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.studies.locality.influence.base import Influences
from saekit.studies.locality.influence.latent_gradient import ActiveLatents, Encoder
from saekit.studies.locality.influence.pullback import Windows, read_at, squares

NULLS = ("random", "shuffled", "weights")


def check_names(names: tuple[str, ...]) -> None:
    """Refuse names of nulls that there are not.

    Raises:
        UnknownNameError: one is none of `NULLS`.
    """
    for name in names:
        if name not in NULLS:
            raise UnknownNameError(
                f"There is no null baseline `{name}`; there are {', '.join(NULLS)}."
                f"{nearest(name, NULLS)}"
            )


def null_influence(  # noqa: PLR0913 - what was measured, and what is changed in it
    kind: str,
    lm: LanguageModel,
    encoder: Encoder,
    tokens: Tensor,
    site: Site,
    like: Influences,
    *,
    seed: int = 0,
    randomised: LanguageModel | None = None,
    memory_bytes: int | None = None,
    matmul: str = "float32",
) -> Float[Tensor, "pairs n_ctx"]:
    """Return the influence of every token under a null, for the pairs of a measurement.

    Args:
        kind: of `NULLS`.
        lm: the model that was measured.
        encoder: of the SAE that was measured.
        tokens: rows, from their documents' beginning.
        site: likewise.
        like: what was measured.
        seed: decides directions and orders; the same for every call of a run.
        randomised: the model with shuffled weights, for "weights"; made where None.
        memory_bytes: budget.
        matmul: what gradients are multiplied in.

    Raises:
        UnknownNameError: there is no such null.
    """
    check_names((kind,))
    last = like.position.new_zeros(len(tokens)).scatter(0, like.window, like.position)
    windows = Windows(tokens, last)
    x = read_at(lm, windows, [site])
    seeds = encoder.gradients(x, ActiveLatents(like.window, like.latent, like.activation))
    if kind == "random":
        draw = torch.randn(
            encoder.sae.cfg.d_sae, seeds.shape[-1], generator=generator(seed, "locality", "random")
        ).to(seeds)[like.latent]  # a direction for each latent, in every window the same
        seeds = draw * (seeds.norm(dim=-1) / draw.norm(dim=-1))[:, None]
    elif kind == "shuffled":
        order = torch.randperm(seeds.shape[-1], generator=generator(seed, "locality", "shuffled"))
        seeds = seeds[:, order]
    else:
        lm = randomised if randomised is not None else lm.shuffled(seed)
    return squares(
        lm, windows, [site], seeds, like.window, memory_bytes=memory_bytes, matmul=matmul
    )
