import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.models.sites import EMBED, Site
from saekit.models.tiny import tiny
from saekit.studies.locality.influence.baseline import token_vector
from saekit.studies.locality.influence.entropy import summaries, unbiased_log_shares
from tests.studies.locality.world import D, sae_of, tokens_of

SITE = Site(1, "resid_post")


@pytest.fixture(scope="module")
def lm():
    return tiny("gpt2", n_layers=2, d_model=D)


def jacobian(lm, row, position=-1):
    found = lm.read(row[None], [EMBED, SITE], grad=True)
    y = found[SITE][0, position]
    grads = [torch.autograd.grad(v, found[EMBED], retain_graph=True)[0][0] for v in y]
    return torch.stack(grads), y.detach()  # [d, n_ctx, d_model]


@pytest.mark.parametrize("target", ["resid", "reconstruction", "error"])
@pytest.mark.parametrize("name", ["topk", "standardised", "skip"])
def test_exact_is_the_norm_of_the_jacobian(lm, target, name):
    inner = {"inner": sae_of().cfg} if name != "topk" else {}
    sae, tokens = sae_of(name, **inner), tokens_of()
    if name == "skip":
        sae.W_skip.data.normal_(generator=torch.Generator().manual_seed(0))
    found = token_vector(lm, sae, tokens, SITE, target=target)
    assert found.standard_error is None
    for row, got in zip(tokens, found.R, strict=True):
        M, y = jacobian(lm, row)
        T = torch.eye(D)
        if target != "resid":
            T = torch.autograd.functional.jacobian(lambda v: sae.decode(sae.encode(v[None]))[0], y)
            T = T if target == "reconstruction" else torch.eye(D) - T
        want = torch.einsum("om,mnd->ond", T, M).square().sum((0, 2))
        assert (got - want).abs().max() < 1e-4 * want.max()


def test_a_reconstruction_costs_as_many_gradients_as_latents_are_on(lm):
    assert token_vector(lm, sae_of(), tokens_of(), SITE, target="reconstruction").passes == 6
    assert token_vector(lm, None, tokens_of(), SITE).passes == D


@pytest.mark.parametrize("target", ["resid", "error"])
def test_random_probes_are_unbiased_and_their_error_is_told(lm, target):
    sae, tokens = sae_of(), tokens_of(6)
    exact = token_vector(lm, sae, tokens, SITE, target=target).R
    found = token_vector(lm, sae, tokens, SITE, target=target, method="hutchinson", probes=256)
    z = (found.R - exact) / found.standard_error
    seen = exact > 1e-6 * exact.max()
    assert 0.6 < float(z[seen].square().mean().sqrt()) < 1.5
    few = token_vector(lm, sae, tokens, SITE, target=target, method="hutchinson", probes=16)
    ratio = float((few.standard_error / found.standard_error)[seen].median())
    assert 2.5 < ratio < 6  # a sixteenth of the probes: four times the error
    again = token_vector(lm, sae, tokens, SITE, target=target, method="hutchinson", probes=16)
    assert again.R.equal(few.R)


def test_a_divergence_from_few_probes_is_that_from_the_exact_vector(lm):
    """Noise in the vector's shares can only raise the plain divergence."""
    tokens = tokens_of(6)
    exact = token_vector(lm, None, tokens, SITE).R
    n = tokens.shape[1]
    J = torch.rand(6, n, generator=torch.Generator().manual_seed(0)).double()
    true = float(summaries(J, token_vector=exact)["kl_bits"].mean())
    plain, unbiased = [], []
    every = torch.ones(6, n, dtype=torch.bool)
    found = token_vector(lm, None, tokens, SITE, method="hutchinson", probes=1024)
    assert found.by_probe is not None
    for some in found.by_probe.split(8, dim=1):
        log_Q = unbiased_log_shares(some, every)
        plain.append(float(summaries(J, token_vector=some.mean(1))["kl_bits"].mean()))
        unbiased.append(float(summaries(J, log_shares=log_Q)["kl_bits"].mean()))
    bias, left = (sum(v) / len(v) - true for v in (plain, unbiased))
    assert bias > 0.01 and abs(left) < bias / 3


def test_a_document_is_seen_from_its_beginning(lm):
    tokens = tokens_of()
    found = token_vector(lm, None, tokens, SITE, position=12, starts=torch.tensor([0, 3, 5]))
    M, _ = jacobian(lm, tokens[1, 3:13])
    assert torch.allclose(found.R[1, 3:13].float(), M.square().sum((0, 2)), rtol=1e-4)
    assert (found.R[1, :3] == 0).all() and (found.R[:, 13:] == 0).all()


def test_what_cannot_be_asked_for(lm):
    for words in (
        {"target": "residual"},
        {"method": "guess"},
        {"target": "error", "sae": None},
        {"method": "hutchinson", "probes": 1},
    ):
        given = {"sae": sae_of()} | words
        with pytest.raises(ConfigError):
            token_vector(lm, given.pop("sae"), tokens_of(), SITE, **given)
