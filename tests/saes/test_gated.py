import torch

from saekit.saes.base import Step
from saekit.saes.gated import Gated

STEP = Step(0, 1.0, torch.zeros(12, dtype=torch.bool))


def built(seed=0):
    g = torch.Generator().manual_seed(seed)
    sae = Gated(d_in=6, d_out=6, d_sae=12, l1_coefficient=0.3, warm_up=0.0).build(g).double()
    for p in sae.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return sae, torch.randn(20, 6, generator=g, dtype=torch.float64)


def dense(sae, x):
    lin = x @ sae.W_enc
    gate = lin + sae.b_enc
    acts = (gate > 0) * (lin * sae.r_mag.exp() + sae.b_mag).relu()
    return gate.relu(), acts


def test_codes_and_terms_are_those_of_the_dense_formula():
    sae, x = built()
    gate, acts = dense(sae, x)
    torch.testing.assert_close(sae.encode(x).dense(), acts)
    out = sae.loss(x, x, STEP)
    wanted = {
        "mse": (acts @ sae.W_dec + sae.b_dec - x).square().mean(),
        "l1": 0.3 / 6 * (gate * sae.W_dec.norm(dim=-1)).sum(-1).mean(),
        "gate": (gate @ sae.W_dec + sae.b_dec - x).square().mean(),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(out.terms[name], value)


def test_the_gate_term_leaves_the_decoder_alone():
    sae, x = built()
    sae.loss(x, x, STEP).terms["gate"].backward()
    assert sae.W_dec.grad is None and sae.b_dec.grad is None
    assert sae.W_enc.grad.abs().sum() > 0 and sae.b_enc.grad.abs().sum() > 0


def test_gradients_are_those_of_the_dense_formula():
    sae, x = built()
    sae.loss(x, x, STEP).total.backward()
    found = {name: p.grad.clone() for name, p in sae.named_parameters()}
    sae.zero_grad()
    gate, acts = dense(sae, x)
    frozen = gate @ sae.W_dec.detach() + sae.b_dec.detach()
    total = (acts @ sae.W_dec + sae.b_dec - x).square().mean() + (frozen - x).square().mean()
    total = total + 0.3 / 6 * (gate * sae.W_dec.norm(dim=-1)).sum(-1).mean()
    total.backward()
    for name, p in sae.named_parameters():
        torch.testing.assert_close(found[name], p.grad, msg=name)
