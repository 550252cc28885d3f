"""Every architecture, the same checks: a new file is tested the moment it exists."""

import dataclasses
import json
import math

import pytest
import torch

from saekit.activations.latents import LatentStoreWriter
from saekit.analysis.firing import Firing
from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, DataError
from saekit.core.files import read_tensors, write_tensors
from saekit.data.tokenise import Rows
from saekit.saes.base import SAEConfig, Scaling, Step, registry


@pytest.fixture(params=registry.names())
def cfg(request: pytest.FixtureRequest) -> SAEConfig:
    return registry.get(request.param).example()


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


LENGTH = 3  # of every event axis


def draw(cfg, g, *batch, width=None):
    event = [LENGTH] * len(cfg.event)
    return torch.randn(*batch, *event, width or cfg.d_in, generator=g)


def places(cfg):
    """Return the axes of an event that have a code at each place."""
    assert set(cfg.coded) <= set(cfg.event)
    return (LENGTH,) * len(cfg.coded)


def step(cfg, dead=False, progress=0.5):
    return Step(10, progress, torch.full((cfg.d_sae,), dead))


def trained(cfg, g, n_steps=150, lr=1e-2):
    sae, x = cfg.build(g), draw(cfg, g, 256)
    opt = torch.optim.Adam(sae.parameters(), lr)
    losses = []
    for _ in range(n_steps):
        out = sae.loss(x, x, step(cfg))
        losses.append(out.terms["mse"].item())
        opt.zero_grad()
        out.total.backward()
        sae.before_step()
        opt.step()
        sae.after_step(out)
    return sae, x, losses


def test_config_round_trips(cfg):
    raw = json.loads(json.dumps(cfg.to_dict()))
    assert SAEConfig.from_dict(raw) == cfg
    assert type(SAEConfig.from_dict(raw)) is type(cfg)


def test_config_names_the_unknown_key(cfg):
    with pytest.raises(ConfigError, match="Did you mean `d_sae`"):
        SAEConfig.from_dict({**cfg.to_dict(), "d_sea": 3})


@pytest.mark.parametrize("wrong", [{"d_sae": 0}, {"d_in": -1}, {"d_sae": 4.5}, {"d_in": True}])
def test_config_refuses_impossible_sizes(cfg, wrong):
    with pytest.raises(ConfigError):
        SAEConfig.from_dict({**cfg.to_dict(), **wrong})


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
def test_any_leading_shape(cfg, g, batch):
    sae, x = cfg.build(g), draw(cfg, g, *batch)
    acts = sae.encode(x)
    assert acts.batch == (*batch, *places(cfg))
    assert acts.n_rows == math.prod((*batch, *places(cfg)))
    assert acts.dense().shape == (*batch, *places(cfg), cfg.d_sae)
    assert sae(x).shape == (*x.shape[:-1], cfg.d_out)


@pytest.mark.parametrize("dead", [False, True])
def test_a_loss_of_no_rows_has_its_shapes(cfg, g, dead):
    sae, x = cfg.build(g), draw(cfg, g, 0)
    loss = sae.loss(x, draw(cfg, g, 0, width=cfg.d_out), step(cfg, dead))
    loss.total.backward()
    assert loss.acts.n_rows == 0
    assert loss.y_hat.shape == (0, *[LENGTH] * len(cfg.event), cfg.d_out)
    assert loss.total.isnan()  # a mean of nothing
    sae.after_step(loss)
    assert sae.encode_only(x, torch.tensor([1, 0])).shape == (0, *places(cfg), 2)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_not_predicted(cfg, g, wrong):
    """A threshold would take NaN for off, and give a finite prediction of it."""
    sae, x = cfg.build(g), draw(cfg, g, 4)
    x[2].view(-1)[1] = wrong
    with pytest.raises(DataError, match=r"finite; 1 of \d+ rows"):
        sae.encode(x)
    with pytest.raises(DataError, match="finite"):
        sae(x.double())
    with pytest.raises(DataError, match="finite"):
        sae.encode_only(x, torch.tensor([0]))


def test_large_numbers_are_finite_all_the_same(cfg, g):
    """The sum of a batch may overflow where no number of it does."""
    x = torch.full_like(draw(cfg, g, 64), 1e37)
    assert x.sum().isinf()
    cfg.build(g).encode(x)


def test_negative_activations_are_on_wherever_codes_are_looked_at(cfg, g, tmp_path):
    """Of `abs_topk` half are; of `temporal` and `matching_pursuit` some may be."""
    if "site" in cfg.event:
        return  # stores and influences are of single tokens, or of their windows
    acts = trained(cfg, g, 5)[0].encode(draw(cfg, g, 40)).detach()
    if cfg.name == "abs_topk":
        assert (acts.values < 0).float().mean() > 0.2
    n = acts.n_rows
    at = torch.arange(n)
    writer = LatentStoreWriter(tmp_path, n_ctx=n, d_sae=cfg.d_sae, meta={})
    rows = Rows(torch.zeros(1, n, dtype=torch.int64), torch.zeros(1, n, dtype=torch.int64), 0)
    writer.add(rows, 0 * at, at, acts._replace(shift=None))
    store, on = writer.close(), acts.dense().view(n, -1) != 0
    assert Firing().run(store).columns["count"] == on.sum(0).tolist()
    size = acts.dense().view(n, -1).abs().amax(0)
    torch.testing.assert_close(store.maxima.abs(), size)


def test_a_row_does_not_see_its_batch(cfg, g):
    sae, _, _ = trained(cfg, g, 20)
    x = draw(cfg, g, 6)
    whole, alone = sae.encode(x).dense(), sae.encode(x[2]).dense()
    torch.testing.assert_close(whole[2], alone, atol=1e-5, rtol=1e-5)


def test_encoding_changes_nothing(cfg, g):
    sae, x, _ = trained(cfg, g, 5)
    before = {k: v.clone() for k, v in sae.state_dict().items()}
    first = sae.encode(x).dense()
    assert torch.equal(first, sae.encode(x).dense())
    assert all(torch.equal(v, before[k]) for k, v in sae.state_dict().items())


def test_decode_is_affine(cfg, g):
    sae = cfg.build(g)
    a, b = torch.randn(2, *places(cfg), cfg.d_sae, generator=g)

    def decode(dense):
        return sae.decode(Codes.from_dense(dense))

    zero = decode(torch.zeros(*places(cfg), cfg.d_sae))
    assert zero.shape == (*[LENGTH] * len(cfg.event), cfg.d_out)
    torch.testing.assert_close(
        decode(a + 2 * b) - zero, (decode(a) - zero) + 2 * (decode(b) - zero), atol=1e-5, rtol=1e-4
    )


def test_directions_are_what_decode_adds(cfg, g):
    """At its own place only, where each place of an event has a code."""
    sae = cfg.build(g)
    one = torch.zeros(*places(cfg), cfg.d_sae)
    here = (1,) * len(cfg.coded)
    one[(*here, 2)] = 1
    added = sae.decode(Codes.from_dense(one)) - sae.decode(Codes.from_dense(0 * one))
    alone = [LENGTH for axis in cfg.event if axis not in cfg.coded]
    assert sae.directions().shape == (*alone, cfg.d_sae, cfg.d_out)
    wanted = torch.zeros_like(added)
    wanted[here] = sae.directions()[..., 2, :]
    torch.testing.assert_close(added, wanted)


def test_same_seed_same_bits(cfg):
    one, two = (trained(cfg, torch.Generator().manual_seed(7), 10)[0] for _ in range(2))
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dead", [False, True])
def test_total_is_the_sum_of_its_terms(cfg, g, dead):
    x, y = draw(cfg, g, 32), draw(cfg, g, 32, width=cfg.d_out)
    loss = cfg.build(g).loss(x, y, step(cfg, dead))
    torch.testing.assert_close(loss.total, sum(loss.terms.values()))
    assert loss.acts.n_rows == math.prod((32, *places(cfg)))
    assert loss.y_hat.shape == y.shape


def test_the_loss_is_a_mean_over_tokens(cfg, g):
    """Twice the same tokens is the same loss: no term grows with the batch."""
    sae, x, _ = trained(cfg, g, 3)
    both = torch.cat([x, x])
    once, twice = sae.loss(x, x, step(cfg)), sae.loss(both, both, step(cfg))
    torch.testing.assert_close(once.total, twice.total, rtol=1e-4, atol=1e-6)


def test_it_learns(cfg, g):
    _, _, losses = trained(cfg, g)
    assert losses[-1] < 0.8 * losses[0]


def test_it_saves_and_loads_bit_for_bit(cfg, g, tmp_path):
    sae, x, _ = trained(cfg, g, 20)
    write_tensors(tmp_path / "w.safetensors", sae.state_dict())
    again = cfg.build(torch.Generator().manual_seed(1))
    again.load_state_dict(read_tensors(tmp_path / "w.safetensors"))
    assert torch.equal(sae(x), again(x))


@pytest.mark.parametrize("alike", [True, False])
def test_rescaling_is_exact(cfg, g, alike):
    """An SAE of scaled activations, rewritten, predicts the same in raw units."""
    sae, z, _ = trained(cfg, g, 20)
    sae, z = sae.double(), z.double()
    x = Scaling(torch.randn(cfg.d_in, generator=g).double() * 5, 0.37)
    y = x if alike else Scaling(torch.randn(cfg.d_out, generator=g).double(), 2.1)
    wanted, codes = sae(z) / y.scale + y.mean, sae.encode(z).dense() / x.scale
    raw = z / x.scale + x.mean
    try:
        sae.rescale(x, y)
    except ConfigError as error:
        assert not alike and "alike" in str(error) and predicts_only_what_it_reads(cfg)
        return
    torch.testing.assert_close(sae(raw), wanted)
    torch.testing.assert_close(sae.encode(raw).dense(), codes)


def predicts_only_what_it_reads(cfg):
    """Tell whether the architecture has no transcoder, and so no two scalings."""
    try:
        dataclasses.replace(cfg, d_out=cfg.d_in + 1)
    except ConfigError:
        return True
    return False


def test_a_whitening_folds_exactly_or_is_refused(cfg, g):
    sae, z, _ = trained(cfg, g, 20)
    sae, z = sae.double(), z.double()
    matrix = torch.randn(cfg.d_in, cfg.d_in, generator=g).double()
    x = Scaling(torch.randn(cfg.d_in, generator=g).double(), 0.37, matrix)
    wanted, codes = sae(z) @ torch.linalg.inv(matrix) / x.scale + x.mean, sae.encode(z).dense()
    raw = z / x.scale @ torch.linalg.inv(matrix) + x.mean
    torch.testing.assert_close(x.apply(raw), z)
    try:
        sae.rescale(x, x)
    except ConfigError as error:
        assert "whiten" in str(error)
        return
    torch.testing.assert_close(sae(raw), wanted)
    torch.testing.assert_close(sae.encode(raw).dense(), codes / x.scale)


def test_gradients_equal_a_dense_reference(cfg, g, monkeypatch):
    """The path on codes and plain matrix products give the same loss and gradients."""
    from saekit.kernels import sparse

    sae = trained(cfg, g, 20)[0].double()
    x = draw(cfg, g, 64).double()
    found = {}
    for name, share in (("sparse", 2.0), ("dense", -1.0)):
        monkeypatch.setattr(sparse, "DENSE_SHARE", share)
        sae.zero_grad()
        total = sae.loss(x, x, step(cfg, dead=True)).total
        total.backward()
        found[name] = [total.detach(), *(p.grad.clone() for p in sae.parameters())]
    for a, b in zip(found["sparse"], found["dense"], strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-6)


def test_a_gradient_reaches_the_input(cfg, g):
    sae, _, _ = trained(cfg, g, 5)
    x = draw(cfg, g, 4).requires_grad_()
    sae.encode(x).values.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_it_says_where_it_is_from(cfg):
    assert "Source:" in (type(cfg).__doc__ or "")


def test_some_latents_alone_are_as_among_all(cfg, g):
    sae, x, _ = trained(cfg, g, n_steps=20)
    latents = torch.tensor([3, 0, cfg.d_sae - 1, 3])
    got = sae.encode_only(x[:7], latents)
    want = sae.encode(x[:7]).dense()[..., latents]
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert not got.requires_grad
