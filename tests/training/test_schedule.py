"""The learning rate, point by point."""

import pytest

from saekit.core.errors import ConfigError
from saekit.training.run import Run
from saekit.training.schedule import Schedule
from tests import world


@pytest.mark.parametrize(
    ("fall", "points"),
    [
        ("linear", {80: 1.0, 85: 0.775, 90: 0.55, 95: 0.325, 100: 0.1}),
        ("cosine", {80: 1.0, 85: 0.868198, 90: 0.55, 95: 0.231802, 100: 0.1}),
        ("constant", {80: 1.0, 90: 1.0, 100: 1.0}),
    ],
)
def test_the_rate_warms_up_holds_and_falls_to_its_end(fall, points):
    schedule = Schedule(100, 10, fall, 0.2, 0.1)
    assert [schedule.at(s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert {s: schedule.at(s) for s in points} == pytest.approx(points, abs=1e-6)


def test_warm_up_and_fall_may_meet():
    schedule = Schedule(10, 10, "linear", 1.0)
    assert [schedule.at(s) for s in range(10)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1]
    )


def test_no_warm_up_and_no_fall():
    assert all(Schedule(10, 0, "cosine", 0.0).at(s) == 1.0 for s in range(10))


def test_a_run_has_its_schedule(tmp_path):
    changes = {"tokens": 12_800, "lr": 2.0, "decay": 0.2, "warm_up_steps": 0}
    run = world.run(tmp_path, **changes, schedule="cosine", final_lr_share=0.5)
    assert [run.lr_at(s) for s in (0, 90)] == pytest.approx([2.0, 1.5])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schedule": "step"}, "'linear' or 'cosine' or 'constant'"),
        ({"final_lr_share": -0.1}, "`final_lr_share` must be from 0 to 1 of the peak rate"),
        ({"final_lr_share": 0.1, "schedule": "constant"}, "no use with a constant"),
    ],
)
def test_values_out_of_range_are_named(tmp_path, change, said):
    with pytest.raises(ConfigError, match=said):
        Run.from_dict(world.run(tmp_path).to_dict() | change)
