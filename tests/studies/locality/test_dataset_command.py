"""The whole data set from one command: units that are done stay, those that failed come again."""

import json

import pytest
import typer

from saekit.cli.main import main
from saekit.core.errors import FormatError
from saekit.models.tiny import save_tiny
from saekit.studies.locality.commands import dataset as locality_dataset
from saekit.studies.locality.commands import depth as locality_depth
from saekit.studies.locality.runs import depth_data
from tests import world


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main(["locality", "dataset", *map(str, words)])
    return ended.value.code


def said(capsys):
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "mine" / "sae").mkdir(parents=True)
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "x"}\n')
    return [
        "--presets",
        f"mine={tmp_path / 'mine'}",
        "--parts",
        "depth",
        "--data",
        f"a={tmp_path / 'a.jsonl'},b={tmp_path / 'b.jsonl'}",
        "--out",
        tmp_path / "out",
        "--quiet",
        "--json",
    ]


def test_a_unit_that_fails_stops_no_other_and_is_made_by_resume(asked, monkeypatch, capsys):
    made, torn = [], {"b"}

    def depth(**options):
        name = options["out"].name
        if name in torn:
            raise FormatError(f"{name} is torn")
        made.append(name)
        typer.echo("what a command prints")

    monkeypatch.setattr(locality_depth, "depth", depth)
    monkeypatch.setattr(locality_dataset, "_release", lambda *_: None)
    assert call(*asked) == 3
    record = said(capsys)
    assert record["units"] == 2 and record["failed"] == {"depth/mine/b": "FormatError: b is torn"}
    assert call(*asked) == 2 and "--resume" in capsys.readouterr().err
    torn.clear()
    assert call(*asked, "--resume") == 0
    out = capsys.readouterr().out
    assert made == ["a", "b"] and "what a command prints" not in out
    assert call(*asked, "--resume", "--windows", "7") == 2
    assert "other settings (sizes)" in capsys.readouterr().err


def test_an_interrupted_unit_is_gone_on_with(asked, monkeypatch, capsys):
    seen = []

    def depth(**options):
        seen.append((options["out"].name, options["resume"]))
        options["out"].mkdir(parents=True, exist_ok=True)
        if len(seen) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(locality_depth, "depth", depth)
    monkeypatch.setattr(locality_dataset, "_release", lambda *_: None)
    assert call(*asked) == 130
    assert call(*asked, "--resume") == 0
    assert seen == [("a", False), ("a", True), ("b", False)]


@pytest.mark.slow
def test_all_parts_of_a_small_model(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    save_tiny(tmp_path / "lm", n_layers=2)
    text = world.text_file(tmp_path, n_docs=400)
    with pytest.raises(SystemExit):
        main(
            [
                str(w)
                for w in [
                    "train",
                    "--model",
                    tmp_path / "lm",
                    "--site",
                    "L0.resid_post",
                    "--site",
                    "L1.resid_post",
                    "--fold",
                    "--corpus",
                    text,
                    "--d-sae",
                    "64",
                    "--k",
                    "4",
                    "--tokens",
                    "3000",
                    "--set",
                    "n_ctx=32",
                    "--set",
                    "batch_tokens=128",
                    "--quiet",
                    "--out",
                    tmp_path / "run",
                ]
            ]
        )
    capsys.readouterr()
    words = [
        "--presets",
        f"mine={tmp_path / 'run'}",
        "--data",
        f"a={text}",
        "--out",
        tmp_path / "out",
        "--windows",
        "4",
        "--n-ctx",
        "16",
        "--context",
        "24",
        "--step",
        "8",
        "--tokens",
        "4000",
        "--n-latents",
        "6",
        "--top",
        "4",
        "--set",
        "measure.probes=4",
        "--quiet",
        "--json",
    ]
    assert call(*words) == 0
    record = said(capsys)
    assert record["units"] == 7 and not record["failed"] and len(record["figures"]) == 2
    data = tmp_path / "out" / "data"
    stamp = json.loads((tmp_path / "out" / "dataset.json").read_text())["timestamp"]
    assert depth_data.below(data) == [data / "mine" / "a" / stamp]
    config = json.loads((data / "ctxlen_xmodel_fineweb" / stamp / "run_config.json").read_text())
    assert config["presets"] == ["mine"] and config["runs"]["mine"]["layers"] == [0, 1]
    assert config["preset_config"] == {"mine": {"max_context_len": 24, "step": 8}}
    for name in ("cherry_picked_feature_entropy", "feature_geometry_vs_entropy"):
        made = json.loads((data / name / f"{stamp}_mine_L1" / "manifest.json").read_text())
        assert made["layer"] == 1 and made["sae_id"] == "mine, L1"
    older = {
        "primary_predictor",
        "pearson_p",
        "n_perm",
        "permutation_null_mean",
        "layer",
        "permutation_null_std",
        "permutation_p_two_sided",
        "source_experiment_dir",
        "sae_id",
    }
    assert older <= set(made) and made["permutation_p_two_sided"] == made["spearman_p"]
    autocorr = data / "feature_activation_autocorr" / f"{stamp}_mine_L1"
    told = json.loads((autocorr / "run_config.json").read_text())
    assert told["site"] == "L1.resid_post" and told["layer"] == 1
    assert set(told["filters"]) == {"density", "docs_active", "frac_bos"}
    meta = json.loads((autocorr / "fineweb_corpus_meta.json").read_text())
    assert {"config", "revision", "filters", "seed"} <= set(meta)
    bench = json.loads((data / "mine" / "a" / stamp / "bench.json").read_text())
    assert set(locality_release_keys()) <= set(bench)
    assert (data / "mine" / "feature_level_entropies.json").is_file()
    assert call(*words, "--resume") == 0 and said(capsys)["units"] == 7
    # the index of one layer is not taken for another's, though the SAE is the same
    with pytest.raises(SystemExit) as ended:
        main(
            [
                str(w)
                for w in [
                    "locality",
                    "events",
                    tmp_path / "run",
                    "--layers",
                    0,
                    "--index",
                    tmp_path / "out" / "work" / "index" / "mine" / "L1",
                    "--out",
                    tmp_path / "x",
                ]
            ]
        )
    assert ended.value.code == 1 and "is of L1.resid_post" in capsys.readouterr().err


def locality_release_keys():
    """Return the keys of a published bench.json but the machine's name."""
    return (
        "timestamp",
        "device",
        "gpu_name",
        "torch_version",
        "cuda_available",
        "preset",
        "layers",
        "num_batches",
        "context_len",
        "threshold",
        "random_batches",
        "random_seed",
        "total_elapsed_s",
        "mean_batch_s",
        "std_batch_s",
        "peak_gpu_mem_gib",
        "output_files",
    )
