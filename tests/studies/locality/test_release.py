"""Runs in the layout of the published data set: its folders, its entries, nothing computed anew."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from saekit.cli.main import main
from saekit.core.errors import ConfigError, FormatError, UnknownNameError
from saekit.core.files import sha256_of
from saekit.core.result import Result, Table
from saekit.data import table_files
from saekit.data.corpora.files import Files
from saekit.models.sites import Site
from saekit.studies.locality.published import dataset
from saekit.studies.locality.published.release import release
from saekit.studies.locality.runs import context_length, depth
from saekit.studies.locality.runs.context_length import ContextLength
from saekit.studies.locality.runs.depth import Depth
from saekit.studies.locality.runs.measure import Measure
from saekit.studies.locality.runs.run_folder import RunOptions
from saekit.studies.locality.runs.subjects import LoadedSAE, Subject
from tests import world
from tests.studies.locality.world import QUIET, Mixing, sae_of, tokens_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    corpus = Files(paths=(str(world.text_file(base)),), validation_share=0.0)
    lm = Mixing([[1.0], [1.0] * 4])
    saes = [
        Subject(Site(i, "resid_post"), f"planted {i}", lambda: LoadedSAE(sae_of())) for i in (0, 1)
    ]
    how = Measure(probes=4)
    depth.run(
        lm, saes, Depth(corpus=corpus, n_ctx=8, windows=3, measure=how), base / "d", options=QUIET
    )
    sweep = ContextLength(least=4, most=12, step=4, measure=how)
    context_length.run(lm, saes[1], tokens_of(1, 12), sweep, base / "c", options=QUIET)
    context_length.run(lm, saes[1], tokens_of(2, 12), sweep, base / "two", options=QUIET)
    (base / "c" / "prompt.txt").write_text("the text")
    return base


def test_a_depth_run_is_found_where_the_data_set_has_it(runs, tmp_path):
    files = release(runs / "d", tmp_path, label="pythia-70m", corpus="news", timestamp="t0")
    home = tmp_path / "pythia-70m" / "news" / "t0"
    names = {f.name for f in home.iterdir()}
    stems = [f"entropy_comparison_resid_out_layer{i}" for i in (0, 1)]
    assert names == {"run_config.json", "bench.json"} | {
        s + e for s in stems for e in (".npz", ".csv", ".json")
    }
    assert {f.name for f in files} == names
    found, result = dataset.read(home / stems[1]), Result.read(runs / "d" / "result.json")
    assert found.generation == "S" and found.info["summary"]["layer"] == 1
    assert found.info["means"]["published_is"] in (
        None,
        "mean_over_windows",
        ["mean_over_windows", "mean_pooled"],
    )
    groups = dataset.groups(found)
    assert len(groups) == 3 and [len(g.feature) for g in groups] == [6] * 3
    with np.load(runs / "d" / "influences" / "L1.resid_post.npz") as kept:
        J, R = kept["J"], kept["R"]
        order = np.lexsort((kept["latent"], kept["window"]))
    assert np.array_equal(np.concatenate([np.stack(g.influence) for g in groups]), J[order])
    assert np.allclose(np.stack([g.token_vector_influence for g in groups]), R, rtol=1e-6)
    with (runs / "d" / "latents.csv").open() as file:
        mine = [r for r in csv.DictReader(file) if r["site"] == "L1.resid_post"]
    H = {(int(r["window"]), int(r["latent"])): float(r["entropy_bits"]) for r in mine}
    for g in groups:
        for a, bits in zip(g.feature, g.entropy, strict=True):
            assert bits == H[g.index, int(a)]
    assert found.arrays["start_idx"].tolist() == result.details["by_window"]["columns"]["start"][:3]
    config = json.loads((home / "run_config.json").read_text())
    assert config["layers"] == [0, 1] and config["num_batches"] == 3 and config["dataset"] == "news"
    assert found.info["config"]["total_features"] == 64
    bench = json.loads((home / "bench.json").read_text())
    assert bench["output_files"]["1"] == stems[1] + ".json" and bench["total_elapsed_s"] > 0
    assert bench["mean_batch_s"] > 0 and set(bench["seconds"]) == {"L0.resid_post", "L1.resid_post"}


def test_tables_in_parquet_are_released_alike(runs, tmp_path):
    pytest.importorskip("pyarrow")
    for name in ("d", "c"):
        found = []
        for kind in table_files.FORMATS:
            run = tmp_path / kind / name
            shutil.copytree(runs / name, run)
            for path in run.glob("*.csv") if kind == "parquet" else ():
                table = Table(columns=columns_of(path))
                table_files.write(table, path.with_suffix(""), "parquet")
            root = tmp_path / kind / "data"
            files = release(run, root, label="one", timestamp="t0")
            found.append({f.relative_to(root): f.read_bytes() for f in files})
        assert found[0] == found[1] and len(found[0]) > 3
    assert not list((tmp_path / "parquet" / "d").glob("*.csv"))


def columns_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {k: [r[k] for r in rows] for k in rows[0]}


def test_depth_and_context_write_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    corpus, lm = Files(paths=(str(world.text_file(tmp_path)),)), Mixing([[1.0, 1.0]])
    sae = Subject(Site(0, "resid_post"), "planted", lambda: LoadedSAE(sae_of()))
    config = Depth(corpus=corpus, n_ctx=8, windows=2, measure=Measure(probes=4))
    sweep = ContextLength(least=4, most=8, step=4, measure=Measure(probes=4))
    for kind in table_files.FORMATS:
        options = RunOptions(shown=False, tables=kind)
        depth.run(lm, [sae], config, tmp_path / kind / "d", options)
        context_length.run(lm, sae, tokens_of(1, 8), sweep, tmp_path / kind / "c", options)
    for name in ("d/latents", "d/depth", "d/windows", "c/latents", "c/lengths"):
        one, two = (table_files.find(tmp_path / kind / name) for kind in table_files.FORMATS)
        assert (one.suffix, two.suffix) == (".csv", ".parquet")
        rows = [list(table_files.rows(path)) for path in (one, two)]
        assert rows[0] == rows[1] and rows[0]
    with pytest.raises(UnknownNameError, match="csv or parquet"):
        depth.run(lm, [sae], config, tmp_path / "e", options=RunOptions(tables="xls"))
    assert not (tmp_path / "e").exists()


def test_sweeps_of_several_models_share_a_folder(runs, tmp_path):
    for label in ("one", "two"):
        release(runs / "c", tmp_path, label=label, timestamp="t1")
    home = tmp_path / "ctxlen_xmodel_fineweb" / "t1"
    config = json.loads((home / "run_config.json").read_text())
    assert set(config["presets"]) == {"one", "two"}
    assert (home / "prompt.txt").read_text() == "the text"
    found = dataset.read(home / "two" / "entropy_vs_context_len_resid_post_layer1_t1")
    groups = dataset.groups(found)
    assert [g.index for g in groups] == [4, 8, 12]
    assert [len(r) for g in groups for r in g.influence[:1]] == [4, 8, 12]
    assert all(np.isfinite(g.token_vector_entropy) for g in groups)
    with pytest.raises(ConfigError, match="one window"):
        release(runs / "two", tmp_path, label="x")


@pytest.mark.slow
def test_figures_lie_where_the_data_set_has_them(runs, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for run in ("d", "c"):
        words = [
            "locality",
            "release",
            runs / run,
            "--out",
            tmp_path,
            "--dataset",
            "news",
            "--preset",
            "pythia-70m",
            "--timestamp",
            "t",
            "--figures",
            "--json",
        ]
        with pytest.raises(SystemExit) as ended:
            main([str(w) for w in words])
        assert ended.value.code == 0
        made = json.loads(capsys.readouterr().out)
        assert all(Path(f).is_file() for f in made["files"])
    home = tmp_path / "pythia-70m/news/t"
    assert made["folder"].endswith("ctxlen_xmodel_fineweb/t")
    for i in (0, 1):
        folder = home / f"entropy_plots_resid_out_layer{i}"
        told = json.loads((folder / "batch_index.json").read_text())
        assert told["num_batches"] == 3 and told["site"] == f"resid_out_layer{i}"
        found = dataset.read(home / f"entropy_comparison_resid_out_layer{i}")
        for batch, group in zip(told["batches"], dataset.groups(found), strict=True):
            assert (folder / batch["plot_file"]).stat().st_size > 10_000
            assert batch["batch_idx"] == group.index
            assert batch["num_active_features"] == len(group.feature)
            assert batch["avg_feature_entropy"] == pytest.approx(group.entropy.mean(), rel=1e-6)
            assert batch["token_vector_entropy"] == group.token_vector_entropy
    assert (tmp_path / "figures/entropy_vs_depth__pythia-70m__news.png").is_file()
    stem = tmp_path / "ctxlen_xmodel_fineweb/t/pythia-70m/entropy_vs_context_len_resid_out_layer1_t"
    assert (stem / "entropy_vs_context_len.png").is_file()


def test_the_command_and_what_is_no_run(runs, tmp_path, capsys):
    words = ["locality", "release", runs / "d", "--out", tmp_path, "--preset", "mine", "--json"]
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    assert ended.value.code == 0
    record = json.loads(capsys.readouterr().out)
    assert record["folder"].startswith(str(tmp_path / "mine" / "local"))
    result = Result.read(runs / "d" / "result.json")
    other = tmp_path / "other"
    other.mkdir()
    raw = json.loads((runs / "d" / "result.json").read_text())
    (other / "result.json").write_text(json.dumps(raw | {"name": "core"}))
    with pytest.raises(FormatError, match="not of depth or context"):
        release(other, tmp_path, label="x")
    assert result.details["saes"]["L0.resid_post"]["d_sae"] == 64


def test_windows_without_what_they_need_are_refused_where_the_file_is_known(tmp_path):
    J = np.ones(3)
    arrays = {
        "group": np.zeros(1, int),
        "batch_idx": np.zeros(1, int),
        "feature": np.array([3]),
        "entropy": np.ones(1),
        "token_vector_entropy": np.ones(1),
    }
    for name in ("activation", "influence", "token_vector_influence"):
        arrays |= {name: J, f"{name}_starts": np.array([0, 3])}
    for gone in (None, *arrays.keys() - {"group"}):
        path = tmp_path / f"{gone}.npz"
        path.write_bytes(dataset.to_npz({n: a for n, a in arrays.items() if n != gone}))
        (tmp_path / f"{gone}.json").write_text(
            json.dumps(
                {
                    "format": dataset.FORMAT,
                    "version": dataset.VERSION,
                    "kind": "depth",
                    "generation": "S",
                    "numbers": path.name,
                    "sha256": sha256_of(path),
                    "notes": [],
                    "info": {},
                }
            )
        )
        if gone is None:
            assert len(dataset.groups(dataset.read(tmp_path / f"{gone}"))) == 1
        else:
            with pytest.raises(FormatError, match=rf"{gone} is damaged"):
                dataset.read(tmp_path / gone)
