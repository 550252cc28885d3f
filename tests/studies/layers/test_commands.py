"""`saekit layers` on a tiny model: one command trains, one analyses, one draws, one shows."""

import json

import pytest

from saekit.models.tiny import save_tiny
from tests import world
from tests.cli.test_cli import SAME, SMALL, call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("layers")
    save_tiny(base / "llama", n_layers=3)
    world.text_file(base, n_docs=600)
    return base


@pytest.fixture(scope="module")
def run(folder, request):
    from saekit.cli.main import main

    out = folder / "run"
    words = [
        "train",
        "--model",
        folder / "llama",
        "--site",
        "L*.resid_post",
        "--fold",
        "--arch",
        "standardised",
        "--corpus",
        folder / "text.jsonl",
        *SMALL,
        "--tokens",
        6000,
        "--out",
        out,
    ]
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    assert ended.value.code == 0
    return out


def test_the_whole_job(run, capsys, tmp_path):
    code, line, _ = call(capsys, "layers", "analyse", run, "--tokens", 640, "--quiet", "--json")
    found = json.loads(line)
    assert code == 0 and found["alive"] > 10 and found["tokens"] > 500
    for name in ("latents.csv", "layers.csv", "survey.json", "summary.json"):
        assert (run / "layers" / name).exists()
    text = (run / "layers" / "layers.csv").read_text().splitlines()
    assert len(text) == 4 and text[1].startswith("L0.resid_post,0,")

    pytest.importorskip("matplotlib")
    code, line, _ = call(capsys, "layers", "figures", run, "--tokens", 256, "--quiet", "--json")
    assert code == 0 and len(json.loads(line)["figures"]) == 8

    steer = ["--steer", "L0.resid_post:3:0.5"]
    code, line, _ = call(capsys, "layers", "prompt", run, "the cat sat", *steer, "--json")
    assert code == 0 and json.loads(line)["bytes"] > 10_000


def test_halves_merge_to_the_whole(run, capsys, tmp_path):
    parts = [tmp_path / n for n in ("a", "b", "all")]
    for part, first, tokens in zip(parts, (0, 10, 0), (320, 320, 640), strict=True):
        words = ["--tokens", tokens, "--first-row", first, "--out", part, "--quiet", "--json"]
        assert call(capsys, "layers", "analyse", run, *words)[0] == 0
    words = ["layers", "merge", *parts[:2], "--out", tmp_path / "both", "--json"]
    code, line, _ = call(capsys, *words)
    whole = json.loads((parts[2] / "summary.json").read_text())
    assert code == 0 and json.loads(line)["variances"] == pytest.approx(whole["variances"])
    code, _, err = call(capsys, "layers", "merge", parts[0], parts[2], "--out", tmp_path / "x")
    assert code == 2 and "would count twice" in err


def test_evaluation_of_some_layers(run, capsys):
    words = ["--tokens", 512, "--ce-tokens", 128, "--site", "L0,2.resid_post", "--quiet", "--json"]
    code, line, _ = call(capsys, "layers", "eval", run, *words)
    found = json.loads(line)
    assert code == 0 and found["L0.resid_post/fvu"] > 0 and found["all/ce_rise"] is not None
    assert "L1.resid_post/fvu" not in found
    assert (run / "eval" / "by_layer.csv").read_text().startswith("site,")


def test_baselines_and_comparison(run, capsys):
    site = ["--site", "L1.resid_post"]
    code, line, _ = call(capsys, "layers", "baselines", run, *site, "--quiet", "--json")
    assert code == 0 and list(json.loads(line)["baselines"]) == ["L1.resid_post"]
    code, line, _ = call(capsys, "layers", "compare", run, *site, "--tokens", 320, "--json")
    found = json.loads(line)
    assert code == 0 and found["same_run"] == [True] and found["single_fvu"][0] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["analyse", "--site", "L7.resid_post"], "no site `L7.resid_post`"),
        (["analyse", "--site", "L0.mlp_out"], "got L0.mlp_out"),
        (["analyse", "--tokens", 0], "`tokens` must be at least 1"),
        (["analyse", "--split", "valid"], "got valid"),
        (["prompt", "--", ""], "The prompt is empty"),
        (["prompt", "a", "--steer", "L0.resid_post:3"], "LAYER:LATENT:FACTOR"),
        (["prompt", "a", "--steer", "L0.resid_post:300:1"], "no latent 300"),
        (["figures", "--survey", "nowhere"], "saekit layers analyse"),
        (["figures", "--suffix", "gif"], "analyse|gif"),
        (["baselines", "--tokens", 100, "--n-ctx", 16], "says so itself; got --tokens, --n-ctx"),
        (["analyse", "--n-ctx", 1], "`--n-ctx` must be at least 2"),
    ],
)
def test_what_is_wrong_is_said(run, capsys, words, message):
    import re

    command, *rest = words
    code, _, err = call(capsys, "layers", command, run, *rest)
    assert code in (1, 2) and re.search(message, err), err


def test_a_recipe_on_another_model(folder, capsys, tmp_path):
    words = [
        "train",
        "--recipe",
        "mlsae",
        "--model",
        folder / "llama",
        "--site",
        "L*.resid_post",
        "--corpus",
        folder / "text.jsonl",
        "--tokens",
        3000,
        "--d-sae",
        64,
        "--k",
        4,
        "--set",
        "n_ctx=32",
        "--set",
        "batch_tokens=128",
        "--set",
        "buffer_tokens=512",
        "--set",
        "dead_after_tokens=1000",
        "--out",
        tmp_path / "run",
        *SAME,
    ]
    code, _, err = call(capsys, *words)
    assert code == 0, err
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert made["sae"]["inner"]["k"] == 4 and made["sae"]["d_in"] == 32
    assert made["pair"]["read"] == [f"L{i}.resid_post" for i in range(3)]
    assert made["schedule"] == "constant" and made["normalise"] == "none"
    code, _, err = call(capsys, "train", "--recipe", "mlsae", "--arch", "topk")
    assert code == 2 and "`sae` does not go with a recipe" in err
