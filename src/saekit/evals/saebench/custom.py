"""An SAE in the form SAEBench takes: dense codes, unit rows, a config with the fields it reads."""

import copy
import dataclasses
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from saekit.core.errors import ConfigError, ShapeError
from saekit.evals._reconstruction import float32_on
from saekit.hub.trained import TrainedSAE
from saekit.models.sites import UNKNOWN, Site, transformer_lens_name
from saekit.saes._affine import AffineSAE


@dataclasses.dataclass
class CustomSAEConfig:
    """The fields that SAEBench 0.6 reads of an SAE's config; it adds others while it runs.

    Args:
        model_name: as TransformerLens names the language model.
        d_in: width of activations.
        d_sae: number of latents.
        hook_layer: layer of the site.
        hook_name: TransformerLens' name of the site.
        hook_head_index: none: sites of single heads are refused.
        architecture: saekit's name of it.
        prepend_bos: whether rows begin with BOS, as in training.
        context_size: tokens of a row, as in training.
        dataset_path: name of the training text.
        training_tokens: tokens it was trained on.
        normalize_activations: "none": scalings are part of the weights.
        apply_b_dec_to_input: false: `b_enc` holds what would be subtracted.
        dtype: of what `encode` and `decode` return.
        device: where they are.
    """

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    architecture: str
    prepend_bos: bool
    context_size: int | None
    dataset_path: str
    training_tokens: int
    hook_head_index: int | None = None
    normalize_activations: str = "none"
    apply_b_dec_to_input: bool = False
    dtype: str = "float32"
    device: str = "cpu"
    neuronpedia_id: str | None = None
    dataset_trust_remote_code: bool = False
    model_from_pretrained_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    seqpos_slice: tuple[int | None, ...] = (None,)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-ready."""
        return dataclasses.asdict(self)


@final
class CustomSAE(nn.Module):
    """What `custom_sae` returns: an SAE with dense codes, ``[..., d_sae]``.

    Directions have length 1, as SAEBench asks, and codes are longer by the length they had. The
    SAE computes in float32 wherever it is and whatever `dtype` says of what comes in and goes out.
    """

    def __init__(self, sae: AffineSAE, cfg: CustomSAEConfig):
        super().__init__()
        self.cfg = cfg
        norm = sae.W_dec.detach().norm(dim=-1)
        norm = torch.where(norm > 0, norm, 1.0)
        self.W_enc = nn.Parameter(sae.W_enc.detach() * norm)
        self.W_dec = nn.Parameter(sae.W_dec.detach() / norm[:, None])
        self.b_enc = nn.Parameter(sae.b_enc.detach() * norm)
        self.b_dec = nn.Parameter(sae.b_dec.detach().clone())
        # In a tuple, so that `to(dtype=...)` leaves them in float32.
        self._exact = (sae, norm)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """Of what `encode` and `decode` return."""
        return self.W_dec.dtype

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the activations of all latents, those that are off as 0."""
        sae, norm = self._exact
        _check(x, self.cfg.d_in, "Activations")
        acts = sae.encode(x.to(self.device, torch.float32)).dense() * norm
        return acts.to(self.dtype)

    @torch.no_grad()
    def decode(self, feature_acts: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return what activations of latents predict."""
        _check(feature_acts, self.cfg.d_sae, "Activations of latents")
        acts = feature_acts.to(self.device)
        return acts @ self.W_dec.to(acts.dtype) + self.b_dec.to(acts.dtype)

    @override
    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return ``decode(encode(x))``."""
        return self.decode(self.encode(x))

    @override
    def to(self, *args: Any, **kwargs: Any) -> "CustomSAE":
        """Move it, and what it computes with."""
        super().to(*args, **kwargs)
        sae, norm = self._exact
        moved = copy.deepcopy(sae).to(self.device) if sae.W_dec.device != self.device else sae
        self._exact = (moved, norm.to(self.device))
        self.cfg.device, self.cfg.dtype = str(self.device), str(self.dtype).removeprefix("torch.")
        return self


def custom_sae(trained: TrainedSAE, *, model_name: str | None = None) -> CustomSAE:
    """Return an SAE as an object that `sae_bench` evaluates: ``selected_saes=[("mine", it)]``.

    Codes are those of `trained`, times the length of the latent's direction, and predictions the
    same. What SAEBench has no place for stays behind: the rule that leaves massive activations out,
    and what an SAE needs next to its latents.

    Args:
        trained: the SAE; of one that several sites share, loaded for one: ``load(..., site=...)``.
        model_name: TransformerLens' name of the language model; None: the card's.

    Raises:
        ConfigError: SAEBench has no way to use it: it is no affine autoencoder of one site, or its
            weights take scaled activations.
        UnknownNameError: TransformerLens has no name for its site.
    """
    if not isinstance(trained, TrainedSAE):
        raise ConfigError(
            f"Give an SAE that saekit.load or saekit.train returned; got {type(trained).__name__}."
        )
    sae, card = float32_on(trained.sae, None), trained.card
    if not isinstance(sae, AffineSAE) or trained.cfg.event:
        raise ConfigError(
            f"SAEBench needs an SAE that is one encoder matrix, one decoder matrix and their "
            f"biases; `{trained.cfg.name}` has more to it. Evaluate it with saekit."
        )
    if card.transcodes or trained.d_in != trained.d_out:
        raise ConfigError(
            f"SAEBench puts a prediction where it read; this SAE reads and predicts "
            f"{card.pair.label}. Evaluate it with saekit."
        )
    if card.scalings and card.at is None:
        raise ConfigError(
            f"The weights take scaled activations of {card.pair.label}. Load the SAE for one "
            f"site, which folds the scaling in: saekit.load(..., site={str(card.site)!r})."
        )
    site = card.site
    layer, hook = _hook(site)
    if not model_name:
        card.check_model()
    cfg = CustomSAEConfig(
        model_name=model_name or str(card.model.get("name")),
        d_in=trained.d_in,
        d_sae=trained.d_sae,
        hook_layer=layer,
        hook_name=hook,
        architecture=str(trained.cfg.name),
        prepend_bos=True if card.bos is None else card.bos,  # where nobody knows, its own default
        context_size=card.n_ctx or None,
        dataset_path=str(card.corpus.get("name", "")),
        training_tokens=card.tokens,
    )
    return CustomSAE(sae, cfg).to(device=trained.device)


def _check(x: Any, width: int, what: str) -> None:
    """Refuse anything but a tensor of that width.

    Raises:
        ShapeError: it is something else.
    """
    if not isinstance(x, Tensor) or x.shape[-1:] != (width,):
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError(f"{what} must be a tensor of shape [..., {width}]; got {got}.")


def _hook(site: Site) -> tuple[int, str]:
    """Return the layer of a site and its name in TransformerLens.

    Raises:
        ConfigError: nobody knows the site, or SAEBench would ask the SAE for what SAELens' have.
    """
    if site == UNKNOWN:
        raise ConfigError(
            "It is not known at which site this SAE reads. Say it: saekit.load(..., site=...)."
        )
    if site.point == "z":
        raise ConfigError(
            f"SAEBench asks an SAE at {site} to reshape heads as an SAE of SAELens does. Write it "
            f"in that layout and load that: saekit convert RUN --format sae_lens --out FOLDER"
        )
    return site.layer or 0, transformer_lens_name(site)
