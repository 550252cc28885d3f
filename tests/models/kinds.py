"""Types of models that are proved one by one, and what was found of each, for the table in docs."""

import functools

from saekit.core.errors import ConfigError
from saekit.models.hf import HFModel
from saekit.models.selfcheck import check
from saekit.models.sites import POINTS, Site
from saekit.models.tiny import model_types, tiny

# Of no family: their maps are found from their structure.
FOUND = (
    "gpt_neo",
    "gptj",
    "gpt_bigcode",
    "opt",
    "bloom",
    "falcon",
    "phi",
    "phimoe",
    "codegen",
    "mpt",
    "persimmon",
    "llama4_text",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_5_text",
    "qwen3_next",
    "gemma3n_text",
    "gemma4_text",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "stablelm",
    "starcoder2",
    "granite",
    "granitemoe",
    "cohere",
    "cohere2",
    "glm",
    "glm4",
    "exaone4",
    "deepseek_v2",
    "deepseek_v3",
    "gpt_oss",
    "nemotron",
    "ernie4_5",
    "seed_oss",
    "lfm2",
    "helium",
    "minicpm3",
    "hunyuan_v1_dense",
    "bitnet",
    "diffllama",
    "arcee",
    "apertus",
    "mamba",
    "mamba2",
    "falcon_mamba",
    "rwkv",
    "recurrent_gemma",
)
ALL = (*model_types(), *FOUND)


@functools.cache
def model(kind: str) -> HFModel:
    """Return a tiny model, made and proved once."""
    lm = tiny(kind)
    check(lm)
    return lm


def generates(lm: HFModel) -> str:
    """Return how a model generates: rows together, one by one, or not at all."""
    try:
        _, together = lm._state
    except ConfigError:
        return "no"
    return "yes" if together else "one by one"


def row(kind: str) -> str:
    """Return the line of a type in the table of docs/models.md."""
    lm = model(kind)
    layers = range(lm.n_layers)
    everywhere, somewhere, reasons = [], [], {}
    for point in POINTS:
        there = [Site(i, point) in lm.sites() for i in layers]
        (everywhere if all(there) else somewhere if any(there) else []).append(point)
        for i in layers:
            if why := lm.left_out.get(str(Site(i, point))):
                reasons.setdefault(why, []).append(point)
    sites = "all" if len(everywhere) == len(POINTS) else ", ".join(everywhere)
    if somewhere:
        sites += f"; in some layers {', '.join(somewhere)}"
    left_out = "; ".join(
        f"{', '.join(dict.fromkeys(points))}: {why}" for why, points in reasons.items()
    )
    return f"| {kind} | {sites} | {left_out} | {generates(lm)} |"
