"""Processing: weights changed as TransformerLens changes them on loading, with the same logits.

Folded are gain and bias of each LayerNorm into the maps that read it, and the bias of values into
that of attention's output map, for attention weights sum to 1. Centred are what is written to the
stream, for each reader subtracts the mean anyway, and the unembedding, which moves all logits of a
position by one number.

Source:
    TransformerLens, `from_pretrained` with its defaults (fold_ln, center_writing_weights,
    center_unembed, fold_value_biases).
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from saekit.core.errors import ConfigError
from saekit.models.hf import HFModel
from saekit.models.sites import EMBED, Site
from saekit.models.structure import first, taken

NAME = "transformer_lens"
# Rounding allowed between the processed model and the one before, as a share of the largest value.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
_HALF = 5e-2


def process(model: HFModel) -> None:
    """Change the weights of a model in place, and prove that it computes what it did.

    Sites of the stream, `attn_out` and `mlp_out` then are what they were less their mean; `mlp_in`
    is `mlp_normalized`; `z` lacks the bias of values; `mlp_acts` is what it was.

    Raises:
        ConfigError: it does not hold for this model; the message says why.
    """
    tokens = torch.arange(1, 8)[None] * 7919 % model.vocab_size
    stream = [EMBED, *(s for s in model.sites() if s.point in ("resid_pre", "resid_post"))]
    before, logits = model.read(tokens, stream), model.logits(tokens)
    readers = _readers(model, tokens)
    _untie(model.module)
    with torch.no_grad():
        for norm, maps in readers:
            for layer in maps:
                _fold_norm(layer, norm.weight, norm.bias)
            if norm.weight is not None:
                norm.weight.fill_(1)
            if norm.bias is not None:
                norm.bias.zero_()
        for i in range(model.n_layers):
            attention, mlp = (_output_map(model, Site(i, point)) for point in ("z", "mlp_acts"))
            _fold_value_bias(model, i, attention)
            for layer in (attention, mlp):
                _centre(layer)
        for part in _embeddings(model):
            part.weight -= part.weight.float().mean(-1, keepdim=True).to(part.weight)
        _centre_vocabulary(model.module.get_output_embeddings())
    model.after_processing(NAME)
    _prove(model, tokens, before, logits)


def _readers(model: HFModel, tokens: Tensor) -> list[tuple[Any, list[Any]]]:
    """Return each LayerNorm on the stream with the linear maps that read what it gives."""
    made: list[tuple[Any, Tensor]] = []
    reads: dict[nn.Module, Tensor] = {}
    hooks = []

    def norm_hook(part: nn.Module, _args: Any, output: Any) -> None:
        made.append((part, first(output)))

    def map_hook(part: nn.Module, args: Any, kwargs: Any) -> None:
        reads[part] = taken(args, kwargs)

    for part in model.module.modules():
        if isinstance(part, nn.LayerNorm):
            hooks.append(part.register_forward_hook(norm_hook))
        elif isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D":
            hooks.append(part.register_forward_pre_hook(map_hook, with_kwargs=True))
    try:
        model.logits(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    if len(made) <= model.n_layers:
        raise ConfigError(
            f"processing={NAME!r} is for models whose norms are LayerNorm; {model.name} "
            f"({model.family}) has others, which subtract no mean, so nothing on its stream is "
            f"centred and TransformerLens' activations there are saekit's. Leave it out."
        )
    found = []
    for norm, output in made:
        # The map may be handed a view of what the norm gave: the same memory.
        maps = [layer for layer, x in reads.items() if x.data_ptr() == output.data_ptr()]
        if not maps:
            raise ConfigError(
                f"processing={NAME!r} does not hold for {model.name} ({model.family}): one of its "
                f"norms is read by more than linear maps. Leave it out."
            )
        found.append((norm, maps))
    return found


def _untie(module: Any) -> None:
    """Give the unembedding weights of its own, where it shares those of the embedding."""
    output = module.get_output_embeddings()
    if output.weight is module.get_input_embeddings().weight:
        output.weight = nn.Parameter(output.weight.detach().clone(), False)


def _fold_norm(layer: Any, gain: Tensor | None, bias: Tensor | None) -> None:
    """Put what a norm multiplies by and adds into a map that reads it."""
    wide = _weight(layer).float()  # [out, in]
    if bias is not None:
        _add_bias(layer, wide @ bias.float())
    if gain is not None:
        _set_weight(layer, wide * gain.float())


def _fold_value_bias(model: HFModel, i: int, output: Any) -> None:
    """Move the bias of values into the bias of attention's output map."""
    path = model.tap(Site(i, "z")).module.format(i=i).rpartition(".")[0]
    attention: Any = model.module.get_decoder().get_submodule(path)
    n_heads, width = model.n_heads(Site(i, "z")), model.width(Site(i, "z"))
    if n_heads and (own := getattr(attention, "v_proj", None)) is not None and own.bias is not None:
        values = own.bias.view(-1, width // n_heads)  # [heads of keys and values, d_head]
        total = values.repeat_interleave(n_heads // len(values), 0).flatten()
    elif (own := getattr(attention, "c_attn", None)) is not None and len(own.bias) == 3 * width:
        total = values = own.bias[2 * width :]
    elif n_heads and model.family == "gpt_neox" and attention.query_key_value.bias is not None:
        values = attention.query_key_value.bias.view(n_heads, 3, -1)[:, 2]
        total = values.flatten()
    else:
        return  # other layouts keep the bias where it is: `z` has it, and all else is the same
    _add_bias(output, _weight(output).float() @ total.float())
    values.zero_()


def _centre(layer: Any) -> None:
    wide = _weight(layer).float()
    _set_weight(layer, wide - wide.mean(0, keepdim=True))
    if layer.bias is not None:
        layer.bias -= layer.bias.float().mean().to(layer.bias)


def _centre_vocabulary(layer: Any) -> None:
    wide = layer.weight.float()
    layer.weight.copy_(wide - wide.mean(0, keepdim=True))
    if layer.bias is not None:
        layer.bias -= layer.bias.float().mean().to(layer.bias)


def _embeddings(model: HFModel) -> list[Any]:
    """Return the embeddings that are added to the stream: of tokens, and of positions."""
    blocks = re.compile(r"\.\d+\.")
    return [
        part
        for name, part in model.module.get_decoder().named_modules()
        if isinstance(part, nn.Embedding) and not blocks.search(f".{name}.")
    ]


def _output_map(model: HFModel, site: Site) -> Any:
    if site not in model.sites():
        raise ConfigError(
            f"processing={NAME!r} needs `{site}`, which {model.name} ({model.family}) has not: "
            f"{model.left_out.get(str(site), 'there is no such site')}. Leave it out."
        )
    return model.module_at(site)


def _weight(layer: Any) -> Tensor:
    """Return the weight of a linear map as ``[out, in]``."""
    return layer.weight.t() if type(layer).__name__ == "Conv1D" else layer.weight


def _set_weight(layer: Any, weight: Tensor) -> None:
    _weight(layer).copy_(weight)


def _add_bias(layer: Any, more: Tensor) -> None:
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros_like(more, dtype=layer.weight.dtype), False)
    layer.bias += more.to(layer.bias)


def _prove(model: HFModel, tokens: Tensor, before: Any, logits: Tensor) -> None:
    """Refuse a model whose stream is not what it was, centred, or whose predictions moved."""
    least = _TOLERANCE.get(model.dtype, _HALF)
    after = model.read(tokens, list(before))
    pairs = [(str(s), after[s], x - x.mean(-1, keepdim=True)) for s, x in before.items()]
    log_shares = [x.float().log_softmax(-1) for x in (model.logits(tokens), logits)]
    for name, new, wanted in [*pairs, ("the prediction", *log_shares)]:
        error = (new.float() - wanted.float()).abs().max() / wanted.float().abs().max()
        if not error <= least:
            raise ConfigError(
                f"processing={NAME!r} does not hold for {model.name} ({model.family}): {name} "
                f"would change by {error:.2g} of its size. Leave it out."
            )
