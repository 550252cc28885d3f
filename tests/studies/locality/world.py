"""Language models whose features provably depend on known tokens, and small SAEs."""

from collections.abc import Sequence

import torch
from typing_extensions import override

from saekit.models.base import LanguageModel
from saekit.models.sites import EMBED, Site
from saekit.models.tiny import ByteTokenizer
from saekit.saes.base import registry
from saekit.studies.locality.runs.run_folder import RunOptions

QUIET = RunOptions(shown=False)
AGAIN = RunOptions(resume=True, shown=False)

D = 16


class Mixing(LanguageModel):
    """y(t) = sum_k weights[k] R_k x(t - k) with rotations R_k: layer i reads as many tokens as
    `weights[i]` has entries, and dy/dx is known."""

    name, revision, family = "mixing", "0", "mixing"
    vocab_size, n_ctx_max, d_model = 258, 4096, D
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, weights: Sequence[Sequence[float]], fail_on: int | None = None):
        draw = torch.Generator().manual_seed(0)
        self.weights, self.n_layers, self.fail_on = weights, len(weights), fail_on
        self.tokenizer = ByteTokenizer()
        self.table = torch.randn(self.vocab_size, D, generator=draw)
        longest = max(map(len, weights))
        raw = torch.randn(longest, D, D, generator=draw)
        self.rotations = torch.linalg.qr(raw).Q

    @override
    def sites(self):
        return [EMBED, *(Site(i, "resid_post") for i in range(self.n_layers))]

    @override
    def width(self, site):
        return D

    @override
    def _read(self, tokens, sites, *, replace=None, grad=False):
        if self.fail_on is not None and (tokens == self.fail_on).any():
            raise RuntimeError("this token is not to be borne")
        with torch.set_grad_enabled(grad):
            x = self.table[tokens]
            if replace and EMBED in replace:
                x = replace[EMBED](x)
            elif grad:
                x.requires_grad_()
            found = {EMBED: x}
            for layer, weights in enumerate(self.weights):
                y = torch.zeros_like(x)
                for k, w in enumerate(weights[: x.shape[1]]):
                    moved = torch.roll(x, k, dims=1) @ self.rotations[k].T
                    seen = torch.arange(x.shape[1]) >= k
                    y = y + w * moved * seen[:, None]
                found[Site(layer, "resid_post")] = y
        return {site: found[site] for site in sites}

    @override
    def _logits(self, tokens, replace=None, *, grad=False):
        raise NotImplementedError

    @override
    def final(self, tokens, replace=None):
        raise NotImplementedError

    @override
    def unembed(self, final):
        raise NotImplementedError

    @override
    def logit_effects(self, directions):
        raise NotImplementedError

    @override
    def shuffled(self, seed):
        raise NotImplementedError

    @override
    def separated(self):
        raise NotImplementedError

    @override
    def unembedding(self):
        raise NotImplementedError


def sae_of(name="topk", seed=0, d=D, d_sae=64, **fields):
    """Return a random SAE."""
    fields = {"k": 6} | fields if name == "topk" else fields
    cfg = registry.get(name)(d_in=d, d_out=d, d_sae=d_sae, **fields)
    return cfg.build(torch.Generator().manual_seed(seed)).requires_grad_(False)


def tokens_of(windows=3, n_ctx=17, seed=1):
    """Return random windows of bytes."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (windows, n_ctx), generator=draw)
