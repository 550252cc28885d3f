"""A Llama model in GGUF, written as a folder that transformers reads."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from saekit.core.errors import FormatError
from saekit.core.files import write_json, write_tensors
from saekit.models.embedded.gguf import GGUF
from saekit.models.tokenizer import byte_level_bpe

_CONTROL = 3  # token type of special tokens in GGUF
_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Pre-tokenizers of GGUF and whether they split off single digits before byte-level BPE.
_SINGLE_DIGITS = {"smollm": True, "gpt-2": False, "default": False}


def write_folder(source: GGUF, folder: Path) -> None:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json.

    Weights are float32 and equal to the unpacked ones.

    Raises:
        FormatError: it is not of the Llama architecture, or its tokenizer is not
            byte-level BPE with a known pre-tokenizer.
    """
    architecture = source.settings.get("general.architecture")
    if architecture != "llama":
        raise FormatError(f"Only GGUF models of architecture `llama` are read; got {architecture}.")
    tokenizer = _tokenizer(source.settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", _config(source))
    write_json(folder / "tokenizer_config.json", _tokenizer_config(source.settings))
    tokenizer.save(str(folder / "tokenizer.json"))
    write_tensors(folder / "model.safetensors", _weights(source), {"format": "pt"})


def _weights(source: GGUF) -> dict[str, torch.Tensor]:
    heads = {
        "attn_q": source.settings["llama.attention.head_count"],
        "attn_k": source.settings["llama.attention.head_count_kv"],
    }
    out = {}
    for name in source.tensors:
        weight = source.tensor(name)
        if name in _TOP:
            key = _TOP[name]
        else:
            _, layer, part, _ = name.split(".")
            if part in heads:
                weight = _unpaired(weight, heads[part])
            key = f"model.layers.{layer}.{_BLOCK[part]}.weight"
        out[key] = torch.from_numpy(np.ascontiguousarray(weight))
    return out


def _unpaired(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Undo the row order of GGUF, which puts the two halves of a rotary pair side by side."""
    rows, columns = weight.shape
    pairs = weight.reshape(n_heads, rows // n_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _config(source: GGUF) -> dict[str, Any]:
    settings = source.settings
    heads = settings["llama.attention.head_count"]
    width = settings["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": settings["llama.feed_forward_length"],
        "num_hidden_layers": settings["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": settings["llama.attention.head_count_kv"],
        "head_dim": settings.get("llama.rope.dimension_count", width // heads),
        "vocab_size": len(settings["tokenizer.ggml.tokens"]),
        "max_position_embeddings": settings["llama.context_length"],
        # Stored as float32; the nearest short decimal is what the model was made with.
        "rms_norm_eps": float(
            np.format_float_positional(
                np.float32(settings["llama.attention.layer_norm_rms_epsilon"])
            )
        ),
        "rope_theta": settings["llama.rope.freq_base"],
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "bos_token_id": settings["tokenizer.ggml.bos_token_id"],
        "eos_token_id": settings["tokenizer.ggml.eos_token_id"],
        "pad_token_id": settings.get("tokenizer.ggml.padding_token_id"),
        "dtype": "float32",
    }


def _tokenizer(settings: dict[str, Any]) -> Any:
    model, pre = settings.get("tokenizer.ggml.model"), settings.get("tokenizer.ggml.pre", "default")
    if model != "gpt2" or pre not in _SINGLE_DIGITS:
        raise FormatError(
            f"The GGUF tokenizer is `{model}` with pre-tokenizer `{pre}`; `gpt2` with one of "
            f"{', '.join(_SINGLE_DIGITS)} can be read. Use the model's own folder instead."
        )
    tokens, types = settings["tokenizer.ggml.tokens"], settings["tokenizer.ggml.token_type"]
    first, second = zip(*(m.split(" ") for m in settings["tokenizer.ggml.merges"]), strict=True)
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    pairs = list(zip(first, second, strict=True))
    return byte_level_bpe(tokens, pairs, special, single_digits=_SINGLE_DIGITS[pre])


def _tokenizer_config(settings: dict[str, Any]) -> dict[str, Any]:
    tokens = settings["tokenizer.ggml.tokens"]
    named = {
        "bos_token": settings.get("tokenizer.ggml.bos_token_id"),
        "eos_token": settings.get("tokenizer.ggml.eos_token_id"),
        "pad_token": settings.get("tokenizer.ggml.padding_token_id"),
        "unk_token": settings.get("tokenizer.ggml.unknown_token_id"),
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": settings["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": settings.get("tokenizer.chat_template"),
    } | {key: tokens[i] for key, i in named.items() if i is not None}
