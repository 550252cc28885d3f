"""A pass that begins after a block gives what the whole pass gives, in every family."""

import pytest
import torch

from saekit.models.base import Whole
from saekit.models.sites import Site
from saekit.models.tiny import tiny

TOKENS = torch.randint(0, 90, (3, 7), generator=torch.Generator().manual_seed(3))
AFTER = Site(0, "resid_post")


class Counted:
    """Counts how often a block runs."""

    def __init__(self, module):
        self.n = 0
        self.handle = module.register_forward_hook(self)

    def __call__(self, *_):
        self.n += 1


@pytest.mark.parametrize(
    "kind", ["llama", "gpt2", "gpt_neox", "gemma2", "qwen3", "falcon", "mamba", "gemma3n_text"]
)
@pytest.mark.parametrize("name", ["L0.resid_post", "L1.resid_pre", "L1.resid_post"])
def test_a_pass_from_a_given_stream_is_the_whole_pass(kind, name):
    lm = tiny(kind)
    site = lm.site(name)
    acts = 1.1 * lm.read(TOKENS, site)
    whole = lm.final(TOKENS, {site: lambda _: acts})
    found = lm.final(TOKENS, {site: Whole(acts)})
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lm.final(TOKENS), lm.final(TOKENS, {}), rtol=0, atol=0)


def test_what_comes_before_does_not_run():
    lm = tiny("llama")
    acts = lm.read(TOKENS, AFTER)
    assert lm.stream_decides(AFTER)
    inside = Counted(lm.module_at(Site(0, "mlp_out")))
    lm.final(TOKENS, {AFTER: Whole(acts)})
    assert inside.n == 0
    # What is replaced before it, or looked at, needs the blocks there.
    lm.final(TOKENS, {AFTER: Whole(acts), Site(0, "attn_out"): lambda x: x})
    lm.final(TOKENS)
    assert inside.n == 2


def test_tokens_that_enter_later_blocks_are_seen():
    # Gemma 3n adds an embedding of the token in every block: equal streams are not equal rows.
    assert not tiny("gemma3n_text").stream_decides(AFTER)
    assert not tiny("llama").stream_decides(Site(0, "mlp_out"))


def test_a_model_that_separates_documents_decides_by_tokens_too():
    assert not tiny("llama").separated().stream_decides(AFTER)


def test_what_is_attached_to_the_model_is_done():
    lm = tiny("llama")
    acts = lm.read(TOKENS, AFTER)

    class Doubling:
        def changes(self, tokens, start=0):
            return [{Site(1, "resid_post"): lambda x: 2 * x}]

    lm.edits = (Doubling(),)
    assert not lm.stream_decides(AFTER)
    found = lm.final(TOKENS, {AFTER: Whole(acts)})
    whole = lm.final(TOKENS, {AFTER: lambda _: acts})
    torch.testing.assert_close(found, whole, rtol=0, atol=0)
