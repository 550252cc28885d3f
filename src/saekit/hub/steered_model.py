"""Write a steered model as a transformers folder: what an edit adds everywhere is a bias."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from saekit.core.errors import ConfigError
from saekit.core.parts import check_empty
from saekit.models.hf import HFModel, copied
from saekit.models.sites import Site
from saekit.models.tokenizer import HFTokenizer

if TYPE_CHECKING:
    from saekit.hub.splicing import Splice

# The output map whose bias is added to each point of a block, by the point that it reads.
_READS = {"resid_post": "mlp_acts", "mlp_out": "mlp_acts", "resid_mid": "z", "attn_out": "z"}
_TOLERANCE = 1e-3  # of logits, as a share of their spread
_BIAS_SETTINGS = ("mlp_bias", "attention_bias")


def save_steered(spliced: "Splice", folder: Path | str) -> Path:
    """Write the language model with a splice's edits built in, for transformers to load.

    An edit that adds a constant to a latent at every token adds a constant vector to the stream: a
    bias of the map that writes there. It acts at every token, at special ones as well, which edits
    inside a splice leave alone.

    Args:
        spliced: with edits that add, at all tokens, and the error kept.
        folder: a new folder.

    Raises:
        ConfigError: an edit is no constant; the model has no bias there and its configuration none
            to switch on; or what was written does not compute what it should.
    """
    lm, folder = spliced.lm, Path(folder)
    if not isinstance(lm, HFModel):
        raise ConfigError(
            f"Only a model of transformers that lies whole in one process can be written; "
            f"{lm.name} is a {type(lm).__name__}."
        )
    check_empty(folder, "Choose another folder to write the model to.")
    added = _added(spliced)
    module = copied(lm.module).eval()  # without what hangs on the model's own modules
    for site, vector in added.items():
        module = _with_bias(lm, module, site, vector)
    _check(lm, module, added)
    module.save_pretrained(folder)
    if isinstance(lm.tokenizer, HFTokenizer):
        lm.tokenizer.save(folder)
    return folder


def _added(spliced: "Splice") -> dict[Site, Tensor]:
    """Return the vector that edits add at each site."""
    found: dict[Site, Tensor] = {}
    for part in spliced.parts:
        if not part.error or part.joint:
            raise ConfigError(
                "Only edits that leave the rest of the model as it is can be written: keep the "
                "error term, and use SAEs of one site."
            )
        for edit in part.edits:
            if edit.kind != "add" or edit.where is not None:
                raise ConfigError(
                    f"An edit that adds at all tokens is a bias and can be written; got "
                    f"{edit.kind} of latent {edit.latent}"
                    f"{'' if edit.where is None else ' at some tokens'}."
                )
            vector = edit.value * part.sae.directions[edit.latent].cpu()
            found[part.write] = found.get(part.write, torch.zeros_like(vector)) + vector
    if not found:
        raise ConfigError("There is no edit to write. Make one first: spliced.edit(...).")
    return found


def _with_bias(lm: HFModel, module: Any, site: Site, vector: Tensor) -> Any:
    """Return the model with a vector added to what is written at a site."""
    reads = _READS.get(site.point)
    inner = None if reads is None else site._replace(point=reads)
    if inner is None or inner not in lm.sites():
        raise ConfigError(
            f"Nothing that has a bias writes at {site} of {lm.name} alone. Sites that can be "
            f"written: {', '.join(_READS)} of models that have mlp_acts and z."
        )
    path = lm.tap(inner).module.format(i=inner.layer)
    linear: Any = module.get_decoder().get_submodule(path)
    if getattr(linear, "bias", None) is None:
        module = _biased(lm, module)
        linear = module.get_decoder().get_submodule(path)
    if getattr(linear, "bias", None) is None:
        raise ConfigError(
            f"{lm.name} has no bias at {site} and its configuration none to switch on."
        )
    with torch.no_grad():
        linear.bias += vector.to(linear.bias)
    return module


def _biased(lm: HFModel, module: Any) -> Any:
    """Return the same model with biases of 0 where its configuration can have them."""
    config = copy.deepcopy(module.config)
    for name in _BIAS_SETTINGS:
        if getattr(config, name, None) is False:
            setattr(config, name, True)
    found = type(module)(config).to(module.device, module.dtype).eval()
    missing = found.load_state_dict(module.state_dict(), strict=False).missing_keys
    if any(not name.endswith(".bias") for name in missing):
        raise ConfigError(f"{lm.name} with biases needs other weights as well: {missing[0]}.")
    for name in missing:
        nn.init.zeros_(found.get_parameter(name))
    return found


@torch.no_grad()
def _check(lm: HFModel, module: Any, added: dict[Site, Tensor]) -> None:
    """Refuse what does not give the logits of the model with the vectors added."""
    tokens = torch.arange(8)[None] * 7919 % lm.vocab_size
    edits, lm.edits = lm.edits, ()
    try:
        wanted = lm.logits(tokens, {s: lambda x, v=v: x + v.to(x) for s, v in added.items()})
    finally:
        lm.edits = edits
    got = module(input_ids=tokens.to(lm.device), use_cache=False).logits
    off = float((got - wanted).abs().max() / wanted.float().std())
    if not off <= max(_TOLERANCE, 20 * torch.finfo(lm.dtype).eps):
        raise ConfigError(
            f"{lm.name} does not pass on a bias unchanged (logits differ by {off:.2g} of their "
            f"spread), as where a norm or a factor follows. It cannot be written so."
        )
