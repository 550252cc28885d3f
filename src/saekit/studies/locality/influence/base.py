"""Influence: how much each token of a window moves a latent, J_a(t') = |d f_a / d x_t'|^2."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.codes import is_on
from saekit.core.errors import ConfigError, ShapeError, UnknownNameError, nearest
from saekit.models.base import LanguageModel
from saekit.models.sites import Site, parse_site
from saekit.saes.base import SAE
from saekit.studies.locality.influence import entropy
from saekit.studies.locality.influence.latent_gradient import ActiveLatents, Encoder, as_pairs
from saekit.studies.locality.influence.pullback import (
    Windows,
    check_matmul,
    check_precision,
    read_at,
)

ROUNDED = ("vjp", "jacobian")  # methods whose products may be in bfloat16
METHODS = ("vjp", "jacobian", "loop", "occlusion", "integrated_gradients")


class Flag(enum.IntFlag):
    """What is to be known about a pair; 0 is nothing."""

    OFF = 1  # the latent is not larger than the threshold at the position, so its gradient is 0
    ZERO = 2  # influence is 0 at every position: entropy is not defined
    CUT = 4  # the document begins after the row does; the model saw it from its beginning


class Influences(NamedTuple):
    """Influence of every position on each pair of a window and a latent.

    Args:
        J: influence; the square of act units over embedding units. 0 at positions outside the
            document and after the latent's own.
        window: row of tokens.
        latent: which latent of the SAE.
        activation: act units.
        position: where the latent is.
        first: where its document begins in the row.
        flags: see `Flag`.
        R: influence on the whole activation vector, by window; only from a method that has it
            for nothing ("jacobian").
    """

    J: Float[Tensor, "pairs n_ctx"]
    window: Int[Tensor, "pairs"]
    latent: Int[Tensor, "pairs"]
    activation: Float[Tensor, "pairs"]
    position: Int[Tensor, "pairs"]
    first: Int[Tensor, "pairs"]
    flags: Int[Tensor, "pairs"]
    R: Float[Tensor, "windows n_ctx"] | None = None

    def entropy_bits(self) -> Float[Tensor, "pairs"]:
        """Return the entropy of each pair over the positions that count; NaN where undefined."""
        return entropy.entropy_bits(self.J, first=self.first, last=self.position)

    def places(self, special: Tensor | None = None) -> entropy.Places:
        """Return the positions that count, for `entropy.summaries`."""
        return entropy.Places(self.first, self.position, special)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a method of computing influence gets: checked, and with gradients of latents.

    Args:
        lm: in float32 or float64.
        encoder: what makes codes of activations.
        windows: rows of tokens, each from its document's beginning.
        sites: what the SAE reads.
        x: activations at each window's position.
        fired: the pairs.
        chunk: rows of a pass; None: chosen.
        memory_bytes: budget; None: half of what is free.
        matmul: what gradients are multiplied in.
    """

    lm: LanguageModel
    encoder: Encoder
    windows: Windows
    sites: tuple[Site, ...]
    x: Float[Tensor, "windows *event d"]
    fired: ActiveLatents
    chunk: int | None = None
    memory_bytes: int | None = None
    matmul: str = "float32"

    @property
    def passes(self) -> dict[str, Any]:
        """How passes are made, as `pullback.pull_back` takes it."""
        return {"chunk": self.chunk, "memory_bytes": self.memory_bytes, "matmul": self.matmul}

    def seeds(self) -> Float[Tensor, "pairs *event d"]:
        """Return the gradient of each pair's activation at its site."""
        return self.encoder.gradients(self.x, self.fired)


Found = tuple[Float[Tensor, "pairs n_ctx"], Float[Tensor, "windows n_ctx"] | None]


def influence(  # noqa: PLR0913 - the question has as many parts
    lm: LanguageModel,
    sae: SAE,
    tokens: Int[Tensor, "windows n_ctx"],
    site: Site | str | Sequence[Site | str],
    *,
    latents: str | Sequence[int] | Int[Tensor, "..."] = "active",
    position: int | Int[Tensor, "windows"] = -1,
    threshold: float = 0.0,
    method: str = "vjp",
    chunk: int | None = None,
    memory_bytes: int | None = None,
    forgets: Sequence[str] = (),
    starts: Int[Tensor, "windows"] | None = None,
    matmul: str = "float32",
) -> Influences:
    """Return the influence of every token of each window on latents at one position of it.

    J_a(t') = sum_mu (d f_a(t) / d x[t', mu])^2: x is the output of the token embedding, f_a what
    the SAE's own encode gives at `site` and position t, input scaling and normalisation
    included. Gates (which latents are on) are held as they are.

    Args:
        lm: loaded in float32; the weights are those of any precision.
        sae: of single tokens, in the model's raw act units.
        tokens: rows, all of one length.
        site: what the SAE reads; several for a crosscoder.
        latents: "active": all above the threshold at the position; or a list of latents, taken
            in every window; or pairs ``[m, 2]`` of window and latent.
        position: where, for all windows or for each; -1 is the last.
        threshold: a latent counts where its activation is strictly above.
        method: "vjp" (exact), "jacobian" (exact, and the token vector with it), "loop" (exact,
            one gradient at a time), "occlusion" and "integrated_gradients" (checks).
        chunk: rows of a pass; None: as many as are fast and fit in memory.
        memory_bytes: of graph and gradients; None: half of what is free.
        forgets: what the SAE's encode is to leave out, as the published code does:
            `subjects.forgotten`.
        starts: position at which the document of each window's last token begins. The model
            sees the window from there, so that no other document has a part in it.
        matmul: "float32", which stands for the model's precision, or, for "vjp" and "jacobian",
            "bfloat16": gradients are multiplied with rounded weights, sooner and not exact.

    Raises:
        ConfigError: a setting is out of range, or does not go with the SAE or the model.
        ShapeError: the SAE reads another width, or a position is outside its window.
        UnknownNameError: no such site or method.

    Source:
        Definition of the SAE Locality dataset; Qi, "Analyzing the Nonlocality of SAE Features".
        Differs: the SAE's own encode, where the published code forgets b_dec and input norms.
    """
    sites = check_reads(lm, sae, site)
    check_precision(lm)
    check_matmul(matmul)
    if matmul != "float32" and method not in ROUNDED:
        raise ConfigError(f'Method "{method}" has no products in {matmul}; use float32.')
    where = _positions(tokens, position, "position", lm)
    first = torch.zeros_like(where) if starts is None else _positions(tokens, starts, "starts", lm)
    if bool((first > where).any()):
        raise ShapeError("A document begins after the position at which its latent is asked for.")
    encoder = Encoder(sae, forgets)
    windows = Windows(_from_start(tokens, first), where - first)
    x = read_at(lm, windows, sites, chunk)
    if isinstance(latents, str):
        if latents != "active":
            raise ConfigError(f'`latents` is "active" or a list of latents; got {latents!r}.')
        fired = encoder.active(x, threshold)
    else:
        fired = encoder.at(x, *as_pairs(latents, len(tokens), sae.cfg.d_sae))
    job = Job(
        lm=lm,
        encoder=encoder,
        windows=windows,
        sites=sites,
        x=x,
        fired=fired,
        chunk=chunk,
        memory_bytes=memory_bytes,
        matmul=matmul,
    )
    J, R = _method(method)(job)
    return _framed(job, J, R, first, threshold)


def _framed(job: Job, J: Tensor, R: Tensor | None, first: Tensor, threshold: float) -> Influences:
    """Return influences in the positions of the rows that were given."""
    row = job.fired.row
    start = first[row]
    J = _shifted(J, start)
    flags = Flag.OFF * ~is_on(job.fired.activation, threshold) + Flag.CUT * (start > 0)
    flags = flags + Flag.ZERO * ~(J > 0).any(-1)
    return Influences(
        J,
        row,
        job.fired.latent,
        job.fired.activation,
        job.windows.position[row] + start,
        start,
        flags.long(),
        None if R is None else _shifted(R, first),
    )


def check_reads(lm: LanguageModel, sae: SAE, site: Any) -> tuple[Site, ...]:
    """Return the sites, if the SAE can read them in this model.

    Raises:
        ConfigError: it reads another number of sites.
        ShapeError: it reads another width.
        UnknownNameError: the model has no such site.
    """
    given = [site] if isinstance(site, Site | str) else list(site)
    sites = tuple(lm.check_site(parse_site(s) if isinstance(s, str) else s) for s in given)
    wanted = getattr(sae.cfg, "n_sites", 1) if "site" in sae.cfg.event else 1
    if len(sites) != wanted:
        raise ConfigError(
            f"`{sae.cfg.name}` reads {wanted} sites; got {', '.join(map(str, sites)) or 'none'}."
        )
    for one in sites:
        if lm.width(one) != sae.cfg.d_in:
            raise ShapeError(
                f"The SAE reads activations of width {sae.cfg.d_in}; those of {lm.name} at "
                f"{one} have width {lm.width(one)}."
            )
    return sites


def _positions(tokens: Tensor, given: int | Tensor, name: str, lm: LanguageModel) -> Tensor:
    windows, n_ctx = tokens.shape
    if not n_ctx or not windows:
        raise ShapeError(f"`tokens` needs at least one window of one token; got {windows}x{n_ctx}.")
    if int(tokens.min()) < 0 or int(tokens.max()) >= lm.vocab_size:
        raise ShapeError(
            f"`tokens` holds ids {int(tokens.min())}..{int(tokens.max())}; {lm.name} has "
            f"0..{lm.vocab_size - 1}."
        )
    found = torch.as_tensor(given, dtype=torch.int64)
    found = found.expand(windows) if found.ndim == 0 else found
    found = torch.where(found < 0, found + n_ctx, found)
    if found.shape != (windows,) or int(found.min()) < 0 or int(found.max()) >= n_ctx:
        raise ShapeError(
            f"`{name}` is one position, or one for each of {windows} windows, in 0..{n_ctx - 1} "
            f"(or -1 for the last); got {torch.as_tensor(given).tolist()}."
        )
    return found


def _from_start(tokens: Tensor, first: Tensor) -> Tensor:
    """Return rows that begin where their document does; what fills them up cannot be seen."""
    at = torch.arange(tokens.shape[1]) + first[:, None]
    return tokens.cpu().gather(1, at.clamp_max(tokens.shape[1] - 1))


def _shifted(rows: Tensor, by: Tensor) -> Tensor:
    """Return each row moved right by a number of places, with zeros before."""
    at = torch.arange(rows.shape[1]) - by[:, None]
    return rows.gather(1, at.clamp_min(0)) * (at >= 0)


def _method(name: str) -> Callable[[Job], Found]:
    """Return the backend of a method."""
    if name not in METHODS:
        raise UnknownNameError(
            f"There is no method `{name}`; there are {', '.join(METHODS)}.{nearest(name, METHODS)}"
        )
    import importlib

    return importlib.import_module(f"saekit.studies.locality.influence.by_{name}").compute
