"""A model read at its token embedding, and SAEs that are a table of tokens: what fires is known."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from typing_extensions import override

from saekit.activations.rules import FittedRule, TokenRule
from saekit.core.codes import Codes
from saekit.data.tokenise import Rows
from saekit.evals.base import Subject, Tools
from saekit.models.sites import parse_site
from saekit.models.tiny import tiny
from saekit.saes.base import SAE, SAEConfig

SITE = parse_site("embed")
N_CTX = 32
OF_TEXT = 100  # text has the tokens below


@dataclass(frozen=True, kw_only=True)
class TableConfig(SAEConfig):
    """Not registered."""

    name: ClassVar[str] = "table"

    @classmethod
    @override
    def example(cls):
        return cls(d_in=32, d_out=32, d_sae=4)

    @override
    def build(self, generator):
        raise NotImplementedError


class Table(SAE):
    """The activation of each latent at each token; what is decoded is the token's embedding."""

    def __init__(self, acts, vectors):
        super().__init__()
        d = vectors.shape[1]
        self.cfg = TableConfig(d_in=d, d_out=d, d_sae=acts.shape[1])
        self.acts, self.vectors = torch.nn.Parameter(acts), torch.nn.Parameter(vectors)

    def token(self, x):
        return torch.cdist(x.reshape(-1, x.shape[-1]), self.vectors).argmin(1)

    @override
    def encode(self, x):
        codes = Codes.from_dense(self.acts[self.token(x)])
        return codes._replace(batch=tuple(x.shape[:-1]), shift=x.reshape(-1, x.shape[-1]))

    @override
    def decode(self, acts):
        return acts.shift

    @override
    def directions(self):
        return torch.eye(self.cfg.d_sae, self.cfg.d_out)

    @override
    def loss(self, x, y, step):
        raise NotImplementedError

    @override
    def rescale(self, x, y):
        raise NotImplementedError


def table(latents, lm=None):
    """Return an SAE whose latent i has size 1 at the tokens of the i-th set."""
    lm = lm or tiny()
    acts = torch.zeros(lm.vocab_size, len(latents))
    for i, tokens in enumerate(latents):
        acts[torch.tensor(list(tokens), dtype=torch.int64), i] = 1.0
    vectors = lm.read(torch.arange(lm.vocab_size)[:, None], [SITE])[SITE][:, 0]
    return Table(acts, vectors.clone())


def subject(sae, lm=None, name="planted"):
    rule = FittedRule(TokenRule(max_norm=None), (256, 257), 1.0)
    return Subject(sae, lm or tiny(), SITE, SITE, rule, name)


def tools(n_rows=90, seed=0):
    chance = torch.Generator().manual_seed(7)
    every = torch.randint(OF_TEXT, (n_rows, N_CTX), generator=chance)
    every[:, 0] = 256

    def rows(batch_rows):
        for first in range(0, n_rows, batch_rows):
            part = every[first : first + batch_rows]
            docs = torch.arange(first, first + len(part))[:, None].expand_as(part)
            yield Rows(part, docs, first)

    return Tools(rows=rows, seed=seed)
