"""SAEs as they are published: the numbers of their definitions, their exact sites, and refusals."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from saekit.core.errors import ConfigError, FormatError, SaekitError
from saekit.hub.formats.base import Format, FormatHints, find, registry
from saekit.hub.names import results_folder
from saekit.hub.native import load
from tests.hub import files, published
from tests.hub.files import D, N
from tests.hub.published import X


def same(found, wanted):
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-5)


def check(place, codes, y_hat, x=X, **options):
    """Assert codes and prediction of what is read, in float64, and return it."""
    found = load(place, **options)
    sae = found.sae.double()
    acts = sae.encode(x)
    assert (codes != 0).sum() > 40
    same(acts.dense(), codes)
    same(sae.decode(acts), y_hat)
    return load(place, **options)


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize(
    ("kind", "affine"), [*((k, False) for k in published.KINDS_2), ("transcoder", True)]
)
def test_gemma_scope_2(kind, affine, config, tmp_path):
    card = check(*published.gemma_scope_2(tmp_path, kind, affine, config)).card
    assert card.pair.label == published.KINDS_2[kind][2]
    assert card.model["name"] == "google/gemma-3-4b-pt" and card.n_ctx == 1024 and card.bos


def test_names_of_gemma_3_are_those_of_the_hub(tmp_path):
    place = published.gemma_scope_2(tmp_path, model_name="gemma-v3-270m-pt")[0]
    assert load(place).card.model["name"] == "google/gemma-3-270m"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "topk"}, "architecture `jump_relu` of Gemma Scope 2; got 'topk'"),
        ({"affine_connection": True}, "affine_connection=True, and params.safetensors has no"),
        ({"model_name": 3}, "`model_name`"),
        ({"hf_hook_point_in": None}, "`hf_hook_point_in`"),
        ({"affine_connection": "no"}, "true or false"),
        ({"hf_hook_point_out": None}, "does not say what it predicts"),
        (
            {"hf_hook_point_out": f"{published.LAYER}.pre_feedforward_layernorm.output"},
            "does not say what it predicts",
        ),
    ],
)
def test_gemma_scope_2_that_contradicts_itself(changes, said, tmp_path):
    place = published.gemma_scope_2(tmp_path, **changes)[0]
    with pytest.raises(FormatError, match=said):
        load(place)


@pytest.mark.parametrize("kind", ["clt", "crosscoder"])
def test_gemma_scope_2_of_several_layers_is_refused_by_name(kind, tmp_path):
    place = published.gemma_scope_2(tmp_path)[0]
    w = load_file(place / "params.safetensors")
    other = tmp_path / "google/gemma-scope-2-4b-pt" / kind / "layer_7_width_262k"
    other.parent.mkdir(parents=True)
    place.rename(other)
    with pytest.raises(FormatError, match=f"is a {kind} of Gemma Scope 2"):
        load(other)
    save_file(w, other / "params_layer_3.safetensors")
    (other / "params.safetensors").unlink()
    with pytest.raises(FormatError, match="of Gemma Scope 2: it predicts or reads several layers"):
        load(other)


def test_gemma_scope_2_with_neither_config_nor_name(tmp_path):
    place = published.gemma_scope_2(tmp_path, config=False)[0]
    (tmp_path / "elsewhere").mkdir()
    place = place.rename(tmp_path / "elsewhere" / "sae")
    with pytest.raises(FormatError, match=r"no config\.json, and its name does not say"):
        load(place)


@pytest.mark.parametrize("by_length", [True, False])
@pytest.mark.parametrize("norms", [(3.5, 3.5), (64.0, 3.39)])
@pytest.mark.parametrize("layout", ["old", "distill", "new"])
def test_llama_scope(layout, norms, by_length, tmp_path):
    place, codes, y_hat = published.open_moss(tmp_path, layout, norms, by_length)
    found = check(place, codes, y_hat)
    same_place = norms[0] == norms[1]
    label = "L5.resid_post" if same_place else "L5.mlp_normalized -> L5.mlp_out"
    assert found.card.pair.label == label
    assert found.sae.cfg.name == "jumprelu"
    assert found.card.model["name"] == ("meta-llama/Llama-3.1-8B" if layout == "old" else "unknown")
    with pytest.raises(ConfigError, match="got input_scale=3"):
        load(place, hints=FormatHints(input_scale=3.0))


@pytest.mark.parametrize("by_length", [True, False])
@pytest.mark.parametrize("function", ["relu", "topk"])
def test_other_functions_of_llamascopium(function, by_length, tmp_path):
    found = check(*published.open_moss(tmp_path, "new", (3.5, 3.5), by_length, function))
    assert found.sae.cfg.name == function


def test_the_length_of_a_row_decides_which_latents_of_llama_scope_are_on(tmp_path):
    """SAELens and others take one threshold for all; the library's own code does not."""
    on = [
        published.open_moss(tmp_path / str(by), "old", by_length=by)[1] != 0 for by in (True, False)
    ]
    assert (on[0] != on[1]).any()


def test_factors_in_the_weights_already_are_not_folded_again(tmp_path):
    place, codes, y_hat = published.open_moss(tmp_path, "new", (D**0.5, D**0.5))
    raw = json.loads((place / "config.json").read_text()) | {"norm_activation": "inference"}
    (place / "config.json").write_text(json.dumps(raw))
    check(place, codes, y_hat)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sae_type": "clt"}, "of the kind `clt`"),
        ({"use_glu_encoder": True}, "use_glu_encoder"),
        ({"norm_activation": "token-wise"}, "token-wise"),
        ({"act_fn": "batchtopk"}, "batchtopk"),
        ({"act_fn": None}, "`act_fn`"),
        ({"jump_relu_threshold": None}, "`jump_relu_threshold`"),
        ({"dataset_average_activation_norm": {"in": 3.0}}, r"\(out\)"),
        ({"dataset_average_activation_norm": {"in": 0, "out": 3.0}}, r"\(in\)"),
        ({"norm_activation": None}, "`norm_activation`"),
        ({"hook_point_out": None}, "point_out"),
        ({"d_sae": N + 1}, "shape"),
    ],
)
def test_what_of_llama_scope_saekit_cannot_run_is_refused(changes, said, tmp_path):
    place = published.open_moss(tmp_path, "old", **changes)[0]
    with pytest.raises(SaekitError, match=said):
        load(place)


def test_qwen_scope_by_site_and_by_file(tmp_path):
    place, codes, y_hat = published.qwen_scope(tmp_path, (1, 2, 3))
    for options in ({"site": "L3.resid_post"}, {"hints": FormatHints(read=("L3.resid_post",))}):
        card = check(place, codes, y_hat, **options).card
        assert card.pair.label == "L3.resid_post"
        assert card.model["name"] == "Qwen/Qwen3-1.7B-Base"
    check(place / "layer3.sae.pt", codes, y_hat)
    with pytest.raises(ConfigError, match=r"a file each \(3\): L1\.resid_post, L2.*none"):
        load(place)
    with pytest.raises(ConfigError, match=r"got L9\.resid_post"):
        load(place, site="L9.resid_post")
    with pytest.raises(ConfigError, match="got L2.resid_post"):
        load(place / "layer3.sae.pt", site="L2.resid_post")


def test_qwen_scope_says_k_in_its_config_or_its_name(tmp_path):
    place, codes, y_hat = published.qwen_scope(tmp_path, config=False)
    with pytest.raises(ConfigError, match="--k"):
        load(place)
    check(place, codes, y_hat, hints=FormatHints(k=4))
    named = place.rename(tmp_path / "SAE-Res-Qwen3-8B-Base-W32K-L0_4")
    with pytest.raises(SaekitError, match="d_sae 32768"):
        load(named)
    assert find(named).name == "qwen_scope"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": None}, "`k`"),
        ({"d_sae": N + 1}, "d_sae 21"),
        ({"model_type": "sae"}, "topk_sae"),
        ({"base_model": None}, "base_model"),
        ({"k": N + 1}, "impossible settings"),
    ],
)
def test_qwen_scope_that_contradicts_itself(changes, said, tmp_path):
    with pytest.raises(SaekitError, match=said):
        load(published.qwen_scope(tmp_path, **changes)[0])


@pytest.mark.parametrize("jumps", [True, False])
@pytest.mark.parametrize("skips", [True, False])
def test_circuit_tracer(skips, jumps, tmp_path):
    place, codes, y_hat = published.circuit_tracer(tmp_path, (0, 3), jumps, skips)
    card = check(place, codes, y_hat, site="L3.mlp_in").card
    assert card.pair.label == "L3.mlp_in -> L3.mlp_out"
    assert card.model["name"] == "Qwen/Qwen3-0.6B" and card.transcodes
    check(place / "layer_3.safetensors", codes, y_hat)


def test_circuit_tracer_without_its_config(tmp_path):
    card = load(published.circuit_tracer(tmp_path, config="")[0]).card
    assert card.pair.label == "L3.mlp_in -> L3.mlp_out" and card.model["name"] == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(
    ("model", "hooks", "label"),
    [
        (
            "google/gemma-2-2b",
            ("ln2.hook_normalized", "hook_mlp_out"),
            "L3.mlp_normalized -> L3.mlp_out",
        ),
        (
            "meta-llama/Llama-3.2-1B",
            ("hook_resid_mid", "hook_mlp_out"),
            "L3.resid_mid -> L3.mlp_out",
        ),
        ("google/gemma-3-1b-pt", ("mlp.hook_in", "mlp.hook_out"), "L3.mlp_in -> unknown"),
    ],
)
def test_hooks_of_circuit_tracer(model, hooks, label, tmp_path):
    text = published.SET.replace("Qwen/Qwen3-0.6B", model) + published.HOOKS.format(*hooks)
    place = published.circuit_tracer(tmp_path, config=text)[0]
    card = load(place).card
    assert card.pair.label == label
    with pytest.raises(ConfigError, match="transcoder|got"):
        load(place, hints=FormatHints(read=("L3.mlp_out",)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (published.OWN.replace("transcoder_set", "cross_layer_transcoder"), "CLT"),
        (published.OWN.replace("feature_output_hook", "other"), "feature_output_hook"),
        (published.OWN.replace("transcoder_set", "trans"), "model_kind"),
        ("[1]", "model_name"),
    ],
)
def test_circuit_tracer_that_leaves_something_out(text, said, tmp_path):
    with pytest.raises(FormatError, match=said):
        load(published.circuit_tracer(tmp_path, config=text)[0])


def test_cross_layer_transcoders_are_refused_by_name(tmp_path):
    save_file({"W_enc_0": torch.zeros(N, D)}, tmp_path / "W_enc_0.safetensors")
    (tmp_path / "config.yaml").write_text("model_name: google/gemma-2-2b\n")
    with pytest.raises(FormatError, match=r"cross-layer transcoder \(CLT\) of circuit-tracer"):
        load(tmp_path)


def test_thresholds_below_0_of_circuit_tracer_are_refused(tmp_path):
    place = published.circuit_tracer(tmp_path, jumps=True)[0] / "layer_3.safetensors"
    w = load_file(place)
    w["activation_function.threshold"][2] = -0.1
    save_file(w, place)
    with pytest.raises(FormatError, match="below 0"):
        load(place)


@pytest.mark.parametrize(
    ("maker", "label", "model"),
    [
        (published.goodfire, "L19.resid_post", "meta-llama/Llama-3.1-8B-Instruct"),
        (published.deepseek_r1, "L19.resid_post", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
        (published.openai, "L8.mlp_out", "gpt2-small"),
        (published.attn_saes, "L5.z", "gpt2-small"),
        (published.batch_topk, "L8.resid_pre", "gpt2-small"),
    ],
)
def test_those_of_one_torch_file(maker, label, model, tmp_path):
    card = check(*maker(tmp_path)).card
    assert (card.pair.label, card.model["name"]) == (label, model)
    assert card.provenance["format"] == maker.__name__


def test_a_file_whose_name_says_nothing_is_of_an_unknown_site(tmp_path):
    place, codes, y_hat = published.goodfire(tmp_path, "sae.pth")
    with pytest.raises(ConfigError, match="--architecture relu"):
        load(place)
    hints = FormatHints(architecture="relu")
    assert check(place, codes, y_hat, hints=hints).card.pair.label == "unknown"
    assert load(place, site="L4.resid_post", hints=hints).card.pair.label == "L4.resid_post"


@pytest.mark.parametrize(
    ("place", "label"),
    [
        ("resid_post_mlp_v5_32k", "L8.resid_post"),
        ("resid_post_attn_v5_128k", "L8.resid_mid"),
        ("resid_delta_attn_v5_32k", "L8.attn_out"),
        ("mlp_post_act", "L8.mlp_acts"),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_openai(place, label, tied, tmp_path):
    k = 4 if "v5" in place else 0
    card = check(*published.openai(tmp_path, place, k, tied)).card
    assert card.pair.label == label


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("kind", ["vanilla", "topk", "batchtopk", "jumprelu"])
def test_batch_topk(kind, unit, tmp_path):
    check(*published.batch_topk(tmp_path, kind, unit))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sae_type": "global-matryoshka-topk"}, "kind `global"),
        ({"activation": "abs"}, "abs"),
        ({"input_unit_norm": None}, "input_unit_norm"),
        ({"top_k": None}, "top_k"),
    ],
)
def test_what_of_batch_topk_saekit_cannot_run_is_refused(changes, said, tmp_path):
    place = published.batch_topk(tmp_path, "topk", **changes)[0]
    with pytest.raises(FormatError, match=said):
        load(place)


def test_a_batch_topk_without_a_threshold_is_refused(tmp_path):
    place = published.batch_topk(tmp_path, "batchtopk")[0]
    w = torch.load(place / "sae.pt", weights_only=True)
    torch.save({n: t for n, t in w.items() if n != "threshold"}, place / "sae.pt")
    with pytest.raises(FormatError, match="depends on the batch"):
        load(place)


def test_several_attention_saes_of_a_folder(tmp_path):
    place, codes, y_hat = published.attn_saes(tmp_path, (1, 5))
    check(place, codes, y_hat, site="L5.z")
    with pytest.raises(ConfigError, match=r"a file each \(2\): L1\.z, L5\.z"):
        load(place)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_temporal(scale, tmp_path):
    place, codes, y_hat = published.temporal_saes(tmp_path, scale)
    card = check(place, codes, y_hat, published.ROWS).card
    assert card.pair.label == "L15.resid_post"
    assert card.model["name"] == "meta-llama/Llama-3.1-8B"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scale", [None, 0.25])
def test_temporal_of_saelens_is_read_and_written(scale, tied, tmp_path):
    w = published.temporal_tensors(4 * D, 3, tied)
    says = {
        "architecture": "temporal",
        "d_in": D,
        "d_sae": 4 * D,
        "n_heads": 2,
        "n_attn_layers": 2,
        "bottleneck_factor": 3,
        "sae_diff_type": "topk",
        "kval_topk": 5,
        "tied_weights": tied,
        "apply_b_dec_to_input": True,
        "reshape_activations": "none",
        "normalize_activations": "constant_scalar_rescale" if scale else "none",
        "activation_normalization_factor": scale or 1.0,
        "metadata": {
            "sae_lens_version": "6.54.12",
            "hook_name": "blocks.2.hook_resid_post",
            "context_size": 64,
        },
    }
    published.lay(tmp_path / "one", "cfg.json", says, "sae_weights.safetensors", w)
    codes, y_hat = published.temporal_codes(w, 2, 5, scale or 1.0)
    sae, card, *_ = check(tmp_path / "one", codes, y_hat, published.ROWS)
    registry.get("sae_lens")().write(sae, card, tmp_path / "two")
    check(tmp_path / "two", codes, y_hat, published.ROWS)
    again = json.loads((tmp_path / "two" / "cfg.json").read_text())
    for key in says.keys() - {"metadata", "activation_normalization_factor"}:
        assert again[key] == says[key], key
    for name, tensor in load_file(tmp_path / "two" / "sae_weights.safetensors").items():
        torch.testing.assert_close(tensor, w[name], rtol=1e-5, atol=1e-6)


def test_a_temporal_sae_of_saelens_without_b_dec(tmp_path):
    w = published.temporal_tensors(4 * D, 3, tied=False)
    says = {
        "architecture": "temporal",
        "d_in": D,
        "d_sae": 4 * D,
        "n_heads": 2,
        "n_attn_layers": 2,
        "bottleneck_factor": 3,
        "sae_diff_type": "topk",
        "kval_topk": 5,
        "tied_weights": False,
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12"},
    }
    published.lay(tmp_path, "cfg.json", says, "sae_weights.safetensors", w)
    with pytest.raises(FormatError, match="untied temporal SAE without apply_b_dec_to_input"):
        load(tmp_path)


def test_a_pursuit_is_written_for_saelens(tmp_path):
    raw = {
        "architecture": "matching_pursuit",
        "d_in": D,
        "d_sae": N,
        "max_iterations": 4,
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "stop_on_duplicate_support": True,
        "residual_threshold": 0.01,
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.1.0", "hook_name": "blocks.1.hook_resid_post"},
    }
    w = files.tensors(W_dec=(N, D), b_dec=(D,))
    w["W_dec"] /= w["W_dec"].norm(dim=-1, keepdim=True)
    published.lay(tmp_path / "a", "cfg.json", raw, "sae_weights.safetensors", w)
    sae, card, *_ = load(tmp_path / "a")
    registry.get("sae_lens")().write(sae, card, tmp_path / "b")
    again = json.loads((tmp_path / "b" / "cfg.json").read_text())
    assert {k: again[k] for k in raw.keys() - {"metadata"}} == {
        k: raw[k] for k in raw.keys() - {"metadata"}
    }
    for name, tensor in load_file(tmp_path / "b" / "sae_weights.safetensors").items():
        assert torch.equal(tensor, w[name])
    sae.b_in.data.add_(1)
    with pytest.raises(ConfigError, match="one bias"):
        registry.get("sae_lens")().write(sae, card, tmp_path / "c")


def test_a_saelens_checkpoint_of_less_than_one_latent_a_token(tmp_path):
    w = files.affine_tensors() | {"topk_threshold": torch.tensor(0.8, dtype=torch.float64)}
    files.sae_lens(tmp_path, w, architecture="batchtopk", k=0.5, rescale_acts_by_decoder_norm=False)
    w = published.double(w)
    pre = (X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre > w["topk_threshold"])
    check(tmp_path, codes, codes @ w["W_dec"] + w["b_dec"])


def test_overrides_go_over_what_a_saelens_file_says(tmp_path):
    files.sae_lens(tmp_path)
    hints = FormatHints(overrides={"normalize_activations": "constant_norm_rescale"})
    sae, card, *_ = load(tmp_path, hints=hints)
    assert sae.cfg.name == "standardised" and sae.cfg.by == "rms"
    assert any("overridden" in note for note in card.provenance["notes"])


@pytest.mark.parametrize(
    ("metadata", "label"),
    [
        ({"hook_name": "blocks.0.attn.hook_z"}, "L0.z"),
        ({"hook_name": "blocks.0.attn.hook_z", "hook_head_index": 3}, "L0.z.h3"),
        ({"hook_name": "blocks.0.attn.hook_q", "hook_head_index": 3}, "unknown"),
        ({"hook_name": "blocks.4.hook_resid_post", "hook_head_index": 3}, "unknown"),
        ({"hook_name": "model.layers.10"}, "L10.resid_post"),
        (
            {
                "hook_name": "blocks.7.hook_mlp_in",
                "hf_hook_name": "model.layers.7.pre_feedforward_layernorm.output",
            },
            "L7.mlp_in",
        ),
        ({"hook_name": "blocks.7.mlp.hook_post"}, "L7.mlp_acts"),
        ({"hook_name": "blocks.7.mlp.hook_in"}, "L7.mlp_in"),
        ({"hook_name": "blocks.7.ln2.hook_normalized"}, "L7.mlp_normalized"),
        ({"hook_name": "h.3.mlp", "model_name": "gpt2"}, "L3.mlp_out"),
    ],
)
def test_where_a_saelens_sae_belongs_is_read_and_kept(metadata, label, tmp_path):
    metadata = metadata | {
        "sae_lens_version": "6.54.12",
        "exclude_special_tokens": [1, 2],
        "seqpos_slice": [2, None],
        "custom": {"a": 1},
    }
    files.sae_lens(tmp_path / "one", reshape_activations="hook_z", metadata=metadata)
    sae, card, *_ = load(tmp_path / "one")
    assert card.pair.label == label
    registry.get("sae_lens")().write(sae, card, tmp_path / "two")
    raw = json.loads((tmp_path / "two" / "cfg.json").read_text())
    assert raw["reshape_activations"] == "hook_z"
    for key in metadata.keys() - {"sae_lens_version"}:
        assert raw["metadata"][key] == metadata[key], key
    assert load(tmp_path / "two").card.pair.label == label


def test_a_place_of_another_format_has_a_name_in_saelens(tmp_path):
    layout = registry.get("sae_lens")()
    for kind in ("transcoder", "attn_out"):
        sae, card, *_ = load(published.gemma_scope_2(tmp_path / kind, kind)[0])
        layout.write(sae, card, tmp_path / f"{kind}-lens")
        assert load(tmp_path / f"{kind}-lens").card.pair.label == card.pair.label
    raw = json.loads((tmp_path / "attn_out-lens" / "cfg.json").read_text())
    assert raw["reshape_activations"] == "hook_z"
    assert raw["metadata"]["hook_name"] == "blocks.7.attn.hook_z"


def test_checkpoints_of_a_dictionary(tmp_path):
    place = tmp_path / "resid_post_layer_3" / "trainer_0"
    codes, y_hat = files.dictionary_learning(place)
    (place / "checkpoints").mkdir()
    for step in (0, 100):
        torch.save(torch.load(place / "ae.pt"), place / "checkpoints" / f"ae_{step}.pt")
    with pytest.raises(ConfigError, match=r"a file each \(2\): ae_0\.pt, ae_100\.pt"):
        load(place / "checkpoints")
    found = check(place / "checkpoints" / "ae_100.pt", codes, y_hat)
    assert found.card.pair.label == "L3.resid_post"
    assert found.card.model["name"] == "EleutherAI/pythia-70m-deduped"


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_numbers_of_16_bits_are_raised_exactly(kind, tmp_path):
    place = published.circuit_tracer(tmp_path, skips=True)[0]
    low = {n: t.to(kind) for n, t in load_file(place / "layer_3.safetensors").items()}
    save_file(low, place / "layer_3.safetensors")
    state = load(place).sae.state_dict()
    assert torch.equal(state["inner.W_enc"], low["W_enc"].float().t())
    assert torch.equal(state["inner.W_dec"], low["W_dec"].float())
    assert torch.equal(state["W_skip"], low["W_skip"].float().t())
    assert all(t.dtype == torch.float32 for t in state.values())


@pytest.mark.parametrize("name", registry.names())
def test_weights_lie_in_memory_as_the_architecture_wants_them(name, tmp_path):
    sae = load(registry.get(name)().example(tmp_path)).sae
    wanted = sae.cfg.build(torch.Generator().manual_seed(0)).state_dict()
    for key, weight in sae.state_dict().items():
        assert weight.stride() == wanted[key].stride(), key
        assert weight.dtype == wanted[key].dtype, key
    assert all(p.requires_grad for p in sae.parameters())


def test_a_file_beside_others_is_not_taken_for_an_sae(tmp_path):
    place = published.gemma_scope_2(tmp_path)[0]
    with pytest.raises(FormatError, match="no format reads that file alone"):
        load(place / "params.safetensors")


def test_what_is_made_of_a_file_lies_in_a_folder_of_its_name(tmp_path):
    place = published.qwen_scope(tmp_path)[0]
    assert results_folder(place) == place
    assert results_folder(place / "layer3.sae.pt") == place / "layer3.sae"


def test_formats_that_write_come_back(tmp_path):
    """Autoencoders of other layouts, written as dictionary_learning and read again."""
    layout = registry.get("dictionary_learning")()
    for name in ("sae_lens", "goodfire", "gemma_scope", "qwen_scope", "attn_saes"):
        sae, card, *_ = load(registry.get(name)().example(tmp_path / name))
        layout.write(sae, card, tmp_path / f"{name}-dl")
        again, its_card, *_ = load(tmp_path / f"{name}-dl")
        same(again.encode(X.float()).dense(), sae.encode(X.float()).dense())
        same(again(X.float()), sae(X.float()))
        assert its_card.pair.label == card.pair.label, name
        assert its_card.model["name"] == card.model["name"]
    with pytest.raises(ConfigError, match="--format saekit"):
        sae, card, *_ = load(registry.get("circuit_tracer")().example(tmp_path / "tc"))
        layout.write(sae, card, tmp_path / "no")
    assert type(layout).write is not Format.write
