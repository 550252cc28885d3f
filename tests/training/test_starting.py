"""Training that begins from the weights of an SAE: its own run's, or another library's."""

import json
import shutil

import pytest
import torch

import saekit
from saekit.core.errors import ConfigError, FormatError
from saekit.core.seeds import generator
from saekit.saes.base import Scaling, registry
from saekit.training.scaling import Scalings
from saekit.training.starting import reverse, scaled_weights, starting_config
from tests import world

STILL = {"lr": 1e-30, "n_ctx": 32, "batch_tokens": 128, "shown": False, "log_steps": 5}


def scaling(width, *shape, matrix=False, sites=False):
    chance = generator(3, "scaling", width)
    return Scaling(
        mean=torch.randn(*shape, width, generator=chance),
        scale=0.3,
        matrix=torch.randn(width, width, generator=chance) + 3 * torch.eye(width)
        if matrix
        else None,
        site_scale=torch.rand(shape[0], 1, generator=chance) + 0.5 if sites else None,
    )


@pytest.mark.parametrize("matrix", [False, True])
def test_the_reverse_of_a_scaling_takes_it_back(matrix):
    one = scaling(6, matrix=matrix)
    raw = torch.randn(20, 6, generator=generator(0, "raw"))
    assert torch.allclose(reverse(one).apply(one.apply(raw)), raw, atol=1e-5)


def test_so_does_that_of_sites():
    one = scaling(6, 3, sites=True)
    raw = torch.randn(20, 3, 6, generator=generator(0, "raw"))
    assert torch.allclose(reverse(one).apply(one.apply(raw)), raw, atol=1e-5)


@pytest.mark.parametrize("name", registry.names())
def test_every_architecture_comes_back_from_the_scale_of_training(name):
    cfg = registry.get(name).example()
    sae = cfg.build(generator(1, "init"))
    mean = (cfg.n_sites,) if "site" in cfg.event else ()
    both = scaling(cfg.d_in, *mean, sites=bool(mean))
    scalings = Scalings(both, both, torch.zeros(cfg.d_out))
    again = cfg.build(generator(2, "init"))
    again.load_state_dict(scaled_weights(sae, cfg, scalings))
    event = [{"site": getattr(cfg, "n_sites", 0), "seq": 5}[axis] for axis in cfg.event]
    x = torch.randn(30, *event, cfg.d_in, generator=generator(0, "x"))
    with torch.no_grad():
        # As training sees it: the same prediction, in the scale of training.
        scaled = again(both.apply(x))
        assert torch.allclose(scaled, both.apply(sae(x)), atol=1e-4)
        again.rescale(both, both)
        assert torch.allclose(again(x), sae(x), atol=1e-4)
    for key, weight in sae.state_dict().items():
        assert torch.allclose(again.state_dict()[key], weight, atol=1e-5), key


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """An SAE that was trained a little, in its folder."""
    folder = tmp_path_factory.mktemp("first")
    text = world.text_file(folder)
    saekit.train(
        world.model(),
        site="L1.resid_post",
        sae=saekit.TopK(k=4, d_sae=64),
        corpus=text,
        tokens=2000,
        out=folder / "run",
        **STILL | {"lr": 1e-2},
    )
    return folder / "run", text


def test_training_that_moves_nothing_gives_the_same_sae(first, tmp_path):
    run, text = first
    sae = saekit.train(
        world.model(), start_from=run, corpus=text, tokens=1000, out=tmp_path / "b", **STILL
    )
    before = saekit.load(run)
    assert sae.card.pair == before.card.pair and sae.card.n_ctx == 32
    for key, weight in before.sae.state_dict().items():
        assert torch.allclose(sae.sae.state_dict()[key], weight, atol=1e-5), key
    said = sae.card.provenance["start_from"]
    assert said["folder"] == str(run) and said["weights_sha256"] == sae.card.run["start_from"]


def test_training_goes_on_where_the_other_ended(first, tmp_path):
    run, text = first
    settings = STILL | {"lr": 5e-3, "corpus": text, "tokens": 2000}
    on = saekit.train(world.model(), start_from=run, out=tmp_path / "on", **settings)
    anew = saekit.train(
        world.model(),
        site="L1.resid_post",
        sae=saekit.TopK(k=4, d_sae=64),
        out=tmp_path / "anew",
        **settings,
    )

    def fvu(sae):
        log = (sae.folder / "log.jsonl").read_text().splitlines()
        return next(r["fvu"] for r in map(json.loads, log) if r["kind"] == "step")

    assert fvu(on) < fvu(anew)
    # It goes on from the SAE that it keeps, and from no other.
    shutil.rmtree(tmp_path / "on" / "start")
    with pytest.raises(FormatError, match="start"):
        saekit.train(world.model(), start_from=run, out=tmp_path / "on", resume=True, **settings)


def test_an_sae_of_another_library_whose_rows_are_long_is_taken_as_it_is(tmp_path):
    cfg = saekit.TopK(d_in=32, d_out=32, d_sae=64, k=4)
    sae = cfg.build(generator(0, "init"))
    sae.W_dec.data.mul_(3.0)
    assert starting_config(sae, "scale", is_autoencoder=True).decoder == "free"
    made = saekit.TrainedSAE(sae.eval(), saekit.load(_own(tmp_path)).card)
    on = saekit.train(
        world.model(),
        site="L0.resid_post",
        start_from=made,
        corpus=world.text_file(tmp_path),
        tokens=600,
        out=tmp_path / "on",
        **STILL,
    )
    assert torch.allclose(on.sae.W_dec, sae.W_dec, atol=1e-5)


def _own(folder, width=32):
    """Return the folder of an SAE whose files say no site."""
    sae = saekit.fit(torch.randn(200, width), saekit.TopK(k=4, d_sae=64), epochs=1, shown=False)
    return sae.save(folder / "vectors").folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sae": saekit.TopK(k=2, d_sae=8)}, "those of the SAE to begin from"),
        ({"start": "k_means"}, "Leave one of them out"),
    ],
)
def test_what_does_not_go_together_is_refused(first, tmp_path, changes, said):
    run, text = first
    with pytest.raises(ConfigError, match=said):
        saekit.train(
            world.model(),
            start_from=run,
            corpus=text,
            tokens=600,
            out=tmp_path / "on",
            **STILL | changes,
        )


def test_settings_that_name_weights_need_them(first, tmp_path):
    given = {"corpus": first[1], **STILL}
    run = world.run(tmp_path, start_from="0" * 64, model=world.model().name)
    with pytest.raises(ConfigError, match="--start-from SAE"):
        saekit.train(world.model(), run=run, out=tmp_path / "on", shown=False)
    with pytest.raises(ConfigError, match="is 32 wide in and 32 out; the SAE has d_in=16"):
        saekit.train(
            world.model(),
            site="L0.resid_post",
            start_from=_own(tmp_path, width=16),
            out=tmp_path / "x",
            **given,
        )
    with pytest.raises(ConfigError, match="do not say its site"):
        saekit.train(world.model(), start_from=_own(tmp_path), out=tmp_path / "x", **given)
