"""Locality results on disk without pickle: numbers in .npz, the rest in .json, windows in .csv.

A result called STEM is three files. `STEM.npz` holds flat arrays:

* of "entropy_comparison" and "entropy_vs_context_len", groups being windows or lengths: by group
  `batch_idx` and `start_idx`, or `context_len`; `token_vector_entropy` (bits, NaN: none) and
  `num_active_features`; by pair of a group and a latent `group`, `feature`, `entropy` (bits); and
  rows of several lengths one after another, row i from `NAME_starts[i]` to `NAME_starts[i + 1]`:
  `activation` (by pair), `influence` (by pair, oldest token first), `token_vector_influence` (by
  group);
* of "feature_token_influence": by latent `feature`, `num_samples`, `mean_influence`,
  `std_influence`, and `influence` [sample, token], those of latent i from `starts[i]`;
* of "token_vector_influence": `influence_distributions` [window, token], `entropies`, means and
  deviations;
* of "feature_sparsity": `feature_counts`, `frequencies`, and triples `token_feature`, `token_id`,
  `token_count`;
* of "correlations": `covariance_matrix`, `leading_features`;
* of "feature_level_entropies": `layers`, and for each layer N by latent `layer_N_H_vocab`,
  `layer_N_H_logit` (bits, NaN: on too rarely), `layer_N_totals` (tokens it is on at).

A lone tensor is `STEM.safetensors` under the name `tensor`. `STEM.json` names the kind and has
summary, settings and SHA-256 of the file of numbers; it is written last. `STEM.csv` has a line a
group, for people.
"""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from saekit.core.border import bordered, inside
from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import read_object, read_tensors, replace_with, sha256_of, write_json
from saekit.core.files import write_tensors as write_safetensors
from saekit.core.npz import read_npz
from saekit.core.result import Table
from saekit.studies.locality.published._flat import PublishedFile

FORMAT, VERSION = "saekit.locality", 1
# Where each file of the published layout is, below the root; {name}s are the caller's.
LAYOUT = {
    "run_config": "{preset}/{dataset}/{timestamp}/run_config.json",
    "bench": "{preset}/{dataset}/{timestamp}/bench.json",
    "entropy_comparison": "{preset}/{dataset}/{timestamp}/entropy_comparison_{site}_layer{layer}",
    "sweep_config": "ctxlen_xmodel_fineweb/{timestamp}/run_config.json",
    "sweep_prompt": "ctxlen_xmodel_fineweb/{timestamp}/prompt.txt",
    "sweep_prompt_meta": "ctxlen_xmodel_fineweb/{timestamp}/prompt.txt.meta.json",
    "entropy_vs_context_len": "ctxlen_xmodel_fineweb/{timestamp}/{preset}/"
    "entropy_vs_context_len_{site}_layer{layer}_{timestamp}",
    "events_manifest": "cherry_picked_feature_entropy/{timestamp}/manifest.json",
    "corpus_tokens": "cherry_picked_feature_entropy/{timestamp}/corpus_tokens",
    "top_contexts": "cherry_picked_feature_entropy/{timestamp}/top_contexts_layer{layer}.json",
    "events": "cherry_picked_feature_entropy/{timestamp}/ctx{n_ctx}.csv",
    "influences": "cherry_picked_feature_entropy/{timestamp}/influences_ctx{n_ctx}.npz",
    "adapter_log": "cherry_picked_feature_entropy/{timestamp}/adapter_log.json",
    "case_studies": "feature_case_studies/{timestamp}_{setname}/feature_case_studies.html",
    "case_studies_manifest": "feature_case_studies/{timestamp}_{setname}/manifest.json",
    "geometry_manifest": "feature_geometry_vs_entropy/{timestamp}/manifest.json",
    "geometry": "feature_geometry_vs_entropy/{timestamp}/per_feature.csv",
    "decoder_vectors": "feature_geometry_vs_entropy/{timestamp}/decoder_vectors",
    "cosine_matrix": "feature_geometry_vs_entropy/{timestamp}/cosine_matrix",
    "pairwise": "feature_geometry_vs_entropy/{timestamp}/pairwise.csv",
    "neighbours": "feature_geometry_vs_entropy/{timestamp}/feature_neighbour_summary.csv",
    "neuronpedia_xcheck": "feature_geometry_vs_entropy/{timestamp}/neuronpedia_xcheck.csv",
    "autocorr_config": "feature_activation_autocorr/{timestamp}/run_config.json",
    "selected_features": "feature_activation_autocorr/{timestamp}/selected_features.csv",
    "top_examples": "feature_activation_autocorr/{timestamp}/top_examples.csv",
    "activation_traces": "feature_activation_autocorr/{timestamp}/activation_traces.npz",
    "autocorr_curves": "feature_activation_autocorr/{timestamp}/autocorr_curves.csv",
    "entropy_targets": "feature_activation_autocorr/{timestamp}/entropy_targets.csv",
    "feature_summary": "feature_activation_autocorr/{timestamp}/feature_summary.csv",
    "corpus_meta": "feature_activation_autocorr/{timestamp}/fineweb_corpus_meta.json",
    "feature_levels": "{preset}/feature_level_entropies",
    "candidates": "{preset}/candidate_features_l{layer}.md",
    "corner_features": "feature_activation_autocorr/{timestamp}/corner_features.html",
    "corner_categories": "feature_activation_autocorr/{timestamp}/corner_categories.json",
    "neuronpedia_cache": "neuronpedia_cache/{model}/{sae}/{feature}.json",
    "figure": "figures/{figure}.png",
}


class Group(NamedTuple):
    """One window of a depth run, or one length of a sweep.

    Args:
        index: `batch_idx`, or `context_len`.
        feature: latents, ascending.
        entropy: bits.
        activation: act units, a row a latent.
        influence: from the oldest token on, a row a latent.
        token_vector_entropy: bits; NaN where the file has none.
        token_vector_influence: empty where the file has none.
    """

    index: int
    feature: np.ndarray
    entropy: np.ndarray
    activation: list[np.ndarray]
    influence: list[np.ndarray]
    token_vector_entropy: float
    token_vector_influence: np.ndarray


def place(root: Path, name: str, **fields: Any) -> Path:
    """Return where a file of the layout belongs; a path without an ending is a STEM.

    Raises:
        ConfigError: there is no such file, or a field is missing or no part of a path.
    """
    if name not in LAYOUT:
        raise ConfigError(f"The layout has no `{name}`; it has {', '.join(LAYOUT)}.")
    parts = {k: str(v).replace("/", "__") for k, v in fields.items()}
    if bad := [k for k, v in parts.items() if v in ("", ".", "..")]:
        raise ConfigError(f"`{bad[0]}` must be part of a path; got {fields[bad[0]]!r}.")
    try:
        return root / LAYOUT[name].format(**parts)
    except KeyError as error:
        raise ConfigError(f"`{name}` is at {LAYOUT[name]}; {error} is missing.") from error


def write(stem: Path, result: PublishedFile) -> list[Path]:
    """Write a result; return its files, the .json last.

    Raises:
        ConfigError: an array is not numbers.
    """
    odd = [n for n, a in result.arrays.items() if a.dtype.kind not in "fiub"]
    if odd:
        raise ConfigError(f"`{odd[0]}` must be an array of numbers.")
    files = []
    if result.kind == "tensor":
        files.append(_beside(stem, ".safetensors"))
        write_safetensors(files[0], {n: tensor_of(a) for n, a in result.arrays.items()})
    else:
        files.append(_beside(stem, ".npz"))
        replace_with(files[0], to_npz(result.arrays))
    if "group" in result.arrays:
        files.append(_beside(stem, ".csv"))
        _lines(result).write_csv(files[-1])
    record = {
        "format": FORMAT,
        "version": VERSION,
        "kind": result.kind,
        "generation": result.generation,
        "numbers": files[0].name,
        "sha256": sha256_of(files[0]),
        "notes": list(result.notes),
        "info": result.info,
    }
    write_json(_beside(stem, ".json"), record)
    return [*files, _beside(stem, ".json")]


@bordered("a result of a locality run")
def read(stem: Path) -> PublishedFile:
    """Read a result that `write` wrote, checked against its checksum.

    Raises:
        FormatError: a file is missing, damaged, or not of this layout.
    """
    path = _beside(stem, ".json")
    raw = read_object(path)
    if raw.get("format") != FORMAT:
        raise FormatError(f"{path} is not of a {FORMAT} result.")
    if raw["version"] > VERSION:
        raise FormatError(f"{path} is of version {raw['version']}; upgrade saekit.")
    held = inside(path.parent, raw["numbers"])
    if not held.exists() or sha256_of(held) != raw["sha256"]:
        raise FormatError(f"{held} is missing or damaged: its SHA-256 is not the recorded one.")
    if held.suffix == ".npz":
        arrays = read_npz(held)
    else:
        arrays = {n: t.numpy() for n, t in read_tensors(held).items()}
    found = PublishedFile(raw["kind"], raw["generation"], arrays, raw["info"], tuple(raw["notes"]))
    if "group" in arrays:
        groups(found)  # what its windows lack is said here, where the file is known
    return found


def groups(result: PublishedFile) -> list[Group]:
    """Return the windows of a depth run, or the lengths of a sweep.

    Raises:
        ConfigError: the result has none.
    """
    arrays = result.arrays
    if "group" not in arrays:
        raise ConfigError(f"A result of kind `{result.kind}` has no windows.")
    index = arrays.get("batch_idx", arrays.get("context_len"))
    assert index is not None
    ends = np.searchsorted(arrays["group"], np.arange(len(index) + 1))
    found = []
    for i, (first, last) in enumerate(zip(ends, ends[1:], strict=False)):
        mine = range(first, last)
        found.append(
            Group(
                int(index[i]),
                arrays["feature"][first:last],
                arrays["entropy"][first:last],
                [row(arrays, "activation", p) for p in mine],
                [row(arrays, "influence", p) for p in mine],
                float(arrays["token_vector_entropy"][i]),
                row(arrays, "token_vector_influence", i),
            )
        )
    return found


def row(arrays: dict[str, np.ndarray], name: str, i: int) -> np.ndarray:
    """Return row i of those that lie one after another under a name."""
    starts = arrays[f"{name}_starts"]
    return arrays[name][starts[i] : starts[i + 1]]


def to_npz(arrays: dict[str, np.ndarray]) -> bytes:
    """Return arrays as the bytes of a compressed .npz file."""
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # pyright: ignore[reportArgumentType]
    return data.getvalue()


def tensor_of(array: np.ndarray) -> Tensor:
    """Return an array as a tensor of its own memory."""
    return torch.from_numpy(np.ascontiguousarray(array))


def _beside(stem: Path, ending: str) -> Path:
    """Return STEM with an ending; a STEM may have dots of its own."""
    return stem.with_name(stem.name + ending)


def _lines(result: PublishedFile) -> Table:
    arrays, columns = result.arrays, {}
    for name in ("batch_idx", "start_idx", "context_len"):
        if name in arrays:
            columns[name] = arrays[name].tolist()
    columns["num_active_features"] = arrays["num_active_features"].tolist()
    n = len(columns["num_active_features"])
    counts = np.bincount(arrays["group"], minlength=n)
    sums = np.bincount(arrays["group"], arrays["entropy"].astype(np.float64), minlength=n)
    means = [float(s / c) if c else None for s, c in zip(sums, counts, strict=True)]
    columns["mean_feature_entropy"] = means
    columns["token_vector_entropy"] = arrays["token_vector_entropy"].tolist()
    units = {"mean_feature_entropy": "bits", "token_vector_entropy": "bits"}
    return Table(columns=columns, units=units)
