"""Events, cards, geometry and autocorrelation where the data set "SAE Locality Data" has them.

Tables go as CSV whatever they were written as; arrays, figures and pages as they are; manifests
lose what describes one machine. An events folder also gives its page of case studies. In a release
`corpus_tokens` holds the texts of all events one after another, and `window_start_token`,
`abs_peak` and `ctx_start` count in it: a folder is whole without the corpus it came from.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from saekit.core.errors import FormatError
from saekit.core.files import read_json, replace_with, write_json, write_tensors
from saekit.core.result import Table
from saekit.data import table_files
from saekit.studies.locality.events import event_files
from saekit.studies.locality.events.neuronpedia import parse
from saekit.studies.locality.events.quality import STATS
from saekit.studies.locality.published import dataset

EVENTS, GEOMETRY, AUTOCORR, CARDS = (
    "cherry_picked_feature_entropy",
    "feature_geometry_vs_entropy",
    "feature_activation_autocorr",
    "feature_case_studies",
)
PAGE = "feature_case_studies"
LEVELS = "feature_level_entropies"
GEOMETRY_TABLES = (
    "per_feature",
    "pairwise",
    "feature_neighbour_summary",
    "neuronpedia_xcheck",
    "anchor_neighbours",
)
GEOMETRY_TENSORS = ("decoder_vectors.safetensors", "cosine_matrix.safetensors")
AUTOCORR_TABLES = (
    "selected_features",
    "top_examples",
    "autocorr_curves",
    "entropy_targets",
    "feature_summary",
)
AUTOCORR_FILES = (
    "activation_traces.npz",
    "sanity_contexts.md",
    "corner_features.html",
    "corner_features_neuronpedia.html",
    "corner_categories.json",
)
HERE = ("autocorr", "figures", "host")  # paths and names of the machine that made a folder


def release(run: Path, root: Path, *, label: str, timestamp: str | None = None) -> list[Path]:
    """Write a folder into a data set's; return the files.

    Args:
        run: folder of `saekit locality events`, `neuronpedia --sae`, `geometry`, `autocorr` or
            `levels`, or a cache of `neuronpedia`.
        root: of the data set.
        label: what the data set calls the preset.
        timestamp: name of the folder; the run's time where None.

    Raises:
        FormatError: `run` is none of these, or a file of it is missing.
    """
    for name in ("manifest.json", "run_config.json"):
        found = read_json(run / name) if (run / name).is_file() else {}
        write = WAYS.get(found.get("experiment")) if isinstance(found, dict) else None
        if write is not None and "provenance" in found:  # published manifests have none
            return write(run, root, _told(found, label, timestamp))
    if (run / f"{LEVELS}.json").is_file():
        return _levels(run, root, label)
    if files := _cache(run, root, label):
        return files
    raise FormatError(
        f"{run} is not a folder of saekit locality depth, context, events, geometry, autocorr, "
        f"levels or neuronpedia: it has no result.json, no manifest that names one of "
        f"{', '.join(WAYS)}, and no MODEL/SAE/<latent>.json."
    )


def _levels(run: Path, root: Path, label: str) -> list[Path]:
    """Write the entropies over the vocabulary where the data set has those of a preset."""
    return dataset.write(
        dataset.place(root, "feature_levels", preset=label), dataset.read(run / LEVELS)
    )


def _cache(run: Path, root: Path, label: str) -> list[Path]:
    """Copy Neuronpedia's answers and lists of candidates; nothing where there is no answer.

    Raises:
        FormatError: a file is not Neuronpedia's answer about the latent it is named after.
    """
    files = []
    for source in sorted(run.glob("*/*/*.json")):
        if not source.stem.isdecimal():
            continue
        parse(read_json(source), str(source), int(source.stem))
        model, sae = source.parent.parts[-2:]
        where = {"model": model, "sae": sae, "feature": source.stem}
        files.append(dataset.place(root, "neuronpedia_cache", **where))
        replace_with(files[-1], source.read_bytes())
    for source in sorted(run.glob("candidate_features_l*.md")) if files else ():
        layer = source.stem.removeprefix("candidate_features_l")
        files.append(dataset.place(root, "candidates", preset=label, layer=layer))
        replace_with(files[-1], source.read_bytes())
    return files


def _told(found: dict[str, Any], label: str, timestamp: str | None) -> dict[str, Any]:
    """Return a manifest without what describes the machine it was made on."""
    made = found["provenance"]
    at = datetime.fromisoformat(made["time"])
    told = {k: v for k, v in found.items() if k not in HERE}
    if isinstance(told.get("source"), dict):
        told["source"] = {k: v for k, v in told["source"].items() if k != "index"}
    return told | {
        "preset": label,
        "model": found.get("model", found.get("preset")),
        "timestamp": timestamp or found.get("timestamp") or f"{at:%Y%m%d_%H%M%S}",
        "git_commit": made["commit"],
        "provenance": {k: made[k] for k in ("saekit", "libraries", "seed", "time")},
    }


def _events(run: Path, root: Path, told: dict[str, Any]) -> list[Path]:
    when = told["timestamp"]
    home = dataset.place(root, "events_manifest", timestamp=when).parent
    (source,) = sorted(run.glob("top_contexts_layer*.json"))[:1] or [None]
    if source is None:
        raise FormatError(f"{run} has no top_contexts_layer<L>.json, the texts of its events.")
    contexts = read_json(source)
    starts, ids = _virtual_corpus(contexts)
    files = [home / "corpus_tokens.safetensors", home / source.name]
    write_tensors(files[0], {"tensor": torch.tensor(ids, dtype=torch.int64)})
    write_json(files[1], contexts)
    for n_ctx, paths in event_files.lengths(run).items():
        for path in paths:
            rows = [_moved(row, starts, contexts) for row in table_files.rows(path)]
            columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
            files.append(dataset.place(root, "events", timestamp=when, n_ctx=n_ctx))
            Table(columns=columns).write_csv(files[-1])
            files += _copied(run, home, [f"influences_{path.stem}.npz"])
    files += _copied(run, home, ["adapter_log.json", *_figures(run)])
    files += _tables(run, home, [STATS])
    files.append(home / "manifest.json")
    write_json(files[-1], told)
    return files + _cards(run, root, told)


def _virtual_corpus(
    contexts: dict[str, dict[str, Any]],
) -> tuple[dict[tuple[int, int], int], list[int]]:
    """Return where each event's text begins among all, and all of them; tell it in `contexts`."""
    starts, ids = {}, []
    for latent, one in contexts.items():
        for rank, example in enumerate(one["examples"]):
            starts[int(latent), rank] = example["window_start_token"] = len(ids)
            ids += example["ids"]
    return starts, ids


def _moved(
    row: dict[str, str], starts: dict[tuple[int, int], int], contexts: dict[str, dict[str, Any]]
) -> dict[str, str]:
    """Return an event's row with places in the virtual corpus."""
    latent, rank = int(row["feature_id"]), int(row["event_idx"])
    peak = starts[latent, rank] + contexts[str(latent)]["examples"][rank]["token_idx"]
    return row | {"abs_peak": str(peak), "ctx_start": str(peak - int(row["n_positions"]) + 1)}


def _cards(run: Path, root: Path, told: dict[str, Any]) -> list[Path]:
    """Write the page of an events folder's case studies; nothing where it has none."""
    said = run / f"{PAGE}.json"
    if not said.is_file():
        return []
    where = {"timestamp": told["timestamp"], "setname": "all"}
    page = dataset.place(root, "case_studies", **where)
    files = _copied(run, page.parent, [f"{PAGE}.html", f"{PAGE}.csv"])
    files.append(dataset.place(root, "case_studies_manifest", **where))
    told = {k: told[k] for k in ("preset", "timestamp", "git_commit")}
    write_json(files[-1], read_json(said) | {"experiment": CARDS} | told)
    return files


def _geometry(run: Path, root: Path, told: dict[str, Any]) -> list[Path]:
    home = dataset.place(root, "geometry_manifest", timestamp=told["timestamp"]).parent
    files = _tables(run, home, GEOMETRY_TABLES)
    files += _copied(run, home, [*GEOMETRY_TENSORS, *_figures(run)])
    write_json(home / "manifest.json", told)
    return [*files, home / "manifest.json"]


def _autocorr(run: Path, root: Path, told: dict[str, Any]) -> list[Path]:
    home = dataset.place(root, "autocorr_config", timestamp=told["timestamp"]).parent
    files = _tables(run, home, AUTOCORR_TABLES)
    files += _copied(run, home, [*AUTOCORR_FILES, *_figures(run)])
    files.append(dataset.place(root, "corpus_meta", timestamp=told["timestamp"]))
    replace_with(files[-1], (run / "corpus_meta.json").read_bytes())
    write_json(home / "run_config.json", told)
    return [*files, home / "run_config.json"]


def _figures(run: Path) -> list[str]:
    return sorted(f"figures/{path.name}" for path in (run / "figures").glob("*") if path.is_file())


def _copied(run: Path, home: Path, names: list[str]) -> list[Path]:
    """Copy those of some files that are there."""
    there = [name for name in names if (run / name).is_file()]
    for name in there:
        replace_with(home / name, (run / name).read_bytes())
    return [home / name for name in there]


def _tables(run: Path, home: Path, names: "tuple[str, ...] | list[str]") -> list[Path]:
    """Write those of some tables that are there, as CSV."""
    files = []
    for name in names:
        if table_files.has(run / name):
            source = table_files.find(run / name)
            files.append(home / f"{name}.csv")
            if source.suffix == ".csv":
                replace_with(files[-1], source.read_bytes())
            else:
                table_files.read(source).write_csv(files[-1])
    return files


WAYS: dict[Any, Callable[[Path, Path, dict[str, Any]], list[Path]]] = {
    EVENTS: _events,
    GEOMETRY: _geometry,
    AUTOCORR: _autocorr,
}
