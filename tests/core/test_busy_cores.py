"""Threads are left out where other processes keep cores busy, and only there."""

import os

import pytest

from saekit.core import machine


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "4")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    return monkeypatch


@pytest.mark.parametrize(("busy", "left"), [(1.0, "3"), (2.6, "1"), (4.0, "1"), (9.0, "1")])
def test_busy_cores_are_left_alone(cores, busy, left):
    cores.setattr(machine, "busy_cores", lambda: busy)
    assert f"{left} of 4" in machine.leave_busy_cores()
    assert os.environ["OMP_NUM_THREADS"] == os.environ["NUMBA_NUM_THREADS"] == left
    cores.delenv("OMP_NUM_THREADS")


@pytest.mark.parametrize("busy", [0.0, 0.4, None])
def test_a_free_machine_is_used_whole(cores, busy):
    cores.setattr(machine, "busy_cores", lambda: busy)
    assert machine.leave_busy_cores() is None and "OMP_NUM_THREADS" not in os.environ


def test_the_users_own_number_stays(cores):
    cores.setenv("OMP_NUM_THREADS", "4")
    cores.setattr(machine, "busy_cores", lambda: 3.0)
    assert machine.leave_busy_cores() is None and os.environ["OMP_NUM_THREADS"] == "4"


def test_work_is_told_from_waiting(monkeypatch):
    ticks = iter([{0: (100, 1000), 1: (50, 1000)}, {0: (110, 1010), 1: (50, 1010)}])
    monkeypatch.setattr(machine, "_ticks", lambda: next(ticks))
    assert machine.busy_cores(0) == pytest.approx(1.0)
    monkeypatch.setattr(machine, "_ticks", lambda: None)
    assert machine.busy_cores(0) is None


def test_a_short_burst_of_others_costs_no_thread(cores):
    seen = iter([1.4, 0.9, 0.1])
    cores.setattr(machine, "busy_cores", lambda: next(seen))
    assert machine.leave_busy_cores() is None
