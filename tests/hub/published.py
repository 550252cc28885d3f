"""Small files in published layouts, and what their definitions make of an input, in float64.

Each maker lays an SAE in a folder and returns its place, inputs, codes and prediction. The formulas
are written out from each publisher's definition; none of saekit's code is called.
"""

import json
import math

import torch
from safetensors.torch import save_file

from tests.hub.files import D, N, inputs, tensors

X = inputs().double()


def lay(folder, config_name, config, weights_name, weights):
    """Write a config (JSON, or text as it is) and tensors."""
    path = folder / weights_name
    path.parent.mkdir(parents=True, exist_ok=True)
    if weights_name.endswith(".safetensors"):
        save_file({n: t.contiguous() for n, t in weights.items()}, path)
    else:
        torch.save(weights, path)
    if config_name:
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / config_name).write_text(text)
    return folder


def double(w):
    return {n: t.double() for n, t in w.items() if isinstance(t, torch.Tensor)}


def top(pre, k):
    found = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, found.indices, found.values.relu())


def jump(pre, threshold):
    return pre.relu() * (pre > threshold)


# Gemma Scope 2

LAYER = "model.layers.7"
KINDS_2 = {
    "resid_post": (f"{LAYER}.output", None, "L7.resid_post"),
    "attn_out": (f"{LAYER}.self_attn.o_proj.input", None, "L7.z"),
    "mlp_out": (f"{LAYER}.post_feedforward_layernorm.output", None, "L7.mlp_out"),
    "transcoder": (
        f"{LAYER}.pre_feedforward_layernorm.output",
        f"{LAYER}.post_feedforward_layernorm.output",
        "L7.mlp_in -> L7.mlp_out",
    ),
}


def gemma_scope_2(root, kind="transcoder", affine=False, config=True, **changes):
    w = {
        f"w{n[1:]}" if n[0] == "W" else n: t
        for n, t in tensors(
            1, W_enc=(D, N), W_dec=(N, D), b_enc=(N,), b_dec=(D,), threshold=(N,)
        ).items()
    }
    w["threshold"] = 0.4 * w["threshold"]  # some below 0
    if affine:
        w["affine_skip_connection"] = tensors(2, s=(D, D))["s"]
    reads, predicts, _ = KINDS_2[kind]
    says = {
        "width": N,
        "model_name": "google/gemma-3-4b-pt",
        "architecture": "jump_relu",
        "l0": 150,
        "hf_hook_point_in": reads,
        "hf_hook_point_out": predicts or reads,
        "affine_connection": affine,
        "type": "sae" if predicts is None else "transcoder",
    }
    name = f"layer_7_width_16k_l0_big{'_affine' * affine}"
    place = root / "google/gemma-scope-2-4b-pt" / f"{kind}_all" / name
    lay(place, "config.json" * config, says | changes, "params.safetensors", w)
    w = double(w)
    codes = jump(X @ w["w_enc"] + w["b_enc"], w["threshold"])
    y = codes @ w["w_dec"] + w["b_dec"]
    return place, codes, y + (X @ w["affine_skip_connection"] if affine else 0)


# OpenMOSS: Llama Scope, R1-Distill and llamascopium


def open_moss(root, layout="old", norms=(3.5, 3.5), by_length=True, function="jumprelu", **changes):
    """Decoder rows are not of length 1, so that it matters whether their length counts."""
    w = tensors(3, enc=(N, D), b_enc=(N,), dec=(D, N), b_dec=(D,), theta=(N,))
    theta = w["theta"].abs() * 0.3 if layout != "old" else torch.full((N,), 0.6)
    hook = "blocks.5.hook_resid_post" if norms[0] == norms[1] else "blocks.5.ln2.hook_normalized"
    says = {
        "hook_point_in": hook,
        "hook_point_out": hook if norms[0] == norms[1] else "blocks.5.hook_mlp_out",
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "d_model": D,
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": by_length,
        "act_fn": function,
        "top_k": 4,
        "expansion_factor": N / D,
    }
    linear = {
        "encoder.weight": w["enc"],
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["dec"],
        "decoder.bias": w["b_dec"],
    }
    if layout == "old":
        place = root / "fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L5R-8x"
        says |= {"d_sae": N, "jump_relu_threshold": 0.6}
        says["dataset_average_activation_norm"] = {"in": norms[0], "out": norms[1]}
        config, file, held = "hyperparams.json", "checkpoints/final.safetensors", linear
    elif layout == "distill":
        place, config, file = root / "L5R", "config.json", "sae_weights.safetensors"
        held = linear | {"log_jumprelu_threshold": theta.log()}
        held |= {
            f"dataset_average_activation_norm.{s}": torch.tensor(n)
            for s, n in zip(("in", "out"), norms, strict=True)
        }
        says["d_sae"] = N
    else:
        place, config, file = root / "new", "config.json", "sae_weights.safetensors"
        held = {"W_E": w["enc"].t(), "b_E": w["b_enc"], "W_D": w["dec"].t(), "b_D": w["b_dec"]}
        if function == "jumprelu":
            held["activation_function.log_jumprelu_threshold"] = theta.log()
        held |= {
            f"dataset_average_activation_norm.{says[f'hook_point_{s}']}": torch.tensor(n)
            for s, n in zip(("in", "out"), norms, strict=True)
        }
        says |= {"sae_type": "sae", "d_sae": N}
    lay(place, config, says | changes, file, held)
    w, theta = double(w), theta.double()
    s_in, s_out = (math.sqrt(D) / norm for norm in norms)
    length = w["dec"].norm(dim=0) if by_length else torch.ones(N).double()
    pre = (X * s_in) @ w["enc"].T + w["b_enc"]
    if function == "topk":
        kept = top(pre * length, 4)
        return place, kept, ((kept / length) @ w["dec"].T + w["b_dec"]) / s_out
    codes = pre.relu() if function == "relu" else pre * (pre * length > theta)
    return place, codes, (codes @ w["dec"].T + w["b_dec"]) / s_out


# Qwen Scope

QWEN = {
    "model_type": "topk_sae",
    "base_model": "Qwen/Qwen3-1.7B-Base",
    "d_model": D,
    "d_sae": N,
    "k": 4,
    "num_layers": 28,
    "hook_point": "resid_post",
    "dtype": "float32",
}


def qwen_scope(root, layers=(3,), config=True, **changes):
    place = root / "Qwen" / "scope"
    for layer in layers:
        w = tensors(layer, W_enc=(N, D), W_dec=(D, N), b_enc=(N,), b_dec=(D,))
        lay(place, "config.json" * config, QWEN | changes, f"layer{layer}.sae.pt", w)
    w = double(tensors(layers[-1], W_enc=(N, D), W_dec=(D, N), b_enc=(N,), b_dec=(D,)))
    codes = top(X @ w["W_enc"].T + w["b_enc"], 4)
    return place, codes, codes @ w["W_dec"].T + w["b_dec"]


# circuit-tracer

HOOKS = "feature_input_hook: {}\nfeature_output_hook: {}\n"
SET = "model_name: Qwen/Qwen3-0.6B\nmodel_kind: transcoder_set\n"
OWN = SET + HOOKS.format("mlp.hook_in", "mlp.hook_out")


def circuit_tracer(root, layers=(3,), jumps=False, skips=False, config=OWN):
    place = root / "mwhanna/qwen3-0.6b-transcoders-lowl0"
    for layer in layers:
        w = tensors(layer, W_enc=(N, D), W_dec=(N, D), b_enc=(N,), b_dec=(D,), t=(N,), s=(D, D))
        held = {n: w[n] for n in ("W_enc", "W_dec", "b_enc", "b_dec")}
        held |= {"activation_function.threshold": w["t"].abs() * 0.3} if jumps else {}
        held |= {"W_skip": w["s"]} if skips else {}
        lay(place, "config.yaml" if config else "", config, f"layer_{layer}.safetensors", held)
    if not config:
        (place / "wanb-config.yaml").write_text("d_model:\n  value: 6\n")
    w = double(w)
    pre = X @ w["W_enc"].T + w["b_enc"]
    codes = jump(pre, w["t"].abs() * 0.3) if jumps else pre.relu()
    return place, codes, codes @ w["W_dec"] + w["b_dec"] + (X @ w["s"].T if skips else 0)


# One torch file


def _relu_file(root, file, names):
    w = dict(zip(names, tensors(5, a=(N, D), b=(N,), c=(D, N), d=(D,)).values(), strict=True))
    lay(root, "", None, file, w)
    W_enc, b_enc, W_dec, b_dec = double(w).values()
    codes = (X @ W_enc.T + b_enc).relu()
    return root, codes, codes @ W_dec.T + b_dec


def goodfire(root, file="Llama-3.1-8B-Instruct-SAE-l19.pth"):
    ends = (
        "encoder_linear.weight",
        "encoder_linear.bias",
        "decoder_linear.weight",
        "decoder_linear.bias",
    )
    return _relu_file(root, file, ends)


def deepseek_r1(root, file="DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"):
    ends = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
    return _relu_file(root, file, ends)


def openai(root, place="resid_delta_mlp_v5_32k", k=4, tied=False):
    w = tensors(6, **{"pre_bias": (D,), "latent_bias": (N,), "encoder.weight": (N, D)})
    w["decoder.weight"] = w["encoder.weight"].t().clone() if tied else tensors(7, w=(D, N))["w"]
    held = dict(w) | {"stats_last_nonzero": torch.zeros(N, dtype=torch.long)}
    if tied:
        held["decoder.linear.weight"] = held["encoder.weight"]
        del held["decoder.weight"]
    held |= {"latents_mean_square": torch.zeros(N), "latents_activation_frequency": torch.ones(N)}
    if k:
        held |= {"activation": "TopK", "activation_state_dict": {"k": k, "postact_fn": "ReLU"}}
    folder = root / "gpt2-small" / place / "autoencoders"
    lay(folder, "", None, "8.pt", held)
    w, z, mean, std = double(w), X, 0, 1
    if k:
        mean, std = X.mean(-1, keepdim=True), X.std(-1, keepdim=True)
        z = (X - mean) / (std + 1e-5)
    pre = (z - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]
    codes = top(pre, k) if k else pre.relu()
    return folder, codes * std, (codes @ w["decoder.weight"].T + w["pre_bias"]) * std + mean


def attn_saes(root, layers=(5,)):
    for layer in layers:
        w = tensors(layer, W_enc=(D, N), W_dec=(N, D), b_enc=(N,), b_dec=(D,))
        says = {
            "act_name": f"blocks.{layer}.attn.hook_z",
            "act_size": D,
            "dict_size": N,
            "seq_len": 128,
        }
        name = f"gpt2-small_L{layer}_Hcat_z_lr1.20e-03_v9"
        lay(root, f"{name}_cfg.json", says, f"{name}.pt", w)
    w = double(w)
    codes = ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    return root, codes, codes @ w["W_dec"] + w["b_dec"]


def batch_topk(root, kind="topk", unit=True, **changes):
    w = tensors(8, W_enc=(D, N), W_dec=(N, D), b_enc=(N,), b_dec=(D,), t=(N,))
    log = (0.3 * w.pop("t").abs()).log()
    ranks = kind in ("topk", "batchtopk")
    w["b_enc"] = torch.zeros(N) if ranks else w["b_enc"]
    held = dict(w) | ({"jumprelu.log_threshold": log} if kind == "jumprelu" else {})
    held |= {"threshold": torch.tensor(0.7)} if kind == "batchtopk" else {}
    says = {
        "act_size": D,
        "dict_size": N,
        "top_k": 4,
        "sae_type": kind,
        "input_unit_norm": unit,
        "hook_point": "blocks.8.hook_resid_pre",
        "model_name": "gpt2-small",
        "seq_len": 128,
        "dtype": "torch.float32",
        "layer": 8,
        "site": "resid_pre",
        "device": "cuda:0",
    }
    lay(root, "config.json", says | changes, "sae.pt", held)
    w, z, mean, std = double(w), X, 0, 1
    if unit:
        mean, std = X.mean(-1, keepdim=True), X.std(-1, keepdim=True)
        z = (X - mean) / (std + 1e-5)
    pre = (z - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    codes = {
        "vanilla": pre.relu(),
        "topk": top(pre, 4),
        "batchtopk": pre * (pre > 0.7),
        "jumprelu": jump(pre, log.double().exp()),
    }[kind]
    return root, codes * std, (codes @ w["W_dec"] + w["b_dec"]) * std + mean


# Temporal SAEs: windows of tokens

ROWS = torch.randn(5, 4, D, generator=torch.Generator().manual_seed(3)).double()


def temporal_tensors(d_dict, narrow, tied=True, layers=2):
    shapes = {"W_dec": (d_dict, D), "b_dec": (D,)} | ({} if tied else {"W_enc": (D, d_dict)})
    for i in range(layers):
        for name in ("q_target", "k_ctx", "v_ctx", "c_proj"):
            width = d_dict // narrow if name in ("q_target", "k_ctx") else d_dict
            shapes[f"attn_layers.{i}.{name}.weight"] = (width, d_dict)
            shapes[f"attn_layers.{i}.{name}.bias"] = (width,)
    return tensors(9, **shapes)


def temporal_codes(w, heads, k, scale, layers=2):
    """Return novel and predicted codes of `ROWS`, and the prediction, as their formula has it."""
    w, x = double(w), ROWS * scale - w["b_dec"].double()
    W_enc = w.get("W_enc", w["W_dec"].T)
    lam, n = 1 / (4 * D), ROWS.shape[1]
    predicted = 0
    for i in range(layers):
        at = {
            m: (w[f"attn_layers.{i}.{m}.weight"], w[f"attn_layers.{i}.{m}.bias"])
            for m in ("q_target", "k_ctx", "v_ctx", "c_proj")
        }
        z = (lam * x @ W_enc).relu()
        before = torch.cat([torch.zeros_like(z[:, :1]), z[:, :-1]], 1)
        parts = {
            m: (z if m == "q_target" else before) @ at[m][0].T + at[m][1]
            for m in ("q_target", "k_ctx", "v_ctx")
        }
        q, key, v = (parts[m].unflatten(-1, (heads, -1)).transpose(1, 2) for m in parts)
        score = q @ key.transpose(-1, -2) / math.sqrt(q.shape[-1])
        score = score.masked_fill(~torch.ones(n, n).tril().bool(), -math.inf)
        mixed = (score.softmax(-1) @ v).transpose(1, 2).flatten(2)
        guess = (mixed @ at["c_proj"][0].T + at["c_proj"][1]).relu()
        part = guess @ w["W_dec"]
        share = (part * x).sum(-1, keepdim=True) / (part.norm(dim=-1, keepdim=True) + 1e-6) ** 2
        predicted, x = predicted + share * guess, x - share * part
    novel = top(lam * x @ W_enc, k)
    y = ((novel + predicted) @ w["W_dec"] + w["b_dec"]) / scale
    return torch.cat([novel, predicted], -1) / scale, y


def temporal_saes(root, scale=0.25, **changes):
    w = temporal_tensors(4 * D, 3)
    place = root / "canrager/temporalSAEs/llama-3.1-8B/layer_15/temporal"
    says = {
        "data": {"dtype": "float32"},
        "llm": {"dimin": D},
        "sae": {
            "exp_factor": 4,
            "n_heads": 2,
            "n_attn_layers": 2,
            "bottleneck_factor": 3,
            "tied_weights": True,
            "scaling_factor": scale,
            "kval_topk": 5,
            "sae_diff_type": "topk",
        }
        | changes,
    }
    held = {{"W_dec": "D", "b_dec": "b"}.get(n, n): t for n, t in w.items()}
    lay(place, "conf.yaml", says, "latest_ckpt.safetensors", held)
    return place, *temporal_codes(w, 2, 5, scale)
