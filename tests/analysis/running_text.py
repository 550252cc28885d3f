"""Stores of running text with known activations, for tests of what looks along it."""

import torch

from saekit.activations.latents import LatentStore, LatentStoreWriter
from saekit.core.codes import Codes
from saekit.data.tokenise import Rows

BOS = 999
CARD = {"bos": True, "rules": {"L0.resid_post": {"special_ids": [BOS]}}}


def store(folder, acts, docs, *, n_ctx=16, kept=None, tokens=None, shard_tokens=10**6, bos=True):
    """Write activations ``[n, d_sae]`` of running text as rows, BOS before each where asked."""
    n, d_sae = acts.shape
    text = n_ctx - bos
    assert n % text == 0
    kept = torch.ones(n, dtype=torch.bool) if kept is None else kept
    tokens = torch.arange(n) % 50 if tokens is None else tokens
    grids = [t.view(-1, text) for t in (tokens, docs, kept)]
    if bos:
        heads = (torch.full((n // text, 1), BOS), grids[1][:, :1], torch.zeros(n // text, 1).bool())
        grids = [torch.cat(pair, dim=1) for pair in zip(heads, grids, strict=True)]
    tokens, docs, mask = grids
    meta = {"card": CARD} if bos else {}
    writer = LatentStoreWriter(
        folder, n_ctx=n_ctx, d_sae=d_sae, meta=meta, shard_tokens=shard_tokens
    )
    row, pos = mask.nonzero(as_tuple=True)
    writer.add(Rows(tokens, docs, 0), row, pos, Codes.from_dense(acts[kept]))
    found: LatentStore = writer.close()
    return found


def random_text(n=600, d_sae=5, seed=0, n_docs=7):
    """Activations that linger, document ids that stretch over rows, and a few tokens lost."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(n + 8, d_sae, generator=g).unfold(0, 9, 1).mean(-1)
    acts = (noise - torch.linspace(0.5, -0.1, d_sae)).clamp(min=0)
    acts[:, 0] = 0.0  # never on
    docs = (torch.rand(n, generator=g) < n_docs / n).cumsum(0) + 3
    kept = torch.rand(n, generator=g) < 0.9
    return acts * kept[:, None], docs, kept
