"""A sweep: the same weights as training alone, one pass of the model, resumed exactly."""

import contextlib
import dataclasses
import os
import shutil
import signal

import pytest
import torch

from saekit.activations.pairs import Pair
from saekit.activations.shared import SharedPasses
from saekit.core.errors import ConfigError, FormatError, Interrupted
from saekit.core.files import read_json, read_tensors
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.crosscoder import Crosscoder
from saekit.saes.topk import TopK
from saekit.training import lockstep, loop, record
from saekit.training.loop import train
from saekit.training.run import Run
from saekit.training.sweep_loop import read, summary
from saekit.training.sweep_loop import sweep_runs as sweep
from tests import world

WIDE = {"d_in": 32, "d_out": 32}
MEMORY = {"buffer_tokens": 8000}
CLOCK = {"checkpoint_tokens": None, "checkpoint_minutes": 1e-9}


@pytest.fixture(scope="module")
def lm():
    return world.model()


@pytest.fixture(scope="module")
def whole(lm, tmp_path_factory):
    """Sweeps of every run that nothing stopped, by their buffer: weights, passes of the model.

    What is swept beside a run changes none of its bits, nor does when its state is kept: each is
    what training alone gives.
    """
    made = {}

    def of(buffer=None):
        if buffer not in made:
            folder = tmp_path_factory.mktemp("whole")
            changes = {} if buffer is None else {"buffer_tokens": buffer}
            with counted(type(lm)) as passes:
                assert sweep(runs_of(folder, **changes), lm, folder / "out", shown=False) == {}
            made[buffer] = folder, len(passes)
        return made[buffer]

    return of


@contextlib.contextmanager
def counted(model):
    """A context that gives a list with an entry for each pass of a model."""
    passes, real = [], model.read

    def read(self, *args, **kwargs):
        passes.append(1)
        return real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "read", read)
        yield passes


def runs_of(folder, **changes):
    """Return runs of other widths, architectures, seeds, batches and layers."""
    run = world.run(folder, **changes)
    both = Pair(read=("L0.resid_post", "L1.resid_post"))
    return {
        "base": run,
        "wide": dataclasses.replace(run, sae=TopK(**WIDE, d_sae=96, k=6), batch_tokens=64),
        "other": dataclasses.replace(run, sae=BatchTopK(**WIDE, d_sae=64, k=4), seed=3),
        "early": dataclasses.replace(run, pair=Pair(read=("L0.resid_post",))),
        "folded": dataclasses.replace(run, pair=dataclasses.replace(both, fold=True)),
        "joint": dataclasses.replace(
            run, pair=both, sae=Crosscoder(**WIDE, d_sae=64, k=4, n_sites=2)
        ),
    }


def weights(out):
    return read_tensors(out / "sae" / "weights.safetensors")


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("changes", [MEMORY, {}], ids=["in memory", "rolling"])
def test_each_sae_is_what_training_alone_gives(lm, whole, tmp_path, changes):
    out, alone = whole(changes.get("buffer_tokens"))[0] / "out", tmp_path / "alone"
    for name, run in read(out).items():
        assert Run.from_dict(record.read(out / name / "run.json").settings) == run
        train(run, lm, alone / name, shown=False)
        assert_same(weights(out / name), weights(alone / name))
        counts = [read_json(f / name / "manifest.json")["harvest"] for f in (out, alone)]
        assert counts[0] == counts[1]
    rows = summary(read(out), out)
    assert [r["status"] for r in rows] == ["done"] * 6 and all(r["fvu"] < 1 for r in rows)


@pytest.mark.parametrize("changes", [MEMORY, {}], ids=["in memory", "rolling"])
def test_the_model_runs_once(lm, whole, tmp_path, changes):
    # Not the folded run, of two rows a token: it reads half the text.
    with counted(type(lm)) as passes:
        train(runs_of(tmp_path, **changes)["early"], lm, tmp_path / "alone", shown=False)
    assert len(passes) <= whole(changes.get("buffer_tokens"))[1] <= len(passes) + 2


@pytest.mark.parametrize(
    "changes",
    [MEMORY, pytest.param({}, marks=pytest.mark.slow), MEMORY | CLOCK, CLOCK],
    ids=["in memory", "rolling", "in memory, by the clock", "rolling, by the clock"],
)
@pytest.mark.parametrize("at", [130, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_sweep_goes_on(lm, whole, tmp_path, monkeypatch, changes, at):
    runs = {k: v for k, v in runs_of(tmp_path, **changes).items() if k in ("base", "wide", "early")}
    real, count = loop.Training.step, 0

    class Killed(BaseException):
        pass

    def step(self, x, y):
        nonlocal count
        count += 1
        if count == at:
            raise Killed
        return real(self, x, y)

    monkeypatch.setattr(loop.Training, "step", step)
    with pytest.raises(Killed):
        sweep(runs, lm, tmp_path / "cut", shown=False)
    monkeypatch.undo()
    assert at == 3 or list((tmp_path / "cut").rglob("step-*"))
    sweep(read(tmp_path / "cut"), lm, tmp_path / "cut", resume=True, shown=False)
    left = whole(changes.get("buffer_tokens"))[0] / "out"
    for name in runs:
        assert_same(weights(left / name), weights(tmp_path / "cut" / name))


def test_a_kill_between_two_checkpoints_of_one_state(lm, whole, tmp_path, monkeypatch):
    runs = {k: v for k, v in runs_of(tmp_path).items() if k in ("base", "wide", "early")}
    real, count = loop.Training.save, 0

    class Killed(BaseException):
        pass

    def save(self, folder):
        nonlocal count
        count += 1
        if count == 5:  # the second of the second state
            raise Killed
        real(self, folder)

    monkeypatch.setattr(loop.Training, "save", save)
    with pytest.raises(Killed):
        sweep(runs, lm, tmp_path / "cut", shown=False)
    monkeypatch.undo()
    sweep(read(tmp_path / "cut"), lm, tmp_path / "cut", resume=True, shown=False)
    for name in runs:
        assert_same(weights(whole()[0] / "out" / name), weights(tmp_path / "cut" / name))


@pytest.mark.parametrize("changes", [MEMORY, {}], ids=["in memory", "rolling"])
def test_a_signal_stops_and_says_how_to_go_on(lm, whole, tmp_path, monkeypatch, changes):
    runs = {k: v for k, v in runs_of(tmp_path, **changes).items() if k in ("base", "wide")}
    real = loop.Training.step

    def step(self, x, y):
        if self.index == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, x, y)

    monkeypatch.setattr(loop.Training, "step", step)
    with pytest.raises(Interrupted, match=f"sweep --resume {tmp_path / 'out'}"):
        sweep(runs, lm, tmp_path / "out", shown=False)
    monkeypatch.undo()
    sweep(read(tmp_path / "out"), lm, tmp_path / "out", resume=True, shown=False)
    left = whole(changes.get("buffer_tokens"))[0] / "out"
    for name in runs:
        assert_same(weights(left / name), weights(tmp_path / "out" / name))


def test_buffers_that_a_killed_writer_had_no_time_to_drop_go_on_resume(lm, tmp_path, monkeypatch):
    runs, out = {"a": world.run(tmp_path), "b": world.run(tmp_path, seed=3)}, tmp_path / "out"
    asked = []
    real = loop.Training.step

    def step(self, x, y):
        if self.index == 7 and not asked:  # a second signal would end this process
            asked.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, x, y)

    def killed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Training, "step", step)
    with pytest.raises(Interrupted):
        sweep(runs, lm, out, shown=False)
    monkeypatch.undo()
    newest = max((out / "checkpoints").glob("step-*"))
    old = [out / "checkpoints" / f"step-{i:09d}" for i in (1, 2)]
    for folder in old:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(newest, folder)
    monkeypatch.setattr(lockstep._Group, "step", killed)  # before it writes a checkpoint
    with pytest.raises(KeyboardInterrupt):
        sweep(read(out), lm, out, resume=True, shown=False)
    assert newest.exists() and not old[0].exists()


@pytest.mark.parametrize("changes", [MEMORY, {}], ids=["in memory", "rolling"])
def test_one_that_breaks_does_not_stop_the_others(lm, tmp_path, monkeypatch, changes):
    runs = {k: v for k, v in runs_of(tmp_path, **changes).items() if k in ("base", "wide")}
    real = loop.Training.step

    def step(self, x, y):
        poisoned = x * float("nan") if self.run.sae.d_sae == 96 and self.index == 9 else x
        return real(self, poisoned, y)

    monkeypatch.setattr(loop.Training, "step", step)
    broken = sweep(runs, lm, tmp_path / "out", shown=False)
    assert list(broken) == ["wide"] and "loss is nan" in broken["wide"].lower()
    status = {r["name"]: r["status"] for r in summary(runs, tmp_path / "out")}
    assert status == {"base": "done", "wide": "failed"}
    assert not (tmp_path / "out" / "wide" / "sae").exists()


def test_runs_that_cannot_share_are_refused(lm, tmp_path):
    run = world.run(tmp_path)
    for name, value in {"n_ctx": 16, "tokens": 10, "bos": False}.items():
        with pytest.raises(ConfigError, match=name):
            sweep({"a": run, "b": dataclasses.replace(run, **{name: value})}, lm, tmp_path / "o")
    with pytest.raises(ConfigError, match="at least one"):
        sweep({}, lm, tmp_path / "o")
    with pytest.raises(ConfigError, match="batch_tokens"):
        sweep({"a": run, "b": dataclasses.replace(run, batch_tokens=100)}, lm, tmp_path / "p")
    with pytest.raises(ConfigError, match="rollbacks"):
        sweep({"a": run, "b": dataclasses.replace(run, rollbacks=1)}, lm, tmp_path / "q")
    small = dataclasses.replace(run, buffer_tokens=run.step_tokens)
    orders = {str(i): dataclasses.replace(small, order_seed=i) for i in (0, 1)}
    with pytest.raises(ConfigError, match="order_seed of 0, 1"):
        sweep(orders, lm, tmp_path / "s")
    with pytest.raises(FormatError, match="sweep.json"):
        sweep({"a": run}, lm, tmp_path / "nothing", resume=True)
    sweep({"a": run}, lm, tmp_path / "r", shown=False)
    with pytest.raises(ConfigError, match="in use"):
        sweep({"a": run}, lm, tmp_path / "r")
    with pytest.raises(ConfigError, match=r"other settings \(runs\)"):
        sweep({"b": run}, lm, tmp_path / "r", resume=True)


def test_shared_passes_are_the_same_bits(lm):
    sites = lm.sites()[:3]
    tokens = torch.arange(64).view(2, 32)
    shared = SharedPasses(lm, sites)
    alone = lm.read(tokens, sites[:1])
    assert torch.equal(shared.read(tokens, sites[:1])[sites[0]], alone[sites[0]])
    shared.read(tokens.clone(), sites[1:])
    assert shared.passes == 1
    shared.read(tokens + 1, sites[:1])
    assert shared.passes == 2
    assert shared.provenance() == lm.provenance() and shared.n_layers == lm.n_layers


def test_a_view_gives_the_block_in_batches():
    view = lockstep.View(3, 1)
    x = torch.arange(8.0)[:, None]
    view.give((x, x))
    sizes = []
    while not view.served:
        sizes.append(len(view.batch()[0]))
    assert sizes == [3, 3, 2] and view.served_tokens == 8
