"""A small store of a tiny model, and ways to look at it."""

import dataclasses

import torch

from saekit.activations.cache.caching import Caching, write
from saekit.activations.cache.store import Store
from saekit.data.corpora.files import Files
from tests import world

SITES = ("L0.resid_post", "L1.resid_post")
N_CTX, TOKENS = 32, 3000


class Killed(BaseException):
    """What a kill is to the process it hits: nothing is caught, nothing is cleaned up."""


def spec(folder, **changes):
    base = Caching(
        model="tiny",
        sites=SITES,
        corpus=Files(paths=(str(world.text_file(folder)),)),
        n_ctx=N_CTX,
        precision="float32",
        shard_bytes=150_000,
    )
    return dataclasses.replace(base, **changes)


def made(folder, lm, tokens=TOKENS, **changes):
    """Return a store of a few shards."""
    return write(spec(folder, **changes), lm, folder / "cache", tokens=tokens, shown=False)


def everything(store):
    """Return all that a store holds, read anew, in the order of its rows."""
    store = Store.open(store.folder)
    text = store.text(0, store.n_rows)
    acts = {str(s): store.acts(s, 0, store.n_rows) for s in store.sites}
    return {"tokens": text.tokens, "doc_ids": text.doc_ids, **acts}


def assert_same(one, other):
    one, other = everything(one), everything(other)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
