"""The published layout of SAELens: its files read and written.

It holds directions, bias, chances and factors, but no magnitudes; these are written beside in a
file of ours. Where that is absent they are made again from the config if they follow from it
(numbers, profiles, or folded normals of a seeded model, whose draws are known), else refused.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saekit.core.border import bordered
from saekit.core.errors import ConfigError, FormatError, nearest
from saekit.core.files import read_json, read_tensors, write_json, write_tensors
from saekit.studies.truth.model import correlation, firing, hierarchy, magnitudes, profiles
from saekit.studies.truth.model._published_trees import forest_of, trees_of
from saekit.studies.truth.model.base import Truth, TruthConfig, assembled
from saekit.studies.truth.model.dictionaries import Dictionary, Random, checked
from saekit.studies.truth.model.loadings import Loadings
from saekit.studies.truth.model.spread import Spread

CONFIG, TENSORS, TREES = (
    "synthetic_model_config.json",
    "synthetic_model.safetensors",
    "hierarchy.json",
)
MAGNITUDES = "saekit_magnitudes.safetensors"
DEFAULTS: dict[str, Any] = {
    "num_features": None,
    "hidden_dim": None,
    "firing_probability": None,
    "hierarchy": None,
    "orthogonalization": None,
    "correlation": None,
    "std_firing_magnitudes": 0.0,
    "mean_firing_magnitudes": 1.0,
    "bias": 1.0,
    "dtype": "float32",
    "seed": None,
}
# ours and theirs, field by field; the key is their generator_name
FIRINGS: dict[str, tuple[type, dict[str, str]]] = {
    "zipfian": (firing.Zipf, {"exponent": "exponent", "highest": "max_prob", "lowest": "min_prob"}),
    "linear": (firing.Linear, {"highest": "max_prob", "lowest": "min_prob"}),
    "random": (firing.Random, {"highest": "max_prob", "lowest": "min_prob"}),
    "constant": (firing.Constant, {"rate": "probability"}),
}
PROFILES: dict[str, tuple[type, dict[str, str]]] = {
    "linear": (profiles.Linear, {"start": "start", "end": "end"}),
    "exponential": (profiles.Exponential, {"start": "start", "end": "end"}),
    "folded_normal": (
        profiles.FoldedNormal,
        {"mean": "mean", "std": "std", "low": "min_value", "high": "max_value"},
    ),
}
TREE_FIELDS = {
    "roots": "total_root_nodes",
    "depth": "max_depth",
    "scaled": "scale_children_by_parent",
    "exclusive_share": "mutually_exclusive_portion",
    "exclusive_min_depth": "mutually_exclusive_min_depth",
    "exclusive_max_depth": "mutually_exclusive_max_depth",
}


def is_published(folder: Path) -> bool:
    """Return whether a folder is in the published layout."""
    return (folder / CONFIG).exists()


@bordered("a truth in the published layout")
def load(folder: Path, magnitude_seed: int | None = None) -> Truth:
    """Read a truth in the published layout.

    Args:
        folder: where its files are.
        magnitude_seed: draws magnitudes that the files do not have.

    Raises:
        FormatError: a file is missing or damaged, has a key that is not known, or leaves the
            magnitudes open and no seed is given.
    """
    raw = _known(read_json(folder / CONFIG), DEFAULTS, "")
    tensors = read_tensors(folder / TENSORS)
    n, d, seed = raw["num_features"], raw["hidden_dim"], raw["seed"]
    wanted = {"feature_vectors": (n, d), "bias": (d,), "firing_probabilities": (n,)}
    _known(tensors, [*wanted, "correlation_factor", "correlation_diag"], TENSORS)
    for key, shape in wanted.items():
        if key not in tensors or tuple(tensors[key].shape) != shape:
            has = list(tensors[key].shape) if key in tensors else "nothing"
            raise FormatError(f"{folder / TENSORS}: `{key}` must be {list(shape)}; it is {has}.")
    coins = tensors["firing_probabilities"].double()
    loadings = None
    if "correlation_factor" in tensors:
        loadings = Loadings(
            tensors["correlation_factor"][None].float(), tensors["correlation_diag"].float(), {}
        )
    mean_of, std_of = (_profile(raw[f"{key}_firing_magnitudes"]) for key in ("mean", "std"))
    cfg = TruthConfig(
        n_features=n,
        d_model=d,
        dictionary=_dictionary(raw),
        seed=seed or 0,
        firing=_firing(raw["firing_probability"]),
        bias=float(raw["bias"]),
        magnitudes=magnitudes.ReluNormal(mean=mean_of, std=std_of),
        correlation=_correlation(raw, loadings),
        hierarchy=_hierarchy(raw, folder),
    )
    mean, std = _magnitudes(folder, cfg, seed, magnitude_seed)
    _, positive = cfg.magnitudes.averages(mean, std)
    forest = forest_of(read_json(folder / TREES), n) if (folder / TREES).exists() else None
    found = {
        "features": checked(tensors["feature_vectors"], n, d),
        "bias": tensors["bias"].float(),
        "probabilities": coins,
        "coins": coins,
        "rates": coins * positive,
        "mean": mean,
        "std": std,
        "average": cfg.magnitudes.usual(mean, std),
    }
    # the file has the chances themselves, compensated already
    truth = assembled(cfg, found, positive, forest, loadings, solved=True)
    if forest is not None and not isinstance(cfg.firing, firing.Random):
        truth.tensors["probabilities"] = cfg.firing.probabilities(n, torch.Generator())
    return truth


def _magnitudes(
    folder: Path, cfg: TruthConfig, seed: int | None, given: int | None
) -> tuple[Tensor, Tensor]:
    if (folder / MAGNITUDES).exists():
        tensors = read_tensors(folder / MAGNITUDES)
        return tensors["mean"], tensors["std"]
    found = []
    for name, offset in (("mean", 2), ("std", 1)):  # their seeds of the two
        profile = getattr(cfg.magnitudes, name)
        chance = torch.Generator()
        if isinstance(profile, profiles.FoldedNormal):
            if given is not None:
                chance.manual_seed(given + offset)
            elif seed is not None:
                chance.manual_seed(seed + offset)
            else:
                raise FormatError(
                    f"{folder} leaves `{name}_firing_magnitudes` to chance and has neither a "
                    f"seed nor {MAGNITUDES}. Give `magnitude_seed` to draw them."
                )
            draws = torch.randn(cfg.n_features, generator=chance)  # float32, as theirs
            size = (profile.mean + profile.std * draws).abs().clamp(profile.low, profile.high)
            found.append(size.double())
        else:
            found.append(profiles.spread_out(profile, cfg.n_features, chance))
    return found[0], found[1]


def _known(raw: Any, known: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise FormatError(f"{where or CONFIG} must be an object; got {raw!r}.")
    for key in raw:
        if key not in known:
            raise FormatError(
                f"{where or CONFIG} has the key `{key}`, which is not known; known are "
                f"{', '.join(known)}.{nearest(key, known)}"
            )
    if not isinstance(known, dict):
        return raw
    for key in ("num_features", "hidden_dim", "firing_probability"):
        if raw.get(key) is None:
            raise FormatError(f"{CONFIG} lacks `{key}`.")
    return known | raw


def _mapped(raw: dict[str, Any], table: dict[str, tuple[type, dict[str, str]]], where: str) -> Any:
    kind = raw.get("generator_name")
    if kind not in table:
        raise FormatError(f"{where} of kind {kind!r} is not known; known are {', '.join(table)}.")
    cls, names = table[kind]
    _known(raw, [*names.values(), "generator_name"], where)
    return cls(
        **{ours: raw[theirs] for ours, theirs in names.items() if raw.get(theirs) is not None}
    )


def _firing(raw: dict[str, Any]) -> firing.Firing:
    return _mapped(raw, FIRINGS, "`firing_probability`")


def _profile(raw: Any) -> Any:
    if isinstance(raw, int | float):
        return float(raw)
    if raw.get("generator_name") == "constant":
        return float(_known(raw, ["value", "generator_name"], "`constant`")["value"])
    return _mapped(raw, PROFILES, "magnitudes")


def _dictionary(raw: dict[str, Any]) -> Dictionary:
    made = raw["orthogonalization"]
    if made is None:
        return Random()
    _known(made, ["num_steps", "lr", "chunk_size"], "`orthogonalization`")
    return Spread(
        steps=made["num_steps"], lr=made["lr"], chunk_rows=made["chunk_size"], sharpen_steps=0
    )


def _correlation(raw: dict[str, Any], loadings: Loadings | None) -> correlation.LowRank | None:
    if loadings is None:
        return None
    made = raw["correlation"] or {"rank": loadings.factor.shape[-1], "correlation_scale": 0.1}
    _known(made, ["rank", "correlation_scale", "seed"], "`correlation`")
    return correlation.LowRank(rank=made["rank"], scale=made["correlation_scale"])


def _hierarchy(raw: dict[str, Any], folder: Path) -> hierarchy.Hierarchy | None:
    if not (folder / TREES).exists():
        return None
    made = raw["hierarchy"]
    if made is None:
        return hierarchy.GivenHierarchy()  # the trees themselves are among the tensors
    _known(
        made, [*TREE_FIELDS.values(), "branching_factor", "compensate_probabilities"], "`hierarchy`"
    )
    least, most = made["branching_factor"], None
    if isinstance(least, list):
        least, most = least
    return hierarchy.Grown(
        **{ours: made[theirs] for ours, theirs in TREE_FIELDS.items() if theirs in made},
        branching=least,
        most_branching=most,
        compensate="published" if made["compensate_probabilities"] else "none",
    )


def save(truth: Truth, folder: Path) -> None:
    """Write a truth in the published layout, with its magnitudes in a file of ours beside.

    Raises:
        ConfigError: the layout has no place for a part of it, which is named.
    """
    cfg, tensors = truth.cfg, truth.tensors
    whole = truth.loadings is None or truth.loadings.factor.shape[0] == 1
    for name, fits in (
        ("noise", not cfg.noise),
        ("sequence", cfg.sequence is None),
        ("layers", cfg.layers is None),
        ("correlation", whole),
        ("magnitudes", isinstance(cfg.magnitudes, magnitudes.ReluNormal | magnitudes.Constant)),
        ("firing", isinstance(cfg.firing, tuple(cls for cls, _ in FIRINGS.values()))),
        ("hierarchy", cfg.hierarchy is None or isinstance(cfg.hierarchy, hierarchy.Grown)),
    ):
        if not fits:
            raise ConfigError(
                f"The published layout cannot hold `{name}`; got {cfg.to_dict()[name]!r}. "
                f"Use `Truth.save`."
            )
    out = {
        "feature_vectors": truth.features,
        "bias": truth.bias,
        "firing_probabilities": tensors["coins"].float(),
    }
    if truth.loadings is not None:
        out["correlation_factor"] = truth.loadings.factor[0]
        out["correlation_diag"] = truth.loadings.diag
    write_tensors(folder / TENSORS, out)
    write_tensors(folder / MAGNITUDES, {"mean": tensors["mean"], "std": tensors["std"]})
    if truth.forest is not None:
        write_json(folder / TREES, trees_of(truth.forest, truth.n_features))
    write_json(folder / CONFIG, _config_of(cfg))


def _config_of(cfg: TruthConfig) -> dict[str, Any]:
    spread = cfg.dictionary if isinstance(cfg.dictionary, Spread) else None
    low, tree = cfg.correlation, cfg.hierarchy
    return DEFAULTS | {
        "num_features": cfg.n_features,
        "hidden_dim": cfg.d_model,
        "bias": cfg.bias,
        "seed": cfg.seed,
        "firing_probability": _unmapped(cfg.firing, FIRINGS),
        "mean_firing_magnitudes": _unmapped(cfg.magnitudes.mean, PROFILES),
        "std_firing_magnitudes": _unmapped(cfg.magnitudes.std, PROFILES),
        "orthogonalization": spread
        and {"num_steps": spread.steps, "lr": spread.lr, "chunk_size": spread.chunk_rows},
        "correlation": low
        and {
            "rank": low.rank if isinstance(low, correlation.LowRank) else cfg.n_features,
            "correlation_scale": low.scale if isinstance(low, correlation.LowRank) else 0.1,
            "seed": None,
        },
        "hierarchy": {
            **{theirs: getattr(tree, ours) for ours, theirs in TREE_FIELDS.items()},
            "branching_factor": tree.branching
            if tree.most_branching is None
            else [tree.branching, tree.most_branching],
            "compensate_probabilities": tree.compensate != "none",
        }
        if isinstance(tree, hierarchy.Grown)
        else None,
    }


def _unmapped(config: Any, table: dict[str, tuple[type, dict[str, str]]]) -> Any:
    for kind, (cls, names) in table.items():
        if type(config) is cls:
            fields = {theirs: getattr(config, ours) for ours, theirs in names.items()}
            return fields | {"generator_name": kind}
    return config  # a number
