"""Published locality files: nothing in them runs, both generations come back as they were."""

import functools
import importlib
import io
import json
import math
import operator
import os
import subprocess
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from saekit.core.errors import ConfigError, FormatError
from saekit.core.npz import read_npz
from saekit.studies.locality.published import dataset
from saekit.studies.locality.published import reading as published
from saekit.studies.locality.published.convert import MANIFEST, convert

N, RNG = 8, np.random.default_rng(0)


def pair(generation):
    """Return influences, entropy and activation of a latent as a generation stores them."""
    J = RNG.random(N).astype(np.float32)
    P = J / J.sum()
    H = np.float32(-(P * np.log2(P)).sum())
    act = float(RNG.random()) if generation == "M" else RNG.random(3).astype(np.float32)
    return J, H, act


def depth_run(generation, latents=((9, 30000, 4), (), (9,))):
    """Return a depth run; the second window has no active latent."""
    results = []
    for i, mine in enumerate(latents):
        found = {a: pair(generation) for a in mine}
        results.append(
            {
                "batch_idx": i,
                "start_idx": 64 * i,
                "feature_entropies": {a: H for a, (_, H, _) in found.items()},
                "token_vector_entropy": float(2.5 + i),
                "num_active_features": len(mine),
                "feature_influences": {a: J for a, (J, _, _) in found.items()},
                "feature_activations": {a: act for a, (_, _, act) in found.items()},
                "token_vector_influence": RNG.random(N).astype(np.float32),
            }
        )
    windows = [
        np.mean([float(h) for h in r["feature_entropies"].values()])
        for r in results
        if r["feature_entropies"]
    ]
    summary = {
        "site": "resid_layer3",
        "preset": "gemma-2-2b",
        "timestamp": "20260427_105943",
        "layer": 3,
        "num_batches": 3,
        "mean_feature_entropy": float(np.mean(windows)),
    }
    if generation == "S":
        summary["dataset"] = "gsm8k"
    return {
        "batch_results": results,
        "summary": summary,
        "config": {"preset": "gemma-2-2b", "threshold": 0.0, "host": "box"},
        "plots_dir": "/home/someone/plots",
        "batch_start_indices": [0, 64, 128],
    }


def sweep(generation):
    """Return a context-length sweep; lengths in the order they were written, not sorted."""
    results = {}
    for length in (16, 8):
        J = {a: RNG.random(length).astype(np.float32) for a in (2, 7)}
        results[length] = {
            "feature_entropies": {a: float(RNG.random()) for a in J},
            "feature_activations": {a: float(RNG.random()) for a in J},
            "feature_influences": {a: j.tolist() for a, j in J.items()},
            "num_active_features": 2,
        }
        if generation == "S":
            results[length]["token_vector_entropy"] = 1.5
    key = "results_by_batch_size" if generation == "M" else "results_by_context_len"
    return {key: results, "summary": {"layer": 1}, "config": {"threshold": 0.2}, "plots_dir": "/x"}


def saved(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def under_old_names(path):
    """Rewrite a file as one that numpy 1 had a part in."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    old = {
        n: d.replace(b"numpy._core.multiarray", b"numpy.core.multiarray") for n, d in parts.items()
    }
    assert old != parts
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as file:
        for name, part in old.items():
            file.writestr(name, part)
    path.write_bytes(data.getvalue())
    return path


@pytest.mark.parametrize("numpy_1", [False, True])
@pytest.mark.parametrize("generation", ["M", "S"])
def test_a_depth_run_comes_back_as_it_was(generation, numpy_1, tmp_path):
    raw = depth_run(generation)
    path = saved(tmp_path / "entropy_comparison_resid_layer3.pt", raw)
    if numpy_1:
        under_old_names(path)
    files = dataset.write(tmp_path / "ours" / "run", published.read(path))
    assert [f.suffix for f in files] == [".npz", ".csv", ".json"]
    result = dataset.read(tmp_path / "ours" / "run")
    assert (result.kind, result.generation, result.notes) == ("entropy_comparison", generation, ())
    assert result.info["summary"] == raw["summary"] and result.info["config"] == {
        "preset": "gemma-2-2b",
        "threshold": 0.0,
    }
    assert result.arrays["start_idx"].tolist() == raw["batch_start_indices"]
    assert result.arrays["entropy"].dtype == np.float32
    assert "/home/someone" not in files[-1].read_text()
    for theirs, ours in zip(raw["batch_results"], dataset.groups(result), strict=True):
        assert ours.index == theirs["batch_idx"]
        assert ours.token_vector_entropy == theirs["token_vector_entropy"]
        assert np.array_equal(ours.token_vector_influence, theirs["token_vector_influence"])
        assert ours.feature.tolist() == sorted(theirs["feature_entropies"])
        for i, a in enumerate(ours.feature.tolist()):
            assert ours.entropy[i] == theirs["feature_entropies"][a]
            assert np.array_equal(ours.influence[i], theirs["feature_influences"][a])
            wanted = np.atleast_1d(theirs["feature_activations"][a])
            assert np.array_equal(ours.activation[i], wanted.astype(ours.activation[i].dtype))


@pytest.mark.parametrize("generation", ["M", "H", "S"])
def test_a_sweep_comes_back_in_order_of_length(generation, tmp_path):
    raw = sweep(generation)
    result = published.read(saved(tmp_path / "a.pt", raw))
    dataset.write(tmp_path / "b", result)
    result = dataset.read(tmp_path / "b")
    theirs = next(v for k, v in raw.items() if k.startswith("results"))
    assert (result.kind, result.generation) == ("entropy_vs_context_len", generation)
    for ours in dataset.groups(result):
        one = theirs[ours.index]
        assert [float(h) for h in ours.entropy] == list(one["feature_entropies"].values())
        assert [j.tolist() for j in ours.influence] == list(one["feature_influences"].values())
        assert [len(j) for j in ours.influence] == [ours.index] * 2
        assert math.isnan(ours.token_vector_entropy) == (generation != "S")
    assert result.arrays["context_len"].tolist() == [8, 16]


def test_both_means_are_kept_and_the_published_one_is_named(tmp_path):
    raw = depth_run("M")
    means = published.read(saved(tmp_path / "a.pt", raw)).info["means"]
    each = [list(r["feature_entropies"].values()) for r in raw["batch_results"]]
    pooled = np.mean([float(h) for hs in each for h in hs])
    over = np.mean([np.mean([float(h) for h in hs]) for hs in each if hs])
    assert abs(pooled - over) > 1e-3
    assert means["mean_pooled"] == pytest.approx(pooled)
    assert means["mean_over_windows"] == pytest.approx(over)
    assert means["published_is"] == "mean_over_windows"
    raw["summary"]["mean_feature_entropy"] = float(pooled)
    found = published.read(saved(tmp_path / "b.pt", raw)).info["means"]
    assert found["published_is"] == "mean_pooled"
    raw["summary"]["mean_feature_entropy"] = 17.0
    assert published.read(saved(tmp_path / "c.pt", raw)).info["means"]["published_is"] is None


OTHERS = {
    "feature_token_influence": {
        "feature_influences": {
            a: {
                "mean_influence": np.full(N, a, np.float32),
                "std_influence": np.zeros(N),
                "all_influences": [[float(a)] * N] * a,
                "num_samples": a,
            }
            for a in (2, 3)
        },
        "config": {"min_freq": 0.001},
    },
    "token_vector_influence": {
        "influence_distributions": [[0.5, 0.5], [1.0, 0.0]],
        "entropies": [1.0, 0.0],
        "mean_influence": np.array([0.75, 0.25]),
        "mean_entropy": 0.5,
        "config": {},
    },
    "feature_sparsity": {
        "feature_counts": torch.tensor([3.0, 0.0]),
        "frequencies": np.array([0.3, 0.0]),
        "total_tokens": 10,
        "threshold": 1.0,
        "site": "resid_out_layer3",
        "feature_token_counts": [Counter({7: 2, 5: 1}), Counter()],
    },
    "correlations": {
        "covariance_matrix": torch.eye(2),
        "leading_features": [4, 9],
        "site": "resid_out_layer3",
    },
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_results_come_back(kind, tmp_path):
    dataset.write(tmp_path / "b", published.read(saved(tmp_path / "a.pt", OTHERS[kind])))
    result = dataset.read(tmp_path / "b")
    assert result.kind == kind
    arrays = {n: a.tolist() for n, a in result.arrays.items()}
    if kind == "feature_token_influence":
        assert arrays["starts"] == [0, 2, 5] and arrays["influence"][2:] == [[3.0] * N] * 3
        assert arrays["mean_influence"][1] == [3.0] * N
    if kind == "token_vector_influence":
        assert arrays["influence_distributions"] == [[0.5, 0.5], [1.0, 0.0]]
        assert arrays["mean_entropy"] == 0.5
    if kind == "feature_sparsity":
        triples = zip(*(arrays[f"token_{n}"] for n in ("feature", "id", "count")), strict=True)
        assert list(triples) == [(0, 5, 1), (0, 7, 2)] and result.info["total_tokens"] == 10
    if kind == "correlations":
        assert arrays["covariance_matrix"] == [[1, 0], [0, 1]]


class Trap:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (exec, (f"open({str(self.mark)!r}, 'w').close()",))


@pytest.mark.parametrize(
    "value",
    [
        lambda t: t,
        lambda t: {"batch_results": [t]},
        lambda t: [t],
        lambda t: np.array([t], dtype=object),
    ],
)
def test_what_would_run_is_refused_and_does_not(value, tmp_path):
    mark = tmp_path / "ran"
    saved(tmp_path / "a.pt", value(Trap(mark)))
    with pytest.raises(FormatError, match="never runs"):
        published.read(tmp_path / "a.pt")
    assert not mark.exists()


class Call:
    def __init__(self, function, *arguments):
        self.how = (function, arguments)

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize(
    "call",
    [
        Call(eval, "1"),
        Call(os.system, "true"),
        Call(subprocess.run, ["true"]),
        Call(getattr, 1, "real"),
        Call(importlib.import_module, "os"),
        Call(np.load, "a.npy"),
        Call(open, "a.txt"),
        Call(operator.attrgetter, "a"),
        Call(functools.partial, print),
    ],
    ids=lambda c: c.how[0].__name__,
)
def test_no_function_but_those_is_called(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = depth_run("S")
    raw["batch_results"][0]["token_vector_influence"] = call
    with pytest.raises(FormatError, match="never runs"):
        published.read(saved(tmp_path / "a.pt", raw))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.pop("summary"), "summary"),
        (lambda r: r["batch_results"][0].pop("feature_entropies"), "feature_entropies"),
        (lambda r: r["batch_results"][0]["feature_influences"].update({5: np.ones(N)}), "latent 5"),
        (lambda r: r["batch_results"][0].update(start_idx=0.5), "whole numbers"),
        (lambda r: r["batch_results"][0].update(surprise=1), "surprise"),
        (lambda r: r["batch_results"][0]["feature_entropies"].update({4: "high"}), "numbers"),
        (lambda r: r.pop("batch_results"), "has one of"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused(change, said, tmp_path):
    raw = depth_run("S")
    change(raw)
    with pytest.raises(FormatError, match=said):
        published.read(saved(tmp_path / "a.pt", raw))


def test_a_count_that_does_not_fit_is_noted(tmp_path):
    raw = depth_run("S")
    raw["batch_results"][0]["num_active_features"] = 5
    raw["batch_start_indices"] = [0]
    notes = published.read(saved(tmp_path / "a.pt", raw)).notes
    assert any("says 5" in n for n in notes) and any("start" in n for n in notes)


def test_damaged_files_are_refused(tmp_path):
    path = saved(tmp_path / "a.pt", depth_run("M"))
    whole = path.read_bytes()
    for part in (whole[:-50], b"", b"junk"):
        path.write_bytes(part)
        with pytest.raises(FormatError, match=r"a\.pt"):
            published.read(path)
    path.write_bytes(whole)
    dataset.write(tmp_path / "b", published.read(path))
    data = bytearray((tmp_path / "b.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "b.npz").write_bytes(bytes(data))
    with pytest.raises(FormatError, match="SHA-256"):
        dataset.read(tmp_path / "b")
    with pytest.raises(FormatError, match="no file"):
        dataset.read(tmp_path / "none")


def tree(root):
    """Make a small copy of the published layout."""
    saved(root / "gemma-2-2b/gsm8k/1/entropy_comparison_resid_layer3.pt", depth_run("S"))
    saved(
        root / "ctxlen_xmodel_fineweb/2/gpt2-small/entropy_vs_context_len_x_layer1_2.pt", sweep("S")
    )
    events = root / "cherry_picked_feature_entropy" / "3"
    saved(events / "corpus_tokens.pt", torch.arange(5))
    saved(root / "feature_geometry_vs_entropy/4/decoder_vectors.pt", torch.eye(3))
    (events / "ctx128.csv").write_text("feature_id,H_pos\n4,1.25\n")
    np.savez(events / "influences_ctx128.npz", **{"4_0": np.ones(3, np.float32)})
    (events / "manifest.json").write_text(json.dumps({"preset": "g", "host": "box", "layer": 3}))
    (events / "figures").mkdir()
    (events / "figures" / "a.png").write_bytes(b"\x89PNG")
    (events / "notes.xyz").write_text("")
    (root / "latest").symlink_to("gemma-2-2b", target_is_directory=True)
    (events / "link.json").symlink_to(events / "manifest.json")
    return events


def test_a_tree_keeps_its_places_and_holds_no_pickle(tmp_path):
    events = tree(tmp_path / "data")
    manifest = convert(tmp_path / "data", tmp_path / "out")
    assert not manifest["failed"]
    skipped = {e["source"].rpartition("/")[2]: e["why"] for e in manifest["skipped"]}
    assert skipped == {
        "notes.xyz": "of no kind that the layout has",
        "link.json": "a link",
        "latest": "a link",
    }
    assert not (tmp_path / "out" / "latest").exists()
    assert not [p for p in (tmp_path / "out").rglob("*") if p.suffix == ".pt"]
    assert json.loads((tmp_path / "out" / MANIFEST).read_text()) == manifest
    for entry in manifest["files"]:
        assert (tmp_path / "out" / entry["path"]).exists() and len(entry["source_sha256"]) == 64
    out = tmp_path / "out" / "cherry_picked_feature_entropy" / "3"
    assert dataset.read(out / "corpus_tokens").arrays["tensor"].tolist() == [0, 1, 2, 3, 4]
    assert (out / "ctx128.csv").read_bytes() == (events / "ctx128.csv").read_bytes()
    assert read_npz(out / "influences_ctx128.npz")["4_0"].tolist() == [1, 1, 1]
    assert json.loads((out / "manifest.json").read_text()) == {"preset": "g", "layer": 3}
    at = dataset.place(
        tmp_path / "out",
        "entropy_comparison",
        preset="gemma-2-2b",
        dataset="gsm8k",
        timestamp=1,
        site="resid",
        layer=3,
    )
    assert dataset.read(at).generation == "S"


def test_one_bad_file_does_not_stop_the_others_and_is_told(tmp_path):
    from typer.testing import CliRunner

    from saekit.studies.locality.commands import convert as locality_convert

    events = tree(tmp_path / "data")
    torch.save(Trap(tmp_path / "ran"), events / "bad.pt")
    (events / "bad.csv").write_text("a,b\n1,2,3\n")
    np.savez(events / "bad.npz", a=np.array([Trap(tmp_path / "ran")], dtype=object))
    (events / "bad.json").write_text("{")
    import typer

    app = typer.Typer()
    app.command()(locality_convert.convert)
    words = [str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 3, done.output
    failed = {Path(e["source"]).name for e in json.loads(done.output)["failed"]}
    assert failed == {"bad.pt", "bad.csv", "bad.npz", "bad.json"}
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ConfigError, match="not empty"):
        convert(tmp_path / "data", tmp_path / "out")
    with pytest.raises(ConfigError, match="within"):
        convert(tmp_path / "data", tmp_path / "data" / "out")
    with pytest.raises(FormatError, match="nothing at"):
        convert(tmp_path / "none", tmp_path / "b")


def test_every_place_of_the_layout_can_be_made(tmp_path):
    fields = {
        "preset": "p",
        "dataset": "d",
        "timestamp": "1",
        "site": "s",
        "layer": 2,
        "n_ctx": 64,
        "setname": "x",
        "model": "m",
        "sae": "12/res",
        "feature": 5,
        "figure": "f",
    }
    made = [dataset.place(tmp_path, name, **fields) for name in dataset.LAYOUT]
    assert len(set(made)) == len(made)
    cached = dataset.place(tmp_path, "neuronpedia_cache", **fields)
    assert cached == tmp_path / "neuronpedia_cache" / "m" / "12__res" / "5.json"
    with pytest.raises(ConfigError, match="missing"):
        dataset.place(tmp_path, "events", timestamp="1")
    with pytest.raises(ConfigError, match="part of a path"):
        dataset.place(tmp_path, "events", timestamp="..", n_ctx=3)
    with pytest.raises(ConfigError, match="no `event`"):
        dataset.place(tmp_path, "event")
