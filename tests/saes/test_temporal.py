"""Temporal: against its formulas token by token, and gradients against finite differences."""

import dataclasses

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.saes.base import Scaling, Step
from saekit.saes.temporal import Temporal

SEQ, D, D_SAE = 5, 6, 16


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)


def config(**changes):
    plain = Temporal(d_in=D, d_out=D, d_sae=D_SAE, k=2, n_heads=2, d_key=3, n_attn_layers=2)
    return dataclasses.replace(plain, **changes)


def built(g, **changes):
    """Return an SAE with every parameter away from where it starts."""
    sae = config(**changes).build(g).double()
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            scale = 0.3 if name.startswith("b_") else 1.0
            parameter.copy_(torch.randn(parameter.shape, generator=g) * scale)
    return sae


def by_hand(sae, x):
    """The formulas for one window, token by token and head by head."""
    cfg, D = sae.cfg, sae.W_dec
    E = D.T if cfg.tied else sae.W_enc
    lam, n_dict = 1 / (4 * cfg.d_in), cfg.d_sae // 2
    wide = n_dict // cfg.n_heads
    rest = [token - sae.b_dec for token in x]
    predicted = [torch.zeros(n_dict).double() for _ in x]
    for i in range(cfg.n_attn_layers):
        z = [(lam * r @ E).clamp(min=0) for r in rest]
        context = [torch.zeros_like(z[0]), *z[:-1]]
        for t in range(len(x)):
            heads = []
            for h in range(cfg.n_heads):
                narrow = slice(h * cfg.d_key, (h + 1) * cfg.d_key)
                values = slice(h * wide, (h + 1) * wide)
                query = (z[t] @ sae.W_query[i] + sae.b_query[i])[narrow]
                marks = torch.stack(
                    [
                        query @ (c @ sae.W_key[i] + sae.b_key[i])[narrow] / cfg.d_key**0.5
                        for c in context[: t + 1]
                    ]
                )
                share = marks.exp() / marks.exp().sum()
                heads.append(
                    sum(
                        share[j] * (context[j] @ sae.W_value[i] + sae.b_value[i])[values]
                        for j in range(t + 1)
                    )
                )
            p = (torch.cat(heads) @ sae.W_mix[i] + sae.b_mix[i]).clamp(min=0)
            direction = p @ D
            s = direction @ rest[t] / ((direction @ direction).sqrt() + 1e-6) ** 2
            predicted[t] = predicted[t] + s * p
            rest[t] = rest[t] - s * direction
    novel = []
    for r in rest:
        pre = (lam * r @ E).clamp(min=0)
        least = pre.sort(descending=True).values[cfg.k - 1]
        novel.append(torch.where(pre >= least, pre, 0))
    both = torch.stack([torch.cat([a, b]) for a, b in zip(novel, predicted, strict=True)])
    y_hat = (both[:, :n_dict] + both[:, n_dict:]) @ D + sae.b_dec
    return both, y_hat


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_attn_layers", [1, 2])
def test_it_is_its_formulas(g, tied, n_attn_layers):
    sae = built(g, tied=tied, n_attn_layers=n_attn_layers)
    x = torch.randn(3, SEQ, D, generator=g).double()
    codes, y_hat = sae.encode(x), sae(x)
    loss = sae.loss(x, x, Step(0, 0.0, torch.zeros(D_SAE, dtype=torch.bool)))
    for i in range(3):
        both, wanted = by_hand(sae, x[i])
        assert both[:, 8:].abs().sum() > 0.1 and both[:, :8].abs().sum() > 0.1
        torch.testing.assert_close(codes.dense()[i], both, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(y_hat[i], wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss.y_hat, y_hat)
    torch.testing.assert_close(loss.total, (y_hat - x).square().mean())
    assert torch.equal(loss.acts.dense(), codes.dense().flatten(0, 1).view(3, SEQ, -1))


class Total(torch.nn.Module):
    """The loss as a module's output, so that weights can be put in."""

    def __init__(self, sae):
        super().__init__()
        self.sae = sae

    def forward(self, x):
        dead = torch.zeros(D_SAE, dtype=torch.bool)
        return self.sae.loss(x, x, Step(0, 0.0, dead)).total


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_equal_finite_differences(g, tied):
    total = Total(built(g, tied=tied))
    x = torch.randn(2, SEQ, D, generator=g).double().requires_grad_()
    names, weights = zip(*total.named_parameters(), strict=True)

    def loss(x, *weights):
        return torch.func.functional_call(total, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(loss, [x, *weights], fast_mode=True)  # of every weight at once
    assert torch.autograd.gradcheck(lambda x: total.sae.encode(x).dense(), [x])


def test_a_token_does_not_see_those_after_it(g):
    sae = built(g)
    x = torch.randn(1, SEQ, D, generator=g).double()
    other = x.clone()
    other[:, 3:] += 1
    one, two = sae.encode(x).dense(), sae.encode(other).dense()
    assert torch.equal(one[:, :3], two[:, :3])
    earlier = x.clone()
    earlier[:, 0] += 1
    assert not torch.allclose(one[:, 3:], sae.encode(earlier).dense()[:, 3:])


def test_context_tells_what_is_coming():
    """Of text that stays on one direction for long, most is predicted once it is trained."""
    g = torch.Generator().manual_seed(0)
    slow = torch.randn(100, 1, D, generator=g).expand(-1, SEQ, -1)
    x = slow + 0.1 * torch.randn(100, SEQ, D, generator=g)
    sae = config(d_sae=48, k=1).build(g)
    opt, now = torch.optim.Adam(sae.parameters(), 1e-2), Step(0, 0.0, torch.zeros(48).bool())
    for _ in range(200):
        opt.zero_grad()
        sae.loss(x, x, now).total.backward()
        opt.step()
    with torch.no_grad():
        predicted = sae.encode(x).dense()[..., 24:] @ sae.W_dec + sae.b_dec
    err = (predicted - x).square().sum((0, 2)) / x.square().sum((0, 2))
    assert err[1:].max() < 0.3 < err[0]  # of the first token nothing can be known


@pytest.mark.parametrize("scale", [1e-3, 40.0])
def test_rescaling_is_exact_at_any_size(g, scale):
    """Also where eps is no longer small beside what it is added to."""
    sae = built(g)
    with torch.no_grad():
        sae.eps.fill_(0.1)
    z = torch.randn(3, SEQ, D, generator=g).double()
    by = Scaling(torch.randn(D, generator=g).double(), scale)
    wanted, codes = sae(z) / scale + by.mean, sae.encode(z).dense() / scale
    sae.rescale(by, by)
    torch.testing.assert_close(sae.encode(z / scale + by.mean).dense(), codes)
    torch.testing.assert_close(sae(z / scale + by.mean), wanted)


def test_scalings_it_cannot_take_are_named(g):
    sae, mean = built(g), torch.zeros(D).double()
    plain = Scaling(mean, 2.0)
    for x, y, said in [
        (plain, Scaling(mean, 3.0), "alike"),
        (plain, Scaling(mean + 1, 2.0), "alike"),
        (plain._replace(matrix=torch.eye(D)),) * 2 + ("whiten",),
        (plain._replace(site_scale=torch.ones(2, 1)),) * 2 + ("site-wise",),
        (plain._replace(mean=torch.zeros(SEQ, D)),) * 2 + ("one mean",),
    ]:
        before = [p.clone() for p in sae.parameters()]
        with pytest.raises(ConfigError, match=said):
            sae.rescale(x, y)
        assert all(torch.equal(a, b) for a, b in zip(before, sae.parameters(), strict=True))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"d_out": 7}, "d_out=7"),
        ({"d_sae": 15}, "multiple of 4"),
        ({"d_sae": 18}, "multiple of 4"),
        ({"k": 9}, "at most half of `d_sae`"),
        ({"k": 0}, "at least 1"),
        ({"n_heads": 0}, "`n_heads`"),
        ({"d_key": 0}, "`d_key`"),
        ({"n_attn_layers": 0}, "`n_attn_layers`"),
    ],
)
def test_impossible_settings_are_named(wrong, said):
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(config(), **wrong)
