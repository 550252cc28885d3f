"""Lens: a change of basis for each layer, as a tuned lens gives it, and its exact inverse."""

import re
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.border import bordered
from saekit.core.errors import ConfigError, FormatError, ShapeError
from saekit.core.files import read_tensors, sha256_of
from saekit.models.base import LanguageModel
from saekit.models.sites import EMBED, Site

_NAME = re.compile(r"([Ab])_(\d+)")


class Lens:
    """What brings the residual stream of every layer near the basis of the last.

    h' = h + A_i h + b_i;  h = (I + A_i)^-1 (h' - b_i)

    Translator i belongs to the stream *before* block i, as transformers numbers hidden states:
    0 is the embedding, i the output of block i - 1. So ``embed`` and ``L0.resid_pre`` take
    translator 0, ``L3.resid_pre`` 3, ``L3.resid_post`` 4. The output of the last block has
    none and stays as it is, as tuned lenses have it.

    Args:
        weights: A_i ``[d, d]`` by i, from 0 without gaps.
        biases: b_i ``[d]`` by i.
        sha256: of the file it is from.

    Raises:
        FormatError: a translator lacks a part, or shapes differ.

    Source:
        Belrose et al. 2023, arXiv:2303.08112 (tuned lens); Lawson et al. 2024,
        arXiv:2409.04185, section 4 (as a change of basis for multi-layer SAEs).
        Differs: the whole inverse, and the translator that was trained on that stream.
    """

    def __init__(self, weights: dict[int, Tensor], biases: dict[int, Tensor], sha256: str = ""):
        numbers = sorted(weights)
        if not numbers or numbers != list(range(len(numbers))) or sorted(biases) != numbers:
            raise FormatError(
                f"A lens needs A_0, A_1, ... and b_0, b_1, ... without gaps; got A of "
                f"{numbers} and b of {sorted(biases)}."
            )
        width = weights[0].shape[0]
        for i in numbers:
            if weights[i].shape != (width, width) or biases[i].shape != (width,):
                raise FormatError(
                    f"Translator {i} must have A of shape {(width, width)} and b of {(width,)}; "
                    f"got {tuple(weights[i].shape)} and {tuple(biases[i].shape)}."
                )
        self.weights, self.biases, self.width = weights, biases, width
        self.sha256 = sha256

    @staticmethod
    @bordered("a tuned lens")
    def read(path: Path) -> "Lens":
        """Read a safetensors file with tensors ``A_0``, ``b_0``, ``A_1``, ...

        Raises:
            FormatError: it is missing or damaged, or holds something else.
        """
        weights: dict[int, Tensor] = {}
        biases: dict[int, Tensor] = {}
        for name, tensor in read_tensors(path).items():
            match = _NAME.fullmatch(name)
            if match is None:
                raise FormatError(
                    f"{path} must hold tensors A_0, b_0, A_1, ... only; got `{name}`."
                )
            (weights if match[1] == "A" else biases)[int(match[2])] = tensor.float()
        return Lens(weights, biases, sha256_of(path))

    def check(self, lm: LanguageModel) -> None:
        """Refuse a model of another width or number of layers.

        Raises:
            ShapeError: it is.
        """
        if (self.width, len(self.weights)) != (lm.d_model, lm.n_layers):
            raise ShapeError(
                f"The lens has {len(self.weights)} translators of width {self.width}; "
                f"{lm.name} has {lm.n_layers} layers of width {lm.d_model}, and a lens has one "
                f"translator a layer. Use the lens of this model."
            )

    def number(self, site: Site) -> int:
        """Return which translator a site takes; one past the last is the identity.

        Raises:
            ConfigError: the site is not in the residual stream between blocks, or the lens
                has too few translators for it.
        """
        if site == EMBED:
            return 0
        assert site.layer is not None
        if site.point not in ("resid_pre", "resid_post"):
            raise ConfigError(
                f"A lens translates the residual stream between blocks (resid_pre, resid_post, "
                f"embed); got {site}."
            )
        number = site.layer + (site.point == "resid_post")
        if number > len(self.weights):
            raise ConfigError(
                f"{site} is stream {number}; the lens has {len(self.weights)} translators and "
                f"reaches stream {len(self.weights)}. Use the lens of this model."
            )
        return number

    def apply(self, site: Site, h: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return activations of a site in the lens's basis, float32."""
        number = self.number(site)
        if number == len(self.weights):
            return h.float()
        weight, bias = self.weights[number].to(h.device), self.biases[number].to(h.device)
        h = h.float()
        return h + h @ weight.t() + bias

    def undo(self, site: Site, h: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return activations in the lens's basis as the model has them; `apply` undone."""
        number = self.number(site)
        if number == len(self.weights):
            return h.float()
        weight, bias = self.weights[number].to(h.device), self.biases[number].to(h.device)
        whole = torch.eye(self.width, device=h.device) + weight
        flat = (h.float() - bias).reshape(-1, self.width)
        return torch.linalg.solve(whole, flat.t()).t().reshape(h.shape)
