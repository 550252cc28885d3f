"""Crosscoder: one sparse code of several sites of a token, and a decoder for each of them."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.core.errors import ConfigError
from saekit.kernels import choose, shared, sparse
from saekit.saes import _parts
from saekit.saes._affine import RATES, SHORT_COLUMNS
from saekit.saes.base import SAE, Loss, SAEConfig, Scaling, Step, registry

START_NORM = 0.1  # of decoder rows where nothing limits how many latents are on


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Crosscoder(SAEConfig):
    """One code of several sites: every latent reads all of them and writes to all of them.

    pre = sum_s x[s] @ W_enc[s] + b_enc;  y_hat[s] = acts @ W_dec[s] + b_dec[s]
    size[i] = sum_s |W_dec[s, i]|
    "batch_topk": acts = pre where pre * size is among the k * n largest of a batch of n
        tokens; in use, where it is above their running smallest. Dead latents are revived by
        an auxiliary loss.
    "relu":       acts = relu(pre), and l1_coefficient / (n_sites * d_out)
        * mean_tokens sum_i acts[i] * size[i] is added to the loss

    The loss is mean (y_hat - y)^2 over tokens, sites and dimensions. Norms of decoder rows are
    free; sites are weighed in `size` by the scale they were trained at, also after `rescale`.

    Args:
        n_sites: sites coded together.
        activation: what makes codes sparse.
        k: mean latents kept per token in training, 1..d_sae ("batch_topk").
        threshold_decay: weight of the past in the running threshold ("batch_topk").
        aux_coefficient: weight of the loss that revives dead latents; 0 turns it off
            ("batch_topk").
        aux_k: dead latents used by it per token; null: half of n_sites * d_in ("batch_topk").
        l1_coefficient: weight of the penalty for inputs of mean square 1 a dimension ("relu").
        warm_up: share of training over which the penalty grows to its weight ("relu").

    Raises:
        ConfigError: a value is out of range.

    Source:
        Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing",
        Transformer Circuits Thread (architecture, "relu"); Minder et al. 2025,
        arXiv:2504.02922, section 3 ("batch_topk").
        Differs: bias-corrected threshold; both terms of "relu" are the paper's divided by
        n_sites * d_out.
    """

    name: ClassVar[str] = "crosscoder"
    event: ClassVar[tuple[str, ...]] = ("site",)

    n_sites: int = setting(
        least=2, hint="Name more sites to read, or use an architecture of single sites, as topk."
    )
    activation: Literal["batch_topk", "relu"] = "batch_topk"
    k: float = setting(32.0, least=1)
    threshold_decay: float = setting(0.9, least=0, below=1)
    aux_coefficient: float = setting(1 / 32, least=0)
    aux_k: int | None = setting(None, least=1)
    l1_coefficient: float = setting(5.0, least=0)
    warm_up: float = setting(0.05, least=0, below=1, unit="of training")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation == "batch_topk":
            _parts.check_k("k", self.k, self.d_sae)

    @property
    @override
    def latents_per_token(self) -> float | None:
        return self.k if self.activation == "batch_topk" else None

    @classmethod
    @override
    def example(cls) -> "Crosscoder":
        return cls(d_in=8, d_out=8, d_sae=16, n_sites=3, k=3.0)

    @override
    def build(self, generator: torch.Generator) -> "CrosscoderSAE":
        return CrosscoderSAE(self, generator)


class _Wide(NamedTuple):
    """The same weights with the sites of a token as one long vector."""

    W_enc: Float[Tensor, "wide_in d_sae"]
    W_dec: Float[Tensor, "d_sae wide_out"]
    b_enc: Float[Tensor, "d_sae"]
    b_dec: Float[Tensor, "wide_out"]


@final
class CrosscoderSAE(SAE):
    """The weights and maps of `Crosscoder`."""

    cfg: Crosscoder
    site_weight: Tensor  # [n_sites], of decoder norms in `sizes`: 1 until rescaled
    cutoff_sum: Tensor  # decayed sum of the smallest kept pre * size
    cutoff_weight: Tensor  # decayed number of steps in it

    def __init__(self, cfg: Crosscoder, generator: torch.Generator):
        super().__init__()
        self.cfg = cfg
        sites, d_sae = cfg.n_sites, cfg.d_sae
        rows = normalize(torch.randn(d_sae, sites * cfg.d_out, generator=generator), dim=-1)
        read = rows
        if cfg.d_in != cfg.d_out:
            read = normalize(torch.randn(d_sae, sites * cfg.d_in, generator=generator), dim=-1)
        if cfg.activation == "relu":
            rows = rows * START_NORM
        # Latent-major, so that a latent's weights at all sites are one row: see sparse.
        if cfg.activation == "batch_topk":
            read = read * SHORT_COLUMNS
        self.W_enc = nn.Parameter(read.clone().view(d_sae, sites, cfg.d_in).permute(1, 2, 0))
        self.W_dec = nn.Parameter(rows.clone().view(d_sae, sites, cfg.d_out).transpose(0, 1))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(sites, cfg.d_out))
        self.register_buffer("site_weight", torch.ones(sites))
        self.register_buffer("cutoff_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("cutoff_weight", torch.zeros((), dtype=torch.float64))

    @override
    def rate_scales(self) -> dict[str, float]:
        return RATES

    @property
    def threshold(self) -> Float[Tensor, ""]:
        """The value of pre * size above which a latent is on in use; 0 before training."""
        return (self.cutoff_sum / self.cutoff_weight.clamp_min(1e-30)).to(self.b_enc.dtype)

    def sizes(self) -> Float[Tensor, "d_sae"]:
        """Return the decoder norm of each latent, summed over sites."""
        return (self.W_dec.norm(dim=-1) * self.site_weight[:, None]).sum(0).clamp_min(1e-20)

    @property
    def _wide(self) -> _Wide:
        W_dec = self.W_dec.transpose(0, 1).flatten(1)
        return _Wide(self.W_enc.flatten(0, 1), W_dec, self.b_enc, self.b_dec.flatten())

    @override
    def encode(self, x: Float[Tensor, "*batch n_sites d_in"]) -> Codes:
        flat, batch = sparse.flat_rows(x.flatten(-2))
        least = torch.zeros_like(self.b_enc)
        if self.cfg.activation == "batch_topk":
            least = self.threshold / self.sizes().detach()
        return _parts.encode_above(cast(_parts.Affine, self._wide), flat, least)._replace(
            batch=batch
        )

    @override
    def decode(self, acts: Codes) -> Float[Tensor, "*batch n_sites d_out"]:
        y_hat = sparse.decode(acts, self._wide.W_dec)
        return y_hat.view(*acts.batch, self.cfg.n_sites, self.cfg.d_out) + self.b_dec

    @override
    def directions(self) -> Float[Tensor, "n_sites d_sae d_out"]:
        return self.W_dec

    @override
    def loss(
        self, x: Float[Tensor, "n n_sites d_in"], y: Float[Tensor, "n n_sites d_out"], step: Step
    ) -> Loss:
        cfg, least = self.cfg, None
        if cfg.activation == "relu":
            acts = self.encode(x)
        else:
            acts, least = self._choose(x.flatten(1))
        y_hat = self.decode(acts)
        terms = {"mse": _parts.mse(y_hat, y)}
        if cfg.activation == "relu":
            weight = cfg.l1_coefficient * _parts.ramp(step.progress, cfg.warm_up)
            penalty = (acts.values * self.sizes()[acts.latents]).sum() / max(acts.n_rows, 1)
            terms["l1"] = weight / (cfg.n_sites * cfg.d_out) * penalty
        elif cfg.aux_coefficient:
            wide = cast(_parts.Affine, self._wide)
            err = (y_hat - y).flatten(1)
            aux = _parts.aux_k(wide, x.flatten(1), err, step.dead, cfg.aux_k, mesh=self.mesh)
            terms["aux"] = cfg.aux_coefficient * aux
        return Loss(_parts.add(terms), terms, acts.detach(), y_hat, least)

    def _choose(self, x: Float[Tensor, "n wide_in"]) -> tuple[Codes, Float[Tensor, ""]]:
        """Return the k * n positive pre-activations of largest pre * size, and the least of these.

        Pre-activations come with their graph; the least is infinite where there are none.
        """
        wide = self._wide
        with torch.no_grad():
            every, sizes = self.mesh.every, self.sizes()
            budget = int(self.cfg.k * len(x) * self.mesh.data.size)
            # The running threshold tells nearly all of them: only those are compared.
            low = self.threshold * 0.9
            chosen = choose.above(x, wide.W_enc, wide.b_enc, low / sizes)
            counts = shared.counts(chosen, every)
            if int(counts.sum()) < budget and float(low) > 0:
                chosen = choose.above(x, wide.W_enc, wide.b_enc, torch.zeros_like(low))
                counts = shared.counts(chosen, every)
            if int(counts.sum()) > budget:
                effect = chosen.values * sizes[chosen.latents]
                chosen = chosen.only(shared.among_top(effect, budget, counts, every))
            least = every.min(shared.smallest(chosen.values * sizes[chosen.latents]))
        pre = sparse.pre_acts(x, wide.W_enc, wide.b_enc, chosen)
        return chosen._replace(values=pre), least

    @override
    @torch.no_grad()
    def after_step(self, out: Loss) -> None:
        # Told by the loss: sizes of rows are no longer those by which its latents were chosen.
        if out.cut is not None and out.cut.isfinite():
            decay = self.cfg.threshold_decay
            self.cutoff_sum.mul_(decay).add_((1 - decay) * out.cut.double())
            self.cutoff_weight.mul_(decay).add_(1 - decay)

    @property
    @override
    def settles(self) -> bool:
        return self.cfg.activation == "batch_topk"

    @override
    @torch.no_grad()
    def settle(self, x: Float[Tensor, "n n_sites d_in"]) -> None:
        _, least = self._choose(x.flatten(1))
        if least.isfinite():
            self.cutoff_sum.copy_(least)
            self.cutoff_weight.fill_(1.0)

    @override
    @torch.no_grad()
    def rescale(self, x: Scaling, y: Scaling) -> None:
        if x.matrix is not None or y.matrix is not None:
            raise ConfigError(
                "A crosscoder cannot take whitened activations: a matrix would change the "
                "decoder norms by which latents are chosen. Train it without whitening."
            )
        ones = self.b_enc.new_ones(self.cfg.n_sites, 1)
        x_site = ones if x.site_scale is None else x.site_scale.to(ones)
        y_all = y.scale * (ones if y.site_scale is None else y.site_scale.to(ones))  # [site, 1]
        self.W_enc.mul_(x_site[..., None])
        mean = x.mean.to(ones).expand(self.cfg.n_sites, self.cfg.d_in)
        self.b_enc.div_(x.scale).sub_(mean.flatten() @ self._wide.W_enc)
        self.W_dec.mul_(x.scale / y_all[..., None])
        self.b_dec.div_(y_all).add_(y.mean.to(ones))
        # pre * size stays what it was in training, in the units of the codes.
        self.site_weight.mul_(y_all[:, 0] / x.scale)
        self.cutoff_sum.div_(x.scale)
