import pytest
import torch

from saekit.core.errors import ConfigError, ShapeError, UnknownNameError
from saekit.models.sites import EMBED, Site
from saekit.models.tiny import tiny
from saekit.saes.base import registry
from saekit.studies.locality.influence.base import Flag, influence
from saekit.studies.locality.influence.latent_gradient import FORGETTABLE
from tests.studies.locality.world import D, Mixing, sae_of, tokens_of
from tests.world import FAMILIES

SITE = "L1.resid_post"


@pytest.fixture(scope="module")
def lm():
    return tiny("llama", n_layers=3, d_model=D)


def close(one, other, rtol=1e-5):
    assert one.shape == other.shape
    assert (one - other).abs().max() <= rtol * other.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_equals_one_gradient_at_a_time(family):
    lm = tiny(family, n_layers=3, d_model=D)
    one, loop = (influence(lm, sae_of(), tokens_of(), SITE, method=m) for m in ("vjp", "loop"))
    assert len(one.J) == 18 and one.latent.equal(loop.latent)
    close(one.J, loop.J)


@pytest.mark.parametrize("name", registry.names())
def test_every_architecture_gives_the_gradient_of_its_own_encode(name):
    cfg = registry.get(name).example()
    if "seq" in cfg.event:
        with pytest.raises(ConfigError, match="windows of tokens"):
            influence(tiny(d_model=8), cfg.build(torch.Generator()), tokens_of(), SITE)
        return
    lm = tiny("llama", n_layers=3, d_model=8)
    sae = cfg.build(torch.Generator().manual_seed(0)).requires_grad_(False)
    sae.W_dec.data.mul_(1.3) if hasattr(sae, "W_dec") else None
    site = ["L0.resid_post", "L1.resid_mid", "L1.mlp_out"] if cfg.event else SITE
    one, loop = (influence(lm, sae, tokens_of(2, 9), site, method=m) for m in ("vjp", "loop"))
    assert len(one.J) > 1
    close(one.J, loop.J)


def test_jacobian_once_gives_the_same_and_the_token_vector(lm):
    tokens = tokens_of()
    one = influence(lm, sae_of(), tokens, SITE)
    other = influence(lm, sae_of(), tokens, SITE, method="jacobian", chunk=2)
    close(one.J, other.J)
    want = []
    for row in tokens:
        found = lm.read(row[None], [EMBED, Site(1, "resid_post")], grad=True)
        y = found[Site(1, "resid_post")][0, -1]
        M = [torch.autograd.grad(v, found[EMBED], retain_graph=True)[0][0] for v in y]
        want.append(torch.stack(M).square().sum((0, 2)))
    close(other.R.float(), torch.stack(want))


def test_gram_identity(lm):
    """J_a = w_a' K w_a with K = M M', so one Jacobian has every latent's influence."""
    sae, tokens = sae_of("relu"), tokens_of(1)
    one = influence(lm, sae, tokens, SITE)
    found = lm.read(tokens, [EMBED, Site(1, "resid_post")], grad=True)
    y = found[Site(1, "resid_post")][0, -1]
    M = torch.stack(
        [torch.autograd.grad(v, found[EMBED], retain_graph=True)[0][0] for v in y]
    ).transpose(0, 1)  # [n_ctx, d, d_model]
    K = M @ M.transpose(1, 2)
    w = sae.W_enc[:, one.latent]
    close(one.J, torch.einsum("da,nde,ea->an", w, K, w))
    R = influence(lm, sae, tokens, SITE, method="jacobian").R
    close(R[0].float(), K.diagonal(dim1=1, dim2=2).sum(-1))


def test_nothing_after_the_position_has_a_part(lm):
    tokens = tokens_of()
    one = influence(lm, sae_of(), tokens, SITE, position=9)
    assert (one.J[:, 10:] == 0).all() and (one.J[:, 9] > 0).all()
    tokens[:, 10:] = 7
    close(influence(lm, sae_of(), tokens, SITE, position=9).J, one.J)
    each = influence(lm, sae_of(), tokens, SITE, position=torch.tensor([9, 4, -1]))
    assert each.position.unique().tolist() == [4, 9, 16]
    close(each.J[each.window == 0], one.J[one.window == 0])


def test_size_of_encoder_columns_scales_influence_and_not_entropy(lm):
    sae = sae_of("relu")
    one = influence(lm, sae, tokens_of(), SITE)
    sae.W_enc.data.mul_(3)
    sae.b_enc.data.mul_(3)
    other = influence(lm, sae, tokens_of(), SITE)
    close(other.J, 9 * one.J)
    assert torch.allclose(other.entropy_bits(), one.entropy_bits(), atol=1e-4)


def test_windows_together_alone_and_in_chunks_are_the_same(lm):
    tokens = tokens_of(5)
    whole = influence(lm, sae_of(), tokens, SITE)
    for chunk in (1, 2, 64):
        close(influence(lm, sae_of(), tokens, SITE, chunk=chunk).J, whole.J)
    for i in range(5):
        alone = influence(lm, sae_of(), tokens[i : i + 1], SITE)
        close(alone.J, whole.J[whole.window == i])


def test_a_document_is_seen_from_its_beginning(lm):
    tokens = tokens_of()
    starts = torch.tensor([0, 4, 16])
    found = influence(lm, sae_of(), tokens, SITE, starts=starts)
    for i, start in enumerate(starts.tolist()):
        mine = found.window == i
        alone = influence(lm, sae_of(), tokens[i : i + 1, start:], SITE)
        assert (found.J[mine, :start] == 0).all()
        close(found.J[mine, start:], alone.J)
        assert torch.allclose(found.entropy_bits()[mine], alone.entropy_bits(), atol=1e-5)
    assert ((found.flags & Flag.CUT) > 0).tolist() == (found.first > 0).tolist()


def test_latents_that_are_off_are_flagged_and_undefined(lm):
    sae, tokens = sae_of(), tokens_of()
    active = influence(lm, sae, tokens, SITE)
    every = influence(lm, sae, tokens, SITE, latents=list(range(64)))
    assert len(every.J) == 3 * 64
    on = (every.flags & Flag.OFF) == 0
    assert int(on.sum()) == len(active.J)
    close(every.J[on], active.J)
    assert (every.J[~on] == 0).all() and every.entropy_bits()[~on].isnan().all()
    assert ((every.flags & Flag.ZERO) > 0).equal(~on)
    pairs = torch.tensor([[2, int(active.latent[-1])], [0, int(active.latent[0])]])
    some = influence(lm, sae, tokens, SITE, latents=pairs)
    close(some.J, active.J[[-1, 0]])


def test_threshold_is_strict_and_changes_no_profile(lm):
    whole = influence(lm, sae_of("relu"), tokens_of(), SITE)
    at = float(whole.activation.median())
    some = influence(lm, sae_of("relu"), tokens_of(), SITE, threshold=at)
    kept = whole.activation > at
    assert 0 < len(some.J) == int(kept.sum())
    close(some.J, whole.J[kept])


def test_standardised_inputs_are_part_of_the_gradient_and_legacy_forgets_them(lm):
    sae = sae_of("standardised", inner=sae_of().cfg)
    sae.inner.b_dec.data.normal_(generator=torch.Generator().manual_seed(3))
    tokens = tokens_of(1)
    true, legacy = (influence(lm, sae, tokens, SITE, forgets=x) for x in ((), FORGETTABLE))
    y = lm.read(tokens, [Site(1, "resid_post")])[Site(1, "resid_post")][0, -1]
    want = (y + sae.inner.b_dec) @ sae.inner.W_enc + sae.inner.b_enc
    assert sorted(legacy.latent.tolist()) == sorted(want.topk(6).indices.tolist())
    assert torch.allclose(legacy.activation, want[legacy.latent], rtol=1e-4)
    assert true.J.shape[1] == 17 and not true.activation.equal(legacy.activation)


def test_the_embedding_itself_is_local():
    lm = tiny(d_model=D)
    found = influence(lm, sae_of(), tokens_of(), "embed")
    assert torch.allclose(found.entropy_bits(), torch.zeros(18).double(), atol=1e-6)


def test_memory_bounds_rows_and_is_refused_where_one_does_not_fit(lm):
    from saekit.studies.locality.influence.pullback import row_bytes

    row = row_bytes(lm, 17, [Site(1, "resid_post")])
    assert 17 * D * 4 * 10 < row < 10_000_000
    whole = influence(lm, sae_of(), tokens_of(), SITE)
    close(influence(lm, sae_of(), tokens_of(), SITE, memory_bytes=row).J, whole.J)
    with pytest.raises(ConfigError, match="--memory"):
        influence(lm, sae_of(), tokens_of(), SITE, memory_bytes=row // 2)


@pytest.mark.parametrize("method", ["vjp", "jacobian"])
def test_products_in_bfloat16_are_near_in_influence_and_entropy(lm, method):
    one = influence(lm, sae_of(), tokens_of(), SITE)
    low = influence(lm, sae_of(), tokens_of(), SITE, method=method, matmul="bfloat16")
    assert low.latent.equal(one.latent) and low.J.dtype == torch.float32
    off = ((low.J - one.J).abs().amax(-1) / one.J.amax(-1)).max()
    assert 1e-5 < off < 0.05
    assert (low.entropy_bits() - one.entropy_bits()).abs().max() < 0.02


def test_windows_with_few_and_many_latents_share_passes_rightly(lm):
    """Groups of windows of one graph, whose numbers of gradients differ."""
    tokens, sae = tokens_of(5), sae_of()
    each = [3, 1, 0, 5, 2]
    pairs = torch.tensor([[w, a] for w, n in enumerate(each) for a in range(n)])
    every = influence(lm, sae, tokens, SITE, latents=list(range(5)))
    index = pairs[:, 0] * 5 + pairs[:, 1]
    for chunk in (1, 2, 3, 7, 60):
        some = influence(lm, sae, tokens, SITE, latents=pairs, chunk=chunk)
        close(some.J, every.J[index])


def test_what_cannot_be_asked_for(lm):
    sae, tokens = sae_of(), tokens_of()
    low = tiny(d_model=D, dtype=torch.bfloat16)
    for error, words in (
        (ConfigError, {"lm": low}),
        (ConfigError, {"latents": [64]}),
        (ConfigError, {"matmul": "float16"}),
        (ConfigError, {"matmul": "bfloat16", "method": "loop"}),
        (ConfigError, {"latents": "all"}),
        (ConfigError, {"latents": torch.zeros(2, 3).long()}),
        (ConfigError, {"site": ["L0.resid_post", "L1.resid_post"]}),
        (ShapeError, {"position": 17}),
        (ShapeError, {"starts": torch.tensor([9, 9, 9]), "position": 4}),
        (ShapeError, {"sae": sae_of(d=8)}),
        (ShapeError, {"tokens": tokens + 200}),
        (ShapeError, {"tokens": tokens[:0]}),
        (UnknownNameError, {"method": "vpj"}),
        (UnknownNameError, {"site": "L9.resid_post"}),
    ):
        given = {"lm": lm, "sae": sae, "tokens": tokens, "site": SITE} | words
        with pytest.raises(error):
            influence(**given)


def test_linear_attention_has_its_closed_form():
    """y = sum_k alpha_k R_k x(t - k): J is alpha squared, whatever the direction."""
    alpha = [0.5, 0.25, 0.125, 0.125]
    lm = Mixing([alpha])
    found = influence(lm, sae_of("relu"), tokens_of(2, 4), "L0.resid_post")
    want = torch.tensor(alpha).square().flip(0)
    shares = found.J / found.J.sum(-1, keepdim=True)
    assert torch.allclose(shares, (want / want.sum()).expand_as(shares), atol=1e-5)
    assert torch.allclose(found.entropy_bits(), torch.tensor(1.18670).double(), atol=1e-4)


def test_a_stack_of_identities_has_no_entropy():
    lm = Mixing([[1.0]])
    found = influence(lm, sae_of(), tokens_of(), "L0.resid_post")
    assert (found.entropy_bits() < 1e-8).all()


@pytest.mark.parametrize(
    "method",
    ["vjp", "jacobian", "occlusion", pytest.param("integrated_gradients", marks=pytest.mark.slow)],
)
def test_planted_widths_come_back(method):
    """Features that depend on the last w tokens: 2^H is w, by gradients; ranks by every way."""
    widths = [1, 2, 4, 8, 16, 32]
    lm = Mixing([[1.0] * w for w in widths])
    means, exact = [], method in ("vjp", "jacobian")
    for layer in range(len(widths)):
        found = influence(
            lm,
            sae_of("relu", d_sae=64 if exact else 16),
            tokens_of(4, 40),
            f"L{layer}.resid_post",
            method=method,
        )
        means.append(float(found.entropy_bits().exp2().mean()))
    assert means == sorted(means)
    if exact:
        assert means == pytest.approx(widths, rel=1e-4)


def test_on_a_linear_model_every_way_agrees():
    """With an identity encoder that is always on, a blanked token moves f by w . (x - mean)."""
    from saekit.studies.locality.influence.base import Job
    from saekit.studies.locality.influence.by_integrated_gradients import attributions
    from saekit.studies.locality.influence.latent_gradient import Encoder
    from saekit.studies.locality.influence.pullback import Windows, read_at

    lm, sae, tokens = Mixing([[1.0, 0.5, 0.25]]), sae_of("relu"), tokens_of(2, 6)
    sae.b_enc.data.fill_(50.0)
    occlusion, gradients = (
        influence(lm, sae, tokens, "L0.resid_post", method=m)
        for m in ("occlusion", "integrated_gradients")
    )
    assert len(gradients.J) == 128
    close(occlusion.J, gradients.J, rtol=1e-3)
    windows = Windows(tokens, torch.tensor([5, 5]))
    x = read_at(lm, windows, [Site(0, "resid_post")])
    fired = Encoder(sae).active(x, 0.0)
    job = Job(
        lm=lm,
        encoder=Encoder(sae),
        windows=windows,
        sites=(Site(0, "resid_post"),),
        x=x,
        fired=fired,
    )
    blank = {EMBED: lambda x: x.mean(1, keepdim=True).expand_as(x)}
    at_rest = lm.read(tokens, [Site(0, "resid_post")], replace=blank)[Site(0, "resid_post")]
    rest = Encoder(sae).at(at_rest[:, -1], fired.row, fired.latent).activation
    assert torch.allclose(attributions(job).sum(-1), fired.activation - rest, atol=1e-3)
