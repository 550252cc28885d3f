"""Tiny random language models: for tests and first steps, with no download."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import nn
from typing_extensions import override

from saekit.core.errors import UnknownNameError, nearest
from saekit.core.files import write_json
from saekit.core.seeds import generator
from saekit.models.base import Tokenizer, as_texts
from saekit.models.family import Family, registry
from saekit.models.hf import HFModel, causal_types, default_settings, new_module
from saekit.models.tokenizer import byte_alphabet, byte_level_bpe, split_text

BOS, EOS = "<bos>", "<eos>"
VOCAB_SIZE = 258  # 256 bytes, BOS, EOS
N_HEADS = 4
N_CTX_MAX = 256


def model_types() -> list[str]:
    """Return every model type of transformers that a family has a map of sites for."""
    return [kind for name in registry.names() for kind in registry.get(name).model_types]


@final
class ByteTokenizer(Tokenizer):
    """Ids 0..255 are the bytes of UTF-8; 256 begins a text, 257 ends it."""

    bos_id, eos_id, pad_id = 256, 257, None
    special_ids = frozenset({256, 257})
    vocab_size = VOCAB_SIZE
    digest = hashlib.sha256(b"saekit byte tokenizer 1").hexdigest()

    @override
    def encode(self, texts: str | Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in as_texts(texts)]

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(_bytes, ids)).decode(errors="replace")

    @override
    def bytes_of(self, ids: Sequence[int]) -> list[bytes]:
        return [_bytes(i) for i in ids]

    @override
    def pieces(self, ids: Sequence[int]) -> list[str]:
        return split_text(self.bytes_of(ids))


def tiny(
    family: str = "llama",
    seed: int = 0,
    *,
    n_layers: int = 2,
    d_model: int = 32,
    dtype: torch.dtype = torch.float32,
) -> HFModel:
    """Return a random language model over bytes: 258 ids, rows of up to 256 tokens.

    The same arguments give the same weights. Weights are larger than those of a fresh model
    for training, so that attention and MLP change the stream visibly.

    Args:
        family: a family, a model type of one, or any type of causal language models that
            transformers has; ``gemma`` and ``qwen`` stand for ``gemma2`` and ``qwen3``.
        seed: of the weights.
        n_layers: blocks.
        d_model: width of the stream; a multiple of 8.
        dtype: of weights and activations.

    Raises:
        UnknownNameError: there is no such family or type.
    """
    module = _module(family, seed, n_layers, d_model).to(dtype)
    revision = f"seed {seed}, {n_layers} layers, d_model {d_model}"
    return HFModel(module, ByteTokenizer(), name=f"tiny-{family}", revision=revision)


def save_tiny(folder: Path, family: str = "llama", seed: int = 0, **sizes: int) -> Path:
    """Write `tiny(family, seed, **sizes)` as a folder that transformers and `load` read.

    Returns:
        `folder`.
    """
    module = _module(family, seed, sizes.get("n_layers", 2), sizes.get("d_model", 32))
    module.save_pretrained(folder)
    by_byte = sorted(byte_alphabet().items(), key=lambda item: item[1])
    tokens = [char for char, _ in by_byte] + [BOS, EOS]
    byte_level_bpe(tokens, [], [BOS, EOS]).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        # Named, for some tokenizer classes would otherwise add a token of their own.
        "pad_token": EOS,
        "unk_token": EOS,
        "model_max_length": N_CTX_MAX,
    }
    write_json(folder / "tokenizer_config.json", settings)
    return folder


def _module(family: str, seed: int, n_layers: int, d_model: int) -> Any:
    kind, model_type = _type_of(family)
    sizes = {
        "hidden_size": d_model,
        "num_hidden_layers": n_layers,
        "num_attention_heads": N_HEADS,
        "intermediate_size": 2 * d_model,
        "max_position_embeddings": N_CTX_MAX,
        "vocab_size": VOCAB_SIZE,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": None,
    }
    settings = _small(model_type, sizes) if kind is None else kind.tiny(model_type, sizes)
    with torch.random.fork_rng(devices=[]):  # transformers draws weights that are not kept
        module = new_module(model_type, settings)
    _randomise(module, seed)
    return module


def _small(model_type: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a small model of a type that no family has, with a layer of each kind."""
    d, heads, n = sizes["hidden_size"], N_HEADS, sizes["num_hidden_layers"]
    head = d // heads
    usual = {
        "head_dim": head,
        "num_key_value_heads": heads // 2,
        "sliding_window": 64,
        # Widths that some call otherwise.
        "ffn_dim": 2 * d,
        "ffn_hidden_size": 2 * d,
        "intermediate_size_mlp": 2 * d,
        "word_embed_proj_dim": d,
        "lru_width": d,
        "rotary_dim": head,
        "state_size": 8,
        # Mixtures of experts; of those with dense layers too, the first is one.
        "num_experts": 4,
        "num_local_experts": 4,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": d,
        "n_group": 1,
        "topk_group": 1,
        "shared_expert_intermediate_size": d,
        "first_k_dense_replace": 1,
        # Keys and values of low rank.
        "kv_lora_rank": d // 2,
        "q_lora_rank": d // 2,
        "qk_rope_head_dim": head,
        "qk_nope_head_dim": head,
        "v_head_dim": head,
        "linear_key_head_dim": head,
        "linear_value_head_dim": head,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": heads,
        "hidden_size_per_layer_input": head,
        "vocab_size_per_layer_input": VOCAB_SIZE,
        "laurel_rank": head,
        "num_kv_shared_layers": 0,
    }
    gated = {"layer_types": ["linear_attention", "full_attention"] * n}
    granite = {
        "residual_multiplier": 0.5,
        "embedding_multiplier": 3.0,
        "logits_scaling": 4.0,
        "attention_multiplier": 0.3,
    }
    own: dict[str, dict[str, Any]] = {
        "gpt_neo": {"attention_types": [[["global"], 1], [["local"], n - 1]], "window_size": 64},
        "llama4_text": {
            "interleave_moe_layer_step": 2,
            "num_experts_per_tok": 1,
            "attention_chunk_size": 64,
        },
        "qwen3_5_text": gated,
        "qwen3_next": gated,
        "lfm2": {"layer_types": ["conv", "full_attention"] * n, "block_multiple_of": 8},
        "gemma4_text": {"global_head_dim": 2 * head},
        "granite": granite,
        "granitemoe": granite,
        "minicpm3": {"dim_model_base": d // 2},
        "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": 64},
        "mamba2": {"num_heads": heads, "head_dim": 2 * head, "n_groups": 1, "chunk_size": 16},
    }
    known = default_settings(model_type)
    if "kv_lora_rank" in known:
        usual["num_key_value_heads"] = heads
    found = {k: v for k, v in usual.items() if k in known}
    found |= {k: v[:n] if k == "layer_types" else v for k, v in own.get(model_type, {}).items()}
    return sizes | found


def _type_of(name: str) -> tuple[type[Family] | None, str]:
    """Return the family, if any, and the model type that a name of `tiny` stands for.

    Raises:
        UnknownNameError: it stands for none.
    """
    families = {n: registry.get(n) for n in registry.names()}
    if name in families:
        family = families[name]
        return family, family.tiny_type or family.model_types[0]
    for family in families.values():
        if name in family.model_types:
            return family, name
    if name in causal_types():
        return None, name
    known = sorted({*families, *model_types()})
    raise UnknownNameError(
        f"There is no tiny `{name}`; there are {', '.join(known)}, and every type of causal "
        f"language models that transformers has.{nearest(name, known)}"
    )


@torch.no_grad()
def _randomise(module: Any, seed: int) -> None:
    """Draw each parameter from a generator of its own name, whatever order they come in."""
    embeddings = [m.weight for m in module.modules() if isinstance(m, nn.Embedding)]
    # Where the embedding is the unembedding too, large rows would make logits one-sided.
    tied = module.config.tie_word_embeddings
    for name, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=generator(seed, "tiny", name))
        if any(weight is e for e in embeddings):
            weight.copy_(noise / weight.shape[-1] ** 0.5 if tied else noise)
        elif weight.ndim == 1:  # biases about 0, gains of norms about where they began
            weight.add_(0.1 * noise)
        else:
            weight.copy_(noise / weight.shape[-1] ** 0.5)


def _bytes(token_id: int) -> bytes:
    return (BOS.encode(), EOS.encode())[token_id - 256] if token_id > 255 else bytes([token_id])
