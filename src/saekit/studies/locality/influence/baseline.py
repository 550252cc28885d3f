"""Token-vector baseline: how much each token moves a whole activation vector.

R(t') = |T M(t')|_F^2 with M(t') = d y(t) / d x_t', and T what is made of the activation y:

resid           T = 1: the activation itself, which is what the published code takes
reconstruction  T = d y_hat / d y: what the SAE makes of it, which is what the paper says
error           T = 1 - d y_hat / d y: what the SAE leaves out
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.errors import ConfigError
from saekit.core.seeds import generator
from saekit.models.base import LanguageModel
from saekit.models.sites import Site, parse_site
from saekit.saes.base import SAE
from saekit.studies.locality.influence.base import _from_start, _positions, _shifted, check_reads
from saekit.studies.locality.influence.latent_gradient import CHUNK_BYTES, Encoder
from saekit.studies.locality.influence.pullback import Windows, check_precision, pull_back, read_at

TARGETS = ("resid", "reconstruction", "error")
RANK_TOLERANCE = 1e-6  # of the largest singular value; directions below add less than float32 tells
PROBES = 64


class TokenVector(NamedTuple):
    """Influence of every position on the activation vector of each window.

    Args:
        R: influence; the square of act units over embedding units.
        standard_error: of R, where it is estimated; None where it is exact.
        passes: gradients taken for each window, on average.
        by_probe: what each probe alone says of R, where it is estimated.
    """

    R: Float[Tensor, "windows n_ctx"]
    standard_error: Float[Tensor, "windows n_ctx"] | None
    passes: float
    by_probe: Float[Tensor, "windows probes n_ctx"] | None = None


def token_vector(  # noqa: PLR0913 - the question has as many parts
    lm: LanguageModel,
    sae: SAE | None,
    tokens: Int[Tensor, "windows n_ctx"],
    site: Site | str,
    *,
    target: str = "resid",
    position: int | Int[Tensor, "windows"] = -1,
    method: str = "exact",
    probes: int = PROBES,
    seed: int = 0,
    chunk: int | None = None,
    memory_bytes: int | None = None,
    starts: Int[Tensor, "windows"] | None = None,
    matmul: str = "float32",
) -> TokenVector:
    """Return the influence of every token on the activation vector at one position.

    Exact, it takes a gradient for each direction of T's row space: d_model of them, for the
    reconstruction as many as latents are on. Estimated, it takes `probes`, each the pull-back
    of T'v with v standard normal, whose mean square is R without bias (Hutchinson).

    Args:
        lm: loaded in float32.
        sae: what makes the reconstruction; may be None for "resid".
        tokens: rows, all of one length.
        site: one site.
        target: whose influence.
        position: where, for all windows or for each.
        method: exact or estimated.
        probes: random directions for an estimate, at least 2.
        seed: of them.
        chunk: rows of a pass.
        memory_bytes: budget; None: half of what is free.
        starts: where each window's document begins; see `influence`.
        matmul: likewise. In bfloat16, "exact" is not.

    Raises:
        ConfigError: a setting is out of range, or the SAE predicts another site than it reads.
        ShapeError: the SAE reads another width, or a position is outside its window.

    Source:
        Definition of the SAE Locality dataset; Hutchinson 1990 (trace by random probes).
    """
    if target not in TARGETS or method not in ("exact", "hutchinson"):
        raise ConfigError(
            f"`target` is one of {', '.join(TARGETS)} and `method` exact or hutchinson; got "
            f"{target!r} and {method!r}."
        )
    if target != "resid" and sae is None:
        raise ConfigError(f"The {target} needs an SAE.")
    if method == "hutchinson" and probes < 2:
        raise ConfigError(f"`probes` must be at least 2 for a standard error; got {probes}.")
    check_precision(lm)
    where = _positions(tokens, position, "position", lm)
    first = torch.zeros_like(where) if starts is None else _positions(tokens, starts, "starts", lm)
    windows = Windows(_from_start(tokens, first), where - first)
    sites = (lm.check_site(parse_site(site) if isinstance(site, str) else site),)
    if target == "resid":
        factors = torch.eye(lm.width(sites[0]), device=lm.device).expand(len(tokens), -1, -1)
    else:
        assert sae is not None
        sites = check_reads(lm, sae, site)
        factors = _maps(sae, read_at(lm, windows, sites, chunk), target)
    passes = {"chunk": chunk, "memory_bytes": memory_bytes, "matmul": matmul}
    if method == "hutchinson":
        seeds, window = _probes(factors, probes, seed)
    else:
        seeds, window = _directions(factors, exact=target == "resid")
    if method == "exact":
        R = _summed(lm, windows, sites, (seeds, window), passes)
        return TokenVector(_shifted(R, first), None, len(window) / len(tokens))
    each = _by_probe(lm, windows, sites, seeds, window, passes)
    each = _shifted(each, first.repeat_interleave(probes)).view(len(tokens), probes, -1)
    error = each.var(1).sqrt() / probes**0.5
    return TokenVector(each.mean(1), error, float(probes), each)


def _maps(sae: SAE, x: Float[Tensor, "windows d"], target: str) -> Float[Tensor, "windows d_out d"]:
    """Return T of each window, by autograd through encode and decode."""
    if sae.cfg.event or sae.cfg.d_in != sae.cfg.d_out:
        raise ConfigError(
            f"The {target} is that of an autoencoder of single activations; `{sae.cfg.name}` with "
            f"d_in={sae.cfg.d_in}, d_out={sae.cfg.d_out} is none. Use target resid."
        )
    encoder, found = Encoder(sae), []
    rows = max(CHUNK_BYTES // (4 * sae.cfg.d_sae), 1)
    eye = torch.eye(sae.cfg.d_out, device=x.device, dtype=x.dtype)
    for one in x:
        parts = []
        for index in eye.split(rows):
            with torch.enable_grad():
                leaf = one.detach().repeat(len(index), 1).requires_grad_()
                y_hat = sae.decode(encoder(leaf))
                parts.append(torch.autograd.grad((y_hat * index).sum(), leaf)[0])
        through = torch.cat(parts)
        found.append(through if target == "reconstruction" else eye - through)
    return torch.stack(found)


def _directions(factors: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
    """Return rows S V' of each T = U S V', which have its Frobenius norms, but few rows."""
    windows, width = len(factors), factors.shape[-1]
    if exact:
        return factors.reshape(-1, width), torch.arange(windows).repeat_interleave(width)
    rows = []
    for one in factors:
        _, size, right = torch.linalg.svd(one, full_matrices=False)
        kept = size > RANK_TOLERANCE * size.max().clamp_min(1e-30)
        rows.append(size[kept, None] * right[kept])
    counts = torch.tensor([len(r) for r in rows])
    return torch.cat(rows), torch.arange(windows).repeat_interleave(counts)


def _probes(factors: Tensor, probes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return T'v for standard normal v: for each window its own."""
    windows, d_out, _ = factors.shape
    v = torch.randn(windows, probes, d_out, generator=generator(seed, "locality", "probes"))
    seeds = v.to(factors) @ factors
    return seeds.flatten(0, 1), torch.arange(windows).repeat_interleave(probes)


def _summed(
    lm: LanguageModel,
    windows: Windows,
    sites: tuple[Site, ...],
    seeds: tuple[Tensor, Tensor],
    passes: dict[str, Any],
) -> Float[Tensor, "windows n_ctx"]:
    """Return sums over a window's gradients of their squares."""
    total = torch.zeros(windows.tokens.shape, dtype=torch.float64)
    direction, window = seeds
    for part in pull_back(lm, windows, sites, direction, window, **passes):
        J = part.gradient.square().sum(-1).double().cpu()
        total.index_add_(0, window[part.seeds], J)
    return total


def _by_probe(
    lm: LanguageModel,
    windows: Windows,
    sites: tuple[Site, ...],
    direction: Tensor,
    window: Tensor,
    passes: dict[str, Any],
) -> Float[Tensor, "seeds n_ctx"]:
    """Return the square of each probe's gradient, at each position."""
    each = torch.zeros(len(direction), windows.tokens.shape[1], dtype=torch.float64)
    for part in pull_back(lm, windows, sites, direction, window, **passes):
        each[part.seeds] = part.gradient.square().sum(-1).double().cpu()
    return each
