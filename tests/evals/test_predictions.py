import pytest
import torch
from torch.nn import functional as F

from saekit.evals import _predictions


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(0)
    clean, other = 4 * torch.randn(2, 3, 7, 50, generator=g)
    tokens = torch.randint(0, 50, (3, 7), generator=g)
    tokens[1, 4] = 0
    return clean, other, tokens, _predictions.scored(tokens, (0,))


def test_scored_needs_a_next_token_that_is_not_special(case):
    tokens = torch.tensor([[0, 5, 0, 6, 7]])
    assert _predictions.scored(tokens, (0,)).tolist() == [[True, False, True, True, False]]


@pytest.mark.parametrize("chunk", [1, 4 * 50 * 4, 2**25])
def test_losses_are_cross_entropies(case, chunk, monkeypatch):
    monkeypatch.setattr(_predictions, "CHUNK_BYTES", chunk)
    clean, _, tokens, where = case
    logp = clean.double().log_softmax(-1)[:, :-1]
    wanted = -logp.gather(-1, tokens[:, 1:, None])[..., 0][where[:, :-1]]
    got = _predictions.losses(clean[where], _predictions.next_tokens(tokens, where))
    torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 4 * 50 * 4, 2**25])
def test_against_gives_both_losses_and_the_divergence(case, chunk, monkeypatch):
    monkeypatch.setattr(_predictions, "CHUNK_BYTES", chunk)
    clean, other, tokens, where = case
    p, q = clean.double().log_softmax(-1), other.double().log_softmax(-1)
    wanted = (p.exp() * (p - q)).sum(-1)[where]
    targets = _predictions.next_tokens(tokens, where)
    got = _predictions.against(clean[where], other[where], targets)
    torch.testing.assert_close(got.kl.double(), wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(got.clean, _predictions.losses(clean[where], targets))
    assert torch.equal(got.other, _predictions.losses(other[where], targets))


def test_the_same_logits_have_no_divergence(case):
    clean, _, tokens, where = case
    clean, targets = clean[where], _predictions.next_tokens(tokens, where)
    assert (_predictions.against(clean, clean, targets).kl == 0).all()


def test_logits_are_left_alone_and_may_be_bfloat16(case):
    clean, other, tokens, where = case
    clean, other, targets = clean[where], other[where], _predictions.next_tokens(tokens, where)
    before = clean.clone()
    _predictions.against(clean, other, targets)
    assert torch.equal(clean, before)
    low = _predictions.losses(clean.bfloat16(), targets)
    assert low.dtype == torch.float32
    raised = _predictions.losses(clean.bfloat16().float(), targets)
    torch.testing.assert_close(low, raised)


def test_large_logits_do_not_overflow(case):
    clean, _, tokens, where = case
    targets = _predictions.next_tokens(tokens, where)
    assert _predictions.losses(1e4 + clean[where], targets).isfinite().all()


def test_rows_that_were_predicted_the_same_have_the_losses_of_each():
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 11, generator=chance)
    targets = torch.randint(0, 11, (3, 5), generator=chance)
    found = _predictions.losses_of_rows(logits, targets)
    own = torch.stack([F.cross_entropy(logits, row, reduction="none") for row in targets])
    torch.testing.assert_close(found, own)
