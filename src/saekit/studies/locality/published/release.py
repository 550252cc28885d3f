"""A run's results where the data set "SAE Locality Data" has them: its folders and its entries.

A depth run becomes ``<preset>/<dataset>/<timestamp>/``: run_config.json, bench.json, and for each
layer ``entropy_comparison_<site>_layer<L>`` as .npz, .csv and .json. A sweep becomes
``ctxlen_xmodel_fineweb/<timestamp>/``: run_config.json, the prompt, and the preset's lengths.
Events, geometry and autocorrelation are in `release_folders`. Nothing is computed anew;
`saekit.studies.locality.published.dataset` says what the files hold.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import read_json, replace_with, write_json
from saekit.core.npz import read_npz
from saekit.core.result import Result
from saekit.data import table_files
from saekit.models.sites import Site, parse_site
from saekit.studies.locality.presets import PRESETS, preset
from saekit.studies.locality.published import dataset, release_folders
from saekit.studies.locality.published._published_pairs import comparison, sweep
from saekit.studies.locality.runs.context_length import SITES

KINDS = ("locality_depth", "locality_context_length")
# What a published bench.json says of its run; `host` names a machine and is left out.
BENCH = (
    "timestamp",
    "device",
    "gpu_name",
    "torch_version",
    "preset",
    "layers",
    "num_batches",
    "context_len",
    "threshold",
    "random_batches",
    "random_seed",
)
SWEEP_FILES = {"prompt.txt": "sweep_prompt", "prompt.txt.meta.json": "sweep_prompt_meta"}


def release(
    run: Path, root: Path, *, label: str, corpus: str = "local", timestamp: str | None = None
) -> list[Path]:
    """Write a run into a data set's folder; return the files.

    Args:
        run: folder of a depth run or a context sweep, or of events, geometry, autocorrelation,
            levels or Neuronpedia's answers (`release_folders`).
        root: of the data set.
        label: the preset's name there; need not be one that saekit knows.
        corpus: the corpus' name there, of a depth run.
        timestamp: name of the folder; the run's time where None.

    Raises:
        FormatError: `run` is neither.
        ConfigError: a name cannot be part of a path, or a sweep is of several windows.
    """
    if (run / SITES).is_file():  # a sweep at several sites
        sites = read_json(run / SITES)["sites"]
        stamp = timestamp or _stamp(Result.read(run / sites[0] / "result.json"))
        return [
            path
            for site in sites
            for path in release(run / site, root, label=label, corpus=corpus, timestamp=stamp)
        ]
    if not (run / "result.json").is_file():
        return release_folders.release(run, root, label=label, timestamp=timestamp)
    result = Result.read(run / "result.json")
    if result.name not in KINDS:
        raise FormatError(f"{run} holds a result of `{result.name}`, not of depth or context.")
    where = {"preset": label, "dataset": corpus, "timestamp": timestamp or _stamp(result)}
    write = _depth if result.name == KINDS[0] else _sweep
    return write(run, root, result, where)


def _stamp(result: Result) -> str:
    return f"{datetime.fromisoformat(result.provenance['time']):%Y%m%d_%H%M%S}"


def _depth(run: Path, root: Path, result: Result, where: dict[str, str]) -> list[Path]:
    files, outputs = [], {}
    columns = result.details["by_window"]["columns"]
    starts = {w: s for w, s in zip(columns["window"], columns["start"], strict=True)}
    home = dataset.place(root, "run_config", **where).parent
    bench = read_json(run / "bench.json") if (run / "bench.json").exists() else {}
    config = _run_config(result, where) | {"device": bench.get("device")}
    write_json(home / "run_config.json", config)
    for name in result.details["by_site"]["columns"]["site"]:
        site, arrays = parse_site(name), read_npz(run / "influences" / f"{name}.npz")
        entropies, vectors = _entropies(run, name), _vectors(columns, name)
        groups = [
            _group(arrays, i, entropies, vectors.get(w)) | {"batch_idx": w, "start_idx": starts[w]}
            for i, w in enumerate(arrays["windows"].tolist())
        ]
        raw = {
            "batch_results": groups,
            "batch_start_indices": [g["start_idx"] for g in groups],
            "summary": _summary(result, site, where)
            | {
                "num_batches": len(groups),
                "dataset": where["dataset"],
                "mean_feature_entropy": _score(result, name, "entropy_bits_mean_over_windows"),
                "mean_token_vector_entropy": _score(result, name, "token_vector_entropy_bits"),
            },
            "config": _config(result, name, where),
        }
        short, layer = published_site(where["preset"], site)
        stem = dataset.place(root, "entropy_comparison", site=short, layer=layer, **where)
        files += dataset.write(stem, comparison(raw, run))
        outputs[str(layer)] = files[-1].relative_to(home).as_posix()
    head = {k: v for k, v in config.items() if k in BENCH}
    write_json(home / "bench.json", head | bench | {"output_files": outputs})
    return [*files, home / "run_config.json", home / "bench.json"]


def _sweep(run: Path, root: Path, result: Result, where: dict[str, str]) -> list[Path]:
    if result.details["windows"] != 1:
        raise ConfigError(
            f"A published sweep is of one window; {run} has {result.details['windows']}. Sweep a "
            f"--prompt, or one window."
        )
    found, name = {}, str(result.details["site"])
    lengths = result.details["by_length"]["columns"]
    vectors = lengths.get("token_vector_entropy_bits", [None] * len(lengths["n_ctx"]))
    for n_ctx, bits in zip(lengths["n_ctx"], vectors, strict=True):
        arrays = read_npz(run / "influences" / f"ctx{n_ctx:04d}.npz")
        found[n_ctx] = _group(arrays, 0, _entropies(run, str(n_ctx), "n_ctx"), bits)
    site = parse_site(name)
    raw = {
        "results_by_context_len": found,
        "config": _config(result, name, where),
        "summary": _summary(result, site, where)
        | {
            "max_context_len": result.config["most"],
            "min_context_len": result.config["least"],
            "step": result.config["step"],
            "sub_context_lens": result.details["lengths"],
            "prompt_token_ids": result.details["tokens"][0],
            "prompt_token_strs": result.details["pieces"][0],
            "n_tokens_total": len(result.details["tokens"][0]),
        },
    }
    short, layer = published_site(where["preset"], site)
    stem = dataset.place(root, "entropy_vs_context_len", site=short, layer=layer, **where)
    files = dataset.write(stem, sweep(raw, run))
    for source, kind in SWEEP_FILES.items():
        if (run / source).exists():
            files.append(dataset.place(root, kind, **where))
            replace_with(files[-1], (run / source).read_bytes())
    files.append(dataset.place(root, "sweep_config", **where))
    write_json(files[-1], _sweep_config(result, where, files[-1]))
    return files


def _sweep_config(result: Result, where: dict[str, str], path: Path) -> dict[str, Any]:
    """Return what a sweep's run_config.json says, this model's run put over what is there."""
    before = read_json(path) if path.exists() else {}
    runs = before.get("runs", {})
    mine = _run_config(result, where)
    layers = set(runs.get(where["preset"], {}).get("layers", [])) | set(mine["layers"])
    runs[where["preset"]] = mine | {"layers": sorted(layers)}
    sizes = before.get("preset_config", {}) | {
        where["preset"]: {"max_context_len": result.config["most"], "step": result.config["step"]}
    }
    text = result.details["text"]
    return {
        "experiment": "entropy_vs_context_len_xmodel",
        "timestamp": where["timestamp"],
        "seed": result.config["measure"]["seed"],
        "min_context_len": result.config["least"],
        "presets": list(sizes),
        "preset_config": sizes,
        "prompt_file": "prompt.txt" if "prompt" in text else None,
        "prompt": text,
        "git_commit": result.provenance["commit"],
        "runs": runs,
    }


def published_site(label: str, site: Site) -> tuple[str, int]:
    """Return what the data set calls a site, and its layer; -1 for the embedding."""
    layer = -1 if site.layer is None else site.layer
    if label in PRESETS and site.point == "resid_post":
        return preset(label).published_site(layer).rpartition("_layer")[0], layer
    return site.point, layer


def _group(
    arrays: dict[str, np.ndarray],
    i: int,
    entropies: dict[tuple[int, int], float],
    vector_bits: float | None,
) -> dict[str, Any]:
    """Return the entries of one window, which is row i of those in the file."""
    window = int(arrays["windows"][i])
    mine = np.flatnonzero(arrays["window"] == window)
    latents = arrays["latent"][mine].tolist()
    group: dict[str, Any] = {
        "feature_entropies": {a: entropies[window, a] for a in latents},
        "num_active_features": len(latents),
        "feature_influences": {a: arrays["J"][p] for a, p in zip(latents, mine, strict=True)},
        "feature_activations": {
            a: arrays["activation"][p] for a, p in zip(latents, mine, strict=True)
        },
    }
    if "R" in arrays:
        group["token_vector_influence"] = arrays["R"][i].astype(np.float32)
    return group if vector_bits is None else group | {"token_vector_entropy": vector_bits}


def _entropies(run: Path, name: str, column: str = "site") -> dict[tuple[int, int], float]:
    """Return entropies by window and latent; NaN where they are not defined."""
    return {
        (int(row["window"]), int(row["latent"])): float(row["entropy_bits"] or "nan")
        for row in table_files.rows(table_files.find(run / "latents"))
        if row[column] == name
    }


def _vectors(columns: dict[str, list[Any]], name: str) -> dict[int, float]:
    if "token_vector_entropy_bits" not in columns:
        return {}
    cells = zip(*(columns[k] for k in ("site", "window", "token_vector_entropy_bits")), strict=True)
    return {w: bits for site, w, bits in cells if site == name and bits is not None}


def _score(result: Result, name: str, what: str) -> float | None:
    found = result.scores.get(f"{name}/{what}")
    return None if found is None else found.value


def _summary(result: Result, site: Site, where: dict[str, str]) -> dict[str, Any]:
    short, layer = published_site(where["preset"], site)
    return {
        "site": f"{short}_layer{layer}",
        "preset": where["preset"],
        "layer": layer,
        "timestamp": where["timestamp"],
    }


def _config(result: Result, name: str, where: dict[str, str]) -> dict[str, Any]:
    measure, sae = result.config["measure"], result.details.get("saes", {}).get(name, {})
    return {
        "preset": where["preset"],
        "threshold": measure["threshold"],
        "context_len": result.config.get("n_ctx", result.config.get("most")),
        "total_features": sae.get("d_sae"),
        "sae_arch": sae.get("architecture"),
        "sae_source": sae.get("source"),
        "random_batches": True,
        "random_seed": measure["seed"],
        "most_latents": measure["most_latents"],
        "legacy_encode": measure["legacy_encode"],
        "token_vector": measure["token_vector"],
        "probes": measure["probes"],
    }


def _run_config(result: Result, where: dict[str, str]) -> dict[str, Any]:
    saes = result.details.get("saes", {})
    made_of = result.provenance
    return {
        **where,
        "model_id": result.details["model"]["name"],
        "model_revision": result.details["model"]["revision"],
        "layers": [published_site(where["preset"], parse_site(s))[1] for s in saes],
        "sae_loader": preset(where["preset"]).sae_format if where["preset"] in PRESETS else None,
        "sae_arch": sorted({s["architecture"] for s in saes.values()}),
        "threshold": result.config["measure"]["threshold"],
        "num_batches": result.config.get("windows", 1),
        "random_batches": True,
        "context_len": result.config.get("n_ctx", result.config.get("most")),
        "random_seed": result.config["measure"]["seed"],
        "torch_version": made_of["libraries"].get("torch"),
        "git_commit": made_of["commit"],
        "gpu_name": made_of["machine"]["gpu"],
        "windows_drawn": result.details.get("sample"),
        "saekit": made_of["saekit"],
        "settings": result.config,
    }
