"""Files of other libraries: the same numbers, the right place, and refusals that say why."""

import json
import shutil

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from saekit.cli.main import app
from saekit.core.errors import ConfigError, FormatError, SaekitError, ShapeError
from saekit.hub.formats import _names
from saekit.hub.formats.base import Format, FormatHints, find, registry
from saekit.hub.native import load, save
from saekit.saes.base import registry as architectures
from tests.hub import files
from tests.hub.test_native import built, card

OTHERS = sorted(files.MAKERS)
WRITABLE = [n for n in OTHERS if registry.get(n).write is not Format.write]


@pytest.fixture
def folder(tmp_path, request):
    """Return a folder in the layout named by the parameter, and what its library makes of it."""
    place = tmp_path / files.PLACES[request.param]
    return place, *files.MAKERS[request.param](place), request.param


each = pytest.mark.parametrize("folder", OTHERS, indirect=True)


def same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_each_format_of_others_says_where_it_is_from():
    assert set(OTHERS) <= set(registry.names())
    for name in registry.names():
        assert name == "saekit" or "Source:" in registry.get(name).__doc__


@each
def test_codes_and_predictions_are_those_of_the_library(folder):
    place, codes, y_hat, name = folder
    sae, its_card = load(place)
    acts = sae.encode(files.inputs())
    assert (codes != 0).sum() > 40
    same(acts.dense(), codes)
    same(sae.decode(acts), y_hat)
    assert its_card.provenance["format"] == name


@pytest.mark.parametrize(
    ("folder", "model", "site"),
    [
        ("sae_lens", "gpt2-small", "L8.resid_pre"),
        ("dictionary_learning", "EleutherAI/pythia-70m-deduped", "L3.resid_post"),
        ("gemma_scope", "google/gemma-2-9b-it", "L20.resid_post"),
        ("sparsify", "unknown", "L2.resid_post"),
        ("mlsae", "EleutherAI/pythia-70m-deduped", "+".join(f"L{i}.resid_post" for i in range(6))),
    ],
    indirect=["folder"],
)
def test_the_card_says_what_the_files_and_their_path_say(folder, model, site):
    found = load(folder[0]).card
    assert (found.model["name"], found.pair.label) == (model, site)
    assert ("model" in found.provenance["unknown"]) == (model == "unknown")
    assert "site" not in found.provenance["unknown"]


@pytest.mark.parametrize("folder", ["gemma_scope", "mlsae"], indirect=True)
def test_what_the_files_do_not_say_is_unknown_until_it_is_told(folder, tmp_path):
    place = shutil.copytree(folder[0], tmp_path / "elsewhere")
    found = load(place).card
    assert found.model["name"] == "unknown" and found.pair.label == "unknown"
    assert {"model", "site"} <= set(found.provenance["unknown"])
    read = ("L0.resid_post", "L1.resid_post")
    found = load(place, hints=FormatHints(model="a/b", read=read)).card
    assert found.model["name"] == "a/b" and found.pair.read == read and found.pair.fold
    found = load(place, site="blocks.5.hook_mlp_out").card
    assert found.pair.read == ("L5.mlp_out",) and found.at == "L5.mlp_out"
    assert "site" not in found.provenance["unknown"]
    save(*load(place), tmp_path / "ours")  # the unknown can be kept
    assert load(tmp_path / "ours").card.pair.label == "unknown"


@each
def test_a_site_that_contradicts_the_files_is_refused(folder):
    with pytest.raises(ConfigError, match=r"reads .*; got"):
        load(folder[0], site="L30.resid_mid")
    with pytest.raises(ConfigError, match="The files say that the SAE is of"):
        load(folder[0], hints=FormatHints(read=("L30.resid_mid",)))


@pytest.mark.parametrize("folder", WRITABLE, indirect=True)
def test_read_write_read(folder, tmp_path):
    place, codes, y_hat, name = folder
    sae, its_card = load(place)
    out = registry.get(name)().write(sae, its_card, tmp_path / "again" / place.name)
    again = load(out).sae
    same(again.encode(files.inputs()).dense(), codes)
    same(again(files.inputs()), y_hat)
    assert again.cfg.d_sae == sae.cfg.d_sae and type(again) is type(sae)


@each
def test_any_of_them_becomes_saekits_own(folder, tmp_path):
    sae, its_card = load(folder[0])
    save(sae, its_card, tmp_path / "ours")
    again, same_card = load(tmp_path / "ours")
    assert torch.equal(again(files.inputs()), sae(files.inputs()))
    assert again.cfg == sae.cfg and same_card == its_card


@pytest.mark.parametrize("name", architectures.names())
@pytest.mark.parametrize("to", WRITABLE)
def test_an_architecture_is_written_exactly_or_refused(to, name, tmp_path):
    sae = built(name).eval()
    if isinstance(getattr(sae, "b_enc", None), torch.Tensor):
        sae.b_enc.data.add_(0.05)  # biases that no layout could hold by chance
    x = torch.randn(30, *[3] * len(sae.cfg.event), sae.cfg.d_in)
    try:
        registry.get(to)().write(sae, card(), tmp_path / "out")
    except ConfigError as error:
        assert "--format" in str(error)
        assert not (tmp_path / "out").exists()
        return
    again = load(tmp_path / "out").sae
    same(again.encode(x).dense(), sae.encode(x).dense())
    same(again(x), sae(x))


def test_a_bias_that_mlsae_cannot_hold_is_refused(tmp_path):
    files.mlsae(tmp_path / "one")
    sae, its_card = load(tmp_path / "one")
    sae.inner.b_enc.data.add_(0.1)
    with pytest.raises(ConfigError, match="one bias"):
        registry.get("mlsae")().write(sae, its_card, tmp_path / "two")


def weights_file(place):
    ends = (
        "sae_weights.safetensors",
        "sae.safetensors",
        "ae.pt",
        "params.npz",
        "model.safetensors",
    )
    return next(place / n for n in ends if (place / n).exists())


def rewrite(path, weights):
    if path.suffix == ".pt":
        torch.save(weights, path)
    elif path.suffix == ".npz":
        np.savez(path, **{n: np.asarray(t) for n, t in weights.items()})
    else:
        save_file({n: t.contiguous() for n, t in weights.items()}, path)


def weights_of(path):
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {n: torch.from_numpy(a) for n, a in arrays.items()}
    return load_file(path)


@each
def test_damaged_files_are_refused(folder):
    path = weights_file(folder[0])
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], b"", b"not this", whole[:40] + b"\xff" * 80):
        path.write_bytes(part)
        with pytest.raises(FormatError, match=path.name):
            load(folder[0])


@each
def test_missing_extra_misshapen_and_infinite_tensors_are_refused(folder):
    path = weights_file(folder[0])
    whole = weights_of(path)
    for name in whole:
        rewrite(path, {n: t for n, t in whole.items() if n != name})
        with pytest.raises(SaekitError, match=path.name):
            load(folder[0])
        rewrite(path, whole | {name: torch.cat([whole[name], whole[name]])})
        with pytest.raises((ShapeError, FormatError), match=path.name):
            load(folder[0])
        rewrite(path, whole | {name: whole[name] * float("nan")})
        with pytest.raises(FormatError, match="finite"):
            load(folder[0])
    rewrite(path, whole | {"surprise": torch.zeros(2)})
    with pytest.raises(FormatError, match="surprise"):
        load(folder[0])


class Trap:
    """Runs when a plain unpickler meets it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (exec, (f"open({str(self.mark)!r}, 'w').close()",))


def test_a_pickle_that_would_run_is_refused_and_does_not(tmp_path):
    mark = tmp_path / "ran"
    place = tmp_path / "resid_out_layer1"
    files.dictionary_learning(place)
    torch.save({"encoder.weight": torch.zeros(2), "bias": Trap(mark)}, place / "ae.pt")
    with pytest.raises(FormatError, match="never runs"):
        load(place)
    assert not mark.exists()
    torch.load(place / "ae.pt", weights_only=False)  # the trap is a trap
    assert mark.exists()


def test_objects_in_npz_are_refused_and_do_not_run(tmp_path):
    mark = tmp_path / "ran"
    files.gemma_scope(tmp_path)
    np.savez(tmp_path / "params.npz", W_enc=np.array([Trap(mark)], dtype=object))
    with pytest.raises(FormatError, match="more than numbers"):
        load(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("value", [[1, 2], {"a": {"b": torch.zeros(1)}}, torch.zeros(3), {1: 2}])
def test_torch_files_without_named_tensors_are_refused(value, tmp_path):
    files.dictionary_learning(tmp_path)
    torch.save(value, tmp_path / "ae.pt")
    with pytest.raises(FormatError, match="tensors by name"):
        load(tmp_path)


def test_files_of_two_formats_need_a_word(tmp_path):
    files.gemma_scope(tmp_path)
    files.dictionary_learning(tmp_path)
    with pytest.raises(FormatError, match=r"several formats: dictionary_learning, gemma_scope\."):
        load(tmp_path)
    assert load(tmp_path, format="gemma_scope").sae.cfg.name == "jumprelu"
    with pytest.raises(LookupError, match="no format `gemma`"):
        load(tmp_path, format="gemma")


def test_a_folder_of_no_format_names_what_it_holds_and_what_could_be(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FormatError, match=r"holds notes\.txt.*gemma_scope: params\.npz"):
        load(tmp_path)
    with pytest.raises(FormatError, match="no folder"):
        load(tmp_path / "notes.txt")
    assert find(files.mlsae(tmp_path / "b") and tmp_path / "b").name == "mlsae"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "novel"}, "architecture `novel`"),
        ({"k": 21}, "must be at most `d_sae`"),
        ({"d_sae": 19}, "W_enc"),
        ({"d_in": "6"}, "`d_in`"),
        ({"normalize_activations": "sphere"}, "sphere"),
        ({"normalize_activations": "covariance_whitening"}, "activation_whitening"),
        ({"architecture": "jumprelu"}, "threshold"),
        ({"architecture": "transcoder", "d_out": 6}, "apply_b_dec_to_input"),
        (
            {
                "architecture": "transcoder",
                "d_out": 6,
                "apply_b_dec_to_input": False,
                "normalize_activations": "layer_norm",
            },
            "no way back",
        ),
    ],
)
def test_what_saelens_settings_saekit_cannot_run_is_refused(changes, said, tmp_path):
    files.sae_lens(tmp_path, **changes)
    with pytest.raises(SaekitError, match=said):
        load(tmp_path)


def test_saelens_before_version_6(tmp_path):
    w = files.affine_tensors() | {"scaling_factor": torch.ones(files.N)}
    old = {
        "d_in": files.D,
        "d_sae": files.N,
        "hook_point": "blocks.2.hook_mlp_out",
        "model_name": "m",
        "activation_fn_str": "relu",
        "normalize_activations": False,
    }
    files.write(tmp_path, "sae_weights.safetensors", w, "cfg.json", old)
    sae, its_card = load(tmp_path)
    x = files.inputs()
    codes = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    same(sae.encode(x).dense(), codes)
    assert its_card.pair.label == "L2.mlp_out" and its_card.model["name"] == "m"
    (tmp_path / "cfg.json").write_text(json.dumps(old | {"activation_fn_str": "tanh-relu"}))
    with pytest.raises(FormatError, match="tanh-relu"):
        load(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    rewrite(tmp_path / "sae_weights.safetensors", w | {"scaling_factor": 2 * torch.ones(files.N)})
    with pytest.raises(FormatError, match="scaling_factor"):
        load(tmp_path)


def test_signed_and_grouped_latents_of_sparsify(tmp_path):
    files.sparsify(tmp_path / "h.4", signed=True)
    sae, its_card = load(tmp_path / "h.4")
    w = load_file(tmp_path / "h.4" / "sae.safetensors")
    pre = (files.inputs() - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    at = pre.abs().topk(files.K).indices
    wanted = torch.zeros_like(pre).scatter(1, at, pre.gather(1, at))
    same(sae.encode(files.inputs()).dense(), wanted)
    assert its_card.pair.label == "L4.resid_post"
    files.sparsify(tmp_path / "h.5", activation="groupmax", k=4)
    sae, _ = load(tmp_path / "h.5")
    groups = pre.relu().unflatten(1, (4, -1))  # all five of each group but the largest are off
    wanted = torch.where(groups == groups.amax(-1, keepdim=True), groups, 0).flatten(1)
    same(sae.encode(files.inputs()).dense(), wanted)
    files.sparsify(tmp_path / "h.6", activation="groupmax")
    with pytest.raises(FormatError, match="k=3"):
        load(tmp_path / "h.6")


def test_sparsify_names_its_place_by_module_and_its_model_beside_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model": "google/gemma-2-2b"}))
    files.sparsify(tmp_path / "layers.7" / "seed3")
    (tmp_path / "layers.7.mlp").mkdir()
    files.sparsify(tmp_path / "layers.7.mlp")
    assert load(tmp_path / "layers.7" / "seed3").card.pair.label == "L7.resid_post"
    found = load(tmp_path / "layers.7.mlp").card
    assert found.model["name"] == "google/gemma-2-2b"
    assert found.pair.label == "unknown"  # Gemma 2 normalises what its MLP puts out


def test_dictionaries_without_a_config_are_told_apart_by_their_tensors(tmp_path):
    files.dictionary_learning(tmp_path / "resid_out_layer2" / "10_32768")
    (tmp_path / "resid_out_layer2" / "10_32768" / "config.json").unlink()
    sae, its_card = load(tmp_path / "resid_out_layer2" / "10_32768")
    assert sae.cfg.name == "relu" and its_card.pair.label == "L2.resid_post"
    assert its_card.model["name"] == "unknown"
    w = {
        "encoder.weight": (files.N, files.D),
        "encoder.bias": (files.N,),
        "decoder.weight": (files.D, files.N),
        "b_dec": (files.D,),
    }
    w = files.tensors(**w) | {"threshold": torch.tensor(0.4), "k": torch.tensor(4)}
    files.write(tmp_path / "a", "ae.pt", w)
    with pytest.raises(ConfigError, match="topk, batch_topk.*--architecture"):
        load(tmp_path / "a")
    ranked = load(tmp_path / "a", hints=FormatHints(architecture="topk")).sae
    assert ranked.cfg.name == "topk" and ranked.cfg.k == 4
    cut = load(tmp_path / "a", hints=FormatHints(architecture="batch_topk")).sae
    pre = (files.inputs() - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    same(cut.encode(files.inputs()).dense(), pre * (pre > 0.4))
    files.write(tmp_path / "b", "ae.pt", {n: t for n, t in w.items() if n != "k"})
    with pytest.raises(FormatError, match="--k"):
        load(tmp_path / "b", hints=FormatHints(architecture="topk"))
    assert load(tmp_path / "b", hints=FormatHints(architecture="topk", k=2)).sae.cfg.k == 2


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"dict_class": "GatedAutoEncoder"}, "GatedAutoEncoder"),
        ({"dict_class": "IdentityDict"}, "IdentityDict"),
        ({"dict_class": "AutoEncoder", "dict_size": 21}, "dict_size"),
    ],
)
def test_dictionaries_that_are_not_what_they_say_are_refused(trainer, said, tmp_path):
    files.dictionary_learning(tmp_path, trainer=trainer)
    with pytest.raises(SaekitError, match=said):
        load(tmp_path)


def test_layers_that_disagree_leave_the_site_open(tmp_path):
    files.dictionary_learning(tmp_path / "resid_post_layer_3")
    place = shutil.copytree(tmp_path / "resid_post_layer_3", tmp_path / "resid_post_layer_4")
    raw = json.loads((place / "config.json").read_text())
    raw["trainer"]["submodule_name"] = None
    (place / "config.json").write_text(json.dumps(raw))
    found = load(place).card
    assert found.pair.label == "unknown"
    assert any("L4.resid_post" in n and "3" in n for n in found.provenance["notes"])


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("gemma-scope-2b-pt-mlp/layer_0/width_16k/average_l0_10", "L0.mlp_out"),
        ("gemma-scope-2b-pt-att/layer_3/width_16k/average_l0_10", "L3.z"),
        ("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_10", "embed"),
        (
            "gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_10",
            "L3.mlp_normalized -> L3.mlp_out",
        ),
        (
            "models--google--gemma-scope-27b-pt-res/snapshots/ab/layer_22/width_131k/canonical",
            "L22.resid_post",
        ),
    ],
)
def test_gemma_scope_by_path(path, label, tmp_path):
    files.gemma_scope(tmp_path / path)
    found = load(tmp_path / path).card
    assert found.pair.label == label and not found.provenance["notes"]
    with pytest.raises(ConfigError, match=r"reads .*; got"):
        load(tmp_path / path, site="L3.mlp_in")


def test_gemma_scope_of_embeddings_is_of_those_that_gemma_has_scaled(tmp_path):
    place = tmp_path / "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_10"
    codes, y_hat = files.gemma_scope(place)
    sae, its_card = load(place)
    scaled = files.inputs() * files.D**0.5  # as the model has them
    same(sae.encode(scaled).dense(), codes)
    same(sae(scaled), y_hat * files.D**0.5)
    again = registry.get("gemma_scope")().write(sae, its_card, tmp_path / "again" / path_of(place))
    for name, tensor in weights_of(again / "params.npz").items():
        if name != "threshold":  # those below 0 are 0
            same(tensor, weights_of(place / "params.npz")[name])


def path_of(place):
    return "/".join(place.parts[-4:])


def test_an_mlsae_whose_name_and_config_disagree_is_refused(tmp_path):
    place = tmp_path / "mlsae-pythia-70m-deduped-x64-k32"
    files.mlsae(place)
    with pytest.raises(FormatError, match="k=32"):
        load(place)
    files.mlsae(tmp_path / "plain", standardize=False)
    assert load(tmp_path / "plain").sae.cfg.name == "topk"


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("blocks.0.hook_resid_pre", "L0.resid_pre"),
        ("blocks.7.hook_resid_post", "L7.resid_post"),
        ("hook_embed", "embed"),
        ("blocks.1.attn.hook_z", "L1.z"),
        ("blocks.1.hook_mlp_in", None),
        ("blocks.1.ln2.hook_normalized", "L1.mlp_normalized"),
        ("blocks.1.attn.hook_q", None),
        ("blocks.1.mlp.hook_post", "L1.mlp_acts"),
        ("blocks.1.mlp.hook_in", "L1.mlp_in"),
        ("blocks.1.mlp.hook_out", None),
        ("L1.resid_post", None),
    ],
)
def test_hooks_of_transformer_lens(hook, site):
    found = _names.from_transformer_lens(hook)
    assert (None if found is None else str(found)) == site


@pytest.mark.parametrize(
    ("name", "model", "reads", "site"),
    [
        ("layers.5", "m", False, "L5.resid_post"),
        ("layers.5", "m", True, "L5.resid_pre"),
        ("h.3.mlp", "gpt2", False, "L3.mlp_out"),
        ("h.3.mlp", None, True, "L3.mlp_in"),
        ("h.3.mlp", None, False, None),
        ("layers.3.mlp", "google/gemma-2-2b", False, None),
        ("layers.3.self_attn", "m", False, "L3.attn_out"),
        ("layers.3.attention", "m", True, None),
        ("embed_in", "m", False, None),
        ("layers.3.input_layernorm", "m", False, None),
        ("model.layers.3.output", None, False, "L3.resid_post"),
        ("model.language_model.layers.3.self_attn.o_proj.input", None, False, "L3.z"),
        ("model.layers.3.pre_feedforward_layernorm.output", None, False, "L3.mlp_in"),
        ("model.layers.3.post_feedforward_layernorm.output", None, False, "L3.mlp_out"),
        ("layers.3.mlp.output", "google/gemma-2-2b", False, None),
    ],
)
def test_modules(name, model, reads, site):
    found = _names.from_module(name, model, reads=reads)
    assert (None if found is None else str(found)) == site


def run(*words):
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=True)


def test_convert_on_the_command_line(tmp_path):
    codes, y_hat = files.sparsify(tmp_path / "layers.2")
    done = run(
        "convert",
        tmp_path / "layers.2",
        "--out",
        tmp_path / "lens",
        "--format",
        "sae_lens",
        "--model",
        "m/n",
        "--json",
    )
    assert done.exit_code == 0, done.output
    record = json.loads(done.output)
    assert (record["architecture"], record["site"], record["model"]) == (
        "topk",
        "L2.resid_post",
        "m/n",
    )
    again, its_card = load(tmp_path / "lens")
    same(again(files.inputs()), y_hat)
    assert its_card.pair.label == "L2.resid_post" and its_card.model["name"] == "m/n"
    refused = run("convert", tmp_path / "layers.2", "--out", tmp_path / "lens")
    assert "--overwrite" in str(refused.exception)
    words = ["convert", tmp_path / "lens", "--out", tmp_path / "dl"]
    refused = run(*words, "--format", "qwen_scope")
    assert "does not write it" in str(refused.exception) and not (tmp_path / "dl").exists()


def test_formats_are_listed_from_the_registry():
    done = run("list", "formats", "--json")
    assert [f["name"] for f in json.loads(done.output)["formats"]] == registry.names()


def test_an_mlsae_published_with_its_model_is_the_one_alone(tmp_path):
    codes, y_hat = files.mlsae_whole(tmp_path / "one")
    sae, its_card = load(tmp_path / "one")
    acts = sae.encode(files.inputs())
    same(acts.dense(), codes)
    same(sae.decode(acts), y_hat)
    assert its_card.pair.read == ("L0.resid_post", "L1.resid_post", "L2.resid_post")
    assert its_card.model["name"] == "EleutherAI/pythia-14m" and its_card.n_ctx == 256
    assert its_card.model["dtype"] == "float32"  # codes of rounded activations are others


def test_the_model_beside_an_mlsae_is_not_loaded(tmp_path, monkeypatch):
    files.mlsae_whole(tmp_path / "one")
    loaded = []
    real = safetensors.safe_open

    class Watched:
        def __init__(self, *args, **kwargs):
            self.file = real(*args, **kwargs)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *args):
            return self.file.__exit__(*args)

        def keys(self):
            return self.file.keys()

        def get_tensor(self, name):
            loaded.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(safetensors, "safe_open", Watched)
    load(tmp_path / "one")
    assert loaded and all(name.startswith("autoencoder.") for name in loaded)


def test_some_layers_and_a_tuned_lens_of_an_mlsae_with_its_model(tmp_path):
    files.mlsae_whole(tmp_path / "some", layers=[0, 2])
    assert load(tmp_path / "some").card.pair.read == ("L0.resid_post", "L2.resid_post")
    files.mlsae_whole(tmp_path / "lens", tuned_lens=True)
    its_card = load(tmp_path / "lens").card
    assert its_card.pair.label == "unknown" and "lens" in its_card.provenance["notes"][1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expansion_factor": 5}, "expansion_factor=5 and model.safetensors has 24 latents"),
        ({"layers": ["0"]}, "`layers` must be null or a list"),
        ({"layers": [1, 1]}, "`layers` must be null or a list"),
        ({"tuned_lens": 1}, "`tuned_lens` must be true or false"),
        ({"k": 99}, "impossible settings"),
    ],
)
def test_an_mlsae_with_its_model_that_contradicts_itself_is_refused(tmp_path, changes, message):
    files.mlsae_whole(tmp_path / "one")
    raw = json.loads((tmp_path / "one" / "config.json").read_text())
    (tmp_path / "one" / "config.json").write_text(json.dumps(raw | changes))
    with pytest.raises(FormatError, match=message):
        load(tmp_path / "one")
