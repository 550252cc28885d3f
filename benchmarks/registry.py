"""Registry: how many of the SAEs that SAELens lists saekit reads, and knows the exact site of.

    python benchmarks/registry.py [--quick] [--check] [--json] --registry pretrained_saes.yaml

The registry is a file of sae-lens (`pip download sae-lens --no-deps`, then unzip the wheel). For
each of its entries the files are laid under the entry's own path, with small tensors and the
settings that are published for that loader and kind, and `saekit.load` reads them. An entry is
read where it loads without a word from the user beyond what the registry itself holds, and placed
where no site of its card is unknown.

`--check`: 97 % are read and 95 % are placed. `--quick` takes every fiftieth entry.

What would mislead: nothing is downloaded. A folder whose files are not as the layout of its loader
says is counted as read; `docs/formats.md` says which layouts were seen on real weights.
"""

import collections
import json
import re
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from _command import Floor, finish, parser_of
from safetensors.torch import save_file

from saekit.core.errors import SaekitError
from saekit.core.torch_writing import write_state
from saekit.hub.formats.base import FormatHints
from saekit.hub.formats.gemma_scope import write_npz
from saekit.hub.native import load
from saekit.models.sites import UNKNOWN

D, N = 12, 144  # the widths of every SAE that is laid; k of some is 100
STEP = 50  # of --quick
DICTIONARIES = {
    "gated": "GatedAutoEncoder",
    "topk": "AutoEncoderTopK",
    "vanilla": "AutoEncoder",
    "standard": "AutoEncoder",
    "panneal": "AutoEncoder",
    "Standard": "AutoEncoder",
    "Matryoshka": "MatryoshkaBatchTopKSAE",
    "matryoshka": "MatryoshkaBatchTopKSAE",
    "andyrdt": "BatchTopKSAE",
    "trainer": "BatchTopKSAE",
}


def tensors(**shapes):
    g = torch.Generator().manual_seed(0)
    return {name: torch.randn(*shape, generator=g) for name, shape in shapes.items()}


def affine(names=("W_enc", "W_dec", "b_enc", "b_dec"), **more):
    shapes = dict(zip(names, ((D, N), (N, D), (N,), (D,)), strict=True))
    return tensors(**shapes, **more)


def json_into(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def save_into(path, weights):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({n: t.contiguous() for n, t in weights.items()}, path)
    elif path.suffix == ".npz":
        write_npz(path, weights)
    else:
        write_state(path, weights)


# What is published for each loader: each lays an entry and returns what the registry adds to it.


def gemma_2(place, entry, release):
    save_into(place / "params.npz", affine(threshold=(N,)))


def gemma_3(place, entry, release):
    kind = re.match(r"(resid_post|attn_out|mlp_out|transcoder)", entry["path"])[1]
    layer = "model.layers." + re.search(r"layer_(\d+)", entry["path"])[1]
    reads, predicts = {
        "resid_post": ("output", None),
        "attn_out": ("self_attn.o_proj.input", None),
        "mlp_out": ("post_feedforward_layernorm.output", None),
        "transcoder": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
    }[kind]
    skips = "affine" in entry["path"]
    w = affine(("w_enc", "w_dec", "b_enc", "b_dec"), threshold=(N,))
    w |= tensors(affine_skip_connection=(D, D)) if skips else {}
    says = {
        "hf_hook_point_in": f"{layer}.{reads}",
        "hf_hook_point_out": f"{layer}.{predicts or reads}",
        "architecture": "jump_relu",
        "model_name": release["model"],
        "affine_connection": skips,
        "width": N,
        "l0": 20,
        "type": "sae" if predicts is None else "transcoder",
    }
    save_into(place / "params.safetensors", w)
    json_into(place / "config.json", says)


def dictionary_learning_1(place, entry, release):
    kind = next(v for k, v in DICTIONARIES.items() if k in f"{entry['path']} {release['repo_id']}")
    layer = int(re.search(r"layer_(\d+)", entry["path"])[1])
    w = tensors(**{"encoder.weight": (N, D), "decoder.weight": (D, N), "encoder.bias": (N,)})
    ranks = {"k": torch.tensor(20), "threshold": torch.tensor(0.5)}
    trainer = {
        "dict_class": kind,
        "layer": layer,
        "activation_dim": D,
        "dict_size": N,
        "submodule_name": f"resid_post_layer_{layer}",
        "lm_name": release["model"],
    }
    if kind == "GatedAutoEncoder":
        del w["encoder.bias"]
        w |= tensors(decoder_bias=(D,), r_mag=(N,), gate_bias=(N,), mag_bias=(N,))
    elif kind == "AutoEncoder":
        w |= tensors(bias=(D,))
    elif kind == "MatryoshkaBatchTopKSAE":
        w = affine() | ranks | {"group_sizes": torch.tensor([N // 2, N // 2])}
    else:
        w |= tensors(b_dec=(D,)) | ranks
    save_into(place / "ae.pt", w)
    trainer |= {"k": 20} if "k" in w else {}
    json_into(place / "config.json", {"trainer": trainer, "buffer": {"ctx_len": 128}})


def qwen_scope(place, entry, release):
    k = int(re.search(r"L0_(\d+)", release["repo_id"])[1])
    says = {
        "model_type": "topk_sae",
        "base_model": release["model"],
        "d_model": D,
        "d_sae": N,
        "k": k,
        "num_layers": 64,
        "hook_point": "resid_post",
    }
    save_into(place, tensors(W_enc=(N, D), W_dec=(D, N), b_enc=(N,), b_dec=(D,)))
    json_into(place.parent / "config.json", says)


def native(place, entry, release):
    """SAELens' own files from before version 6; the registry adds a scale where one is needed."""
    hook = re.match(r"blocks\.\d+\.hook_(?:resid_(?:pre|mid|post)|attn_out|mlp_out)", entry["id"])
    scale = entry.get("norm_scaling_factor")
    says = {
        "d_in": D,
        "d_sae": N,
        "hook_name": hook[0],
        "model_name": release["model"],
        "activation_fn_str": "topk" if "v5" in entry["path"] else "relu",
        "activation_fn_kwargs": {"k": 32} if "v5" in entry["path"] else {},
        "normalize_activations": "expected_average_only_in" if scale else "none",
        "apply_b_dec_to_input": True,
        "context_size": 128,
        "prepend_bos": True,
    }
    save_into(place / "sae_weights.safetensors", affine())
    json_into(place / "cfg.json", says)
    overrides = release.get("config_overrides") or {}
    return FormatHints(input_scale=scale or 0.0, overrides=overrides)


def mwhanna_transcoder(place, entry, release):
    save_into(place, tensors(W_enc=(N, D), W_dec=(N, D), b_enc=(N,), b_dec=(D,)))
    json_into(place.parent / "wandb-config.yaml", "d_model:\n  value: 12\n")
    if "14b" not in release["repo_id"]:  # those have no config.yaml
        name = release["model"].replace("qwen3", "Qwen/Qwen3")
        json_into(
            place.parent / "config.yaml",
            f"model_name: {name}\nmodel_kind: transcoder_set\n"
            "feature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n",
        )


def _open_moss(hook, norms):
    return {
        "hook_point_in": hook,
        "hook_point_out": hook,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "d_model": D,
        "d_sae": N,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": norms,
        "act_fn": "jumprelu",
        "sparsity_include_decoder_norm": True,
        "expansion_factor": N // D,
    }


def _linear():
    return tensors(
        **{
            "encoder.weight": (N, D),
            "decoder.weight": (D, N),
            "encoder.bias": (N,),
            "decoder.bias": (D,),
        }
    )


def llama_scope(place, entry, release):
    layer, kind = re.search(r"-L(\d+)([RAM])-", entry["path"]).groups()
    point = {"R": "resid_post", "A": "attn_out", "M": "mlp_out"}[kind]
    says = _open_moss(f"blocks.{layer}.hook_{point}", {"in": 6.3, "out": 6.3})
    json_into(place / "hyperparams.json", says | {"jump_relu_threshold": 0.2, "top_k": 50})
    weights = {n: t.bfloat16() for n, t in _linear().items()}
    save_into(place / "checkpoints" / "final.safetensors", weights)


def llama_scope_r1_distill(place, entry, release):
    layer = re.search(r"/L(\d+)R", entry["path"])[1]
    json_into(place / "config.json", _open_moss(f"blocks.{layer}.hook_resid_post", None))
    weights = _linear() | tensors(log_jumprelu_threshold=(N,))
    for side in ("in", "out"):
        weights[f"dataset_average_activation_norm.{side}"] = torch.tensor(6.3)
    save_into(place / "sae_weights.safetensors", weights)


def connor_rob_hook_z(place, entry, release):
    layer = re.search(r"_L(\d+)_", entry["path"])[1]
    says = {"act_name": f"blocks.{layer}.attn.hook_z", "act_size": D, "dict_size": N}
    save_into(place, affine())
    json_into(place.with_name(place.name.removesuffix(".pt") + "_cfg.json"), says)


def temporal(place, entry, release):
    shapes = {"D": (N, D), "b": (D,)}
    for name in ("q_target", "k_ctx", "v_ctx", "c_proj"):
        width = N // 12 if name in ("q_target", "k_ctx") else N
        shapes |= {
            f"attn_layers.0.{name}.{p}": s for p, s in (("weight", (width, N)), ("bias", (width,)))
        }
    save_into(place / "latest_ckpt.safetensors", tensors(**shapes))
    says = {
        "llm": {"dimin": D},
        "data": {"dtype": "float32"},
        "sae": {
            "exp_factor": N // D,
            "n_heads": 4,
            "n_attn_layers": 1,
            "bottleneck_factor": 12,
            "sae_diff_type": "topk",
            "kval_topk": 20,
            "tied_weights": True,
            "scaling_factor": 0.03,
        },
    }
    json_into(place / "conf.yaml", says)
    return FormatHints(overrides=release.get("config_overrides") or {})


def goodfire(place, entry, release):
    names = ("encoder", "decoder")
    w = {n.replace(".", "_linear."): t for n, t in _linear().items() if n.split(".")[0] in names}
    save_into(place, w)


def deepseek_r1(place, entry, release):
    save_into(place, _linear())


def mntss_clt_layer_transcoder(place, entry, release):
    layer = entry["path"]
    save_into(place.parent / f"W_enc_{layer}.safetensors", tensors(**{f"W_enc_{layer}": (N, D)}))
    return place.parent  # a cross-layer transcoder: refused


LAYOUTS = {
    f.__name__: f
    for f in (
        gemma_2,
        gemma_3,
        dictionary_learning_1,
        qwen_scope,
        native,
        mwhanna_transcoder,
        llama_scope,
        llama_scope_r1_distill,
        connor_rob_hook_z,
        temporal,
        goodfire,
        deepseek_r1,
        mntss_clt_layer_transcoder,
    )
} | {"gemma_2_transcoder": gemma_2}


def outcome(root, entry, release):
    """Return whether an entry is read, whether it is placed, and what was said where it is not."""
    loader = release.get("conversion_func") or "native"
    place = root / release["repo_id"] / str(entry["path"])
    try:
        hints = LAYOUTS[loader](place, entry, release)
        found = load(
            hints if isinstance(hints, Path) else place,
            hints=hints if isinstance(hints, FormatHints) else None,
        )
    except SaekitError as error:
        return False, False, str(error).replace(str(root), "")
    placed = UNKNOWN not in found.card.pair.sites
    return True, placed, "" if placed else "; ".join(found.card.provenance["notes"])


def counted(registry, step):
    """Return counts by loader, and the first word said of each entry that is not placed."""
    counts, said = collections.defaultdict(lambda: [0, 0, 0]), {}
    entries = [(r, e) for r in registry.values() for e in r["saes"]]
    for release, entry in entries[::step]:
        loader = release.get("conversion_func") or "native"
        with tempfile.TemporaryDirectory() as root:
            read, placed, why = outcome(Path(root), entry, release)
        counts[loader] = [a + b for a, b in zip(counts[loader], (1, read, placed), strict=True)]
        if not placed:
            said.setdefault((loader, why[:60]), f"{release['repo_id']}/{entry['path']}: {why}")
    return dict(counts), list(said.values())


def main():
    parser = parser_of(__doc__, f"every {STEP}th entry")
    parser.add_argument("--registry", type=Path, required=True, help="pretrained_saes.yaml")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    registry = yaml.load(options.registry.read_text(encoding="utf-8"), loader)
    counts, said = counted(registry, STEP if options.quick else 1)
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    print("| loader | listed | read | placed |\n| --- | ---: | ---: | ---: |")
    for name, row in [*sorted(counts.items(), key=lambda c: -c[1][0]), ("all", total)]:
        print(f"| {name} | {row[0]:,} | {row[1]:,} | {row[2]:,} |")
    for line in said:
        print(f"not placed: {line}")
    floors = [
        Floor("share read", total[1] / total[0], least=0.97),
        Floor("share placed", total[2] / total[0], least=0.95),
    ]
    return finish("registry", options, {"counts": counts, "said": said}, floors)


if __name__ == "__main__":
    sys.exit(main())
