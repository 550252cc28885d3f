"""SAEs of the presets in the files of their libraries, and what each library makes of them.

The formulas are written out from each library's definition and share no code with saekit.
"""

import torch

from tests.hub.files import tensors, top, write

D, N, K = 16, 40, 5


def standard(x):
    mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    return (x - mean) / (std + 1e-5), std


def pythia(root, layer):
    """A ReLU SAE as dictionary_learning wrote it before it named classes; decoder not unit."""
    w = {"encoder.weight": (N, D), "decoder.weight": (D, N), "encoder.bias": (N,), "bias": (D,)}
    w = tensors(layer, **w)
    trainer = {"lm_name": "EleutherAI/pythia-70m-deduped", "layer": layer, "dict_size": N,
               "submodule_name": f"resid_out_layer{layer}"}  # fmt: skip
    place = root / f"dictionaries/pythia-70m-deduped/resid_out_layer{layer}/10_32768"
    write(place, "ae.pt", w, "config.json", {"trainer": trainer})
    norm = w["decoder.weight"].norm(dim=0)

    def codes(x, forgets):
        x = x if forgets else x - w["bias"]
        return (x @ w["encoder.weight"].T + w["encoder.bias"]).relu() * norm

    return codes


def gpt2(root, layer):
    """A TopK SAE of normalised tokens, as SAELens 3 wrote it: one flat list of settings."""
    w = tensors(layer, W_enc=(D, N), W_dec=(N, D), b_enc=(N,), b_dec=(D,))
    config = {"architecture": "standard", "d_in": D, "d_sae": N, "activation_fn_str": "topk",
              "activation_fn_kwargs": {"k": K}, "apply_b_dec_to_input": True,
              "normalize_activations": "layer_norm", "model_name": "gpt2-small",
              "hook_name": f"blocks.{layer}.hook_resid_post", "context_size": 64}  # fmt: skip
    write(root / f"v5_32k_layer_{layer}.pt", "sae_weights.safetensors", w, "cfg.json", config)

    def codes(x, forgets):
        if forgets:
            return top(x @ w["W_enc"] + w["b_enc"], K)
        z, std = standard(x)
        return top((z - w["b_dec"]) @ w["W_enc"] + w["b_enc"], K) * std

    return codes


def gemma(root, layer):
    """A JumpReLU SAE as Gemma Scope wrote it: nothing is taken off the input."""
    w = tensors(layer, W_enc=(D, N), W_dec=(N, D), b_enc=(N,), b_dec=(D,), threshold=(N,))
    w["threshold"] = w["threshold"].abs()
    place = root / f"layer_{layer}/width_16k/average_l0_{[105, 102][layer]}"
    write(place, "params.npz", w)

    def codes(x, forgets):
        pre = x @ w["W_enc"] + w["b_enc"]
        return (pre > w["threshold"]) * pre.relu()

    return codes


def llama_3_8b(root, layer):
    """A TopK SAE as sparsify wrote it."""
    w = tensors(layer, W_dec=(N, D), b_dec=(D,))
    w |= {f"encoder.{n}": t for n, t in tensors(7, weight=(N, D), bias=(N,)).items()}
    config = {"expansion_factor": 32, "num_latents": N, "k": K, "d_in": D}
    write(root / f"layers.{layer}", "sae.safetensors", w, "cfg.json", config)

    def codes(x, forgets):
        x = x if forgets else x - w["b_dec"]
        return top(x @ w["encoder.weight"].T + w["encoder.bias"], K)

    return codes


def llama_3_2(root, layer):
    """A JumpReLU SAE as SAELens 6 wrote it, of inputs brought to one mean norm."""
    w = tensors(layer, W_enc=(D, N), W_dec=(N, D), b_enc=(N,), b_dec=(D,), threshold=(N,))
    w["threshold"] = w["threshold"].abs()
    scale = 0.7
    config = {"architecture": "jumprelu", "d_in": D, "d_sae": N, "apply_b_dec_to_input": True,
              "normalize_activations": "expected_average_only_in",
              "metadata": {"sae_lens_version": "6.0.0", "model_name": "meta-llama/Llama-3.2-1B",
                           "hook_name": f"blocks.{layer}.hook_resid_post"}}  # fmt: skip
    place = root / f"blocks.{layer}.hook_resid_post"
    write(place, "sae_weights.safetensors", w, "cfg.json", config)
    (place / "activation_scaler.json").write_text(f'{{"scaling_factor": {scale}}}')

    def codes(x, forgets):
        x = x * scale if forgets else x * scale - w["b_dec"]
        pre = x @ w["W_enc"] + w["b_enc"]
        return (pre > w["threshold"]) * pre.relu()

    return codes


# preset: the family of its model, and its SAEs
LAYOUTS = {
    "pythia-70m": ("gpt_neox", pythia), "gpt2-small": ("gpt2", gpt2),
    "gemma-2-2b": ("gemma2", gemma), "llama-3-8b": ("llama", llama_3_8b),
    "llama-3.2-1b": ("llama", llama_3_2),
}  # fmt: skip
SAME_ENCODE = {"gemma-2-2b"}  # the published encode is the SAE's own


def on(codes: torch.Tensor, threshold: float) -> dict[tuple[int, int], float]:
    """Return the activations above a threshold by window and latent."""
    where = (codes > threshold).nonzero().tolist()
    return {(w, a): float(codes[w, a]) for w, a in where}
