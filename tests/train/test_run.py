"""Run: schedules in closed form, and what it refuses."""

import dataclasses

import pytest

from saekit.core.errors import ConfigError, UnknownNameError
from saekit.train.run import Run
from tests import world


def test_the_rate_warms_up_holds_and_falls(tmp_path):
    run = world.run(tmp_path, tokens=12_800, batch_tokens=128, warm_up_steps=10, decay=0.2, lr=1.0)
    assert run.total_steps == 100
    assert run.lr_at(0) == pytest.approx(0.1)
    assert run.lr_at(9) == run.lr_at(50) == run.lr_at(80) == pytest.approx(1.0)
    assert run.lr_at(90) == pytest.approx(0.5)
    assert run.lr_at(99) == pytest.approx(0.05)


def test_the_rate_falls_with_the_root_of_the_width(tmp_path):
    run = world.run(tmp_path, lr=None)
    wide = dataclasses.replace(run, sae=dataclasses.replace(run.sae, d_sae=4 * run.sae.d_sae))
    assert run.peak_lr == pytest.approx(2 * wide.peak_lr)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": 0}, "`tokens` must be at least 1"),
        ({"n_ctx": 1}, "`n_ctx` must be at least 2"),
        ({"buffer_tokens": 10}, "`buffer_tokens` must be at least 128"),
        ({"lr": 0.0}, "`lr` must be above 0"),
        ({"decay": 1.5}, "share of training"),
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
