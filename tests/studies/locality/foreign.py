"""SAEs of the presets in the files of their libraries, and what each library makes of them.

The formulas are written out from each library's definition and share no code with saekit.
"""

import json

import numpy as np
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
    trainer = {
        "lm_name": "EleutherAI/pythia-70m-deduped",
        "layer": layer,
        "dict_size": N,
        "submodule_name": f"resid_out_layer{layer}",
    }
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
    config = {
        "architecture": "standard",
        "d_in": D,
        "d_sae": N,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "apply_b_dec_to_input": True,
        "normalize_activations": "layer_norm",
        "model_name": "gpt2-small",
        "hook_name": f"blocks.{layer}.hook_resid_post",
        "context_size": 64,
    }
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
    config = {
        "architecture": "jumprelu",
        "d_in": D,
        "d_sae": N,
        "apply_b_dec_to_input": True,
        "normalize_activations": "expected_average_only_in",
        "metadata": {
            "sae_lens_version": "6.0.0",
            "model_name": "meta-llama/Llama-3.2-1B",
            "hook_name": f"blocks.{layer}.hook_resid_post",
        },
    }
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
    "pythia-70m": ("gpt_neox", pythia),
    "gpt2-small": ("gpt2", gpt2),
    "gemma-2-2b": ("gemma2", gemma),
    "llama-3-8b": ("llama", llama_3_8b),
    "llama-3.2-1b": ("llama", llama_3_2),
}
SAME_ENCODE = {"gemma-2-2b"}  # the published encode is the SAE's own


def on(codes: torch.Tensor, threshold: float) -> dict[tuple[int, int], float]:
    """Return the activations above a threshold by window and latent."""
    where = (codes > threshold).nonzero().tolist()
    return {(w, a): float(codes[w, a]) for w, a in where}


# folders of results, as the published programs write them

TIERS = ("token", "phrase", "concept", "abstract")
EVENT_COLUMNS = (
    "feature_id,tier,description,top_act_rank,activation_value,abs_peak,ctx_len,"
    "ctx_start,H_pos_bits,n_positions,J_max,J_sum,J_argmax,peak_token_str,status"
)


def event_lines(tier, latents, ranks=3, n_ctx=8):
    """Return the rows of a tier's table, and the influences that belong to them."""
    draw = np.random.default_rng(len(tier))
    lines, arrays = [EVENT_COLUMNS], {}
    for latent in latents:
        for rank in range(ranks):
            J = draw.random(n_ctx).astype(np.float32)
            P = J / J.sum()
            H = -(P * np.log2(P)).sum()
            arrays[f"{latent}_{rank}"] = J
            lines.append(
                f"{latent},{tier},about {latent},{rank},{9 - rank},{latent * 100 + rank},{n_ctx},"
                f"{latent * 100 + rank - n_ctx + 1},{H},{n_ctx},{J.max()},{J.sum()},{J.argmax()},"
                f" the,ok"
            )
    return lines, arrays


def adapter_folder(root, tiers=TIERS, n_ctx=8):
    """Write a folder of the Neuronpedia adapter: tiered tables, and a manifest whose `source` is
    the pattern of the cache's files."""
    home = root / "cherry_picked_feature_entropy" / "20260503_101112_neuronpedia"
    home.mkdir(parents=True)
    texts, features = {}, []
    for i, tier in enumerate(tiers):
        latents = [10 * i + 1, 10 * i + 2]
        lines, arrays = event_lines(tier, latents, n_ctx=n_ctx)
        (home / f"ctx{n_ctx:03d}_{tier}.csv").write_text("\n".join(lines) + "\n")
        np.savez(home / f"influences_ctx{n_ctx:03d}_{tier}.npz", **arrays)
        for latent in latents:
            features.append({"feature_id": latent, "tier": tier, "description": f"about {latent}"})
            example = {
                "activation": 9.0,
                "token_idx": 9,
                "tokens": list("abcdefghijkl"),
                "activating_token": "j",
                "window_start_token": 0,
                "neuronpedia_data_index": "7",
                "neuronpedia_rank": 0,
            }
            texts[str(latent)] = {"max_activation": 9.0, "examples": [example] * 3}
    (home / "top_contexts_layer12.json").write_text(json.dumps(texts))
    manifest = {
        "experiment": "cherry_picked_feature_entropy",
        "variant": "neuronpedia",
        "timestamp": "20260503_101112",
        "git_commit": "0" * 40,
        "host": "gpu03",
        "preset": "gemma-2-2b",
        "layer": 12,
        "sae_id": "12-gemmascope-res-16k",
        "ctx_len": n_ctx,
        "top_k": 3,
        "corpus": "monology/pile-uncopyrighted (via Neuronpedia activations)",
        "source": "data/neuronpedia_cache/<model>/<sae_id>/<fid>.json",
        "queue": "gpu",
        "gputype": None,
        "mem_per_core_gb": 8,
        "features": features,
    }
    (home / "manifest.json").write_text(json.dumps(manifest))
    return home


def depth_folder(root, preset, dataset, stamp="20260427_105943", layers=(0, 1, 2)):
    """Write a depth run of the data set: one .pt a layer, entropies growing with depth."""
    draw = np.random.default_rng(len(preset))
    home = root / preset / dataset / stamp
    home.mkdir(parents=True)
    for layer in layers:
        results = []
        for i in range(4):
            J = {a: draw.random(8).astype(np.float32) ** (4 - layer) for a in (3, 5, 8 + i)}
            H = {a: np.float32(-(j / j.sum() * np.log2(j / j.sum())).sum()) for a, j in J.items()}
            results.append(
                {
                    "batch_idx": i,
                    "start_idx": 8 * i,
                    "feature_entropies": H,
                    "token_vector_entropy": 1.5 + layer / 2,
                    "num_active_features": 3,
                    "feature_influences": J,
                    "feature_activations": {a: float(a) for a in J},
                    "token_vector_influence": draw.random(8).astype(np.float32),
                }
            )
        means = [np.mean(list(r["feature_entropies"].values())) for r in results]
        summary = {
            "site": f"resid_layer{layer}",
            "preset": preset,
            "dataset": dataset,
            "timestamp": stamp,
            "layer": layer,
            "num_batches": 4,
            "mean_feature_entropy": float(np.mean(means)),
        }
        torch.save(
            {
                "batch_results": results,
                "summary": summary,
                "plots_dir": "/home/x/plots",
                "config": {"preset": preset, "threshold": 0.0, "context_len": 8},
                "batch_start_indices": [8 * i for i in range(4)],
            },
            home / f"entropy_comparison_resid_layer{layer}.pt",
        )
    return home


def levels_file(path, layers=(0, 3), n=6):
    """Write feature_level_entropies.pt: arrays a layer, and the settings."""
    draw = np.random.default_rng(0)
    raw = {
        "config": {
            "preset": "pythia-70m",
            "model_id": "EleutherAI/pythia-70m-deduped",
            "layers": list(layers),
            "threshold": 1.0,
            "batch_size": 64,
            "min_count": 20,
            "timestamp": "20260415_000000",
            "vocab_size": 50304,
            "corpus_tokens": 999,
        }
    }
    for layer in layers:
        H = draw.random(n).astype(np.float32)
        H[0] = np.nan
        raw[f"layer_{layer}"] = {
            "H_logit": np.full(n, 15.618, np.float32),
            "H_vocab": H,
            "totals": np.arange(n),
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(raw, path)
    return raw


CANDIDATES = """# Candidate cherry-pick features — gemma-2-2b / 12-gemmascope-res-16k

- SAE width: 16384 features
- Random sample: 300 (seed-stable)

## Tier: token  (2 candidates)

| feature_id | density | recall | explanation | top-3 activations (peak token in **[...]**) |
|---:|---:|---:|---|---|
| 17 | 1.20e-03 | 0.91 | the word \\| bar | …a b **[the]** *(peak=3.00)* |
| 4 | 2.00e-04 | — | commas | x **[,]** *(peak=1.00)* |

## Tier: phrase  (0 candidates)

_(none in this sample)_

## Tier: concept  (1 candidates)

| feature_id | density | recall | explanation | top-3 activations (peak token in **[...]**) |
|---:|---:|---:|---|---|
| 25 | 9.00e-04 | 0.50 | chemistry | **[acid]** *(peak=2.00)* |
"""
