"""The command line on tiny models of every family: the whole job, and every way to be wrong."""

import json
import shutil

import pytest

from saekit.cli.main import main
from saekit.models.tiny import save_tiny
from saekit.saes.base import registry
from tests import world

FAMILIES = ["llama", "gpt2", "gpt_neox", "gemma", "qwen"]
SMALL = ["--d-sae", "64", "--k", "4", "--tokens", "3000", "--quiet", "--dtype", "float32"]
SAME = ["--dtype", "float32", "--quiet", "--json"]
SMALL += ["--set", "n_ctx=32", "--set", "batch_tokens=128", "--set", "buffer_tokens=512"]


def call(capsys, *words):
    """Return the exit code, the last line of stdout, and stderr."""
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    out, err = capsys.readouterr()
    return ended.value.code, (out.strip().splitlines() or [""])[-1], err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("with space")
    for family in FAMILIES:
        save_tiny(base / family, family)
    world.text_file(base, n_docs=600)
    return base


@pytest.fixture(scope="module")
def trained(folder):
    out = folder / "trained"
    with pytest.raises(SystemExit) as ended:
        main(words(folder, out))
    assert ended.value.code == 0
    return out


def words(folder, out, family="llama", *more):
    text, model = folder / "text.jsonl", folder / family
    site = ["--site", "L1.resid_post"]
    found = ["train", "--model", model, *site, "--corpus", text, *SMALL, "--out", out, *more]
    return [str(w) for w in found]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_job_on_each_family(folder, capsys, family, tmp_path):
    out = tmp_path / "run"
    assert call(capsys, *words(folder, out, family))[0] == 0
    small = ["--set", "n_tokens=2048", "--set", "ce_tokens=512", "--set", "n_blocks=8"]
    code, line, _ = call(capsys, "eval", out, *small, "--quiet", "--json")
    scores = json.loads(line)
    assert code == 0 and 0 < scores["fvu"] < 1 and scores["l0"] <= 4
    code, line, _ = call(capsys, "index", out, "--tokens", 1000, "--quiet", "--json")
    assert code == 0 and json.loads(line)["tokens"] >= 1000
    code, line, _ = call(capsys, "report", out, "--json")
    assert code == 0 and json.loads(line)["bytes"] > 10_000


SPARSITY = {  # settings in place of --k
    "jumprelu": "target_l0=4",
    "relu": "l1_coefficient=1",
    "gated": "l1_coefficient=1",
    "p_anneal": "l1_coefficient=1",
}


@pytest.mark.parametrize("arch", registry.names())
def test_every_architecture_trains_and_is_measured(folder, capsys, arch, tmp_path):
    out = tmp_path / "run"
    base = words(folder, out, "llama", "--arch", arch)
    if arch in SPARSITY:
        at = base.index("--k")
        base[at : at + 2] = ["--set", f"sae.{SPARSITY[arch]}"]
    if "site" in registry.get(arch).event:
        base += ["--site", "L0.resid_post"]
    code, _, err = call(capsys, *base)
    assert code == 0, err
    small = ["--set", "n_tokens=1024", "--set", "ce_tokens=256", "--set", "n_blocks=4"]
    code, line, err = call(capsys, "eval", out, *small, "--quiet", "--json")
    assert code == 0, err
    assert 0 < json.loads(line)["fvu"] < 2 and json.loads(line)["l0"] > 0


def test_an_sae_that_sites_share_is_used_site_by_site(folder, capsys, tmp_path):
    out = tmp_path / "run"
    code, _, err = call(capsys, *words(folder, out), "--site", "L0.resid_post", "--fold")
    assert code == 0, err
    code, _, err = call(capsys, "eval", out, "--quiet")
    assert code == 2 and "--site" in err
    for verb, *more in (
        ("eval", "--set", "n_tokens=512", "--set", "ce_tokens=0"),
        ("index", "--tokens", 500),
    ):
        code, _, err = call(capsys, verb, out, "--site", "L0.resid_post", *more, "--quiet")
        assert code == 0, err
    assert json.loads((out / "index" / "index.json").read_text())["site"] == "L0.resid_post"
    assert call(capsys, "report", out)[0] == 0
    assert call(capsys, "index", out, "--tokens", 500, "--quiet")[0] == 2  # one is in the place
    shutil.rmtree(out / "index")
    code, line, err = call(capsys, "index", out, "--tokens", 500, "--quiet", "--json")
    sites = [one["site"] for one in json.loads(line)["indexes"]]
    assert code == 0 and sorted(sites) == ["L0.resid_post", "L1.resid_post"], err
    assert call(capsys, "report", out)[0] == 0


def test_an_architecture_around_another_is_set_by_its_path(folder, capsys, tmp_path):
    more = ["--arch", "skip", "--set", "sae.inner.name=gated", "--set", "sae.inner.warm_up=0.5"]
    base = words(folder, tmp_path / "run", "llama", *more, "--target", "L1.mlp_out")
    at = base.index("--k")
    del base[at : at + 2]
    code, _, err = call(capsys, *base)
    assert code == 0, err
    inner = json.loads((tmp_path / "run" / "run.json").read_text())["sae"]["inner"]
    assert (inner["name"], inner["warm_up"], inner["d_sae"]) == ("gated", 0.5, 64)


def test_a_config_file_gives_the_same_run_back(folder, trained, capsys, tmp_path):
    out = tmp_path / "again"
    config = trained / "run.json"
    code, line, err = call(capsys, "train", "--config", config, "--out", out, *SAME)
    assert code == 0 and json.loads(line)["run"] == str(out), err
    weights = [(d / "sae" / "weights.safetensors").read_bytes() for d in (trained, out)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (["--site", "L9.resid_post"], 2, "Did you mean"),
        (["--site", "L1.resid_pots"], 2, "Did you mean `L1.resid_post`"),
        (["--arch", "topkk"], 2, "Did you mean `topk`"),
        (["--d-sae", "2"], 2, "`k` must be at most `d_sae`"),
        (["--k", "2.5"], 2, "whole number"),
        (["--set", "lrr=3"], 2, "Did you mean `lr`"),
        (["--set", "lr=-1"], 2, "above 0"),
        (["--tokens", "0"], 2, "at least 1"),
        (["--tokens", "100000000"], 1, "Ask for no more"),
        (["--device", "cuda"], 1, "cuda"),
        (["--device", "tpu"], 2, "tpu"),
        (["--dtype", "float8"], 2, "float8"),
        (["--corpus", "packagd"], 2, "Did you mean `packaged`"),
        (["--set", "n_ctx=100000"], 2, "tokens at most"),
        (["--nonsense"], 2, "nonsense"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(folder, capsys, tmp_path, change, code, said):
    import torch

    if change == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    out = tmp_path / "run"
    found, _, err = call(capsys, *words(folder, out, "llama", *change))
    assert (found, said.lower() in err.lower()) == (code, True), err
    assert "Traceback" not in err
    assert not (out / "sae").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\x00\x01\x02\xff" * 100, "NUL byte"),
        (b'{"text": "too short"}\n', "1 row"),
        (b'{"body": "no text here"}\n', "body"),
    ],
)
def test_text_that_cannot_be_used(folder, capsys, tmp_path, content, said):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    out = tmp_path / "run"
    code, _, err = call(capsys, *words(folder, out, "llama", "--corpus", path))
    assert code in (1, 2) and "Traceback" not in err
    assert said in err
    assert not out.exists()


def test_an_unknown_model_is_named(capsys, tmp_path, folder):
    found = words(folder, tmp_path / "run", "lama")
    code, _, err = call(capsys, *found)
    assert code in (1, 2) and "lama" in err and "Traceback" not in err


def test_a_folder_in_use_is_refused(folder, trained, capsys):
    code, _, err = call(capsys, *words(folder, trained))
    assert code == 2 and "in use" in err


def test_a_finished_run_is_not_resumed(trained, capsys):
    code, _, err = call(capsys, "train", "--resume", trained, "--quiet")
    assert code == 2 and "finished" in err


@pytest.mark.parametrize("command", ["eval", "index"])
def test_commands_say_when_there_is_no_run(command, capsys, tmp_path):
    code, _, err = call(capsys, command, tmp_path / "nothing")
    assert code == 1 and "no folder" in err


@pytest.mark.parametrize(
    "kind",
    ["saes", "metrics", "evals", "analyses", "formats", "models", "corpora", "truths", "recipes"],
)
def test_everything_can_be_listed(kind, capsys):
    code, line, _ = call(capsys, "list", kind, "--json")
    assert code == 0
    entries = json.loads(line)[kind]
    assert all(e["name"] and e["about"] for e in entries)
    assert entries or kind == "truths"
