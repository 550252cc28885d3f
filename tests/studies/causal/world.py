"""An SAE with a latent for every byte, and labelled texts whose classes are marks in them."""

import json

import torch
from typing_extensions import override

from saekit.activations.rules import FittedRule, TokenRule
from saekit.core.codes import Codes
from saekit.evals.base import Subject
from saekit.models.sites import parse_site
from saekit.models.tiny import tiny
from saekit.saes.base import SAE
from tests.studies.faithful.world import TableConfig

SITE = parse_site("embed")
MARKS = "#%&@"


class Bytes(SAE):
    """One latent a token, of strength 1, whose direction is the token's embedding: no error."""

    def __init__(self, lm):
        super().__init__()
        n = lm.vocab_size
        self.W = torch.nn.Parameter(lm.read(torch.arange(n)[:, None], SITE)[:, 0].clone())
        self.cfg = TableConfig(d_in=lm.d_model, d_out=lm.d_model, d_sae=n)

    @override
    def encode(self, x):
        tokens = torch.cdist(x.reshape(-1, x.shape[-1]), self.W).argmin(1)
        ones = torch.ones(*x.shape[:-1], 1)
        return Codes.fixed(ones, tokens.view(*x.shape[:-1], 1), self.cfg.d_sae)

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


def subject(lm=None):
    lm = lm or tiny()
    rule = FittedRule(TokenRule(max_norm=None), (256, 257), 1.0)
    return Subject(Bytes(lm), lm, SITE, SITE, rule, "bytes")


def labelled(folder, marks, n=240, length=24, shuffled=False):
    """Write texts of random letters; those of class i have the i-th marks in them."""
    chance, lines = torch.Generator().manual_seed(0), []
    for i in range(n):
        label = i % len(marks)
        letters = torch.randint(97, 102, (length,), generator=chance).tolist()
        letters[5::6] = [32] * len(letters[5::6])
        letters[1 : 1 + len(marks[label])] = [ord(m) for m in marks[label]]
        if shuffled:
            label = int(torch.randint(len(marks), (1,), generator=chance))
        lines.append(json.dumps({"text": bytes(letters).decode(), "label": label}))
    path = folder / "planted.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)
