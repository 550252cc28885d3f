"""Locality of an SAE whose latents may be on with negative activations."""

import torch

from saekit.saes.abs_topk import AbsTopK
from saekit.studies.locality.influence.latent_gradient import Encoder


def test_all_that_are_not_0_are_active():
    cfg = AbsTopK(d_in=8, d_out=8, d_sae=32, k=6)
    sae = cfg.build(torch.Generator().manual_seed(0))
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    encoder = Encoder(sae)
    fired = encoder.active(x, 0.0)
    assert len(fired.row) == 50 * 6
    assert (fired.activation < 0).any()
    larger = encoder.active(x, 0.5)
    assert len(larger.row) == int((sae.encode(x).values.abs() > 0.5).sum())
