"""Ctrl-C at any time says what is kept, in one sentence; nothing of the user's is deleted."""

import errno

import pytest

from saekit import recipes
from saekit.cli import demo
from saekit.cli.main import main
from saekit.core.errors import ResourceError
from saekit.core.files import read_json, write_json
from saekit.models.tiny import save_tiny
from saekit.training import record
from saekit.training.log import Log
from saekit.training.loop import train
from saekit.training.trainer import Training
from tests import world


@pytest.fixture
def words(tmp_path):
    model, text = save_tiny(tmp_path / "lm"), world.text_file(tmp_path)
    return [
        "train",
        "--model",
        str(model),
        "--corpus",
        str(text),
        "--site",
        "L1.resid_post",
        "--d-sae",
        "32",
        "--k",
        "4",
        "--tokens",
        "900",
        "--set",
        "n_ctx=16",
        "--quiet",
        "--out",
        str(tmp_path / "out"),
    ]


def interrupted(*_, **__):
    raise KeyboardInterrupt


def told(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    err = capsys.readouterr().err
    assert ended.value.code == 130 and "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("saekit:")]) == 1
    return err


def test_before_anything_was_claimed_nothing_was_written(words, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("saekit.training.train.load_model", interrupted)
    monkeypatch.setattr("saekit.core.lock._last", [])
    assert "Nothing was written" in told(words, capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["saekit.training.loop.open_harvest", "saekit.hub.native.save"])
def test_outside_the_steps_it_says_how_to_go_on(words, monkeypatch, capsys, tmp_path, place):
    with monkeypatch.context() as patch:
        patch.setattr(place, interrupted)
        assert f"saekit train --resume {tmp_path / 'out'}" in told(words, capsys)
    assert record.status(tmp_path / "out") == "interrupted"
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", str(tmp_path / "out"), "--quiet"])
    assert ended.value.code == 0


def test_a_second_one_while_a_checkpoint_is_written_is_one_sentence(
    words, monkeypatch, capsys, tmp_path
):
    import os
    import signal

    real = Training.step

    def step(self, x, y):
        if self.index == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, x, y)

    def save(self, *_, **__):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Training, "step", step)
    monkeypatch.setattr(Training, "save", save)
    assert f"saekit train --resume {tmp_path / 'out'}" in told(words, capsys)


def test_a_full_disk_at_the_log_is_one_sentence(tmp_path, monkeypatch):
    real = Log.write

    class Full:
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, kind, **record):
        if kind == "step":
            self._file.close()
            self._file = Full()
        real(self, kind, **record)

    monkeypatch.setattr(Log, "write", write)
    with pytest.raises(ResourceError, match=r"log.jsonl: No space left .* go on with"):
        train(world.run(tmp_path), world.model(), tmp_path / "out", shown=False)


def test_fresh_refuses_what_is_no_demo_and_keeps_what_a_demo_did_not_write(tmp_path, capsys):
    mine = tmp_path / "mine"
    record.begin(mine / "run.json", world.run(tmp_path).to_dict(), {})
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--fresh", "--out", str(mine)])
    assert ended.value.code == 2 and "something else than a demo" in capsys.readouterr().err
    assert read_json(mine / "run.json")["tokens"] == 6000
    theirs, run = tmp_path / "demo", recipes.get("demo")
    record.begin(theirs / "run.json", run.to_dict(), {})
    write_json(theirs / "index/index.json", {})
    (theirs / "notes.txt").write_text("mine")
    demo._check_is_demo(theirs, run)
    demo._throw_away(theirs)
    assert [p.name for p in theirs.iterdir()] == ["notes.txt"]
