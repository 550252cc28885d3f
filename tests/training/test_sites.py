"""Sites that share one SAE: each is brought to one size, and each is given back its own."""

import dataclasses

import pytest
import torch

from saekit.activations.pairs import Pair
from saekit.core.errors import ConfigError, FormatError
from saekit.data.tokenise import TokenStream
from saekit.hub.native import load
from saekit.training.loop import open_harvest, train
from saekit.training.scaling import fit_scaling
from tests import world

SITES = ("L0.resid_post", "L1.mlp_out")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    run = world.run(folder, pair=Pair(read=SITES, fold=True))
    lm = world.model()
    train(run, lm, folder / "run", shown=False)
    return run, lm, folder / "run"


def raw(run, lm, site):
    stream = TokenStream(run.corpus, "train", lm.tokenizer, n_ctx=run.n_ctx, bos_each_row=run.bos)
    harvest = open_harvest(dataclasses.replace(run, pair=Pair(read=(site,))), lm)
    assert stream.n_ctx == run.n_ctx
    return next(harvest.batches()).x.float()


def test_every_site_is_harvested_at_mean_0_and_size_1(trained):
    run, lm, _ = trained
    sizes = {site: float(raw(run, lm, site).square().mean()) for site in SITES}
    assert max(sizes.values()) > 3 * min(sizes.values())  # the test can fail
    harvest = open_harvest(run, lm)
    scalings = fit_scaling(harvest, run.sae)
    assert scalings.x.scale == 1.0 and not scalings.x.mean.any()
    x = torch.cat([acts.x.float() for acts in harvest.batches(0, 64)])
    for part in x.chunk(2):  # sites come one after another in each batch of rows
        assert part.mean().abs() < 0.1
    first = next(harvest.batches())
    n = len(raw(run, lm, SITES[0]))
    for part in (first.x[:n], first.x[n:]):
        assert 0.7 < float(part.float().square().mean()) < 1.4


def test_the_weights_of_a_site_take_its_raw_activations(trained):
    run, lm, folder = trained
    scaled, card = load(folder, scaled=True)
    assert set(card.scalings) == set(SITES)
    for site in SITES:
        x, own = raw(run, lm, site), load(folder, site=site)
        by = card.scalings[site][0]
        wanted = scaled(by.apply(x)) / by.scale + by.mean
        torch.testing.assert_close(own.sae(x), wanted, rtol=1e-4, atol=1e-5)
        fvu = (own.sae(x) - x).square().sum() / (x - x.mean(0)).square().sum()
        assert fvu < 0.8 and own.card.at == site


def test_a_shared_sae_is_not_loaded_for_no_site(trained):
    _, _, folder = trained
    with pytest.raises(ConfigError, match=r"L0.resid_post, L1.mlp_out.*got no site"):
        load(folder)
    with pytest.raises(ConfigError, match="got L1.resid_post"):
        load(folder, site="L1.resid_post")


def test_damaged_scalings_are_refused(trained, tmp_path):
    import shutil

    shutil.copytree(trained[2] / "sae", tmp_path / "sae")
    file = tmp_path / "sae" / "scalings.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(FormatError, match="scalings.safetensors is missing or damaged"):
        load(tmp_path, site=SITES[0])
