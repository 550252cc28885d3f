import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.saes import matching_pursuit
from saekit.saes.matching_pursuit import MatchingPursuit


def built(k=6, **settings):
    g = torch.Generator().manual_seed(3)
    sae = MatchingPursuit(d_in=8, d_out=8, d_sae=20, k=k, **settings).build(g).double()
    sae.b_in.data.normal_(generator=g)
    sae.b_dec.data.normal_(generator=g)
    return sae, torch.randn(30, 8, generator=g, dtype=torch.float64) * 2


def one_by_one(sae, x, k, *, tolerance=0.0, stop_at_repeat=False):
    """The definition, a token at a time."""
    codes = torch.zeros(len(x), len(sae.W_dec), dtype=x.dtype)
    for token, row in enumerate(x):
        rest, seen = row - sae.b_in, set()
        for _ in range(k):
            scores = sae.W_dec @ rest
            best = int(scores.argmax())
            if scores[best] <= 0:
                break
            codes[token, best] += scores[best]
            rest = rest - scores[best] * sae.W_dec[best]
            if rest.norm() < tolerance or (stop_at_repeat and best in seen):
                break
            seen.add(best)
    return codes


@pytest.mark.parametrize(
    "settings", [{}, {"tolerance": 1.5}, {"stop_at_repeat": True}], ids=["plain", "tol", "repeat"]
)
@pytest.mark.parametrize("gram_latents", [0, 2**13])
def test_codes_are_those_of_the_definition(settings, gram_latents, monkeypatch):
    monkeypatch.setattr(matching_pursuit, "GRAM_LATENTS", gram_latents)
    sae, x = built(k=12, **settings)
    with torch.no_grad():
        wanted = one_by_one(sae, x, 12, **settings)
        torch.testing.assert_close(sae.encode(x).dense(), wanted)
    assert (wanted != 0).sum(-1).max() < 12  # a latent was chosen twice, or the search ended


def test_every_setting_matters():
    codes = []
    for settings in ({}, {"tolerance": 1.5}, {"stop_at_repeat": True}):
        sae, x = built(k=12, **settings)
        codes.append(sae.encode(x).dense())
    assert not torch.allclose(codes[0], codes[1]) and not torch.allclose(codes[0], codes[2])


def test_gradients_by_finite_differences():
    sae, x = built(k=5)

    def predicted(W_dec, b_in, b_dec):
        names = {"W_dec": W_dec, "b_in": b_in, "b_dec": b_dec}
        return torch.func.functional_call(sae, names, (x[:4],))

    weights = [sae.W_dec, sae.b_in, sae.b_dec]
    assert torch.autograd.gradcheck(predicted, weights, eps=1e-7, atol=1e-5)


def test_each_choice_makes_the_rest_shorter():
    sae, x = built()
    errors = []
    for k in (1, 2, 4, 8):
        longer, _ = built(k=k)
        longer.load_state_dict(sae.state_dict())
        rest = x - longer.b_in - (longer(x) - longer.b_dec)
        errors.append(float(rest.square().sum().detach()))
    assert errors == sorted(errors, reverse=True)


def test_refuses_a_transcoder():
    with pytest.raises(ConfigError, match="predicts what it reads"):
        MatchingPursuit(d_in=8, d_out=4, d_sae=16, k=3)
