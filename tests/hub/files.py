"""Small files in the layouts of other libraries, and what each library makes of them.

The formulas are written out here from each library's definition, so that saekit's reading is
compared with something that shares no code with it.
"""

import json

import numpy as np
import torch
from safetensors.torch import load_file, save_file

D, N, K = 6, 20, 3


def tensors(seed=0, **shapes):
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn(*s, generator=g) if s else torch.rand(()) for n, s in shapes.items()}


def inputs(n=40):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(9)) + 0.4


def top(pre, k=K):
    found = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, found.indices, found.values.relu())


def write(folder, weights_name, weights, config_name=None, config=None):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / weights_name
    if path.suffix == ".pt":
        torch.save(weights, path)
    elif path.suffix == ".npz":
        np.savez(path, **{n: t.numpy() for n, t in weights.items()})
    else:
        save_file({n: t.contiguous() for n, t in weights.items()}, path)
    if config_name:
        (folder / config_name).write_text(json.dumps(config))
    return folder


def affine_tensors():
    return tensors(W_enc=(D, N), W_dec=(N, D), b_enc=(N,), b_dec=(D,))


def sae_lens(folder, weights=None, **changes):
    """Return codes and prediction of a TopK SAE as SAELens 6 writes it."""
    w = weights or affine_tensors()
    config = {
        "architecture": "topk",
        "d_in": D,
        "d_sae": N,
        "k": K,
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "rescale_acts_by_decoder_norm": True,
        "metadata": {
            "sae_lens_version": "6.54.12",
            "model_name": "gpt2-small",
            "hook_name": "blocks.8.hook_resid_pre",
            "context_size": 128,
            "prepend_bos": True,
        },
    }
    write(folder, "sae_weights.safetensors", w, "cfg.json", config | changes)
    if weights is not None:
        return None
    norm = w["W_dec"].norm(dim=-1)
    acts = top(((inputs() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norm)
    return acts, (acts / norm) @ w["W_dec"] + w["b_dec"]


def sparsify(folder, **changes):
    """Return codes and prediction of a TopK autoencoder as sparsify writes it."""
    w = tensors(1, W_dec=(N, D), b_dec=(D,))
    w |= {f"encoder.{n}": t for n, t in tensors(2, weight=(N, D), bias=(N,)).items()}
    config = {"activation": "topk", "num_latents": N, "k": K, "d_in": D, "transcode": False}
    write(folder, "sae.safetensors", w, "cfg.json", config | changes)
    acts = top((inputs() - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    return acts, acts @ w["W_dec"] + w["b_dec"]


def dictionary_learning(folder, **changes):
    """Return codes and prediction of an AutoEncoder as dictionary_learning writes it."""
    w = {"encoder.weight": (N, D), "decoder.weight": (D, N), "encoder.bias": (N,), "bias": (D,)}
    w = tensors(3, **w)
    trainer = {
        "dict_class": "AutoEncoder",
        "layer": 3,
        "submodule_name": "resid_post_layer_3",
        "lm_name": "EleutherAI/pythia-70m-deduped",
    }
    config = {"trainer": trainer, "buffer": {"ctx_len": 128, "io": "out"}}
    write(folder, "ae.pt", w, "config.json", config | changes)
    norm = w["decoder.weight"].norm(dim=0)
    acts = ((inputs() - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu() * norm
    return acts, (acts / norm) @ w["decoder.weight"].T + w["bias"]


def gemma_scope(folder):
    """Return codes and prediction of a JumpReLU SAE as Gemma Scope writes it."""
    w = affine_tensors() | {"threshold": tensors(4, t=(N,))["t"] * 0.3}  # some below 0
    write(folder, "params.npz", w)
    pre = inputs() @ w["W_enc"] + w["b_enc"]
    acts = (pre > w["threshold"]) * pre.relu()
    return acts, acts @ w["W_dec"] + w["b_dec"]


def mlsae(folder, n=N, **changes):
    """Return codes (in units of standardised tokens) and prediction of an MLSAE."""
    w = {"encoder.weight": (n, D), "decoder.weight": (D, n), "pre_encoder_bias": (D,)}
    w = tensors(5, **w)
    config = {
        "n_inputs": D,
        "n_latents": n,
        "k": K,
        "dead_steps_threshold": 76,
        "dead_threshold": 1e-3,
        "auxk": 256,
        "standardize": True,
    }
    write(folder, "model.safetensors", w, "config.json", config | changes)
    x = inputs()
    mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    z = (x - mean) / (std + 1e-5)
    acts = top((z - w["pre_encoder_bias"]) @ w["encoder.weight"].T)
    y_hat = (acts @ w["decoder.weight"].T + w["pre_encoder_bias"]) * std + mean
    return acts * std, y_hat


def mlsae_whole(folder, n_blocks=3, **changes):
    """Return what `mlsae` does, of an MLSAE published with its language model."""
    alone = folder.parent / f"{folder.name}-alone"
    found = mlsae(alone, n=4 * D)
    w = {f"autoencoder.{n}": t for n, t in load_file(alone / "model.safetensors").items()}
    w |= {
        f"transformer.model.gpt_neox.layers.{i}.mlp.weight": torch.zeros(2, 2)
        for i in range(n_blocks)
    }
    w["transformer.model.gpt_neox.embed_in.weight"] = torch.full((9, 4), torch.nan)
    config = {
        "model_name": "EleutherAI/pythia-14m",
        "layers": None,
        "expansion_factor": 4,
        "k": K,
        "standardize": True,
        "skip_special_tokens": True,
        "tuned_lens": False,
        "max_length": 256,
        "auxk": 256,
        "lr": 1e-4,
    }
    write(folder, "model.safetensors", w, "config.json", config | changes)
    return found


MAKERS = {
    "sae_lens": sae_lens,
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
    "gemma_scope": gemma_scope,
    "mlsae": mlsae,
}
PLACES = {
    "sae_lens": "blocks.8.hook_resid_pre",
    "sparsify": "layers.2",
    "dictionary_learning": "resid_post_layer_3/trainer_0",
    "gemma_scope": "gemma-scope-9b-it-res/layer_20/width_16k/average_l0_88",
    "mlsae": "mlsae-pythia-70m-deduped-x64-k3",
}
