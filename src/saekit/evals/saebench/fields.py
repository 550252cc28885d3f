"""Which of saekit's scores SAEBench has a field for, and in what each differs."""

import re
import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from saekit.core.result import Result

Values = dict[str, dict[str, float | None]]  # by category and field; None where undefined


class Fields(NamedTuple):
    """A result in the fields of SAEBench."""

    values: Values
    rows: list[dict[str, Any]]  # a task, or a letter, each
    differs: dict[str, str]  # by field: what its number is not the same in


class Counterpart(NamedTuple):
    """An evaluation of SAEBench that one of saekit's is written as."""

    id: str  # SAEBench's name
    fields: Callable[[Result], Fields]


def _value(result: Result, name: str) -> float | None:
    score = result.scores.get(name)
    return None if score is None else score.value


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _rest(value: float | None) -> float | None:
    return None if value is None else 1 - value


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of all; None where one is undefined, or there is none."""
    every = list(values)
    known = [v for v in every if v is not None]
    return sum(known) / len(known) if known and len(known) == len(every) else None


def _core(result: Result) -> Fields:
    details = result.details
    width = result.provenance.get("sae", {}).get("d_out", 0) * max(len(details.get("sites", [])), 1)
    tokens = details.get("tokens", {})
    values: Values = {
        "model_behavior_preservation": {"kl_div_with_sae": _value(result, "kl")},
        "model_performance_preservation": {
            "ce_loss_score": _value(result, "ce_recovered_zero"),
            "ce_loss_with_ablation": details.get("losses", {}).get("zero"),
            "ce_loss_with_sae": _value(result, "ce_spliced"),
            "ce_loss_without_sae": _value(result, "ce_clean"),
        },
        "reconstruction_quality": {
            "explained_variance": _rest(_value(result, "fvu")),
            "mse": _times(_value(result, "mse"), width) if width else None,
            "cossim": _value(result, "cosine"),
        },
        "shrinkage": {
            "l2_ratio": _value(result, "l2_ratio"),
            "relative_reconstruction_bias": _value(result, "shrinkage"),
        },
        "sparsity": {name: _value(result, name) for name in ("l0", "l1")},
        "token_stats": {
            "total_tokens_eval_reconstruction": details.get("scored_tokens"),
            "total_tokens_eval_sparsity_variance": tokens.get("kept"),
        },
        "misc_metrics": {
            "freq_over_10_percent": details.get("dense_share"),
            "frac_alive": _rest(_value(result, "dead")),
        },
    }
    kept = "over the tokens that the SAE's rule keeps"
    zero = f"{kept}: these alone are set to 0, not every position"
    differs = {
        "kl_div_with_sae": kept,
        "ce_loss_score": zero,
        "ce_loss_with_ablation": zero,
        "explained_variance": "1 less the FVU: centred, a ratio of sums; not SAEBench 0.6's",
        "mse": "squared error a token, as SAELens 6.54 has it; not over the tokens of a batch",
        "l2_ratio": "a ratio of sums, not a mean of ratios",
        "relative_reconstruction_bias": "a ratio of sums, not a mean over batches",
        "l1": "of absolute values",
    }
    return Fields(values, [], differs)


# Fields of `core` whose name had several meanings, and the name of the one they have there.
PUBLISHED: dict[str, str] = {
    "explained_variance": "explained_variance_about_zero",
    "mse": "mse_over_batch",
}
CORE: dict[str, tuple[str, ...]] = {
    "model_behavior_preservation": ("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"),
    "model_performance_preservation": (
        "ce_loss_score",
        "ce_loss_with_ablation",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
    ),
    "reconstruction_quality": ("explained_variance", "explained_variance_legacy", "mse", "cossim"),
    "shrinkage": ("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
    "sparsity": ("l0", "l1"),
    "misc_metrics": (
        "freq_over_1_percent",
        "freq_over_10_percent",
        "normalized_freq_over_1_percent",
        "normalized_freq_over_10_percent",
        "average_max_encoder_cosine_sim",
        "average_max_decoder_cosine_sim",
        "frac_alive",
    ),
}


def _saebench_core(result: Result) -> Fields:
    values: Values = {
        category: {f: _value(result, PUBLISHED.get(f, f)) for f in fields}
        for category, fields in CORE.items()
    }
    values["token_stats"] = {
        "total_tokens_eval_reconstruction": result.details.get("loss_tokens"),
        "total_tokens_eval_sparsity_variance": result.details.get("tokens"),
    }
    return Fields(values, [], {})


def _over_tasks(
    result: Result, named: dict[str, str], row: str
) -> tuple[dict[str, float | None], list[dict[str, Any]]]:
    """Return means over tasks, and a row for each task.

    Args:
        result: its scores are called ``TASK/NAME``, a number in NAME being of latents.
        named: by a pattern of NAME, what the field is called, as `re.sub` takes both.
        row: what a row calls the task.
    """
    found: dict[str, dict[str, float | None]] = {}
    for key, score in result.scores.items():
        task, _, name = key.rpartition("/")
        for pattern, field in named.items():
            if task and re.fullmatch(pattern, name):
                found.setdefault(task, {})[re.sub(pattern, field, name)] = score.value
    fields = dict.fromkeys(f for one in found.values() for f in one)
    means = {f: _mean(one.get(f) for one in found.values()) for f in fields}
    return means, [{row: task} | one for task, one in found.items()]


def _probing(result: Result) -> Fields:
    named = {
        "baseline_accuracy": "llm_test_accuracy",
        "sae_accuracy": "sae_test_accuracy",
        r"sae_(\d+)_accuracy": r"sae_top_\1_test_accuracy",
    }
    means, rows = _over_tasks(result, named, "dataset_name")
    values: Values = {
        side: {f: v for f, v in means.items() if f.startswith(side)} for side in ("llm", "sae")
    }
    how = "other tasks; latents by their F ratio; penalty by cross-validation; several classes"
    return Fields(values, rows, dict.fromkeys(means, how))


def _tpp(result: Result) -> Fields:
    means, rows = _over_tasks(
        result, {r"tpp_(\d+)": r"tpp_threshold_\1_total_metric"}, "dataset_name"
    )
    how = "other tasks; balanced accuracy; latents that do nothing for the probe stay"
    return Fields({"tpp_metrics": dict(means)}, rows, dict.fromkeys(means, how))


def _scr(result: Result) -> Fields:
    named = {
        r"first_scr_(\d+)": r"scr_dir1_threshold_\1",
        r"second_scr_(\d+)": r"scr_dir2_threshold_\1",
    }
    means, rows = _over_tasks(result, named, "dataset_name")
    how = "other pairs; a mean over several draws of train"
    return Fields({"scr_metrics": dict(means)}, rows, dict.fromkeys(means, how))


def _absorption(result: Result) -> Fields:
    parts = {
        "absorption_fraction_score": ("absorption_fraction", "absorption_fraction"),
        "full_absorption_score": ("full_absorption", "full_absorption"),
        "num_split_features": ("split_latents", "main"),
    }
    letters = result.details.get("letters", {})
    mean: dict[str, float | None] = {}
    for field, (score, detail) in parts.items():
        mean[f"mean_{field}"] = _value(result, score)
        each = [_number(one.get(detail)) for one in letters.values()]
        mean[f"std_dev_{field}"] = _deviation(each)
    rows = [
        {
            "first_letter": letter,
            "mean_absorption_fraction": _number(one.get("absorption_fraction")),
            "full_absorption_rate": _number(one.get("full_absorption")),
            "num_probe_true_positives": one.get("words"),
            "num_split_features": _number(one.get("main")),
        }
        for letter, one in letters.items()
    ]
    how = "words of the model's own vocabulary; letters with a weak probe are left out"
    return Fields({"mean": mean}, rows, dict.fromkeys(mean, how))


def _number(said: Any) -> float | None:
    """Return a number that a detail gives: itself, its `value`, or how many entries it has."""
    if isinstance(said, dict):
        said = said.get("value")
    return float(len(said)) if isinstance(said, list) else said


def _deviation(values: list[float | None]) -> float | None:
    """Return the sample's standard deviation; None of fewer than two, or where one is missing."""
    known = [v for v in values if v is not None]
    return statistics.stdev(known) if len(known) == len(values) > 1 else None


def _disentanglement(result: Result) -> Fields:
    parts = {
        "disentanglement_score": _value(result, "disentanglement"),
        "cause_score": _ends_in(result, "cause"),
        "isolation_score": _ends_in(result, "isolation"),
    }
    how = "things and attributes of a wheel; latents by a probe, not by a trained mask"
    return Fields({"ravel": parts}, [], dict.fromkeys(parts, how))


def _ends_in(result: Result, name: str) -> float | None:
    return _mean(s.value for key, s in result.scores.items() if key.endswith(f"/{name}"))


def _meta_structure(result: Result) -> Fields:
    field = "decoder_fraction_variance_explained"
    values: Values = {"meta_structure": {field: _value(result, "explained")}}
    how = "of directions of length 1, some held out of the fit; coded with exactly 4 latents each"
    return Fields(values, [], {field: how})


COUNTERPARTS: dict[str, Counterpart] = {
    "core": Counterpart("core", _core),
    "saebench_core": Counterpart("core", _saebench_core),
    "probing": Counterpart("sparse_probing", _probing),
    "absorption": Counterpart("absorption_first_letter", _absorption),
    "tpp": Counterpart("tpp", _tpp),
    "scr": Counterpart("scr", _scr),
    "disentanglement": Counterpart("ravel", _disentanglement),
    "meta_structure": Counterpart("meta_structure_decoder_variance", _meta_structure),
}
OTHER_THINGS = {  # the same word, and another quantity
    "unlearning": "SAEBench's is 1 less an accuracy, saekit's a rise of losses in nats",
    "explain": "SAEBench's judge picks among 14 windows, saekit's judges each text",
}
