"""What a user says of published files: it fills gaps, and never overrules what they say."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from saekit.core.errors import ConfigError, FormatError
from saekit.hub.formats import _names
from saekit.hub.formats.base import FormatHints, registry
from saekit.hub.native import load, save
from saekit.models.sites import Site
from tests.hub import files
from tests.hub.test_formats import same

D, N, K = files.D, files.N, files.K


def old_sae_lens(folder, **changes):
    """Write an SAE as SAELens 5 did, and return its tensors."""
    w = files.affine_tensors()
    raw = {"d_in": D, "d_sae": N, "hook_name": "blocks.2.hook_resid_pre", "model_name": "m"}
    files.write(folder, "sae_weights.safetensors", w, "cfg.json", raw | changes)
    return w


@pytest.mark.parametrize(
    ("maker", "hints", "said"),
    [
        (files.sae_lens, {"k": K + 1}, r"says k=3; got k=4"),
        (files.sae_lens, {"input_scale": 0.5}, "activations as they are; got input_scale=0.5"),
        (files.sae_lens, {"architecture": "relu"}, "`topk`; got architecture `relu`"),
        (files.sparsify, {"k": K + 1}, "got k=4"),
        (files.sparsify, {"input_scale": 2.0}, "got input_scale=2"),
        (files.dictionary_learning, {"architecture": "gated"}, "`relu`; got architecture `gated`"),
        (files.dictionary_learning, {"k": 5}, "`relu`, which has no k; got k=5"),
        (files.gemma_scope, {"k": 5}, "`jumprelu`, which has no k"),
        (files.mlsae, {"k": 5}, "got k=5"),
        (files.mlsae, {"architecture": "relu"}, "`standardised` around `topk`"),
    ],
)
def test_a_hint_that_the_files_contradict_is_refused(maker, hints, said, tmp_path):
    maker(tmp_path / "layers.2")
    with pytest.raises(ConfigError, match=said):
        load(tmp_path / "layers.2", hints=FormatHints(**hints))


def test_a_hint_that_the_files_confirm_is_taken(tmp_path):
    files.sae_lens(tmp_path)
    hints = FormatHints(k=K, architecture="topk", read=("L8.resid_pre",))
    assert load(tmp_path, hints=hints).sae.cfg.k == K


def test_saekits_own_files_are_no_exception(tmp_path):
    files.sae_lens(tmp_path / "theirs")
    save(*load(tmp_path / "theirs"), tmp_path / "ours")
    for hints in ({"k": K + 1}, {"architecture": "relu"}, {"read": ("L3.resid_post",)}):
        with pytest.raises(ConfigError, match="got"):
            load(tmp_path / "ours", hints=FormatHints(**hints))


def test_an_input_scale_beside_a_checkpoint_is_the_one(tmp_path):
    files.sae_lens(tmp_path, normalize_activations="expected_average_only_in")
    with pytest.raises(ConfigError, match="--input-scale"):
        load(tmp_path)
    assert load(tmp_path, hints=FormatHints(input_scale=0.25)).sae
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.5}))
    assert load(tmp_path, hints=FormatHints(input_scale=0.5)).sae
    with pytest.raises(ConfigError, match=r"says 0.5; got input_scale=0.25"):
        load(tmp_path, hints=FormatHints(input_scale=0.25))


@pytest.mark.parametrize(
    "more",
    [{}, {"activation_fn": "relu"}, {"activation_fn_str": "relu"}, {"activation_fn": "topk"}],
)
def test_old_saelens_files_say_k_in_the_arguments_of_the_activation(more, tmp_path):
    kwargs = {"activation_fn_kwargs": {"k": 6}}
    architecture = {} if more.get("activation_fn") == "topk" else {"architecture": "topk"}
    w = old_sae_lens(tmp_path, **kwargs, **architecture, **more)
    sae, _ = load(tmp_path)
    x = files.inputs()
    same(sae.encode(x).dense(), files.top((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 6))


def test_a_file_that_leaves_k_out_is_asked_for_it(tmp_path):
    old_sae_lens(tmp_path / "old", architecture="topk")
    files.sae_lens(tmp_path / "new", k=None)
    for place in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(FormatError, match="--k"):
            load(place)
        assert load(place, hints=FormatHints(k=5)).sae.cfg.k == 5
    old_sae_lens(tmp_path / "two", architecture="topk", k=3, activation_fn_kwargs={"k": 6})
    with pytest.raises(FormatError, match="k=3, and k=6"):
        load(tmp_path / "two")


@pytest.mark.parametrize("key", ["apply_b_dec_to_input", "normalize_activations"])
def test_a_new_saelens_file_says_what_decides(key, tmp_path):
    files.sae_lens(tmp_path)
    raw = json.loads((tmp_path / "cfg.json").read_text())
    del raw[key]
    (tmp_path / "cfg.json").write_text(json.dumps(raw))
    with pytest.raises(FormatError, match=key):
        load(tmp_path)


def old_skip(folder, run, skips=True):
    """Write a transcoder as sparsify did before February 2025: `transcode` is of the run."""
    files.sparsify(folder)
    raw = json.loads((folder / "cfg.json").read_text()) | {"skip_connection": skips}
    del raw["transcode"]
    (folder / "cfg.json").write_text(json.dumps(raw))
    if skips:
        w = load_file(folder / "sae.safetensors") | {"W_skip": torch.eye(D)}
        save_file(w, folder / "sae.safetensors")
    if run is not None:
        (folder.parent / "config.json").write_text(json.dumps(run))
    return folder


def test_an_early_transcoder_of_sparsify_is_one(tmp_path):
    place = old_skip(tmp_path / "layers.1.mlp", {"transcode": True, "model": "meta/Llama"})
    sae, card = load(place)
    assert card.pair.label == "L1.mlp_in -> L1.mlp_out"
    w, x = load_file(place / "sae.safetensors"), files.inputs()
    acts = files.top((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    same(sae(x), acts @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T)  # b_dec came off, as then


@pytest.mark.parametrize("skips", [True, False])
def test_whether_it_is_a_transcoder_is_not_guessed(skips, tmp_path):
    place = old_skip(tmp_path / "layers.1.mlp", None, skips)
    card = load(place).card
    assert card.pair.label == "unknown" and "site" in card.provenance["unknown"]
    assert any("config.json" in note for note in card.provenance["notes"])
    both = FormatHints(read=("L1.mlp_in",), write=("L1.mlp_out",))
    assert load(place, hints=both).card.pair.label == "L1.mlp_in -> L1.mlp_out"
    if skips:
        with pytest.raises(ConfigError, match="transcoder"):
            load(place, hints=FormatHints(read=("L1.mlp_out",)))
        with pytest.raises(ConfigError, match="transcoder"):
            load(place, site="L1.mlp_out")


def test_a_dictionary_of_both_sides_of_a_module_is_a_transcoder(tmp_path):
    files.dictionary_learning(tmp_path, buffer={"ctx_len": 128, "io": "in_and_out"})
    assert load(tmp_path).card.transcodes
    with pytest.raises(ConfigError, match="transcoder"):
        load(tmp_path, site="L3.resid_post")


def test_a_transcoder_is_not_written_where_it_would_come_back_as_an_autoencoder(tmp_path):
    files.mlsae(tmp_path / "a")
    hints = FormatHints(read=("L1.mlp_in",), write=("L1.mlp_out",))
    sae, card = load(tmp_path / "a", hints=hints)
    with pytest.raises(ConfigError, match="autoencoders"):
        registry.get("mlsae")().write(sae, card, tmp_path / "b")


@pytest.mark.parametrize(
    ("maker", "place", "changes", "site", "right"),
    [
        (files.sparsify, "layers.1.mlp", {}, "L1.resid_post", "L1.mlp_out"),
        (files.sparsify, "layers.1.mlp", {}, "L2.mlp_out", "L1.mlp_out"),
        (files.sparsify, "layers.1.self_attn", {}, "L1.mlp_out", "L1.attn_out"),
        (old_sae_lens, "q", {"hook_name": "blocks.0.attn.hook_q"}, "L0.attn_out", None),
        (old_sae_lens, "n", {"hook_name": "blocks.0.hook_mlp_in"}, "L0.mlp_out", "L0.mlp_in"),
        (
            files.dictionary_learning,
            "d",
            {"trainer": {"dict_class": "AutoEncoder", "layer": 3}},
            "L4.resid_post",
            "L3.mlp_out",
        ),
    ],
)
def test_a_site_of_another_kind_than_the_name_is_refused(
    maker, place, changes, site, right, tmp_path
):
    folder = tmp_path / place
    maker(folder, **changes)
    for told in ({"site": site}, {"hints": FormatHints(read=(site,))}):
        with pytest.raises(ConfigError, match=f"got {site} to read"):
            load(folder, **told)
    if right is not None:
        assert load(folder, site=right).card.pair.label == right


@pytest.mark.parametrize(
    ("name", "reads", "sites"),
    [
        ("blocks.3.hook_mlp_out", False, ("L3.mlp_out",)),
        ("blocks.3.attn.hook_q", False, ()),
        ("blocks.3.attn.hook_z", False, ("L3.z",)),
        ("blocks.3.mlp.hook_out", False, ("L3.mlp_out",)),
        ("blocks.3.hook_mlp_in", False, ("L3.resid_mid", "L3.mlp_in")),
        ("model.layers.3", True, ("L3.resid_pre",)),
        ("h.3.mlp", True, ("L3.mlp_in",)),
        ("layers.3.mlp.act_fn", False, ()),
        ("embed_in", False, ("embed",)),
        ("somewhere", False, None),
    ],
)
def test_names_and_the_sites_that_they_leave_possible(name, reads, sites):
    found = _names.near(name, reads=reads)
    assert (None if found is None else tuple(map(str, found))) == sites


def test_a_modules_name_in_a_saelens_file_is_a_site(tmp_path):
    old_sae_lens(tmp_path, hook_name="model.layers.10")
    card = load(tmp_path).card
    assert card.pair.reads == [Site(10, "resid_post")] and not card.provenance["notes"]


def test_a_note_names_only_the_hook_that_is_no_site(tmp_path):
    w = files.affine_tensors()
    config = {
        "architecture": "transcoder",
        "d_in": D,
        "d_out": D,
        "d_sae": N,
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {
            "sae_lens_version": "6.1.0",
            "hook_name": "blocks.3.hook_mlp_in",
            "hook_name_out": "blocks.3.hook_mlp_out",
        },
    }
    files.write(tmp_path, "sae_weights.safetensors", w, "cfg.json", config)
    (note,) = load(tmp_path).card.provenance["notes"]
    assert "hook_mlp_in" in note and "hook_mlp_out" not in note


def test_what_saelens_says_of_a_place_survives_being_written_again(tmp_path):
    config = {
        "architecture": "standard",
        "d_in": D,
        "d_sae": N,
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "hook_z",
        "metadata": {
            "sae_lens_version": "6.1.0",
            "hook_name": "blocks.0.attn.hook_z",
            "hook_head_index": 3,
            "seqpos_slice": [5, -5],
            "model_name": "gpt2-small",
            "exclude_special_tokens": True,
            "prepend_bos": False,
        },
    }
    place = tmp_path / "theirs"
    files.write(place, "sae_weights.safetensors", files.affine_tensors(), "cfg.json", config)
    sae, card = load(place)
    assert any("[5, -5]" in note for note in card.provenance["notes"])
    registry.get("sae_lens")().write(sae, card, tmp_path / "again")
    again = json.loads((tmp_path / "again" / "cfg.json").read_text())
    assert again["reshape_activations"] == "hook_z"
    for key in config["metadata"].keys() - {"sae_lens_version"}:
        assert again["metadata"][key] == config["metadata"][key], key


def test_what_is_known_of_bos_is_written_and_what_is_not_is_null(tmp_path):
    files.sparsify(tmp_path / "layers.1")
    sae, card = load(tmp_path / "layers.1")
    assert card.bos is None and "bos" in card.provenance["unknown"]
    registry.get("sae_lens")().write(sae, card, tmp_path / "lens")
    metadata = json.loads((tmp_path / "lens" / "cfg.json").read_text())["metadata"]
    assert metadata["prepend_bos"] is None
    assert load(tmp_path / "lens").card.bos is None
    save(sae, card, tmp_path / "ours")
    assert load(tmp_path / "ours").card.bos is None
    old_sae_lens(tmp_path / "five")  # before 6 rows began with BOS unless the file says otherwise
    assert load(tmp_path / "five").card.bos is True
    old_sae_lens(tmp_path / "without", prepend_bos=False)
    assert load(tmp_path / "without").card.bos is False


def test_messages_say_what_is_so(tmp_path):
    files.sparsify(tmp_path / "layers.1", activation="relu")
    with pytest.raises(FormatError, match="activation `relu`; saekit reads `topk` and `groupmax`"):
        load(tmp_path / "layers.1")
    files.sparsify(tmp_path / "layers.2")
    with pytest.raises(FormatError, match=r"several SAEs, a folder each: layers.1, layers.2"):
        load(tmp_path)


def test_a_pursuit_of_more_steps_than_latents_is_read(tmp_path):
    raw = {
        "architecture": "matching_pursuit",
        "d_in": D,
        "d_sae": 4,
        "max_iterations": None,
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "stop_on_duplicate_support": True,
        "residual_threshold": 0.01,
        "metadata": {"sae_lens_version": "6.1.0"},
    }
    w = files.tensors(W_dec=(4, D), b_dec=(D,))
    files.write(tmp_path, "sae_weights.safetensors", w, "cfg.json", raw)
    assert load(tmp_path).sae.cfg.k == 4
    raw["stop_on_duplicate_support"] = False
    (tmp_path / "cfg.json").write_text(json.dumps(raw))
    with pytest.raises(FormatError, match="impossible settings"):
        load(tmp_path)
