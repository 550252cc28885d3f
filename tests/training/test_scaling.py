"""Scalings: closed forms, and SAEs that predict the same on raw activations."""

import dataclasses
import math

import pytest
import torch

from saekit.activations.batch import ActBatch
from saekit.activations.harvest import Counts, Harvest
from saekit.activations.pairs import Pair
from saekit.core.codes import Codes
from saekit.core.errors import ConfigError, TrainingError
from saekit.core.files import read_json_lines
from saekit.core.stats import median
from saekit.hub.native import load
from saekit.saes.base import Loss, Scaling, registry
from saekit.saes.topk import TopK
from saekit.training import loop
from saekit.training.loop import train
from saekit.training.meter import Meter
from saekit.training.run import Run
from saekit.training.scaling import WHITEN_FLOOR, check_foldable, geometric_median, measure_scaling
from saekit.training.trainer import Training
from tests import world


@pytest.fixture(scope="module")
def lm():
    return world.model()


class Given(Harvest):
    """Activations as given, 16 events a forward pass of one row."""

    def __init__(self, x, y=None):
        self.x, self.y = x, x if y is None else y
        sites = ("L0.resid_post",), () if y is None else ("L1.resid_post",)
        self.pair = Pair(read=sites[0], write=sites[1])
        self.batch_rows = 1
        self.counts = Counts(5, 1, 1, 3)
        self.taken = 0

    def batches(self, first_row=0, n_rows=None):
        for i in range(0, len(self.x), 16):
            part = slice(i, i + 16)
            at = torch.zeros(len(self.x[part]), dtype=torch.int64)
            self.taken += len(at)
            yield ActBatch(self.x[part], self.y[part], at, at)


def harvest(x, y=None):
    return Given(x, y)


def draw(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=g)
    mix = torch.randn(shape[-1], shape[-1], generator=g)
    return x @ mix + 5 * torch.randn(*shape[1:], generator=g)


CFG = TopK(d_in=6, d_out=6, d_sae=8, k=2)


def test_mean_0_and_mean_square_1():
    x = draw(1024, 6)
    found = harvest(x)
    scale_x, scale_y, baseline = measure_scaling(found, CFG)
    z = scale_x.apply(x.double())
    torch.testing.assert_close(z.mean(0), torch.zeros(6).double(), atol=1e-6, rtol=0)
    assert float(z.square().mean()) == pytest.approx(1)
    assert scale_x is scale_y and scale_x.matrix is None and scale_x.site_scale is None
    assert (baseline == 0).all()
    assert found.counts == Counts()


def test_sides_are_scaled_apart():
    x, y = draw(1024, 6), 9 * draw(1024, 4, seed=1)
    cfg = TopK(d_in=6, d_out=4, d_sae=8, k=2)
    scale_x, scale_y, _ = measure_scaling(harvest(x, y), cfg)
    for scale, side in ((scale_x, x), (scale_y, y)):
        assert float(scale.apply(side).square().mean()) == pytest.approx(1)


def test_a_whitened_covariance_is_the_identity():
    x = draw(1024, 6)
    found, _, _ = measure_scaling(harvest(x), CFG, "whiten")
    z = found.apply(x.double())
    torch.testing.assert_close(z.T.cov(correction=0), torch.eye(6).double(), atol=1e-4, rtol=0)
    rms = float((x - x.mean(0)).square().mean().sqrt())
    assert found.scale == pytest.approx(1 / rms)
    assert found.matrix is not None
    carried = ((x - x.mean(0)) @ found.matrix).double()
    torch.testing.assert_close(
        carried.T.cov(correction=0), rms**2 * torch.eye(6).double(), atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(found.matrix, found.matrix.T)


def test_small_eigenvalues_are_floored():
    """Standard deviations 100, 1 and 0: the second is below the floor, the third has no size."""
    x = torch.randn(1024, 3, generator=torch.Generator().manual_seed(0)).double()
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov(correction=0)).mT)
    x = (x * torch.tensor([100.0, 1.0, 0.0])).float()
    found, _, _ = measure_scaling(harvest(x), TopK(d_in=3, d_out=3, d_sae=4, k=1), "whiten")
    z = found.apply(x)
    floor = WHITEN_FLOOR * (100**2 + 1) / 3
    wanted = [1.0, 1 / floor, 0.0]
    assert z.square().mean(0).tolist() == pytest.approx(wanted, rel=1e-3, abs=1e-6)


def test_whitening_asks_for_enough_tokens():
    with pytest.raises(ConfigError, match="needs 96 tokens .* the text has 80"):
        measure_scaling(harvest(draw(80, 6)), CFG, "whiten")
    many = draw(3000, 128)
    found = harvest(many)
    measure_scaling(found, TopK(d_in=128, d_out=128, d_sae=8, k=2), "whiten")
    assert found.taken == 16 * 128
    found.taken = 0
    measure_scaling(found, TopK(d_in=128, d_out=128, d_sae=8, k=2))
    assert found.taken == 64 * 16


def test_sites_coded_jointly_count_alike():
    cfg = registry.get("crosscoder").example()
    n_sites, width = cfg.n_sites, cfg.d_in
    x = draw(1024, n_sites, width) * torch.logspace(0, 2, n_sites)[:, None]
    found, _, baseline = measure_scaling(harvest(x), cfg)
    assert found.mean.shape == baseline.shape == (n_sites, width)
    assert found.site_scale is not None and found.site_scale.shape == (n_sites, 1)
    z = found.apply(x)
    torch.testing.assert_close(z.square().mean((0, 2)), torch.ones(n_sites), rtol=1e-4, atol=0)
    torch.testing.assert_close(z.mean(0), torch.zeros(n_sites, width), atol=1e-5, rtol=0)
    assert float(found.site_scale.log().sum()) == pytest.approx(0, abs=1e-5)
    scales = 1 / (x - x.mean(0)).square().mean((0, 2)).sqrt()
    assert found.scale == pytest.approx(float(scales.log().mean().exp()), rel=1e-5)
    with pytest.raises(ConfigError, match="site are coded jointly"):
        measure_scaling(harvest(x), cfg, "whiten")


def test_positions_that_have_a_code_each_share_one_mean():
    cfg = registry.get("temporal").example()
    assert cfg.event == cfg.coded == ("seq",)
    x = draw(1024, cfg.d_in)
    flat = measure_scaling(harvest(x), dataclasses.replace(CFG, d_in=cfg.d_in, d_out=cfg.d_in))
    windows = measure_scaling(harvest(x.view(256, 4, cfg.d_in)), cfg)
    assert windows.x.scale == pytest.approx(flat.x.scale)
    torch.testing.assert_close(windows.x.mean, flat.x.mean)
    median = measure_scaling(harvest(x.view(256, 4, cfg.d_in)), cfg, centre="geometric_median")
    torch.testing.assert_close(median.x.mean, geometric_median(x).float())


def test_nothing_is_done_where_nothing_is_asked():
    x = draw(1024, 6)
    found, _, baseline = measure_scaling(harvest(x), CFG, "none", "none")
    assert (found.mean == 0).all() and found.scale == 1.0
    torch.testing.assert_close(baseline, x.mean(0))
    found, _, baseline = measure_scaling(harvest(x), CFG, "none", "mean")
    torch.testing.assert_close(found.mean, x.mean(0))
    assert found.scale == 1.0 and (baseline == 0).all()


@pytest.mark.parametrize("centre", ["geometric_median", "none"])
def test_sizes_are_about_the_centre(centre):
    x = draw(1024, 6)
    found, _, baseline = measure_scaling(harvest(x), CFG, "scale", centre)
    z = found.apply(x)
    assert float(z.square().mean()) == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(baseline, z.mean(0), atol=1e-4, rtol=1e-4)
    assert float(baseline.abs().max()) > 1e-3
    white, _, _ = measure_scaling(harvest(x), CFG, "whiten", centre)
    covariance = white.apply(x.double()).T.cov(correction=0)
    torch.testing.assert_close(covariance, torch.eye(6).double(), atol=1e-4, rtol=0)


def test_activations_that_do_not_vary_are_refused():
    with pytest.raises(TrainingError, match="do not vary"):
        measure_scaling(harvest(torch.zeros(64, 6)), CFG)
    x = draw(64, 2, 6)
    x[:, 1] = 0
    cfg = registry.get("crosscoder").example()
    with pytest.raises(TrainingError, match="do not vary"):
        measure_scaling(harvest(x), cfg)


@pytest.mark.parametrize(
    ("rows", "median"),
    [
        ([[-1.0], [0.5], [9.0]], [0.5]),  # in one dimension, the median
        ([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0.5, 0.5]),
        ([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [1.0, 1.0]], [1.0, 1.0]),  # where diagonals cross
        ([[0.0, 0.0], [9.0, 1.0], [-9.0, 1.0]], [0.0, 0.0]),  # an angle over 120 degrees
    ],
)
def test_known_medians(rows, median):
    found = geometric_median(torch.tensor(rows))
    torch.testing.assert_close(found, torch.tensor(median).double(), atol=2e-4, rtol=0)


def test_fermats_point_of_a_triangle():
    """Sides are seen from it at 120 degrees."""
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 2.0]]).double()
    away = torch.nn.functional.normalize(corners - geometric_median(corners), dim=-1)
    cosines = (away @ away.T)[[0, 0, 1], [1, 2, 2]]
    torch.testing.assert_close(cosines, torch.full((3,), -0.5).double(), atol=1e-5, rtol=0)


def test_far_rows_hardly_move_it_and_sites_have_their_own():
    x = draw(512, 2, 6)
    moved = x.clone()
    moved[:25] += 1e4
    shift = (geometric_median(moved) - geometric_median(x)).norm(dim=-1)
    assert (shift < 0.1 * (moved.mean(0) - x.mean(0)).norm(dim=-1)).all()
    torch.testing.assert_close(geometric_median(x)[1], geometric_median(x[:, 1]), atol=1e-4, rtol=0)


def test_a_median_that_is_not_reached_is_an_error(monkeypatch):
    monkeypatch.setattr(median, "MEDIAN_STEPS", 2)
    with pytest.raises(TrainingError, match="in 2 steps; set `centre` to mean"):
        geometric_median(draw(64, 6))


@pytest.mark.parametrize("normalise", ["scale", "whiten", "none"])
@pytest.mark.parametrize("centre", ["mean", "geometric_median", "none"])
def test_the_finished_sae_predicts_on_raw_activations(lm, tmp_path, monkeypatch, normalise, centre):
    """Its prediction is that of training, scaled back."""
    run = world.run(tmp_path, tokens=2000, normalise=normalise, centre=centre)
    kept, real = {}, Training.finish

    def finish(self):
        real(self)
        with torch.no_grad():
            kept["y"] = self.sae(scale.apply(x))

    found = loop.open_harvest(run, lm)
    x = torch.cat([acts.x for acts in found.batches(0, 16)])
    scale = measure_scaling(found, run.sae, normalise, centre).x
    monkeypatch.setattr(Training, "finish", finish)
    train(run, lm, tmp_path / "out", shown=False)
    back = torch.eye(32) if scale.matrix is None else torch.linalg.inv(scale.matrix.double())
    wanted = (kept["y"].double() / scale.scale) @ back.double() + scale.mean.double()
    with torch.no_grad():
        y_hat = load(tmp_path / "out").sae(x).double()
    torch.testing.assert_close(y_hat, wanted, atol=2e-4, rtol=2e-4)
    log = [r for r in read_json_lines(tmp_path / "out" / "log.jsonl") if r["kind"] == "step"]
    assert 0 < log[-1]["fvu"] < log[0]["fvu"]


def test_the_log_measures_against_the_mean_whatever_the_centre(lm, tmp_path):
    """Raw and scaled training of weights that cannot move have the same FVU at the start."""
    found = {}
    for centre in ("mean", "none"):
        run = world.run(tmp_path, tokens=128, lr=1e-30, centre=centre)
        train(run, lm, tmp_path / centre, shown=False)
        log = [r for r in read_json_lines(tmp_path / centre / "log.jsonl") if r["kind"] == "step"]
        found[centre] = log[-1]
    y = torch.randn(64, 3, 5) + 7
    meter = Meter(0.0, torch.full((3, 5), 7.0))
    acts = Codes.fixed(torch.ones(192, 2), torch.tensor([[0, 1]] * 192), 4)
    meter.add(Loss(torch.tensor(0.0), {}, acts, y + 1), y)
    assert meter.n == 192 and meter.fired / meter.n == 2
    assert meter.err / meter.square == pytest.approx(1 / float((y - 7).square().mean()))
    assert math.isfinite(found["none"]["fvu"])


def test_what_cannot_be_folded_is_refused_before_training(lm, tmp_path):
    refusing = []
    matrix = torch.eye(8) * 2
    for name in registry.names():
        cfg = registry.get(name).example()
        if cfg.event or (cfg.d_in, cfg.d_out) != (8, 8):
            continue
        one = Scaling(torch.zeros(8), 1.0)
        check_foldable(cfg, one, one)
        try:
            check_foldable(cfg, one._replace(matrix=matrix), one._replace(matrix=matrix))
        except ConfigError:
            refusing.append(cfg)
    assert "standardised" in [c.name for c in refusing]
    for cfg in refusing:
        raw = cfg.to_dict() | {"d_in": 32, "d_out": 32}
        if "inner" in raw:
            raw["inner"] |= {"d_in": 32, "d_out": 32}
        run = world.run(tmp_path, sae=type(cfg).from_dict(raw), normalise="whiten")
        with pytest.raises(ConfigError, match="whiten"):
            train(run, lm, tmp_path / "out", shown=False)
        assert not (tmp_path / "out").exists()


def test_old_and_unknown_words_are_refused(tmp_path):
    raw = world.run(tmp_path).to_dict()
    for change in ({"normalise": True}, {"normalise": "whitened"}, {"centre": "median"}):
        with pytest.raises(ConfigError, match="'whiten'|'geometric_median'"):
            Run.from_dict(raw | change)
