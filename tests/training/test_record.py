"""What a run writes of itself first: compared on resume, found again, read in older forms."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saekit.cli.main import main
from saekit.core.config import override
from saekit.core.errors import ConfigError, DataError, FormatError, TrainingError
from saekit.core.files import read_json, read_tensors, write_json
from saekit.data.corpora.files import Files
from saekit.hub import native
from saekit.models.tiny import save_tiny
from saekit.report.watch import over
from saekit.training import record
from saekit.training import sweep_loop as sweep
from saekit.training.building import default_folder
from saekit.training.loop import begun_with_of, train
from saekit.training.run import Run
from saekit.training.sources import _cache_folder
from saekit.training.trainer import Training
from tests import world

OLDER = Path(__file__).parent / "older"


class Killed(BaseException):
    pass


@pytest.fixture
def older(tmp_path):
    """Older folders where they can be written to."""
    return shutil.copytree(OLDER, tmp_path / "older")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def command(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    return ended.value.code


def kill_at(monkeypatch, step):
    real = Training.step

    def killed(self, x, y):
        if self.index == step:
            raise Killed
        return real(self, x, y)

    monkeypatch.setattr(Training, "step", killed)


@pytest.mark.parametrize(
    "names",
    [("begun", "done"), ("begun_versioned", "done_versioned"), ("truth_begun", "truth_done")],
)
def test_a_run_of_an_older_version_goes_on_from_another_directory(older, elsewhere, names):
    begun, done = (older / name for name in names)
    is_truth = names[0].startswith("truth")
    before = (begun / ("fit.json" if is_truth else "run.json")).read_bytes()
    verb = ["train"] if not is_truth else ["truth", "train", "--truth", older / "truth"]
    assert command(*verb, "--resume", begun, "--quiet") == 0
    got, want = (read_tensors(f / "sae/weights.safetensors") for f in (begun, done))
    for name, value in want.items():  # other machines round in other ways
        torch.testing.assert_close(got[name], value, atol=1e-3, rtol=1e-3)
    starts = [r for r in (begun / "log.jsonl").read_text().splitlines() if '"start"' in r]
    assert '"step": 16' in starts[-1]  # from its checkpoint, not from the beginning
    assert before == (begun / ("fit.json" if is_truth else "run.json")).read_bytes()
    assert record.status(begun) == "done"


@pytest.mark.parametrize("name", ["done", "done_versioned"])
def test_an_sae_of_an_older_version_loads_and_is_evaluated(older, elsewhere, name):
    assert native.load(older / name).sae.cfg.d_sae == 16
    assert (
        command("eval", older / name, "--set", "n_tokens=500", "--set", "ce_tokens=200", "--quiet")
        == 0
    )
    assert read_json(older / name / "eval" / "core.json")["scores"]["fvu"]["value"] > 0


def test_an_older_run_without_its_dtype_is_refused_by_version(older, capsys):
    (older / "begun/manifest.json").unlink()
    assert command("train", "--resume", older / "begun") == 1
    assert "saekit 0.1.0" in capsys.readouterr().err


def test_a_later_version_is_named(tmp_path):
    begun = {record.VERSION_KEY: record.VERSION + 1, record.BEGUN_KEY: {"saekit": "9.1"}}
    write_json(tmp_path / "run.json", begun)
    with pytest.raises(FormatError, match="saekit 9.1; .* reads up to 1. Upgrade"):
        record.read(tmp_path / "run.json")


def test_what_decides_the_weights_is_there_before_the_first_of_the_text(tmp_path, monkeypatch):
    def killed(*_, **__):
        raise Killed

    monkeypatch.setattr("saekit.training.loop.open_harvest", killed)
    lm = world.model()
    with pytest.raises(Killed):
        train(world.run(tmp_path), lm, tmp_path / "out", shown=False)
    found = record.read(tmp_path / "out/run.json")
    assert found.version == record.VERSION and found.begun_with["model"] == lm.provenance()
    assert found.begun_with["text"] and not list((tmp_path / "out").glob("*.safetensors"))
    (tmp_path / "out/manifest.json").unlink()
    monkeypatch.undo()
    train(world.run(tmp_path), lm, tmp_path / "out", resume=True, shown=False)


def test_a_text_that_changed_is_refused_and_one_that_moved_is_not(tmp_path, monkeypatch):
    run, lm = world.run(tmp_path), world.model()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 30)
        train(run, lm, tmp_path / "out", shown=False)
    text = Path(run.corpus.paths[0])  # type: ignore[attr-defined]
    moved = text.rename(tmp_path / "other.jsonl")
    there = override(run, [f'corpus.paths=["{moved}"]'])
    original = moved.read_text()
    moved.write_text(original.replace("0.", "9."))
    with pytest.raises(ConfigError, match="text of `corpus` is not what it was"):
        train(there, lm, tmp_path / "out", resume=True, shown=False)
    moved.write_text(original)
    train(there, lm, tmp_path / "out", resume=True, shown=False)


def test_other_settings_are_named(tmp_path, monkeypatch):
    run, lm = world.run(tmp_path), world.model()
    with pytest.raises(Killed):
        kill_at(monkeypatch, 3)
        train(run, lm, tmp_path / "out", shown=False)
    with pytest.raises(ConfigError, match=r"other settings \(lr, seed\)"):
        train(override(run, ["lr=1e-4", "seed=2"]), lm, tmp_path / "out", resume=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sweep_killed_before_its_first_run_keeps_the_dtype(tmp_path, monkeypatch, dtype):
    model, text = save_tiny(tmp_path / "lm"), world.text_file(tmp_path)

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(sweep, "_harvests", killed)
        main(
            [
                "sweep",
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
                "--vary",
                "seed=0,1",
                "--quiet",
                "--dtype",
                dtype,
                "--out",
                str(tmp_path / "out"),
                "--set",
                "n_ctx=16",
            ]
        )
    assert command("sweep", "--resume", tmp_path / "out", "--quiet") == 0
    for name in ("seed0", "seed1"):
        assert read_json(tmp_path / "out" / name / "manifest.json")["model"]["dtype"] == dtype


def test_a_text_that_is_too_short_leaves_no_folder(tmp_path):
    run = world.run(tmp_path, tokens=10**6, buffer_tokens=10**6)
    for _ in range(2):  # the same command can be given again
        with pytest.raises(DataError):
            train(run, world.model(), tmp_path / "out", shown=False)
        assert not (tmp_path / "out").exists()


def test_runs_that_differ_have_folders_that_differ(tmp_path):
    run, lm = world.run(tmp_path), world.model()
    others = ["sae.k=5", "seed=1", "lr=1e-3", "tokens=7000", "n_ctx=31", "checkpoint_tokens=9"]
    names = {default_folder(override(run, [s]), lm) for s in others} | {default_folder(run, lm)}
    assert len(names) == len(others) + 1
    assert default_folder(run, lm) == default_folder(world.run(tmp_path), lm)
    assert "k4-seed0" in default_folder(run, lm).name


HOLD = """
import sys, time
from pathlib import Path
from saekit.core.lock import claimed
with claimed(Path(sys.argv[1]), "saekit train"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_while_the_first_lives_and_watch_sees_it_die(tmp_path):
    out = tmp_path / "out"
    first = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    write_json(out / "manifest.json", {"kind": "train", "status": "running"})
    assert record.status(out) == "running" and not over([out])
    with pytest.raises(ConfigError, match=f"in use by process {first.pid} on"):
        train(world.run(tmp_path), world.model(), out, shown=False)
    first.kill()
    first.communicate()
    assert record.status(out) == "killed" and over([out])


def test_a_run_that_failed_says_so_and_why(tmp_path, monkeypatch):
    def broken(*_):
        raise TrainingError("the loss is not finite")

    monkeypatch.setattr(Training, "step", broken)
    with pytest.raises(TrainingError):
        train(world.run(tmp_path), world.model(), tmp_path / "out", shown=False)
    said = read_json(tmp_path / "out/manifest.json")
    assert (said["status"], said["reason"]) == ("failed", "the loss is not finite")
    assert '"stopped"' in (tmp_path / "out/log.jsonl").read_text().splitlines()[-1]


def test_folders_that_were_moved_together_are_found(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    save_tiny(old / "models/lm")
    (old / "data").mkdir()
    world.text_file(old / "data", n_docs=3)
    (old / "runs/a").mkdir(parents=True)
    raw = {"model": str(old / "models/lm"), "corpus": {"paths": [str(old / "data/*.jsonl")]}}
    made = {"folder": str(old / "runs/a"), "cwd": str(old)}
    assert record.found_again(raw, old / "runs/a", made) == raw
    old.rename(new)
    found = record.found_again(raw, new / "runs/a", made)
    assert found["model"] == str(new / "models/lm")
    assert found["corpus"]["paths"] == [str(new / "data/*.jsonl")]
    (new / "models/lm").rename(new / "gone")
    with pytest.raises(FormatError, match=f"{old}/models/lm.*not there now.*--model"):
        record.found_again(raw, new / "runs/a", made)


def test_the_order_of_files_does_not_depend_on_where_they_lie(tmp_path):
    for place in ("a", "b/c"):
        (tmp_path / place).mkdir(parents=True)
        for name in "uvwxyz":
            (tmp_path / place / f"{name}.txt").write_text(name)
    orders = [
        [p.name for p in Files(paths=(str(tmp_path / place / "*.txt"),)).found()]
        for place in ("a", "b/c")
    ]
    assert orders[0] == orders[1] and len(orders[0]) == 6


def test_a_models_folder_is_recorded_absolute(tmp_path, monkeypatch):
    save_tiny(tmp_path / "lm")
    monkeypatch.chdir(tmp_path)
    assert record.absolute({"model": "lm"}) == {"model": str(tmp_path / "lm")}
    assert record.absolute({"model": "owner/name"}) == {"model": "owner/name"}


def test_a_run_file_of_today_begins_another_run(tmp_path):
    run = world.run(tmp_path)
    record.begin(tmp_path / "run.json", run.to_dict(), {"saekit": "0"})
    raw = record.settings_of(read_json(tmp_path / "run.json"), tmp_path)
    assert Run.from_dict(raw) == run


@pytest.mark.parametrize(
    ("file", "raw", "read", "said"),
    [
        ("run.json", {"begun_with": [1]}, lambda f: record.read(f / "run.json"), "begun_with"),
        (
            "run.json",
            {"format_version": 9, "begun_with": [1]},
            lambda f: record.read(f / "run.json"),
            "begun_with",
        ),
        ("manifest.json", [1], record.is_done, "must hold an object"),
        ("manifest.json", {}, lambda f: begun_with_of(record.Record({}, {}, 0), f), "not a run"),
        ("manifest.json", {"cache": [1]}, _cache_folder, "not a run"),
        ("sweep.json", {"runs": {"a": [1]}, "format_version": 1}, sweep.read, "not a sweep"),
        ("sweep.json", {"runs": {}, "format_version": 1}, sweep.read, "no run"),
        ("a/manifest.json", {}, sweep.begun_with_of, "not a sweep"),
        ("a/log.jsonl", {}, lambda f: sweep.summary({"a": world.run(f)}, f), "not the log"),
    ],
)
def test_a_hurt_record_is_refused_by_name(tmp_path, file, raw, read, said):
    for name in ("run.json", "sweep.json"):
        write_json(tmp_path / name, {})
    write_json(tmp_path / file, raw)
    with pytest.raises(FormatError, match=said) as found:
        read(tmp_path)
    assert str(tmp_path) in str(found.value)


@pytest.mark.parametrize("raw", [{"corpus": {"paths": 3}}, {"corpus": {"parts": [3]}}])
def test_settings_that_are_none_are_not_looked_for(tmp_path, raw):
    with pytest.raises(FormatError, match=f"{tmp_path} is damaged"):
        record.found_again(raw, tmp_path, {})
