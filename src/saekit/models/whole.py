"""Loading a folder of transformers whole or not at all, and without running anything in it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from saekit.core.errors import FormatError, UnknownNameError
from saekit.core.files import read_json
from saekit.models.model_files import (
    ADAPTER,
    CONFIG,
    INDEX,
    WEIGHTS,
    adapter_refusal,
    shortened,
    weight_files,
    weights_refusal,
)

# Ways of attention and of experts that are part of transformers. Any other value of these
# settings is a repository of kernels, compiled code, which transformers would fetch and run.
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
_OURS = ("eager", "sdpa", None)
_NAMED_TWICE = re.compile(r"_?(?P<name>\w+?)(_internal)?")
# Buffers that older versions saved with the weights, and that are computed now: masks of
# attention, angles of rotary positions, and the numbers of positions.
_COMPUTED = re.compile(r"((attn|attention)\.(masked_)?bias|rotary_emb\.inv_freq|position_ids)$")


def read_config(library: Any, folder: Path, name: str) -> Any:
    """Return the configuration of a folder, after refusing what would run code of its own.

    Args:
        library: transformers.
        folder: of the model.
        name: how the user calls it.

    Raises:
        FormatError: there is none, it is an adapter's, or it names code or kernels to fetch.
    """
    if (folder / ADAPTER).is_file():
        raise adapter_refusal(name, folder / ADAPTER)
    if not (folder / CONFIG).is_file():
        raise FormatError(
            f"{folder} holds no model: it has no {CONFIG}. Give the folder that `save_pretrained` "
            f"of transformers wrote."
        )
    raw = read_json(folder / CONFIG)
    for setting, value in _settings(raw):
        match = _NAMED_TWICE.fullmatch(setting)
        asked = value.values() if isinstance(value, dict) else [value]
        if match and match["name"] in _IMPLEMENTATIONS:
            for one in asked:
                if isinstance(one, str) and "/" in one:
                    raise FormatError(
                        f"{CONFIG} of `{name}` names kernels on the hub ({setting}: {one}), which "
                        f"are compiled code; saekit runs none from there. Set {setting} to null "
                        f"or to eager."
                    )
    if isinstance(raw, dict) and raw.get("auto_map"):
        kind = raw.get("model_type")
        if kind not in library.CONFIG_MAPPING:
            raise FormatError(
                f"`{name}`, a model of type `{kind}`, needs code of its own to run (auto_map in "
                f"{CONFIG}), and saekit runs none that comes with a model. Choose one whose type "
                f"transformers knows."
            )
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if isinstance(kind, str) and kind not in library.CONFIG_MAPPING:
        raise UnknownNameError(
            f"`{name}` is a model of type `{kind}`, which transformers {library.__version__} has "
            f"not. Install a version that has it, or choose another model."
        )
    config = library.AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    _use_built_in(config)
    return config


def check_weight_files(folder: Path, name: str) -> None:
    """Refuse a folder without weights as safetensors.

    Raises:
        FormatError: there are none, or some that the index lists are missing.
    """
    if (folder / WEIGHTS).is_file():
        return
    if (folder / INDEX).is_file():
        absent = [file for file in weight_files(folder / INDEX) if not (folder / file).is_file()]
        if absent:
            raise FormatError(
                f"`{name}` lacks {shortened(absent)}, which its {INDEX} lists. Fetch it again, "
                f"whole."
            )
        return
    raise weights_refusal(name, [path.name for path in folder.iterdir()])


def load_weights(
    library: Any, folder: Path, config: Any, dtype: torch.dtype, name: str, spread: dict[str, Any]
) -> Any:
    """Return the model with every weight from its files, on the CPU but for what `spread` says.

    Args:
        library: transformers.
        folder: of the model.
        config: of `read_config`.
        dtype: of the weights.
        name: how the user calls it.
        spread: of `placement.spread_settings`.

    Raises:
        FormatError: a weight is missing, has another shape, or is of another model.
    """
    module, info = library.AutoModelForCausalLM.from_pretrained(
        str(folder),
        config=config,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **spread,
    )
    missing = sorted(k for k in info["missing_keys"] if not _COMPUTED.search(k))
    others = sorted(k for k in info["unexpected_keys"] if not _COMPUTED.search(k))
    reshaped = sorted(
        f"{key} {tuple(file)} where config.json makes it {tuple(model)}"
        for key, file, model in info["mismatched_keys"]
    )
    faults = [
        f"{what} {shortened(keys)}"
        for what, keys in (
            ("they lack", missing),
            ("they hold another shape of", reshaped),
            ("they also hold", others),
        )
        if keys
    ]
    if faults:
        raise FormatError(
            f"The weights of `{name}` are not those of a {type(module).__name__}: "
            f"{'; '.join(faults)}. What is missing would be random numbers. Fetch or save the "
            f"model again, with the {CONFIG} that belongs to it."
        )
    return module


def _settings(raw: Any) -> Iterator[tuple[str, Any]]:
    """Yield every name and value of a configuration, those of its parts too."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield key, value
            yield from _settings(value)
    elif isinstance(raw, list):
        for value in raw:
            yield from _settings(value)


def _use_built_in(config: Any) -> None:
    """Leave attention and experts to transformers where the file asks for an extra library."""
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        for setting in _IMPLEMENTATIONS:
            if getattr(part, f"_{setting}", None) not in _OURS:
                setattr(part, f"_{setting}", None)
