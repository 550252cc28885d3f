"""A tiny model, text for it, and two SAEs: one that knows the answer, one that does not."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from typing_extensions import override

from saekit.activations.rules import TokenRule, fit
from saekit.core.codes import Codes
from saekit.data.tokenise import Rows
from saekit.evals.base import Subject, Tools
from saekit.models.sites import Site, parse_site
from saekit.models.tiny import tiny
from saekit.saes.base import SAE, SAEConfig
from saekit.saes.topk import TopK

SITE = parse_site("L0.resid_post")
N_CTX = 32


@dataclass(frozen=True, kw_only=True)
class MirrorConfig(SAEConfig):
    """Not registered: one latent for each half-axis, so that nothing is lost."""

    name: ClassVar[str] = "mirror"

    @classmethod
    @override
    def example(cls):
        return cls(d_in=4, d_out=4, d_sae=8)

    @override
    def build(self, generator):
        return Mirror(self)


class Mirror(SAE):
    """acts = relu([x, -x]); y_hat = acts @ W_dec, which gives x again."""

    def __init__(self, cfg, noise=0.0):
        super().__init__()
        self.cfg, self.noise = cfg, noise
        eye = torch.eye(cfg.d_in)
        self.W = torch.nn.Parameter(torch.cat([eye, -eye]) * (1 - noise))

    @override
    def encode(self, x):
        return Codes.from_dense((x @ self.W.sign().T).relu())

    @override
    def decode(self, acts):
        return acts.dense() @ self.W

    @override
    def directions(self):
        return self.W

    @override
    def loss(self, x, y, step):
        raise NotImplementedError

    @override
    def rescale(self, x, y):
        raise NotImplementedError


@functools.cache
def text(n_rows=40, n_ctx=N_CTX, seed=0):
    """Rows that the tiny model itself said, so that it has something to lose.

    They begin with BOS and hold an EOS now and then.
    """
    lm, g = tiny(), torch.Generator().manual_seed(seed)
    tokens = torch.full((n_rows, n_ctx), 256)
    for i in range(1, n_ctx if n_rows else 0):
        logits = 2 * lm.logits(tokens[:, :i])[:, -1, :256]
        tokens[:, i] = torch.multinomial(logits.softmax(-1), 1, generator=g)[:, 0]
    tokens[::5, 20] = 257
    return tokens


def tools(tokens=None, seed=0):
    every = text() if tokens is None else tokens

    def rows(batch_rows):
        for first in range(0, len(every), batch_rows):
            part = every[first : first + batch_rows]
            # Each row is a document, so that there are as many units as rows.
            docs = torch.arange(first, first + len(part))[:, None].expand_as(part)
            yield Rows(part, docs, first)

    return Tools(rows=rows, seed=seed)


def mirror(d=32, noise=0.0):
    return Mirror(MirrorConfig(d_in=d, d_out=d, d_sae=2 * d), noise)


def random_topk(d=32, seed=0):
    """So wide that some latents stay silent on the little text there is."""
    return TopK(d_in=d, d_out=d, d_sae=1024, k=2).build(torch.Generator().manual_seed(seed))


def subject(sae, lm=None, read: Site = SITE, write: Site = SITE, max_norm: float | None = 4.0):
    lm = lm or tiny()
    tokens = text(16, seed=9)
    rule = TokenRule(max_norm=max_norm)
    fitted = fit(rule, lm.tokenizer.special_ids, tokens, lm.read(tokens, [read])[read])
    return Subject(sae, lm, read, write, fitted, "subject")
