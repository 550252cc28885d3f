"""`saekit sweep`: combinations, names, one table, and plain refusals."""

import json

import pytest

from saekit.cli.main import main
from saekit.core.errors import ConfigError
from saekit.models.tiny import save_tiny
from saekit.training.variants import combinations, label
from tests import world

SMALL = ["--d-sae", "64", "--tokens", "3000", "--quiet", "--dtype", "float32", "--json"]
SMALL += ["--set", "n_ctx=32", "--set", "batch_tokens=128", "--set", "buffer_tokens=4096"]


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    save_tiny(folder / "model")
    world.text_file(folder, n_docs=600)
    return folder


def words(base, *more):
    return ["sweep", "--model", base / "model", "--corpus", base / "text.jsonl", *SMALL, *more]


def test_all_combinations_are_trained(base, capsys):
    vary = ["--vary", "k=4,8", "--vary", "arch=topk,batch_topk", "--vary", "lr=[1e-2]"]
    code, out, _ = call(capsys, *words(base, *vary, "--out", base / "out"))
    found = json.loads(out.splitlines()[-1])
    assert code == 0 and found["broken"] == {}
    names = [r["name"] for r in found["runs"]]
    assert names == [f"k{k}-{arch}-lr0.01" for k in (4, 8) for arch in ("topk", "batch_topk")]
    assert all(r["status"] == "done" for r in found["runs"])
    assert (
        call(
            capsys,
            "eval",
            base / "out" / names[0],
            "--set",
            "n_tokens=1024",
            "--set",
            "ce_tokens=256",
            "--set",
            "n_blocks=4",
            "--quiet",
        )[0]
        == 0
    )
    again, out, _ = call(capsys, "sweep", "--resume", base / "out", "--quiet")
    assert again == 0 and out.count("done") == 4


def test_commands_for_a_scheduler(base, capsys, tmp_path):
    more = ["--vary", "seed=0,1", "--emit", "--out", tmp_path / "jobs"]
    code, out, _ = call(capsys, *words(base, *more))
    commands = json.loads(out)["commands"]
    assert code == 0 and len(commands) == 2
    assert call(capsys, *commands[1].split()[1:], "--quiet", "--dtype", "float32")[0] == 0
    assert (tmp_path / "jobs" / "seed1" / "sae" / "config.json").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--vary", "k"], "k=16,32"),
        (["--vary", "k=4", "--vary", "k=8"], "twice"),
        (["--vary", "k=4,4"], "one name"),
        (["--vary", "k=65"], "d_sae"),
        (["--vary", "sae.nothing=1,2"], "nothing"),
        (["--vary", "site=L9.resid_post"], "L9"),
        (["--vary", "n_ctx=16,32"], "share"),
        (["--vary", "lr=[1"], "JSON"),
        (["--config", "nowhere.json"], "no file"),
        ([], "--vary k=16,32"),
    ],
)
def test_refusals_say_what_to_do(base, capsys, tmp_path, more, said):
    code, _, err = call(capsys, *words(base, *more, "--out", tmp_path / "no"))
    assert code in (1, 2) and said in err and "Traceback" not in err
    assert not (tmp_path / "no").exists()


def test_names_are_folders():
    assert combinations({}) == [{}] and label({}) == "only"
    assert label({"sae.k": 16, "site": "L3.mlp_out", "lr": 0.001}) == "k16-L3.mlp_out-lr0.001"
    assert label({"pair.window": "a/b c"}) == "windowa_b_c"
    with pytest.raises(ConfigError):
        combinations({"k": []})
