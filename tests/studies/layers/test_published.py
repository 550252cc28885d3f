"""Every line of the original's README, with our commands, on folders as MLSAEs are published."""

import csv
import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import saekit
from saekit.models.tiny import save_tiny
from tests import world
from tests.cli.test_cli import SAME, call

D, LAYERS, N_CTX = 32, 2, 32
SHORT = ["--n-ctx", N_CTX, "--quiet", "--json"]
QUICK = ["--tokens", 640]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    base = tmp_path_factory.mktemp("published")
    save_tiny(base / "pythia", "gpt_neox", n_layers=LAYERS)
    world.text_file(base, n_docs=600)
    for factor, k in ((2, 4), (4, 4), (4, 8)):
        publish(base, factor, k)
    return base


def publish(base, factor, k, seed=0):
    """Write an MLSAE of a model in both published layouts; see the specification of each key."""
    n, g = factor * D, torch.Generator().manual_seed(seed + factor + k)
    decoder = torch.nn.functional.normalize(torch.randn(D, n, generator=g), dim=0)
    w = {
        "encoder.weight": decoder.T.contiguous(),
        "decoder.weight": decoder,
        "pre_encoder_bias": 0.1 * torch.randn(D, generator=g),
    }
    alone = base / f"plain-x{factor}-k{k}"
    alone.mkdir()
    save_file(w, alone / "model.safetensors")
    config = {
        "n_inputs": D,
        "n_latents": n,
        "k": k,
        "dead_steps_threshold": 76,
        "dead_threshold": 1e-3,
        "auxk": 256,
        "standardize": True,
    }
    (alone / "config.json").write_text(json.dumps(config))

    whole = base / f"mlsae-tiny-x{factor}-k{k}-tfm"
    whole.mkdir()
    lm = load_file(base / "pythia" / "model.safetensors")
    both = {f"autoencoder.{name}": t for name, t in w.items()}
    both |= {f"transformer.model.{name}": t for name, t in lm.items()}
    save_file(both, whole / "model.safetensors")
    config = {
        "model_name": str(base / "pythia"),
        "layers": None,
        "expansion_factor": factor,
        "k": k,
        "accumulate_grad_batches": 64,
        "auxk": 256,
        "auxk_coef": 0.03125,
        "batch_size": 1,
        "dead_steps_threshold": 76,
        "dead_threshold": 1e-3,
        "dead_tokens_threshold": 10_000_000,
        "lr": 1e-4,
        "max_length": N_CTX,
        "skip_special_tokens": True,
        "standardize": True,
        "tuned_lens": False,
    }
    (whole / "config.json").write_text(json.dumps(config))


def run(capsys, command, folder, *words):
    """Return the JSON that a `layers` command ends with, on a folder in one of the layouts."""
    base = folder.parent
    more = ["--corpus", base / "text.jsonl"]
    if not folder.name.endswith("-tfm"):  # these files say neither the model nor its layers
        more += ["--model", base / "pythia"]
        more += [] if command in ("figures",) else ["--site", "L*.resid_post"]
    words = [w for w in words if w is not None]
    code, line, err = call(capsys, "layers", command, folder, *words, *more, *SHORT)
    assert code == 0, err
    return json.loads(line)


@pytest.fixture(params=["plain-x4-k4", "mlsae-tiny-x4-k4-tfm"])
def folder(place, request):
    return place / request.param


@pytest.fixture
def analysed(folder, capsys):
    if not (folder / "layers" / "survey.json").exists():
        run(capsys, "analyse", folder, *QUICK)
    return folder


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_train_and_publish(place, capsys, tmp_path):
    """train.py --model_name M --expansion_factor 2 -k 4; then upload.py, in its layout."""
    words = [
        "train",
        "--recipe",
        "mlsae",
        "--model",
        place / "pythia",
        "--site",
        "L*.resid_post",
        "--corpus",
        place / "text.jsonl",
        "--tokens",
        6000,
        "--d-sae",
        64,
        "--k",
        4,
        "--set",
        "n_ctx=32",
        "--set",
        "batch_tokens=256",
        "--set",
        "buffer_tokens=512",
        "--set",
        "dead_after_tokens=1000",
        "--set",
        "lr=1e-2",
        "--out",
        tmp_path / "run",
        *SAME,
    ]
    code, _, err = call(capsys, *words)
    assert code == 0, err
    words = ["convert", tmp_path / "run", "--out", tmp_path / "mlsae", "--format", "mlsae"]
    code, _, err = call(capsys, *words, "--json")
    assert code == 0, err
    ours = saekit.load(tmp_path / "run", scaled=True).sae
    theirs = saekit.load(tmp_path / "mlsae").sae
    assert ours.inner.b_dec.abs().max() > 1e-3  # there is a bias to hold
    x = torch.randn(50, D, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(theirs.encode(x).dense(), ours.encode(x).dense())
    torch.testing.assert_close(theirs(x), ours(x))
    w = load_file(tmp_path / "mlsae" / "model.safetensors")
    assert set(w) == {"encoder.weight", "decoder.weight", "pre_encoder_bias"}
    config = json.loads((tmp_path / "mlsae" / "config.json").read_text())
    assert (config["n_inputs"], config["n_latents"], config["k"]) == (D, 64, 4)


def test_what_the_layout_cannot_hold_is_refused(place, capsys, tmp_path):
    words = [
        "train",
        "--model",
        place / "pythia",
        "--site",
        "L*.resid_post",
        "--fold",
        "--corpus",
        place / "text.jsonl",
        "--arch",
        "standardised",
        "--d-sae",
        64,
        "--k",
        4,
        "--tokens",
        3000,
        "--set",
        "n_ctx=32",
        "--set",
        "batch_tokens=128",
        "--set",
        "buffer_tokens=512",
        "--out",
        tmp_path / "run",
        *SAME,
    ]
    assert call(capsys, *words)[0] == 0
    words = ["convert", tmp_path / "run", "--out", tmp_path / "out", "--format", "mlsae"]
    code, _, err = call(capsys, *words)
    assert code == 2 and "--format saekit" in err and not (tmp_path / "out").exists()


def test_test(folder, capsys):
    """test.py: FVU, MSE, L1, dead, and losses with each layer replaced."""
    found = run(capsys, "eval", folder, "--tokens", 512, "--ce-tokens", 128)
    for layer in range(LAYERS):
        for metric in ("fvu", "fvu_published", "mse", "l0", "l1", "ce_rise", "kl", "kl_back"):
            assert found[f"L{layer}.resid_post/{metric}"] is not None
        assert found[f"L{layer}.resid_post/l0"] <= 4
    assert found["mean/fvu_published"] > 0 and found["all/dead"] is not None


def test_an_mlsae_is_coded_from_float32(folder, capsys, monkeypatch):
    monkeypatch.setattr("saekit.models.placement.bfloat16_is_fast", lambda _: True)
    run(capsys, "eval", folder, "--tokens", 64, "--ce-tokens", 0)
    said = json.loads((folder / "eval" / "by_layer.json").read_text())
    assert said["provenance"]["model"]["dtype"] == "float32"
    run(capsys, "eval", folder, "--tokens", 64, "--ce-tokens", 0, "--dtype", "bfloat16")
    said = json.loads((folder / "eval" / "by_layer.json").read_text())
    assert said["provenance"]["model"]["dtype"] == "bfloat16"


def test_dists(analysed, place):
    """mlsae.analysis.dists: P over layers of every latent, as the published formula has it."""
    found = rows(analysed / "layers" / "latents.csv")
    sums = load_file(analysed / "layers" / "sums.safetensors")
    assert len(found) == 4 * D and sums["counts"].shape == (LAYERS, 4 * D)
    totals = sums["totals"]
    for latent in totals.sum(0).nonzero()[:5, 0].tolist():
        p = totals[:, latent] / totals[:, latent].sum()
        assert float(found[latent]["p_L1.resid_post"]) == pytest.approx(float(p[1]))
        assert float(found[latent]["layer_mean"]) == pytest.approx(float(p[1]))
    assert sums["counts"].sum() <= 4 * sums["tokens"].sum()


def test_both_layouts_give_the_same_numbers(place, capsys):
    found = []
    for name in ("plain-x4-k4", "mlsae-tiny-x4-k4-tfm"):
        run(capsys, "analyse", place / name, *QUICK)
        found.append(load_file(place / name / "layers" / "sums.safetensors"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_examples(analysed, place, capsys, tmp_path):
    """mlsae.analysis.examples: the strongest of each latent and layer, as a list."""
    out = tmp_path / "examples.jsonl"
    more = [] if analysed.name.endswith("-tfm") else ["--model", place / "pythia"]
    assert call(capsys, "layers", "examples", analysed, "--out", out, *more)[0] == 0
    every = [json.loads(line) for line in out.read_text().splitlines()]
    sites = {f"L{i}.resid_post" for i in range(LAYERS)}
    assert {r["site"] for r in every} == sites and max(len(r["tokens"]) for r in every) > 4
    one = every[0]
    assert one["strength"] == pytest.approx(one["strengths"][one["peak"]], rel=1e-3)
    words = ["layers", "examples", analysed, "--latent", one["latent"], "--site", one["site"]]
    code, line, _ = call(capsys, *words, *more, "--json")
    listed = json.loads(line)["found"]
    assert code == 0 and listed[0] == one
    assert [r["rank"] for r in listed] == list(range(len(listed)))
    assert [r["strength"] for r in listed] == sorted((r["strength"] for r in listed), reverse=True)
    code, line, _ = call(capsys, *words, *more)
    assert code == 0 and "[[" in line
    code, _, err = call(capsys, "layers", "examples", analysed, "--latent", 999, *more)
    assert code in (1, 2) and "no latent 999" in err


def test_the_application(analysed, capsys, tmp_path):
    """mlsae.api and the app: a page of a prompt, and what the app's server answers."""
    page, data = tmp_path / "page.html", tmp_path / "page.json"
    steer = ["--steer", "L0.resid_post:3:0.5"]
    found = run(
        capsys, "prompt", analysed, "the cat sat", *steer, "--out", page, "--payloads", data
    )
    assert found["bytes"] > 10_000
    said = json.loads(data.read_text())
    assert set(said) == {
        "params",
        "tokens",
        "metrics",
        "latent_activations",
        "layer_histograms",
        "logits_input",
        "logits_recon",
        "logits_steer",
        "examples",
    }
    assert said["params"]["k"] == 4 and said["params"]["layers"] == [0, 1]
    n = len(said["tokens"])
    assert n == len("the cat sat") and len(said["logits_input"]) == n
    for site, values in said["latent_activations"]["values"].items():
        assert all(0 <= pos < n and 0 <= latent < 4 * D and a > 0 for pos, latent, a in values)
        assert max(v[2] for v in values) == max(said["latent_activations"]["max"][site])
        assert set(said["logits_recon"][site]) == {"top", "up", "down"}
    assert sum(said["layer_histograms"]["counts"]["L0.resid_post"]) == len(
        said["latent_activations"]["values"]["L0.resid_post"]
    )
    assert said["logits_steer"][0]["latent"] == 3 and said["examples"]


def test_cosines_of_the_stream_without_an_sae(place, capsys, tmp_path):
    """figures/resid_cos_sim.py."""
    words = [
        "layers",
        "stream",
        "--model",
        place / "pythia",
        "--corpus",
        place / "text.jsonl",
        "--tokens",
        640,
        "--n-ctx",
        32,
        "--out",
        tmp_path,
        "--dtype",
        "float32",
        "--quiet",
        "--json",
    ]
    code, line, err = call(capsys, *words)
    assert code == 0, err
    found = json.loads(line)
    assert len(found["pairs"]) == LAYERS - 1 and len(found["norms"]) == LAYERS
    assert -1 <= found["pairs"][0]["cosine_mean"] <= 1 and found["norms"][0]["norm_mean"] > 0
    read = rows(tmp_path / "adjacent_cosine.csv")[0]
    assert (read["site"], read["next"]) == ("L0.resid_post", "L1.resid_post")
    assert {"cosine_mean", "cosine_variance", "cosine_std", "cosine_sem"} <= set(read)
    assert len(rows(tmp_path / "adjacent_cosine_norms.csv")) == LAYERS


@pytest.mark.slow
def test_heatmaps(place, capsys):
    """figures/dists_heatmaps.py and figures/prompt_heatmaps.py, of several MLSAEs."""
    pytest.importorskip("matplotlib")
    several = [place / f"mlsae-tiny-x{x}-k{k}-tfm" for x, k in ((2, 4), (4, 8))]
    for one in several:
        run(capsys, "analyse", one, *QUICK)
    words = ["--tokens", 256, "--suffix", "png", "--corpus", place / "text.jsonl", *SHORT]
    code, line, err = call(capsys, "layers", "figures", *several, *words)
    assert code == 0, err
    made = json.loads(line)["figures"]
    assert len(made) == 2 * 8
    for one in several:
        for name in ("layer_heatmap", "prompt_heatmap"):
            assert str(one / "layers" / "figures" / f"{name}.png") in made
            assert rows(one / "layers" / "figures" / f"{name}.csv")


def test_tables_of_several(place, capsys, tmp_path):
    """figures/dists_layer_std.py and figures/mmcs.py: a row an MLSAE, with x and k."""
    several = [place / f"mlsae-tiny-x{x}-k{k}-tfm" for x, k in ((2, 4), (4, 4), (4, 8))]
    for one in several[:2]:
        run(capsys, "analyse", one, *QUICK)
    (several[2] / "layers" / "survey.json").unlink(missing_ok=True)
    words = ["layers", "tables", *several, "--out", tmp_path]
    code, line, err = call(capsys, *words, "--json")
    assert code == 0, err
    mmcs, std = rows(tmp_path / "mmcs.csv"), rows(tmp_path / "layer_std.csv")
    assert [(float(r["expansion"]), r["k"]) for r in mmcs] == [(2, "4"), (4, "4"), (4, "8")]
    assert [(float(r["expansion"]), r["k"]) for r in std] == [(2, "4"), (4, "4")]
    assert {"mean", "std", "sem", "legacy_mean", "legacy_variance"} <= set(mmcs[0])
    assert {"mean", "var", "std", "sem", "mean_rel", "n_layers", "n_latents"} <= set(std[0])
    assert json.loads(line)["not_analysed"] == [str(several[2])]
    code, _, err = call(capsys, *words)
    assert code == 0 and "replaced" not in err  # the same SAEs: nothing is lost
    code, _, err = call(capsys, "layers", "tables", several[1], "--out", tmp_path)
    assert code == 0 and "other numbers: layer_std.csv, mmcs.csv\n" in err
    code, _, err = call(capsys, "layers", "tables", several[0], several[0], "--out", tmp_path)
    assert code == 2 and "named twice" in err


def test_baselines_of_an_sae_from_elsewhere(place, capsys):
    folder = place / "mlsae-tiny-x2-k4-tfm"
    words = [
        "layers",
        "baselines",
        folder,
        "--corpus",
        place / "text.jsonl",
        "--site",
        "L1.resid_post",
        *SHORT,
    ]
    code, _, err = call(capsys, *words)
    assert code == 2 and "--tokens" in err
    code, _, err = call(capsys, *words, "--tokens", 2000)
    assert code == 0, err
    found = run(capsys, "compare", folder, "--site", "L1.resid_post", "--tokens", 320)
    assert found["single_fvu"][0] > 0 and found["same_run"] == [False]


@pytest.mark.parametrize("command", ["analyse", "eval", "figures", "prompt", "baselines"])
def test_what_the_files_do_not_say_is_asked_for(place, capsys, command):
    folder = place / "plain-x4-k4"
    if command == "figures":
        run(capsys, "analyse", folder, *QUICK)
    words = ["layers", command, folder] + (["hello"] if command == "prompt" else [])
    code, _, err = call(capsys, *words)
    assert code == 2 and "--corpus" in err
    words += ["--corpus", place / "text.jsonl"]
    code, _, err = call(capsys, *words)
    assert code == 2 and "--model" in err
    if command != "figures":  # an analysis says the layers
        code, _, err = call(capsys, *words, "--model", place / "pythia")
        assert code == 2 and re.search(r"--site", err)


def test_the_next_command_works_as_printed(place, capsys, tmp_path):
    import shlex

    folder = place / "plain-x2-k4"
    more = ["--corpus", place / "text.jsonl", "--model", place / "pythia", "--n-ctx", N_CTX]
    words = ["layers", "analyse", folder, *more, "--site", "L*.resid_post", *QUICK, "--quiet"]
    code, line, err = call(capsys, *words)
    assert code == 0 and line.startswith("next     saekit layers figures"), err
    pytest.importorskip("matplotlib")
    following = shlex.split(line.removeprefix("next     saekit "))
    code, _, err = call(capsys, *following, "--tokens", 128, "--quiet", "--out", tmp_path)
    assert code == 0 and (tmp_path / "mmcs.csv").exists(), err
