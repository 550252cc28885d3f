"""`saekit train --activations` and `--start-from`, as they are typed."""

import json

import numpy as np
import pytest

import saekit
from saekit.models.tiny import save_tiny
from tests import world
from tests.cli.test_cli import call

SMALL = ["--d-sae", "32", "--k", "3", "--epochs", "2", "--set", "lr=1e-2", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("own")
    (base / "v").mkdir()
    chance = np.random.default_rng(0)
    for i in range(2):
        np.save(base / "v" / f"{i}.npy", chance.standard_normal((300, 8)).astype(np.float16))
    np.save(base / "y.npy", chance.standard_normal((600, 6)).astype(np.float32))
    save_tiny(base / "lm", "llama")
    world.text_file(base)
    return base


def test_vectors_in_files_are_trained_on_and_measured(folder, capsys):
    out = folder / "a"
    code, last, _ = call(
        capsys, "train", "--activations", folder / "v", *SMALL, "--out", out, "--json"
    )
    made = json.loads(last)
    held_out = json.loads((out / "held_out.json").read_text())["scores"]
    assert code == 0 and made["fvu"] == held_out["fvu"]["value"] and made["l0"] == 3
    assert saekit.load(out).d_sae == 32
    code, _, said = call(capsys, "train", "--resume", out)
    assert code == 2 and "is finished" in said
    code, _, said = call(capsys, "eval", out)
    assert code == 2 and "fitted to vectors" in said


def test_a_transcoder_and_another_that_begins_from_it(folder, capsys):
    both = ["--activations", folder / "v" / "*.npy", "--target", folder / "y.npy"]
    code, _, _ = call(capsys, "train", *both, *SMALL, "--out", folder / "t")
    assert code == 0 and saekit.load(folder / "t").d_out == 6
    code, last, _ = call(
        capsys,
        "train",
        *both,
        "--start-from",
        folder / "t",
        "--epochs",
        "1",
        "--quiet",
        "--json",
        "--out",
        folder / "u",
    )
    assert code == 0 and 0 < json.loads(last)["l0"] <= 3
    assert saekit.load(folder / "u").card.provenance["start_from"]["folder"] == str(folder / "t")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "x"], "`--model` is of a language model"),
        (["--site", "L1.resid_post"], "`--site` is of a language model"),
        (["--k", "3", "--arch", "gated"], "keeps no fixed k"),
        (["--key", "emb", "--set", "sae.nothing=1"], "no setting `nothing`"),
        (["--tokens", "1000"], "not held out"),
        (["--start-from", "nowhere"], "no folder nowhere"),
    ],
)
def test_what_vectors_do_not_take_is_refused(folder, capsys, words, said):
    given = ["--activations", folder / "v", "--out", folder / "x"]
    code, _, err = call(capsys, "train", *given, *words)
    assert code in (1, 2) and said in err
    code, _, err = call(capsys, "train", "--key", "emb")
    assert code == 2 and "Name them with --activations" in err


def test_training_on_a_model_begins_from_an_sae_and_resumes_alone(folder, capsys):
    plain = ["--corpus", folder / "text.jsonl", "--tokens", "2000", "--quiet", "--json"]
    rest = ["--set", "n_ctx=32", "--set", "batch_tokens=128", "--set", "buffer_tokens=512"]
    first = ["--model", folder / "lm", "--site", "L1.resid_post", "--d-sae", "64", "--k", "4"]
    code, _, said = call(capsys, "train", *first, *plain, *rest, "--out", folder / "one")
    assert code == 0, said
    code, last, said = call(
        capsys, "train", "--start-from", folder / "one", *plain, *rest, "--out", folder / "two"
    )
    assert code == 0, said
    sae = saekit.load(json.loads(last)["sae"])
    assert sae.card.run["sae"]["k"] == 4 and sae.card.pair.read == ("L1.resid_post",)
    assert sae.card.run["model"] == str(folder / "lm")
    code, _, said = call(
        capsys, "train", "--start-from", folder / "one", "--arch", "relu", *plain, *rest
    )
    assert code == 2 and "those of the SAE to begin from" in said
