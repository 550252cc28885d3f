"""Logs as they grow: each record once, a dashboard that reads them, copies for other tools."""

import json
import threading
import time
import types

import pytest

from saekit.cli.main import main
from saekit.core.errors import FormatError, MissingExtraError
from saekit.core.files import to_json_line, write_json, write_text
from saekit.core.lock import claimed
from saekit.report import watch
from saekit.report.follow import follow
from saekit.report.trackers.base import numbers, registry


def step(i, **more):
    found = {"kind": "step", "step": i, "tokens": 100 * i, "loss": 1 / i, "terms": {"mse": 1 / i}}
    found |= {"fvu": 0.5 / i, "l0": 8.0, "dead": 3, "lr": 1e-3, "tokens_per_second": 50.0}
    return found | {"memory_bytes": 2_500_000_000} | more


def put(run, records, status="running"):
    lines = "".join(to_json_line(r) + "\n" for r in records)
    write_text(run / "log.jsonl", lines + '{"torn')
    write_json(run / "run.json", {"tokens": 1000, "epochs": 2})
    write_json(run / "manifest.json", {"status": status})


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    put(tmp_path / "run", [{"kind": "start", "step": 0}, step(1), step(2)])
    with claimed(tmp_path / "run", "a test"):  # or it counts as killed
        yield tmp_path / "run"


def test_records_come_once_and_again_where_they_were_written_anew(run):
    found = []

    def read():
        found.extend(r["step"] for r in follow(run, wait=True, every_seconds=0.02))

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.15)
    back = [step(1), {"kind": "rollback", "step": 1}, step(2, l0=9)]
    put(run, [{"kind": "start", "step": 0}, *back])
    time.sleep(0.15)
    put(run, [{"kind": "start", "step": 0}, *back, step(3)], "done")
    reader.join(5)
    assert found == [0, 1, 2, 1, 2, 3]


def test_the_dashboard_says_how_it_goes(run):
    text = watch.dashboard(run)
    assert "running, 10 % of 2,000 tokens, step 2, 36s left" in text
    assert "0.25" in text and "2.50" in text and "█▁" in text
    put(run, [])
    assert "no step" in watch.dashboard(run)
    (run / "log.jsonl").unlink()
    assert "no step" in watch.dashboard(run)


def test_a_course_shows_the_last_value_and_what_is_not_finite():
    assert watch.spark([0, 1, 2, 3], 4) == "▁▃▆█" and watch.spark([1.0], 9) == "▁"
    assert watch.spark(list(range(100)), 2)[-1] == "█"
    assert watch.spark([1.0, float("nan"), 2.0], 3) == "▁!█"


def test_commands(run, capsys):
    for words in (["watch", str(run), "--json"], ["watch", str(run), "--once"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert json.loads(first)["runs"][0]["fvu"] == 0.25
    put(run, [step(1)], "done")
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(run)])  # ends by itself: the run is over
    assert ended.value.code == 0
    for words in (
        ["watch", str(run.parent)],
        ["track", str(run.parent), "--to", "wandb"],
        ["track", str(run), "--to", "paper"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code != 0
    err = capsys.readouterr().err
    assert "no sweep" in err and "no manifest" in err and "paper" in err


@pytest.mark.parametrize("name", registry.names())
def test_trackers_get_every_step_or_name_their_extra(run, monkeypatch, name):
    written = []
    fake = types.SimpleNamespace(
        init=lambda **kw: fake,
        define_metric=lambda *a, **kw: None,
        finish=lambda: None,
        close=lambda: None,
        add_text=lambda *a: None,
        SummaryWriter=lambda *a, **kw: fake,
        add_scalar=lambda n, v, s: written.append((s, n, v)),
        log=lambda found, step=None: written.extend(
            (step or found["step"], n, v) for n, v in found.items() if n != "step"
        ),
    )
    module = {"tensorboard": "torch.utils.tensorboard"}.get(name, name)
    monkeypatch.setitem(__import__("sys").modules, module, fake)
    put(run, [{"kind": "start", "step": 0}, step(1), step(2)], "done")
    assert registry.get(name)().copy(run, {}, wait=True) == 2
    assert {s for s, *_ in written} == {1, 2}
    assert (2, "metrics/explained_variance", 0.75) in written
    assert len(written) == 2 * len(numbers(step(1)))
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"saekit\[{name}\]"):
        registry.get(name)().copy(run, {}, wait=False)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FormatError, match="manifest"):
        list(follow(tmp_path, wait=False))


def test_what_is_left_of_a_run():
    from saekit.core.progress import seconds_left

    assert seconds_left(250, 1000, 50) == 15 and seconds_left(1200, 1000, 50) == 0
