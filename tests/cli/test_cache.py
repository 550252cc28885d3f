"""`saekit cache` and `saekit train --cache`, as typed."""

import json

import pytest

from saekit.models.tiny import save_tiny
from tests import world
from tests.cli.test_cli import call

SMALL = ["--dtype", "float32", "--precision", "float32", "--set", "n_ctx=32"]
SMALL += ["--set", "shard_bytes=150000", "--json"]
TRAIN = ["--d-sae", "64", "--k", "4", "--set", "batch_tokens=128", "--quiet", "--json"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("with space")
    save_tiny(folder / "model")
    world.text_file(folder, n_docs=400)
    return folder


def write(base, out, *more):
    text = ["--model", base / "model", "--corpus", base / "text.jsonl", "--tokens", 4000]
    return ["cache", "write", *text, "--site", "L0.resid_post", *SMALL, *more, "--out", out]


@pytest.fixture(scope="module")
def store(base):
    from saekit.cli.main import main

    out = base / "cache"
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in write(base, out, "--site", "L1.resid_post", "--quiet")])
    assert ended.value.code == 0
    return out


@pytest.mark.slow
def test_the_whole_job(base, capsys, tmp_path):
    out = tmp_path / "cache"
    code, line, err = call(capsys, *write(base, out))
    found = json.loads(line)
    assert code == 0 and found["kept_tokens"] >= 4000, err
    assert "GB for 4,000 tokens" in err.splitlines()[0] or "GB for 4,000 tokens" in err
    code, line, _ = call(capsys, "cache", "info", out, "--json")
    assert code == 0 and json.loads(line) == found
    run = tmp_path / "run"
    code, line, err = call(capsys, "train", "--cache", out, *TRAIN, "--out", run)
    assert code == 0, err
    log = (run / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["tokens"] == found["kept_tokens"]
    small = ["--set", "n_tokens=1024", "--set", "ce_tokens=256", "--set", "n_blocks=4"]
    code, line, err = call(capsys, "eval", run, *small, "--quiet", "--json")
    assert code == 0 and 0 < json.loads(line)["fvu"] < 1, err
    assert json.loads((run / "run.json").read_text())["n_ctx"] == 32


def test_damage_is_found_and_mended(base, capsys, tmp_path):
    out = tmp_path / "cache"
    assert call(capsys, *write(base, out, "--quiet"))[0] == 0
    file = sorted(out.glob("*.safetensors"))[1]
    good = file.read_bytes()
    file.write_bytes(good[:-50])
    code, line, err = call(capsys, "cache", "check", out, "--json")
    assert code == 1 and json.loads(line)["damaged"] == [file.name] and "damaged" in err
    code, _, err = call(capsys, "train", "--cache", out, *TRAIN, "--out", tmp_path / "run")
    assert code == 1 and f"--repair {out}" in err and not (tmp_path / "run").exists()
    code, line, err = call(capsys, "cache", "write", "--repair", out, "--quiet", "--json")
    assert code == 0 and json.loads(line)["rewritten"] == [file.name], err
    assert file.read_bytes() == good
    assert call(capsys, "cache", "check", out)[0] == 0


def test_more_is_written_where_more_is_asked(base, capsys, tmp_path):
    out = tmp_path / "cache"
    assert call(capsys, *write(base, out, "--quiet"))[0] == 0
    words = ["cache", "write", "--resume", out, "--tokens", 6000, "--quiet", "--json"]
    code, line, err = call(capsys, *words)
    assert code == 0 and json.loads(line)["kept_tokens"] >= 6000, err


def test_a_run_goes_on_from_its_cache_and_from_where_that_was_moved(
    base, store, capsys, tmp_path, monkeypatch
):
    from tests.training.cut import Killed, Training

    real = Training.step

    def step(self, x, y):
        if self.index == 20:
            raise Killed
        return real(self, x, y)

    words = ["train", "--cache", store, "--site", "L1.resid_post", *TRAIN]
    for setting in ("buffer_tokens=512", "shuffle=full", "checkpoint_tokens=1000"):
        words += ["--set", setting]
    assert call(capsys, *words, "--out", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", step)
        with pytest.raises(Killed):
            from saekit.cli.main import main

            main([str(w) for w in [*words, "--out", tmp_path / "cut"]])
    moved = base / "moved"
    store.rename(moved)
    try:
        code, _, err = call(capsys, "train", "--resume", tmp_path / "cut", "--quiet")
        assert code == 1 and str(store) in err
        again = ["train", "--resume", tmp_path / "cut", "--cache", moved, "--quiet"]
        code, _, err = call(capsys, *again)
        assert code == 0, err
    finally:
        moved.rename(store)
    names = [tmp_path / n / "sae" / "weights.safetensors" for n in ("whole", "cut")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_export_and_import(base, store, capsys, tmp_path):
    pytest.importorskip("pyarrow")
    arrow = tmp_path / "arrow"
    words = ["cache", "export", store, "--site", "L1.resid_post", "--out", arrow, "--quiet"]
    assert call(capsys, *words)[0] == 0
    words = ["cache", "import", arrow, "--model", base / "model", "--site", "L1.resid_post"]
    words += ["--corpus", base / "text.jsonl", "--out", tmp_path / "back", "--quiet", "--json"]
    code, line, err = call(capsys, *words)
    assert code == 0 and json.loads(line)["imported"]["column"] == "blocks.1.hook_resid_post", err
    words = ["train", "--cache", tmp_path / "back", *TRAIN, "--out", tmp_path / "run"]
    code, _, err = call(capsys, *words)
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["train", "--cache", "STORE", *TRAIN], 2, "name what to read with `site`"),
        (["train", "--cache", "STORE", "--model", "gpt2", *TRAIN], 2, "`model` does not fit"),
        (["train", "--cache", "STORE", "--corpus", "stdlib", *TRAIN], 2, "`corpus` does not fit"),
        (["train", "--cache", "STORE", "--site", "L1.mlp_out", *TRAIN], 2, "has L0.resid_post"),
        (
            ["train", "--cache", "STORE", "--site", "L1.resid_post", "--set", "n_ctx=64", *TRAIN],
            2,
            "`n_ctx` does not fit",
        ),
        (
            ["train", "--cache", "STORE", "--site", "L1.resid_post", "--tokens", "99999", *TRAIN],
            1,
            "saekit cache write --resume",
        ),
        (["train", "--cache", "nowhere", *TRAIN], 1, "saekit cache write"),
        (["cache", "info", "nowhere"], 1, "holds no activations"),
        (["cache", "export", "STORE", "--out", "x"], 2, "--site"),
        (["cache", "write", "--resume", "a", "--repair", "b"], 2, "not both"),
        (
            ["cache", "write", "--precision", "float9", "--model", "MODEL", "--corpus", "TEXT"],
            2,
            "precision",
        ),
    ],
)
def test_what_is_wrong_is_said(base, store, capsys, words, code, said):
    names = {"STORE": store, "MODEL": base / "model", "TEXT": base / "text.jsonl"}
    found, _, err = call(capsys, *[names.get(w, w) for w in words])
    assert (found, said in err) == (code, True), err
    assert "Traceback" not in err
