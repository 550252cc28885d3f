"""Run: schedules in closed form, and what it refuses."""

import dataclasses

import pytest

from saekit.core.errors import ConfigError, UnknownNameError
from saekit.saes.topk import TopK
from saekit.training.run import Run
from tests import world


def test_the_rate_warms_up_holds_and_falls(tmp_path):
    run = world.run(tmp_path, tokens=12_800, batch_tokens=128, warm_up_steps=10, decay=0.2, lr=1.0)
    assert run.total_steps == 100
    assert run.lr_at(0) == pytest.approx(0.1)
    assert run.lr_at(9) == run.lr_at(50) == run.lr_at(80) == pytest.approx(1.0)
    assert run.lr_at(90) == pytest.approx(0.5)
    assert run.lr_at(99) == pytest.approx(0.05)


def test_the_rate_falls_with_the_roots_of_width_and_length(tmp_path):
    """6e-4 at 16,384 latents and 2,000 steps."""
    sae = TopK(d_in=32, d_out=32, d_sae=2**14, k=4)
    run = world.run(tmp_path, lr=None, sae=sae, tokens=2000 * 128)
    assert run.peak_lr == pytest.approx(6e-4)
    wide = dataclasses.replace(run, sae=dataclasses.replace(sae, d_sae=2**16))
    assert wide.peak_lr == pytest.approx(3e-4)
    assert dataclasses.replace(run, tokens=4 * run.tokens).peak_lr == pytest.approx(3e-4)
    assert dataclasses.replace(run, tokens=128).peak_lr == 1e-2


@pytest.mark.parametrize(
    ("tokens", "batch"), [(1, 256), (600_000, 256), (2_100_000, 1024), (10**7, 4096), (10**9, 4096)]
)
def test_batches_grow_with_the_run(tmp_path, tokens, batch):
    run = world.run(tmp_path, tokens=tokens, batch_tokens=None, buffer_tokens=2**13)
    assert run.step_tokens == batch
    assert world.run(tmp_path, tokens=tokens, batch_tokens=77).step_tokens == 77


def test_the_warm_up_is_a_twentieth_at_most_a_thousand_steps(tmp_path):
    for steps, wanted in ((10, 0), (400, 20), (10**6, 1000)):
        run = world.run(tmp_path, tokens=steps * 128, batch_tokens=128, warm_up_steps=None)
        assert run.warm_up == wanted


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": 0}, "`tokens` must be at least 1"),
        ({"n_ctx": 1}, "`n_ctx` must be at least 2"),
        ({"buffer_tokens": 10}, "`buffer_tokens` must be at least 128"),
        ({"lr": 0.0}, "`lr` must be above 0"),
        ({"decay": 1.5}, "`decay` must be from 0 to 1 of training; got 1.5. The default is 0.5."),
        ({"clip_norm": -1.0}, "`clip_norm` must be above 0"),
    ],
)
def test_values_out_of_range_are_named(tmp_path, change, said):
    with pytest.raises(ConfigError, match=said):
        Run.from_dict(world.run(tmp_path).to_dict() | change)


def test_unknown_names_offer_the_nearest(tmp_path):
    raw = world.run(tmp_path).to_dict()
    with pytest.raises(UnknownNameError, match="Did you mean `topk`"):
        Run.from_dict(raw | {"sae": raw["sae"] | {"name": "topkk"}})
    with pytest.raises(UnknownNameError, match="Did you mean `L1.resid_post`"):
        Run.from_dict(raw | {"pair": {"name": "pair", "read": ["L1.resid_pots"]}})
    with pytest.raises(UnknownNameError, match="Did you mean `files`"):
        Run.from_dict(raw | {"corpus": {"name": "file"}})
