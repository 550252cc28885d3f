"""Locality of events from the command line: the whole job on a tiny model, and refusals."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from saekit.analysis.analyse import codes_of
from saekit.cli.main import main
from saekit.core.files import read_tensors
from saekit.data import table_files
from saekit.models.tiny import save_tiny
from saekit.studies.locality.events import event_files
from tests import world

pytest.importorskip("matplotlib")
SMALL = [
    "--d-sae",
    "64",
    "--k",
    "4",
    "--tokens",
    "3000",
    "--quiet",
    "--dtype",
    "float32",
    "--set",
    "n_ctx=32",
    "--set",
    "batch_tokens=128",
    "--set",
    "buffer_tokens=512",
]


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    out, err = capsys.readouterr()
    return ended.value.code, (out.strip().splitlines() or [""])[-1], err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("locality events")
    save_tiny(base / "llama", "llama")
    text = world.text_file(base, n_docs=400)
    jobs = [
        [
            "train",
            "--model",
            base / "llama",
            "--site",
            "L1.resid_post",
            "--corpus",
            text,
            *SMALL,
            "--set",
            "corpus.validation_share=0",  # latents are named below by what this text gave
            "--out",
            base / "run",
        ],
        ["index", base / "run", "--tokens", "4000", "--quiet"],
    ]
    for job in jobs:
        with pytest.raises(SystemExit) as ended:
            main([str(w) for w in job])
        assert ended.value.code == 0
    return base / "run"


EVENTS = ["--n-latents", "6", "--top", "4", "--n-ctx", "8", "--n-ctx", "16", "--quiet", "--json"]


@pytest.fixture(scope="module")
def events(run):
    with pytest.raises(SystemExit) as ended:
        main(["locality", "events", str(run), *EVENTS, "--max-density", "1"])
    assert ended.value.code == 0
    return run / "locality" / "events"


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def arrays_in(path):
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def test_events_are_scored_drawn_and_shown(events, capsys):
    manifest = json.loads((events / "manifest.json").read_text())
    assert manifest["ctx_lens_swept"] == [8, 16] and manifest["failed"] == 0
    assert manifest["layer"] == 1 and manifest["latents"] == 6
    found = rows(events / "ctx16.csv")
    ok = [r for r in found if r["status"] == "ok"]
    assert len(ok) == manifest["ok"]["16"] > 4
    arrays = arrays_in(events / "influences_ctx16.npz")
    assert {r["npz_key"] for r in ok} == set(arrays)
    for r in ok:
        J = arrays[r["npz_key"]]
        assert len(J) == int(r["n_positions"]) <= 16
        assert float(J.sum()) == pytest.approx(float(r["sum_J"]), rel=1e-5)
        p = J.astype(float) / J.sum()
        bits = -(p[p > 0] * np.log2(p[p > 0])).sum()
        assert bits == pytest.approx(float(r["H_pos"]), abs=1e-4)
    drawn = {p.name for p in (events / "figures").iterdir()}
    for name in (
        "feature_continuum_ctx16",
        "feature_profile_contrast_ctx16",
        "h_pos_overview_ctx16",
        "h_pos_vs_ctxlen",
        "h_pos_vs_frequency_ctx16",
    ):
        assert {f"{name}.png", f"{name}.csv"} <= drawn
    index = codes_of(events.parents[1])
    for r in rows(events / "figures/h_pos_vs_frequency_ctx16.csv"):
        if r["mark"] == "latent":
            share = int(index.counts[int(r["feature_id"])]) / index.n_tokens
            assert float(r["density"]) == pytest.approx(share)
    assert (events / "feature_case_studies.html").stat().st_size > 3000
    code, line, _ = call(capsys, "locality", "draw-events", events, "--n-ctx", 8, "--json")
    assert code == 0 and "feature_continuum_ctx8.png" in line
    out = events / "two.html"
    latent = found[0]["feature_id"]
    code, _, _ = call(capsys, "locality", "cards", events, "--latents", latent, "--out", out)
    assert code == 0 and out.read_text().count("class=card") == 1
    assert (events / "figures" / "feature_table_ctx16.html").read_text().count("<tr>") == 7
    code, line, _ = call(
        capsys, "locality", "table", events, "--n-ctx", 8, "--max-peak-diversity", 0.01, "--json"
    )
    assert code == 0 and "feature_table_ctx8_div01.html" in line
    assert (events / "figures" / "feature_table_ctx8_div01.html").read_text().count("<tr>") == 1


def test_a_table_leaves_out_by_recall_and_bos(events, tmp_path, capsys):
    latents = sorted({int(r["feature_id"]) for r in rows(events / "ctx16.csv")})
    cache = tmp_path / "m" / "a__b"
    cache.mkdir(parents=True)
    score = [{"explanationScoreTypeName": "recall_alt", "value": v} for v in (0.75, 0.5)]
    bos = {"tokens": ["<bos>", "a"], "maxValue": 1.0, "maxValueTokenIndex": 0}
    for i, latent in enumerate(latents[:3]):
        answer = {"index": latent, "activations": [bos | {"tokens": ["<bos>", "ab"[i > 1]]}]}
        if i < 2:
            answer["explanations"] = [{"description": "d", "scores": score[i : i + 1]}]
            answer["activations"] = [bos | {"maxValueTokenIndex": 1}]
        (cache / f"{latent}.json").write_text(json.dumps(answer))
    words = ["locality", "table", events, "--json"]
    code, _, err = call(capsys, *words, "--min-recall", 0.5)
    assert code == 2 and "--neuronpedia" in err
    words += ["--neuronpedia", cache]
    for more, kept, name in (
        (["--min-recall", 0.5], latents[:2], "_recall50"),
        (["--min-recall", 0.6], latents[:1], "_recall60"),
        (["--exclude-bos-dominated"], [a for a in latents if a != latents[2]], "_nobos"),
        (
            ["--min-recall", 0, "--exclude-bos-dominated", "--max-peak-diversity", 0.99],
            [],
            "_recall00_div99_nobos",
        ),
    ):
        code, line, err = call(capsys, *words, *more)
        path = events / "figures" / f"feature_table_ctx16{name}.html"
        assert code == 0 and json.loads(line)["page"] == str(path), err
        assert sorted(int(r["feature_id"]) for r in rows(path.with_suffix(".csv"))) == kept
    page = (events / "figures/feature_table_ctx16_recall60.html").read_text()
    assert f'href="https://www.neuronpedia.org/m/a/b/{latents[0]}"' in page
    assert "1 recall below 0.6" in page and "4 no recall known" in page
    for more in (["--min-recall", 2], ["--max-peak-diversity", -1]):
        code, _, err = call(capsys, *words, *more)
        assert code == 2 and "from 0 to 1" in err
    code, _, err = call(capsys, *words[:-1], tmp_path)
    assert code == 1 and "MODEL/SAE" in err


def test_one_event_a_row_and_named_latents_with_words(run, tmp_path, capsys):
    features = tmp_path / "f.yaml"
    features.write_text(
        "features:\n- {feature_id: 3, description: <b>three</b>}\n- feature_id: 5\n"
    )
    out = tmp_path / "out"
    code, line, err = call(
        capsys,
        "locality",
        "events",
        run,
        "--features",
        features,
        "--per",
        "row",
        "--top",
        3,
        "--n-ctx",
        8,
        "--out",
        out,
        "--quiet",
        "--json",
    )
    assert code == 0, err
    assert json.loads(line)["latents"] <= 2
    page = (out / "feature_case_studies.html").read_text()
    assert "<b>three" not in page and "&lt;b&gt;three" in page


def test_geometry_of_events(run, events, capsys, tmp_path):
    from saekit.hub.native import load
    from saekit.studies.locality.latents.geometry import cosines

    mine = int(next(r for r in rows(events / "ctx16.csv") if r["status"] == "ok")["feature_id"])
    other = (mine + 1) % 64
    cosine = float(cosines(load(run).sae.directions())[mine, other])
    answer = {
        "index": mine,
        "topkCosSimIndices": [mine, other],
        "topkCosSimValues": [1.0, cosine + 0.25],
    }
    (tmp_path / f"{mine}.json").write_text(json.dumps(answer))
    words = [
        "--sae",
        run,
        "--permutations",
        50,
        "--neighbours",
        2,
        "--anchors",
        3,
        "--least-events",
        1,
        "--neuronpedia",
        tmp_path,
    ]
    code, line, err = call(capsys, "locality", "geometry", events, *words, "--quiet", "--json")
    assert code == 0, err
    record = json.loads(line)
    folder = events.parent / "geometry"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["n_pairs"] == len(rows(folder / "pairwise.csv")) == record["n_pairs"]
    assert manifest["permutation_p"] >= 1 / 51
    assert "0.5" in manifest["null_distribution_quantiles"]
    assert "correlation_decoder_cos_vs_abs_dH_pos" in manifest
    assert manifest["neuronpedia_xcheck"]["max_abs_diff"] == pytest.approx(0.25, abs=1e-6)
    (crossed,) = rows(folder / "neuronpedia_xcheck.csv")
    assert (crossed["fid"], crossed["neighbour_fid"]) == (str(mine), str(other))
    near = [r for r in rows(folder / "anchor_neighbours.csv") if r["anchor"] == str(mine)]
    assert len(near) == 3 and str(mine) not in {r["neighbour_fid"] for r in near}
    for name in (
        "per_feature.csv",
        "feature_neighbour_summary.csv",
        "decoder_vectors.safetensors",
        "cosine_matrix.safetensors",
        "anchor_neighbours.csv",
        "figures/geometry.png",
        "figures/clusters3d.html",
        "figures/clusters3d_tsne.html",
    ):
        assert (folder / name).stat().st_size > 0


@pytest.mark.parametrize("documents", [1200, 0])
def test_autocorrelation_with_targets_and_corners(run, tmp_path, capsys, documents):
    code, line, err = call(
        capsys,
        "locality",
        "autocorr",
        run,
        "--documents",
        documents,
        "--window",
        64,
        "--overlap",
        16,
        "--lags",
        8,
        "--n-latents",
        10,
        "--max-density",
        1,
        "--top",
        2,
        "--targets",
        3,
        "--n-ctx",
        8,
        "--out",
        tmp_path,
        "--quiet",
        "--json",
    )
    assert code == 0, err
    record = json.loads(line)
    curves = rows(tmp_path / "autocorr_curves.csv")
    assert len(curves) == 9 * record["latents"]
    assert all(float(r["autocorr"]) == pytest.approx(1) for r in curves if r["lag"] == "0")
    traces = arrays_in(tmp_path / "activation_traces.npz")
    assert len(traces) == record["latents"]
    for name in traces:
        assert traces[name].shape[1] == 129 and (traces[name][:, 64] == 1).all()
    targets = rows(tmp_path / "entropy_targets.csv")
    assert all(r["n_positions"] == "8" for r in targets)
    assert len(rows(tmp_path / "feature_summary.csv")) == record["latents"]
    selected = rows(tmp_path / "selected_features.csv")
    assert sum(r["selected"] == "True" for r in selected) == record["latents"]
    assert (tmp_path / "sanity_contexts.md").read_text().count("## latent") == record["latents"]
    assert (tmp_path / "figures/autocorrelation.png").exists()
    drawn = [r for r in rows(tmp_path / "figures/h_pos_vs_frequency.csv") if r["mark"] == "latent"]
    known = {r["feature_id"]: r["density"] for r in rows(tmp_path / "selected_features.csv")}
    assert drawn and all(
        float(r["density"]) == pytest.approx(float(known[r["feature_id"]])) for r in drawn
    )
    assert json.loads((tmp_path / "corpus_meta.json").read_text())["n_docs"] > 3


def test_autocorrelation_with_what_neuronpedia_knows(run, tmp_path, capsys):
    text = {
        "tokens": ["<bos>", "\u2581the", "<b>"],
        "maxValue": 3.0,
        "maxValueTokenIndex": 2,
        "values": [0.0, 1.0, 3.0],
    }
    cache = tmp_path / "m" / "s"
    cache.mkdir(parents=True)
    for latent in range(64):
        texts = [text] if latent % 2 else [text | {"maxValueTokenIndex": 0}]
        said = {
            "description": f"word {latent}",
            "scores": [{"explanationScoreTypeName": "recall_alt", "value": 0.5}],
        }
        answer = {"index": latent, "activations": texts, "explanations": [said]}
        (cache / f"{latent}.json").write_text(json.dumps(answer))
    words = [
        "locality",
        "autocorr",
        run,
        "--documents",
        0,
        "--lags",
        8,
        "--n-latents",
        12,
        "--max-density",
        1,
        "--top",
        1,
        "--targets",
        3,
        "--n-ctx",
        8,
        "--quiet",
        "--json",
    ]
    code, line, err = call(capsys, *words, "--neuronpedia", cache, "--out", tmp_path / "a")
    assert code == 0, err
    for r in rows(tmp_path / "a/selected_features.csv"):
        odd = int(r["feature_id"]) % 2
        assert (r["description"], r["recall_alt"]) == (f"word {r['feature_id']}", "0.5")
        assert float(r["frac_bos"]) == 1 - odd and (odd or r["passes"] == "False")
    corner = json.loads((tmp_path / "a/corner_categories.json").read_text())
    page = (tmp_path / "a/corner_features_neuronpedia.html").read_text()
    assert any(corner.values()) and page.count("class=card") == sum(map(len, corner.values()))
    assert "&lt;b&gt;" in page and "sqrt(activation / largest shown)" in page
    assert "nan bits" not in page and "\u2581" not in page
    code, _, err = call(capsys, *words, "--neuronpedia", tmp_path, "--out", tmp_path / "b")
    assert code == 1 and "MODEL/SAE" in err


@pytest.mark.slow
def test_autocorrelation_goes_on_where_it_was(run, tmp_path, capsys, monkeypatch):
    from saekit.core.errors import DataError
    from saekit.studies.locality.events import event_entropy

    text = tmp_path / "other.jsonl"
    text.write_text(
        "".join(json.dumps({"text": f"the cat {i} sat on a mat " * 9}) + "\n" for i in range(60))
    )
    words = [
        "locality",
        "autocorr",
        run,
        "--documents",
        1200,
        "--corpus",
        text,
        "--window",
        64,
        "--overlap",
        16,
        "--lags",
        4,
        "--n-latents",
        8,
        "--max-density",
        1,
        "--top",
        1,
        "--targets",
        9,
        "--n-ctx",
        8,
        "--quiet",
        "--json",
        "--out",
    ]
    code, _, err = call(capsys, *words, tmp_path / "whole")
    assert code == 0, err
    real, asked = event_entropy.influence, []

    def counted(*args, **kwargs):
        asked.append(1)
        return real(*args, **kwargs)

    def broken(*args, **kwargs):
        raise DataError("not finite")

    monkeypatch.setattr(event_entropy, "influence", broken)
    code, line, _ = call(capsys, *words, tmp_path / "b")
    assert code == 3 and json.loads(line)["failed"] > 0
    monkeypatch.setattr(event_entropy, "influence", counted)
    code, _, err = call(capsys, *words, tmp_path / "b")
    assert code == 2 and "--resume" in err and not asked
    for batches in (True, False):
        asked.clear()
        code, line, err = call(capsys, *words, tmp_path / "b", "--resume")
        assert code == 0 and bool(asked) == batches, err
    for name in ("entropy_targets.csv", "feature_summary.csv", "autocorr_curves.csv"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    told = json.loads((tmp_path / "whole" / "corpus_meta.json").read_text())
    assert told["dataset"]["paths"] == [str(text)]


@pytest.mark.slow
def test_parquet_has_the_numbers_of_csv(run, events, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    jobs = {
        "events": [run, *EVENTS, "--max-density", 1, "--no-figures"],
        "geometry": [
            "EVENTS",
            "--sae",
            run,
            "--neighbours",
            2,
            "--anchors",
            3,
            "--least-events",
            1,
            "--permutations",
            20,
            "--no-figures",
        ],
        "sparsity": [run, "--pairs", 20],
        "autocorr": [
            run,
            "--documents",
            0,
            "--lags",
            4,
            "--n-latents",
            6,
            "--max-density",
            1,
            "--top",
            2,
            "--targets",
            2,
            "--n-ctx",
            8,
        ],
    }
    n = 0
    for name, words in jobs.items():
        for kind in table_files.FORMATS:
            out, source = tmp_path / kind / name, tmp_path / kind / "events"
            words_of = [source if w == "EVENTS" else w for w in words]
            code, _, err = call(
                capsys, "locality", name, *words_of, "--out", out, "--format", kind, "--quiet"
            )
            assert code == 0, err
        for path in (tmp_path / "csv" / name).glob("*.csv"):
            other = tmp_path / "parquet" / name / f"{path.stem}.parquet"
            if path.stem != "corner_features":  # beside a page, what it drew
                assert list(table_files.rows(other)) == list(table_files.rows(path)), path.name
                assert not other.with_suffix(".csv").exists()
                n += 1
    assert n == 4 + 4 + 2 + 5
    code, line, err = call(capsys, "locality", "draw-events", tmp_path / "parquet/events", "--json")
    assert code == 0 and "feature_continuum_ctx16.png" in line, err
    for words in (["events", run], ["sparsity", run], ["geometry", events, "--sae", run]):
        code, _, err = call(capsys, "locality", *words, "--format", "xls")
        assert code == 2 and "csv or parquet" in err


@pytest.mark.parametrize("kind", ["csv", pytest.param("parquet", marks=pytest.mark.slow)])
def test_folders_are_released_in_the_published_layout(run, events, tmp_path, capsys, kind):
    pytest.importorskip("pyarrow")
    if kind == "csv":
        shutil.copytree(events, tmp_path / "events")
    jobs = {
        "events": [run, *EVENTS, "--max-density", 1],
        "geometry": [
            tmp_path / "events",
            "--sae",
            run,
            "--neighbours",
            2,
            "--least-events",
            1,
            "--permutations",
            20,
            "--no-figures",
        ],
        "autocorr": [
            run,
            "--documents",
            0,
            "--lags",
            4,
            "--n-latents",
            6,
            "--max-density",
            1,
            "--top",
            2,
            "--targets",
            2,
            "--n-ctx",
            8,
        ],
    }
    root, made = tmp_path / "data", {}
    for name, words in jobs.items():
        if not (tmp_path / name).exists():
            words = [*words, "--out", tmp_path / name, "--format", kind, "--quiet"]
            code, _, err = call(capsys, "locality", name, *words)
            assert code == 0, err
        words = [tmp_path / name, "--out", root, "--preset", "mine", "--timestamp", "t"]
        code, line, err = call(capsys, "locality", "release", *words, "--json")
        assert code == 0, err
        made[name] = [Path(f) for f in json.loads(line)["files"]]
        assert all(f.is_file() and f.suffix not in (".pt", ".parquet") for f in made[name])
        (manifest,) = [
            f
            for f in made[name]
            if f.name in ("manifest.json", "run_config.json")
            and f.parent.parent.name != "feature_case_studies"
        ]
        told = json.loads(manifest.read_text())
        assert told["preset"] == "mine" and told["timestamp"] == "t" and "git_commit" in told
        assert str(tmp_path) not in manifest.read_text() and str(run) not in manifest.read_text()
    home = root / "cherry_picked_feature_entropy" / "t"
    corpus = read_tensors(home / "corpus_tokens.safetensors")["tensor"].tolist()
    texts = json.loads((home / "top_contexts_layer1.json").read_text())
    events = rows(home / "ctx16.csv")
    for r in events:
        example = texts[r["feature_id"]]["examples"][int(r["event_idx"])]
        start, end = int(r["ctx_start"]), int(r["abs_peak"]) + 1
        assert end - start == int(r["n_positions"])
        assert end == example["window_start_token"] + example["token_idx"] + 1
        assert corpus[start:end] == example["ids"][-(end - start) :]
    assert len(corpus) == sum(len(e["ids"]) for one in texts.values() for e in one["examples"])
    read_again = event_files.read(home)
    assert sorted(read_again) == [8, 16] and read_again[16][0].J is not None
    assert (root / "feature_geometry_vs_entropy/t/pairwise.csv") in made["geometry"]
    cards = json.loads((root / "feature_case_studies/t_all/manifest.json").read_text())
    assert cards["experiment"] == "feature_case_studies" and len(cards["features"]) == 6
    assert {f.name for f in (root / "feature_activation_autocorr/t").iterdir()} >= {
        "fineweb_corpus_meta.json",
        "autocorr_curves.csv",
        "activation_traces.npz",
        "figures",
    }
    code, _, err = call(capsys, "locality", "release", run, "--out", root, "--preset", "x")
    assert code == 1 and "no result.json" in err


def test_levels_are_entropies_over_the_vocabulary(run, capsys, tmp_path):
    """H_vocab from the index' own tokens, H_logit from the unembedding: both anew from formulas."""
    from saekit.hub.native import load
    from saekit.models.hf import load as load_model
    from saekit.studies.locality.published import dataset

    words = ["locality", "levels", run, "--threshold", 0, "--out", tmp_path / "o", "--json"]
    code, line, err = call(capsys, *words)
    assert code == 0, err
    found = dataset.read(tmp_path / "o" / "feature_level_entropies")
    assert found.arrays["layers"].tolist() == [1] and found.info["config"]["min_count"] == 20
    lm, store = load_model(str(run.parent / "llama")), codes_of(run)
    D = load(run).sae.directions().reshape(64, -1).float()
    P = torch.softmax(D @ lm.unembedding().float().T, -1)
    H = -(P * P.log2()).sum(-1)
    assert found.arrays["layer_1_H_logit"] == pytest.approx(H.detach().numpy(), abs=1e-4)
    assert found.arrays["layer_1_totals"].tolist() == store.counts.tolist()
    rare = store.counts.numpy() < 20
    assert np.array_equal(np.isnan(found.arrays["layer_1_H_vocab"]), rare)
    assert len(rows(tmp_path / "o/feature_level_entropies.csv")) == 64
    words = ["locality", "release", tmp_path / "o", "--out", tmp_path / "data", "--figures"]
    code, line, err = call(capsys, *words, "--preset", "mine", "--json")
    assert code == 0, err  # there are no figures to draw, which is no failure
    assert (tmp_path / "data/mine/feature_level_entropies.json").is_file()


def test_events_of_a_text_without_an_index(run, capsys, tmp_path):
    text = run.parent / "text.jsonl"
    code, line, err = call(
        capsys,
        "locality",
        "events",
        run,
        "--corpus",
        text,
        "--tokens",
        1500,
        "--site",
        "L1.resid_post",
        "--sae-id",
        "mine",
        *EVENTS,
        "--max-density",
        1,
        "--no-figures",
        "--out",
        tmp_path / "o",
    )
    assert code == 0, err
    made = json.loads((tmp_path / "o/manifest.json").read_text())
    assert made["sae_id"] == "mine" and made["source"]["index"].endswith("o_index")
    assert made["source"]["tokens"] >= 1000 and json.loads(line)["events"] > 4


def test_sparsity_names_tokens(run, capsys, tmp_path):
    code, line, err = call(
        capsys, "locality", "sparsity", run, "--by-token", 2, "--out", tmp_path, "--json"
    )
    assert code == 0, err
    table = rows(tmp_path / "feature_sparsity.csv")
    assert json.loads(line)["latents"] == len(table) == 64
    best = max(table, key=lambda r: int(r["count"]))
    assert best["top_tokens"].startswith("'") and best["top_tokens"].count("(") <= 5
    assert rows(tmp_path / "cofiring.csv")
    assert (tmp_path / "covariance_by_token.safetensors").exists()
    assert json.loads(line)["figures"] == [str(tmp_path / "figures/feature_sparsity.png")]
    (median,) = [
        r for r in rows(tmp_path / "figures/feature_sparsity.csv") if r["mark"] == "median"
    ]
    living = [float(r["density"]) for r in table if int(r["count"])]
    assert float(median["density"]) == pytest.approx(float(np.median(living)))
    out = tmp_path / "never"
    words = ["locality", "sparsity", run, "--threshold", 1e9, "--pairs", 0, "--no-strings"]
    words += ["--json", "--out", out]
    code, line, err = call(capsys, *words)
    assert code == 0 and "ever on" in json.loads(line)["missing"][0], err
    code, line, err = call(capsys, *words, "--no-figures")
    assert code == 0 and json.loads(line)["missing"] == [] and not (out / "figures").exists()


def test_neuronpedia_offline_scored_and_compared(run, capsys, tmp_path):
    place = tmp_path / "np" / "m" / "s"
    place.mkdir(parents=True)
    texts = [list("the cat sat on the mat"), list("yes no dog 12"), list("the cat sat on the mat")]
    answer = {
        "index": 7,
        "explanations": [{"description": "cats"}],
        "activations": [
            {"tokens": ["<bos>", *t], "maxValue": 3.0 + i, "maxValueTokenIndex": len(t)}
            for i, t in enumerate(texts)
        ],
        "topkCosSimIndices": [7, 9],
        "topkCosSimValues": [1.0, 0.5],
    }
    (place / "7.json").write_text(json.dumps(answer))
    base = ["locality", "neuronpedia", tmp_path / "np", "--model-id", "m", "--sae-id", "s"]
    code, line, _ = call(capsys, *base, "--json")
    assert code == 0 and json.loads(line)["latents"] == [7]
    code, _, err = call(capsys, *base, "--latents", "8")
    assert code == 2 and "--online" in err
    score = ["--sae", run, "--n-ctx", 8, "--out", tmp_path / "o", "--quiet", "--json"]
    code, _, err = call(capsys, *base, *score)
    assert code == 1 and "--anyway" in err and "o_match.csv" in err
    code, line, err = call(capsys, *base, *score, "--anyway", "--no-figures")
    assert code == 0, err
    assert json.loads(line)["mismatched"] == 1
    log = json.loads((tmp_path / "o" / "adapter_log.json").read_text())
    assert log["7"]["n_kept"] == 2 and log["7"]["n_duplicates"] == 1
    (told,) = rows(tmp_path / "o" / "feature_quality_stats.csv")
    assert told == {"feature_id": "7", "recall_alt": "", "frac_unique": "1.0", "frac_bos": "0.0"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["events", "RUN", "--latents", "3,x"], 2, "3,17,200-210"),
        (["events", "RUN", "--latents", "64"], 2, "0..63"),
        (["events", "RUN", "--per", "word"], 2, "document or row"),
        (["events", "RUN", "--n-latents", "0"], 2, "Ask for 1 or more"),
        (["events", "RUN", "--n-ctx", "8", "--n-ctx", "8"], 2, "each once"),
        (["events", "RUN", "--memory", "0"], 2, "above 0"),
        (["events", "RUN", "--index", "RUN/sae"], 1, "saekit index"),
        (["events", "RUN", "--features", "RUN/none.yaml"], 1, "no file"),
        (["events", "RUN", "--features", "FEATURES"], 2, "names latents 64; the SAE has 0..63"),
        (["events", "RUN", "--corpus", "stdlib"], 2, "--tokens 200000"),
        (["events", "RUN", "--tokens", "9", "--index", "RUN/index"], 2, "Give one of them"),
        (["events", "RUN", "--layers", "0"], 2, "One site is studied at a time"),
        (["events", "RUN", "--preset", "gpt2-small"], 2, "--layers with one of 0, 1"),
        (["draw-events", "RUN"], 1, "ctx<N>.csv"),
        (["cards", "RUN"], 1, "ctx<N>.csv"),
        (["table", "RUN"], 1, "ctx<N>.csv"),
        (["geometry", "RUN", "--sae", "RUN"], 1, "ctx<N>.csv"),
        (["geometry", "EVENTS", "--sae", "RUN", "--least-events", "99"], 1, "--least-events"),
        (["geometry", "EVENTS", "--sae", "RUN", "--anchors", "-1"], 2, "`--anchors` must lie"),
        (["geometry", "EVENTS", "--sae", "RUN", "--neuronpedia", "RUN/no"], 1, "MODEL/SAE"),
        (["events", "RUN", "--n-ctx", "99999"], 2, "`n_ctx` must be at most"),
        (["autocorr", "RUN", "--n-ctx", "99999"], 2, "`n_ctx` must be at most"),
        (["sparsity", "RUN", "--pairs", "-1", "--no-strings"], 2, "0 or more; got -1"),
        (["autocorr", "RUN", "--lags", "0"], 2, "lags"),
        (["autocorr", "RUN", "--documents", "0", "--top", "9999", "--n-ctx", "8"], 2, "--top"),
        (["autocorr", "RUN", "--n-ctx", "1"], 2, "`n_ctx` must be at least 2"),
        (
            [
                "neuronpedia",
                "RUN",
                "--model-id",
                "m",
                "--sae-id",
                "s",
                "--browse",
                "2",
                "--d-sae",
                "0",
            ],
            2,
            "--d-sae 0",
        ),
        (["autocorr", "RUN", "--split", "half", "--n-ctx", "8"], 2, "--split"),
        (["sparsity", "RUN/sae"], 1, "saekit index"),
        (["sparsity", "RUN", "--by", "size", "--no-strings"], 2, "by"),
        (["neuronpedia", "RUN", "--model-id", "..", "--sae-id", "s"], 2, "name of Neuronpedia"),
        (["neuronpedia", "RUN", "--model-id", "m", "--sae-id", "s"], 2, "--latents"),
    ],
)
def test_refusals_are_plain(run, events, capsys, words, code, said):
    features = run.parent / "features.yaml"
    features.write_text("features: [{feature_id: 3}, {feature_id: 64}]\n")
    words = [w.replace("RUN", str(run)).replace("EVENTS", str(events)) for w in words]
    words = [str(features) if w == "FEATURES" else w for w in words]
    got, _, err = call(capsys, "locality", *words)
    assert (got, said in err) == (code, True), err
    assert "Traceback" not in err


def test_failed_events_end_with_three_and_are_mended(run, events, tmp_path, capsys, monkeypatch):
    from saekit.core.errors import DataError
    from saekit.studies.locality.events import event_entropy

    real, asked = event_entropy.influence, []

    def broken(*args, **kwargs):
        asked.append(1)
        if len(asked) in (1, 2):
            raise DataError("not finite")
        return real(*args, **kwargs)

    monkeypatch.setattr(event_entropy, "influence", broken)
    words = [run, *EVENTS, "--max-density", 1, "--out", tmp_path, "--no-figures"]
    code, line, _ = call(capsys, "locality", "events", *words)
    lost = [
        r
        for n in (8, 16)
        for r in rows(tmp_path / f"ctx{n}.csv")
        if r["status"] == "compute_error: not finite"
    ]
    assert code == 3 and json.loads(line)["failed"] == len(lost) > 0
    assert "not finite" in json.loads((tmp_path / "manifest.json").read_text())["failures"][0]
    monkeypatch.setattr(event_entropy, "influence", real)
    code, _, err = call(capsys, "locality", "events", *words)
    assert code == 2 and "--resume" in err
    code, line, _ = call(capsys, "locality", "events", *words, "--resume")
    assert code == 0 and json.loads(line)["failed"] == 0
    whole = [(run / "locality/events" / f"ctx{n}.csv").read_text() for n in (8, 16)]
    assert [(tmp_path / f"ctx{n}.csv").read_text() for n in (8, 16)] == whole
    code, _, err = call(capsys, "locality", "events", *words, "--resume", "--threshold", 1)
    assert code == 2 and "other settings" in err
