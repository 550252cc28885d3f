"""Ways of using an SAE: the one its files tell, and those that one mistake would turn it into.

A published SAE goes wrong in few ways, each of which is one change of how it is used: another
site, BOS or none, activations of another size or not centred, a bias forgotten, an encoder laid
out the other way round, another rule of which latents are on. Each is a `Way` that can be measured.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.codes import Codes
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.saes.base import SAE, SAEConfig
from saekit.saes.jumprelu import JumpReLU
from saekit.saes.relu import ReLU
from saekit.saes.topk import TopK

# What latents of an SAE that can have any number of them on are called when kept by rank.
_BY_LEVEL = (ReLU, JumpReLU)
SCALES = tuple(2.0**power for power in range(-6, 7) if power)
LOOKED_AT = 4096  # latents, spread over all
ALIGNED = 0.1  # mean cosine of a latent's encoder and decoder below which they look unrelated
NEAR_ONE = 1.4  # a factor below this, either way, is no lost scale


@dataclasses.dataclass(frozen=True)
class Way:
    """One way of using an SAE.

    Args:
        sae: its weights.
        read: the site it is given.
        write: the site it is to predict.
        bos: rows begin with BOS.
        scale: what activations are multiplied by before the SAE; its prediction is divided by it.
        centred: each activation has its own mean over dimensions taken off first, and the
            prediction is held against what is left, as with TransformerLens' processed weights.
        bias: multiple of `b_dec` that is added to what the encoder reads.
    """

    sae: SAE
    read: Site
    write: Site
    bos: bool
    scale: float = 1.0
    centred: bool = False
    bias: float = 0.0

    def run(self, x: Float[Tensor, "n d_in"]) -> tuple[Codes, Float[Tensor, "n d_out"]]:
        """Return codes and predictions of activations, in act units of the site."""
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        x = x * self.scale
        if self.bias:
            x = x + self.bias * self.sae.b_dec  # type: ignore[operator]
        codes = self.sae.encode(x)
        return codes, self.sae.decode(codes) / self.scale

    def target(self, y: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
        """Return what a prediction is held against."""
        return y - y.mean(-1, keepdim=True) if self.centred else y


@dataclasses.dataclass(frozen=True)
class Change:
    """One change of a way, and what a reader is told of it.

    Args:
        kind: the check it belongs to.
        says: in words, as "at L11.resid_post".
        fix: how to use the SAE like that.
        way: the way that has it.
    """

    kind: str
    says: str
    fix: str
    way: Way


def changes(
    way: Way, lm: LanguageModel, l0: float | None, *, far: bool = False
) -> Iterator[Change]:
    """Return every change of a way that one mistake could have made.

    Args:
        way: how the SAE is used now.
        lm: the language model.
        l0: latents on per token, as published; None: not known.
        far: try the same point, and the stream, of all layers.
    """
    yield from _sites(way, lm, far)
    yield from _rows(way, lm)
    yield from _centring(way)
    yield from _biases(way)
    yield from _layouts(way)
    yield from _rules(way, l0)


def scales(way: Way, size: float) -> Iterator[Change]:
    """Return changes of the scale of activations.

    Args:
        way: how the SAE is used now.
        size: mean norm of an activation, act units.
    """
    usual = math.sqrt(way.sae.cfg.d_in) / size if size else 1.0
    for factor in dict.fromkeys([usual, 1 / size if size else 1.0, *SCALES]):
        if 1 / NEAR_ONE < factor < NEAR_ONE:
            continue
        scale = way.scale * factor
        yield Change(
            "input scale",
            f"with activations times {scale:.4g}",
            f"read it with --input-scale {scale:.6g}",
            dataclasses.replace(way, scale=scale),
        )


def _sites(way: Way, lm: LanguageModel, far: bool) -> Iterator[Change]:
    """Yield the same point of near layers, other points near by, and other pairs of sites."""
    d_in, d_out = way.sae.cfg.d_in, way.sae.cfg.d_out
    every = lm.sites()
    read, write = way.read, way.write
    near = [s for s in every if _distance(s, read) <= (2 if s.point == read.point else 1)]
    if far:
        near += [s for s in every if s.point in (read.point, "resid_post", "embed")]
    if read.head is not None:
        heads = lm.width(read._replace(head=None)) // lm.width(read)
        near += [read._replace(head=head) for head in range(heads)]
    pairs: dict[tuple[Site, Site], None] = {}
    if read == write:
        pairs |= {(s, s): None for s in near}
        # An autoencoder that is a transcoder in truth: it predicts a later place of its layer.
        ends = [s for s in every if s.layer == read.layer and s.point in ("mlp_out", "resid_post")]
        starts = [s for s in every if s.layer == read.layer] or [read]
        pairs |= {(s, e): None for s in starts for e in ends if every.index(s) < every.index(e)}
    else:
        pairs |= {(s, write): None for s in near}
        pairs |= {(read, s): None for s in every if _distance(s, write) <= 1}
        pairs |= {(s, s): None for s in (read, write)} | {(write, read): None}
        pairs |= {
            (_moved(read, by), _moved(write, by)): None
            for by in (range(-lm.n_layers, lm.n_layers) if far else (-2, -1, 1, 2))
        }
    for one, other in pairs:
        known = all(site._replace(head=None) in every for site in (one, other))
        if not known or lm.width(one) != d_in or lm.width(other) != d_out:
            continue
        if (_same_place(one), _same_place(other)) == (_same_place(read), _same_place(write)):
            continue
        if one == other:
            says, fix = f"at {one}", f"it belongs at {one}: --site {one}"
        else:
            says = f"from {one} to {other}"
            fix = f"it predicts {other} from {one}: --read {one} --write {other}"
        yield Change("site", says, fix, dataclasses.replace(way, read=one, write=other))


def _same_place(site: Site) -> Site:
    """Return the one name of a place that has two: a block's input is the output before it."""
    if site.point == "resid_pre" and site.layer:
        return site._replace(layer=site.layer - 1, point="resid_post")
    return site


def _distance(one: Site, other: Site) -> float:
    if one.layer is None or other.layer is None:
        return 0 if other.layer in (None, 0) and one.layer in (None, 0) else math.inf
    return abs(one.layer - other.layer)


def _moved(site: Site, by: int) -> Site:
    return site if site.layer is None else site._replace(layer=site.layer + by)


def _rows(way: Way, lm: LanguageModel) -> Iterator[Change]:
    if lm.tokenizer.bos_id is not None:
        with_bos = not way.bos
        yield Change(
            "BOS",
            f"{'with' if with_bos else 'without'} BOS",
            f"rows {'begin' if with_bos else 'do not begin'} with BOS: "
            f"{'--bos' if with_bos else '--no-bos'}",
            dataclasses.replace(way, bos=with_bos),
        )


def _centring(way: Way) -> Iterator[Change]:
    if not way.centred and way.sae.cfg.d_in == way.sae.cfg.d_out:
        yield Change(
            "processing",
            "with the mean over dimensions taken off each activation",
            "it was trained on TransformerLens' processed weights: load the model with "
            "processing='transformer_lens', on a command line --processing transformer_lens",
            dataclasses.replace(way, centred=True),
        )


def _biases(way: Way) -> Iterator[Change]:
    b_dec = getattr(way.sae, "b_dec", None)
    plain = isinstance(b_dec, Tensor) and b_dec.shape == (way.sae.cfg.d_in,) and b_dec.any()
    if not plain or way.read != way.write or way.bias:
        return
    for bias in (-1.0, 1.0):
        done = "taken off" if bias < 0 else "added to"
        yield Change(
            "decoder bias",
            f"with b_dec {done} what the encoder reads",
            f"its encoder was made for activations with b_dec {done} them (apply_b_dec_to_input)",
            dataclasses.replace(way, bias=bias),
        )


def _layouts(way: Way) -> Iterator[Change]:
    """Yield the SAE with the axes of its encoder in another order."""
    encoder = getattr(way.sae, "W_enc", None)
    if not isinstance(encoder, Tensor) or encoder.ndim != 2:
        return
    # Mixed-up axes leave no latent's encoder near its decoder, so where they are near, no copy of
    # the matrix is made. In a transcoder they need not be.
    alone = way.read == way.write
    if alone and (aligned(way.sae) or 0.0) >= ALIGNED:
        return
    for says, turned in turned_encoders(encoder):
        sae = with_weights(way.sae, W_enc=turned)
        yield Change(
            "encoder",
            f"with the encoder {says}",
            f"the encoder's matrix is {says}: turn it",
            dataclasses.replace(way, sae=sae),
        )


def aligned(sae: SAE) -> float | None:
    """Return the mean cosine of latents' encoder columns and decoder rows; None: they have none.

    Training brings them near each other; of unrelated directions it is about 0.
    """
    encoder, decoder = getattr(sae, "W_enc", None), getattr(sae, "W_dec", None)
    if not isinstance(encoder, Tensor) or not isinstance(decoder, Tensor):
        return None
    if encoder.ndim != 2 or decoder.ndim != 2 or encoder.T.shape != decoder.shape:
        return None
    return cosine(encoder, decoder)


def cosine(encoder: Float[Tensor, "d_in d_sae"], decoder: Float[Tensor, "d_sae d_out"]) -> float:
    """Return the mean cosine of latents' columns and rows, of some of them."""
    some = slice(None, None, max(1, len(decoder) // LOOKED_AT))
    cosines = torch.cosine_similarity(encoder.T[some].float(), decoder[some].float(), dim=-1)
    return float(cosines.mean())


def turned_encoders(encoder: Float[Tensor, "d_in d_sae"]) -> list[tuple[str, Tensor]]:
    """Return what an encoder may have been before its axes were mixed up, and how they were."""
    d_in, d_sae = encoder.shape
    found = [
        ("stored latent by latent and read dimension by dimension", encoder.reshape(d_sae, d_in).T),
        ("stored dimension by dimension and read latent by latent", encoder.T.reshape(d_in, d_sae)),
    ]
    return [*found, ("transposed", encoder.T)] if d_in == d_sae else found


def _rules(way: Way, l0: float | None) -> Iterator[Change]:
    """Yield the same weights with other rules of which latents are on."""
    sae = way.sae
    if isinstance(sae.cfg, JumpReLU):
        levels: Tensor = sae.threshold  # type: ignore[assignment]
        yield Change(
            "architecture",
            "with the exponential of its thresholds",
            "its thresholds are logarithms (log_threshold): exponentiate them",
            dataclasses.replace(way, sae=with_weights(sae, threshold=levels.exp())),
        )
    if l0 is None or not 1 <= round(l0) <= sae.cfg.d_sae:
        return
    if isinstance(sae.cfg, (*_BY_LEVEL, TopK)):
        k = round(l0)
        if k != getattr(sae.cfg, "k", None):
            yield Change(
                "architecture",
                f"as topk with k={k}, the published L0",
                f"it keeps the {k} largest latents of a token: --architecture topk --k {k}",
                dataclasses.replace(way, sae=as_topk(sae, k)),
            )


def with_weights(sae: SAE, **weights: Tensor) -> SAE:
    """Return a copy of an SAE with some weights in place of its own; the rest is shared."""
    found = copy.copy(sae)
    found._parameters = {**sae._parameters}
    for name, value in weights.items():
        found._parameters[name] = torch.nn.Parameter(value.detach(), requires_grad=False)
    return found


def as_topk(sae: SAE, k: int) -> SAE:
    """Return the affine maps of an SAE with the k largest latents of a token kept."""
    cfg: SAEConfig = TopK(d_in=sae.cfg.d_in, d_out=sae.cfg.d_out, d_sae=sae.cfg.d_sae, k=k)
    with torch.device("meta"):
        found = cfg.build(torch.Generator())
    weights: dict[str, Any] = {
        name: torch.nn.Parameter(sae.get_parameter(name).detach(), requires_grad=False)
        for name in ("W_enc", "W_dec", "b_enc", "b_dec")
    }
    found._parameters = weights
    return found
