"""A folder that saekit published, loaded by sae-lens from disk: the same codes and predictions."""

import pytest
import torch

from saekit.hub import publish
from saekit.hub.native import load
from saekit.hub.trained import TrainedSAE
from tests.hub.test_names import cache as cache
from tests.hub.test_names import known as known
from tests.hub.test_native import built
from tests.hub.test_native import card as a_card
from tests.parity.mapping import assert_close, peer

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(
    "name", ["relu", "topk", "abs_topk", "gated", "jumprelu", "batch_topk", "matryoshka"]
)
@torch.no_grad()
def test_sae_lens_loads_what_is_published(name, tmp_path):
    sae = TrainedSAE(built(name).eval(), a_card())
    assert publish.lay(sae, tmp_path / "x", repo="me/x", path="x") == ""
    theirs = peer("sae_lens").SAE.load_from_disk(tmp_path / "x")
    ours = load(tmp_path / "x")
    assert all(torch.equal(w, ours.sae.state_dict()[n]) for n, w in sae.sae.state_dict().items())
    x = torch.randn(64, sae.d_in, generator=torch.Generator().manual_seed(4))
    acts = ours.encode(x)
    assert_close(acts.dense(), theirs.encode(x), "codes")
    assert_close(ours.decode(acts), theirs.decode(theirs.encode(x)), "reconstruction")


@torch.no_grad()
def test_a_factor_of_the_registry_is_folded_as_sae_lens_folds_it(cache):
    theirs = peer("sae_lens").SAE.load_from_disk(cache.parent / "made" / "layer8")
    theirs.fold_activation_norm_scaling_factor(0.25)
    ours = load("saelens:toy-res/blocks.8.hook_resid_pre")
    x = torch.randn(64, ours.d_in, generator=torch.Generator().manual_seed(4))
    acts = ours.encode(x)
    assert_close(acts.dense(), theirs.encode(x), "codes")
    assert_close(ours.decode(acts), theirs.decode(theirs.encode(x)), "reconstruction")
