"""`saekit truth`: make, train, evaluate, calibrate, and every way to be wrong."""

import json
import math
import shutil

import pytest

import saekit
from saekit.cli.main import main
from saekit.core.result import Result
from saekit.explorer.labels import Labels
from saekit.explorer.library import Library
from saekit.explorer.views import Views

SMALL = ["--set", "n_features=24", "--set", "d_model=16", "--set", "firing.name=constant"]
SMALL += ["--set", "firing.rate=0.08", "--set", "magnitudes.name=folded_normal"]
SMALL += ["--set", "noise=0.05"]
SHORT = ["--tokens", "2000", "--set", "batch_tokens=100", "--quiet"]
FEW = ["--set", "n_tokens=512", "--set", "batch_tokens=128", "--set", "n_blocks=4", "--quiet"]


def call(capsys, *words):
    """Return the exit code, the last line of stdout, and stderr."""
    with pytest.raises(SystemExit) as ended:
        main(["truth", *(str(w) for w in words)])
    out, err = capsys.readouterr()
    return ended.value.code, (out.strip().splitlines() or [""])[-1], err


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a truth and an SAE trained on it."""
    base = tmp_path_factory.mktemp("with space")
    for words in (
        ["make", *SMALL, "--out", base / "truth"],
        ["train", "--truth", base / "truth", *SHORT, "--out", base / "run"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(["truth", *(str(w) for w in words)])
        assert ended.value.code == 0
    return base


def test_from_a_truth_to_scores(world, capsys):
    code, line, err = call(
        capsys,
        "eval",
        "--truth",
        world / "truth",
        "--sae",
        world / "run",
        *FEW,
        "--json",
        "--csv",
        world / "s.csv",
    )
    found = json.loads(line)
    assert code == 0, err
    assert 0 < found["mcc"] <= 1 and found["l0"] == 2 and found["absorption"] is None
    result = Result.read(world / "run" / "eval" / "ground_truth.json")
    assert result.scores["mcc"].value == found["mcc"]
    assert len((world / "s.csv").read_text().splitlines()) == 1 + 24 * 24
    code, line, _ = call(capsys, "eval", "--truth", world / "truth", "--sae", world / "run", *FEW)
    assert code == 0 and line.startswith("result")
    index = saekit.Index(world / "run" / "index")  # what the explorer and queries read
    by_latent = result.details["by_latent"]
    assert index.column("f1") == pytest.approx(
        [math.nan if v is None else v for v in by_latent["f1"]], nan_ok=True
    )
    record = index.record(3)
    assert record["values"]["feature"] == by_latent["feature"][3] and record["examples"] == {}
    assert len(record["neighbours"]["decoder"]) == 8
    best = saekit.query(world / "run", "sort -cosine limit 1").columns["latent"][0]
    assert by_latent["cosine"][best] == max(by_latent["cosine"])
    assert "no tokens" in index.manifest["said"]["notes"][0]
    library = Library(world)
    views = Views(library, Labels(world / "labels.db"))
    shown = views.latent("run", 3)
    assert list(shown["panels"]) == ["truth"] and not views.sae("run")["card"]["reads_text"]
    assert "truth eval" in library.sae("run").command()
    views.labels.close()


def test_evaluating_again_gives_the_same_numbers(world, capsys):
    words = ["eval", "--truth", world / "truth", "--sae", world / "run", *FEW, "--json"]
    assert call(capsys, *words)[1] == call(capsys, *words)[1]


@pytest.mark.parametrize(
    ("arch", "more"),
    [
        ("relu", ["--set", "sae.l1_coefficient=1.5"]),
        ("jumprelu", []),
        ("standardised", ["--k", "3"]),
        ("crosscoder", ["--set", "sae.n_sites=3"]),
        ("temporal", ["--d-sae", "32", "--set", "batch_tokens=80", "--set", "sae.d_key=4"]),
    ],
)
def test_settings_reach_the_run(world, capsys, tmp_path, arch, more):
    out = tmp_path / "run"
    code, _, err = call(
        capsys, "train", "--truth", world / "truth", "--arch", arch, *SHORT, *more, "--out", out
    )
    assert code == 0, err
    fit = json.loads((out / "fit.json").read_text())
    assert fit["sae"]["name"] == arch and fit["tokens"] == 2000
    expected = {"relu": ("l1_coefficient", 1.5), "jumprelu": ("target_l0", 2)}
    name, value = expected.get(arch, ("d_in", 16))
    assert fit["sae"][name] == value
    code, line, err = call(capsys, "eval", "--truth", world / "truth", "--sae", out, *FEW, "--json")
    assert code == 0 and json.loads(line)["l0"] > 0, err


def test_a_stopped_run_goes_on(world, capsys, tmp_path, monkeypatch):
    from saekit.training import checkpoint

    write = checkpoint.write

    def stop(*args):
        write(*args)
        raise KeyboardInterrupt

    words = ["train", "--truth", world / "truth", *SHORT, "--set", "checkpoint_tokens=500"]
    monkeypatch.setattr(checkpoint, "write", stop)
    assert call(capsys, *words, "--out", tmp_path / "cut")[0] == 130
    monkeypatch.setattr(checkpoint, "write", write)
    code, line, err = call(
        capsys,
        "train",
        "--truth",
        world / "truth",
        "--resume",
        tmp_path / "cut",
        "--quiet",
        "--json",
    )
    assert code == 0 and json.loads(line)["run"] == str(tmp_path / "cut"), err
    weights = [
        (d / "sae" / "weights.safetensors").read_bytes() for d in (world / "run", tmp_path / "cut")
    ]
    assert weights[0] == weights[1]
    code, _, err = call(
        capsys, "train", "--truth", world / "truth", "--resume", tmp_path / "cut", "--quiet"
    )
    assert code == 2 and "finished" in err


def test_calibrate(world, capsys, tmp_path):
    shutil.copytree(world / "truth", tmp_path / "again")
    out = tmp_path / "cal"
    words = ["--truth", world / "truth", "--truth", tmp_path / "again", "--arch", "topk"]
    words += ["--arch", "relu", "--k", "1", "--k", "3", "--l1", "0.5", "--l1", "2", *SHORT]
    words += ["--eval-tokens", "512"]
    words[words.index("2000")] = "500"
    code, line, err = call(capsys, "calibrate", *words, "--out", out, "--json")
    assert code == 0, err
    ranks = json.loads(line)["ranks"]
    assert set(ranks) == {"fvu", "l0", "density", "max_cosine", "stability", "hit_rate"}
    assert all(v is None or -1 <= v <= 1 for by in ranks.values() for v in by.values())
    saes = (out / "saes.csv").read_text().splitlines()
    assert len(saes) == 1 + 2 * 4 and saes[0].startswith("truth,sae,fvu")
    assert len((out / "ranks.csv").read_text().splitlines()) == 1 + 6 * 3
    code, _, err = call(capsys, "calibrate", *words, "--out", out)
    assert code == 2 and "in use" in err


def test_a_config_file_or_that_of_a_truth_gives_the_same_truth(world, capsys, tmp_path):
    config = world / "truth" / "truth.json"
    assert call(capsys, "make", "--config", config, "--out", tmp_path / "same")[0] == 0
    tensors = [(d / "truth.safetensors").read_bytes() for d in (world / "truth", tmp_path / "same")]
    assert tensors[0] == tensors[1]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["make", "--preset", "synth_sae_bench"], 2, "Did you mean `synth_sae_bench_16k`"),
        (["make", "--preset", "a", "--config", "b"], 2, "not both"),
        (["make", "--config", "none.json"], 1, "no file"),
        (["make", "--set", "n_feature=3"], 2, "n_features"),
        (["make", "--set", "d_model=0"], 2, "`d_model`"),
        (["make", "--set", "firing.name=zip"], 2, "Did you mean `zipf`"),
        (["make", "--set", "firing.name=constant", "--set", "firing.rate=1.5"], 2, "rate"),
        (["make", "--set", "noise"], 2, "field=value"),
        (["train", "--truth", "nowhere"], 1, "truth make"),
        (["train", "--truth", "TRUTH", "--arch", "topkk"], 2, "Did you mean `topk`"),
        (["train", "--truth", "TRUTH", "--k", "2.5"], 2, "whole number"),
        (["train", "--truth", "TRUTH", "--arch", "relu", "--k", "2"], 2, "l1_coefficient"),
        (["train", "--truth", "TRUTH", "--set", "lrr=1"], 2, "Did you mean `lr`"),
        (["train", "--truth", "TRUTH", "--set", "sae.d_in=3"], 2, "16 wide"),
        (["train", "--truth", "TRUTH", "--tokens", "0"], 2, "at least 1"),
        (["train", "--truth", "TRUTH", "--resume", "nowhere"], 1, "fit.json"),
        (["train"], 2, "--truth"),
        (["eval", "--truth", "TRUTH", "--sae", "nowhere"], 1, "no folder"),
        (["eval", "--truth", "TRUTH", "--sae", "RUN", "--set", "n_token=1"], 2, "n_tokens"),
        (["eval", "--truth", "OTHER", "--sae", "RUN", "--quiet"], 1, "truth is 8 wide"),
        (["calibrate", "--truth", "TRUTH", "--arch", "topk"], 2, "Ranks need 4"),
        (["calibrate", "--truth", "TRUTH", "--arch", "temporal"], 2, "seq"),
        (["calibrate", "--truth", "TRUTH", "--eval-tokens", "0"], 2, "at least 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(world, capsys, tmp_path, monkeypatch, words, code, said):
    monkeypatch.chdir(tmp_path)
    if "OTHER" in words:
        call(capsys, "make", "--set", "n_features=8", "--set", "d_model=8", "--out", "other")
    places = {"TRUTH": world / "truth", "RUN": world / "run", "OTHER": tmp_path / "other"}
    found, _, err = call(capsys, *(places.get(w, w) for w in words))
    assert (found, said.lower() in err.lower()) == (code, True), err
    if words != ["train"]:
        assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in err
