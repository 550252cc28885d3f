"""Names of published SAEs: what they stand for, checked before anything is downloaded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import saekit
from saekit.cli.main import main
from saekit.core.errors import ConfigError, FormatError, ResourceError, UnknownNameError
from saekit.core.torch_writing import write_state
from saekit.hub import fetch as fetching
from saekit.hub.fetch import needed
from saekit.hub.formats.base import registry as formats
from saekit.hub.names import is_name, registry, results_folder
from saekit.hub.names.resolving import resolve
from saekit.hub.native import load
from tests import hub_cache
from tests.hub import files

COMMIT = "0123456789abcdef" * 2 + "01234567"
SHAPES = {"W_enc": (6, 20), "W_dec": (20, 6), "b_enc": (20,), "b_dec": (6,)}
SMALL = {
    "toy-res": {
        "repo_id": "me/toy",
        "model": "gpt2-small",
        "conversion_func": None,
        "config_overrides": {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
        "saes": [
            {
                "id": "blocks.8.hook_resid_pre",
                "path": "layer8",
                "l0": 3,
                "variance_explained": 0.7,
                "neuronpedia": "gpt2-small/8-toy",
                "norm_scaling_factor": 0.25,
            },
            {"id": "blocks.9.hook_resid_pre", "path": "layer9"},
        ],
    },
    "toy-norm": {
        "repo_id": "me/toy",
        "model": "mistral-7b",
        "conversion_func": None,
        "config_overrides": {"normalize_activations": "constant_norm_rescale"},
        "saes": [{"id": "blocks.8.hook_resid_pre", "path": "layer9"}],
    },
    "toy-moved": {
        "repo_id": "me/toy",
        "model": "gpt2-small",
        "conversion_func": None,
        "config_overrides": {"hook_name": "blocks.3.hook_resid_pre"},
        "saes": [{"id": "x", "path": "layer9"}],
    },
    "gemma-scope-2b-pt-res": {
        "repo_id": "google/gemma-scope-2b-pt-res",
        "model": "gemma-2-2b",
        "conversion_func": "gemma_2",
        "saes": [
            {
                "id": f"layer_{layer}/width_16k/average_l0_{l0}",
                "l0": l0,
                "path": f"layer_{layer}/width_16k/average_l0_{l0}",
            }
            for layer, l0 in ((5, 18), (5, 68), (12, 82))
        ],
    },
}


def lens(folder, **changes):
    """Write a ReLU autoencoder as SAELens does."""
    metadata = {
        "sae_lens_version": "6.1.0",
        "model_name": "gpt2-small",
        "hook_name": "blocks.8.hook_resid_pre",
        "prepend_bos": True,
    }
    weights = files.tensors(seed=1, **SHAPES)
    plain = {
        "architecture": "standard",
        "rescale_acts_by_decoder_norm": False,
        "dtype": "float32",
        "device": "cpu",
    }
    return files.sae_lens(folder, weights=weights, metadata=metadata, **(plain | changes))


@pytest.fixture
def known(tmp_path, monkeypatch):
    """The registry is a small file."""
    path = tmp_path / "registry.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    monkeypatch.setenv("SAEKIT_REGISTRY", str(path))
    monkeypatch.delenv("SAEKIT_CATALOGUE", raising=False)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch, known):
    """A cache of the hub with what the registry names, and no network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    lens(tmp_path / "made" / "layer8", normalize_activations="expected_average_only_in")
    lens(tmp_path / "made" / "layer9")
    (tmp_path / "made" / "README.md").write_text("not needed")
    hub_cache.lay(tmp_path / "hub", "me/toy", COMMIT, tmp_path / "made")
    return tmp_path / "hub"


def test_what_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["saelens:a/b", "hf:a/b/c", "py_4k_topk_s0", "gem_16k_pan_s5", "gscope_16k_l0_82"]
    assert all(is_name(n) and is_name(Path(n)) for n in names)
    assert not any(is_name(n) for n in ["runs/a", "python", "gem", "./py_4k_topk_s0", "saelens"])
    (tmp_path / "py_4k_topk_s0").mkdir()
    assert not is_name("py_4k_topk_s0")  # the user's own folder comes first
    assert results_folder("runs/a") == Path("runs/a")
    assert results_folder("saelens:a/b/../c") == Path("saes/saelens/a/b/c")


def test_an_entry_is_loaded_as_sae_lens_loads_it(cache):
    loaded = saekit.load("saelens:toy-res/blocks.8.hook_resid_pre")
    W = {n: t.double() for n, t in files.tensors(seed=1, **SHAPES).items()}
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(2))
    # sae-lens multiplies W_enc by the factor and divides W_dec and b_dec, which it subtracts.
    b_dec = W["b_dec"] / 0.25
    acts = ((x.double() - b_dec) @ (W["W_enc"] * 0.25) + W["b_enc"]).relu()
    codes = loaded.encode(x)
    torch.testing.assert_close(codes.dense().double(), acts, rtol=1e-5, atol=1e-5)
    predicted = acts @ (W["W_dec"] / 0.25) + b_dec
    torch.testing.assert_close(loaded(x).double(), predicted, rtol=1e-5, atol=1e-5)
    card = loaded.card
    said = card.provenance["published"]
    assert card.model["name"] == "openai-community/gpt2" and str(card.site) == "L8.resid_pre"
    assert (said["repo"], said["path"], said["revision"]) == ("me/toy", "layer8", COMMIT)
    assert (said["l0"], said["variance_explained"]) == (3.0, 0.7)
    assert said["norm_scaling_factor"] == 0.25 and said["neuronpedia"] == "gpt2-small/8-toy"
    assert set(said["sha256"]) == {"layer8/cfg.json", "layer8/sae_weights.safetensors"}
    assert any("center_writing_weights" in note for note in card.provenance["notes"])
    assert loaded.folder == Path("saes/saelens/toy-res/blocks.8.hook_resid_pre")


def test_a_setting_of_the_registry_that_decides_numbers_is_applied(cache):
    plain = saekit.load("hf:me/toy/layer9")
    other = saekit.load("saelens:toy-norm/blocks.8.hook_resid_pre")
    assert plain.cfg.name == "relu" and other.cfg.name == "standardised"
    # The files say gpt2, the registry another model: the files are right, and it is said.
    assert other.card.model["name"] == "openai-community/gpt2"
    assert any(
        "registry says mistralai/Mistral-7B-v0.1" in n for n in other.card.provenance["notes"]
    )


def test_a_hook_of_the_registry_that_the_files_contradict_is_refused(cache):
    with pytest.raises(FormatError, match=r"blocks.3.hook_resid_pre.*blocks.8.hook_resid_pre"):
        load("saelens:toy-moved/x")


def test_a_registry_that_says_more_than_saekit_knows_is_refused(cache, known):
    raw = json.loads(json.dumps(SMALL))
    raw["toy-res"]["saes"][0]["rotation"] = "x"
    known.write_text(yaml.safe_dump(raw))
    with pytest.raises(FormatError, match="says `rotation`"):
        load("saelens:toy-res/blocks.8.hook_resid_pre")
    made = cache.parent / "scope"
    place = made / "layer_5" / "width_16k" / "average_l0_18"
    place.mkdir(parents=True)
    weights = {n: t.numpy() for n, t in files.tensors(**SHAPES, threshold=(20,)).items()}
    np.savez(place / "params.npz", **weights)
    hub_cache.lay(cache, "google/gemma-scope-2b-pt-res", COMMIT, made)
    name = "saelens:gemma-scope-2b-pt-res/layer_5/width_16k/average_l0_18"
    assert str(load(name).site) == "L5.resid_post"
    raw["gemma-scope-2b-pt-res"]["config_overrides"] = {"apply_b_dec_to_input": True}
    known.write_text(yaml.safe_dump(raw))
    with pytest.raises(FormatError, match="apply_b_dec_to_input.*layout is `gemma_scope`"):
        load(name)


def test_names_that_are_wrong_are_told_with_the_nearest(known):
    cases = {
        "saelens:toy-ress/x": r"no release `toy-ress`.*Did you mean `toy-res`",
        "saelens:toy-res/blocks.80.hook_resid_pre": r"Did you mean `blocks.8.hook_resid_pre`",
        "saelens:toy-res": r"a release of 2 SAEs. Name one, as saelens:toy-res/blocks.8",
        "saelens:toy-res/zzzz": r"The first of its 2 are blocks.8",
        "hf:me": "must read hf:OWNER/REPO/PATH",
        "hf:me/toy/../../etc": "must read hf:OWNER/REPO/PATH",
        "py_4k_topp_s0": "the type is one of .*Did you mean `py_4k_topk_s0`",
        "gem_8k_topk_s9": "the width is one of 4k, 16k, 65k, not `8k`; the sparsity is one of",
        "py_4k": None,
        "gscope_16k_l0_44": "L0 22, 41, 82, 176, 445; got 44. The nearest is gscope_16k_l0_41",
        "gscope_128k_l0_82": "Gemma Scope calls it 131k",
        "gscope_layer5_16k_l0_60": "L0 18, 68; got 60. The nearest is gscope_layer5_16k_l0_68",
        "gscope_layer9_16k_l0_60": "layers 5 to 12; got 9",
        "gscope_16k": "names read gscope_WIDTH_l0_L0",
    }
    for name, match in cases.items():
        if match is None:
            assert not is_name(name)
            continue
        with pytest.raises(UnknownNameError, match=match) as caught:
            load(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(FormatError, match="no folder runs/none.*saelens:RELEASE/ID"):
        load("runs/none")


def test_short_names_lead_to_what_is_published():
    bench, scope = resolve("py_16k_jumprelu_s2"), resolve("gscope_131k_l0_67")
    assert bench.repo == "adamkarvonen/saebench_pythia-160m-deduped_width-2pow14_date-0108"
    assert bench.path == "JumpRelu_pythia-160m-deduped__0108/resid_post_layer_8/trainer_2"
    assert (bench.model, bench.site) == ("EleutherAI/pythia-160m-deduped", "L8.resid_post")
    other, small = resolve("gem_65k_matbtopk_s5"), resolve("gem_4k_relu_s0")
    assert other.repo == "canrager/saebench_gemma-2-2b_width-2pow16_date-0107"
    assert other.path == (
        "gemma-2-2b_matryoshka_batch_top_k_width-2pow16_date-0107/resid_post_layer_12/trainer_5"
    )
    assert small.path == "Standard_gemma-2-2b__0108/resid_post_layer_12/trainer_0"
    assert (scope.path, scope.says) == ("layer_12/width_131k/average_l0_67", {"l0": 67.0})
    hub = resolve("hf:a/b@refs/pr/3/some/folder")
    assert (hub.repo, hub.revision, hub.path) == ("a/b", "refs/pr/3", "some/folder")
    assert resolve("hf:a/b@v1").path == "" and resolve("hf:a/b@v1").revision == "v1"


def test_sae_bench_and_gemma_scope_load_by_their_short_names(cache):
    made = cache.parent / "bench"
    short = resolve("py_4k_relu_s0")
    folder = made / short.path
    shapes = {
        "encoder.weight": (20, 6),
        "encoder.bias": (20,),
        "decoder.weight": (6, 20),
        "bias": (6,),
    }
    write_state(folder / "ae.pt", files.tensors(**shapes))
    trainer = {
        "dict_class": "AutoEncoder",
        "layer": 8,
        "lm_name": "EleutherAI/pythia-160m-deduped",
        "submodule_name": "resid_post_layer_8",
    }
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    write_state(folder / "checkpoints" / "ae_10.pt", files.tensors(**shapes))
    hub_cache.lay(cache, short.repo, COMMIT, made)
    loaded = load("py_4k_relu_s0")
    assert (loaded.cfg.name, str(loaded.site)) == ("relu", "L8.resid_post")
    assert loaded.card.model["name"] == "EleutherAI/pythia-160m-deduped"
    assert not any("checkpoints" in n for n in loaded.card.provenance["published"]["sha256"])
    trainer |= {"layer": 4, "submodule_name": "resid_post_layer_4"}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    hub_cache.lay(cache, short.repo, COMMIT[::-1], made)
    with pytest.raises(FormatError, match=r"of L8.resid_post by its name.*files say L4"):
        load("py_4k_relu_s0")

    scope = resolve("gscope_16k_l0_82")
    place = cache.parent / "scope" / scope.path
    place.mkdir(parents=True)
    weights = {n: t.numpy() for n, t in files.tensors(**SHAPES, threshold=(20,)).items()}
    np.savez(place / "params.npz", **weights)
    hub_cache.lay(cache, scope.repo, COMMIT, cache.parent / "scope")
    loaded = load("gscope_16k_l0_82")
    assert (loaded.cfg.name, str(loaded.site)) == ("jumprelu", "L12.resid_post")
    assert loaded.card.model["name"] == "google/gemma-2-2b"
    assert loaded.card.provenance["published"]["l0"] == 82


@pytest.mark.parametrize("name", formats.names())
def test_what_each_format_needs_is_fetched(name, cache, tmp_path):
    layout, top = formats.get(name)(), tmp_path / "example"
    place = layout.example(top)
    hub_cache.lay(cache, "me/any", COMMIT, top)
    for at in layout.members(place).values() or [place]:
        path = at.relative_to(top).as_posix().removeprefix(".")
        here, there = load(at, scaled=True), load(f"hf:me/any/{path}", scaled=True)
        state = there.sae.state_dict()
        assert all(torch.equal(w, state[n]) for n, w in here.sae.state_dict().items())
        assert (here.card.pair, here.cfg) == (there.card.pair, there.cfg)
        assert there.card.provenance["published"]["path"] == path


def test_a_catalogue_of_ones_own(cache, tmp_path, monkeypatch):
    mine = tmp_path / "mine.yaml"
    entry = {"repo_id": "me/toy", "model": "gpt2", "saes": [{"id": "a", "path": "layer9"}]}
    mine.write_text(yaml.safe_dump({"mine": entry}))
    assert str(load("saelens:mine/a", catalogue=mine).site) == "L8.resid_pre"
    monkeypatch.setenv("SAEKIT_CATALOGUE", str(mine))
    assert str(load("saelens:mine/a").site) == "L8.resid_pre"
    assert "saelens:mine/a" in saekit.published("mine").columns["name"]
    mine.write_text(yaml.safe_dump({"toy-res": entry}))
    with pytest.raises(FormatError, match="both have a release `toy-res`"):
        load("saelens:toy-res/blocks.8.hook_resid_pre")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- 1", "must map releases"),
        ("a: {saes: []}", "must say `repo_id`"),
        ("a: {repo_id: x/y, model: m, saes: [{id: b}]}", "must say `id` and `path`"),
        ("a: {repo_id: x/y, model: m, saes: [{id: b, path: c, l0: many}]}", "must be a number"),
        ("a: {repo_id: x/y, model: m, saes: 3}", "must have a list `saes`"),
        ("a/b: {repo_id: x/y, model: m, saes: []}", "text without `/`"),
        ("a: &x {repo_id: x/y, model: m, saes: []}\nb: *x", "anchors"),
        ("a: !!python/object/apply:os.system ['touch ran']", "damaged, or is not YAML"),
        ("a: [", "damaged, or is not YAML"),
    ],
)
def test_a_damaged_registry_is_named(tmp_path, monkeypatch, text, says):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    monkeypatch.setenv("SAEKIT_REGISTRY", str(path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match=says) as caught:
        load("saelens:a/b")
    assert str(path) in str(caught.value) and not Path("ran").exists()


def test_without_a_registry_and_a_network_it_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("SAEKIT_REGISTRY", raising=False)
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ResourceError, match="HF_HUB_OFFLINE is set.*SAEKIT_REGISTRY"):
        load("saelens:a/b")
    with pytest.raises(UnknownNameError, match="The nearest is gscope_16k_l0_41"):
        load("gscope_16k_l0_44")  # the usual layer needs no registry


def test_offline_it_is_said_what_is_missing(cache):
    with pytest.raises(ResourceError, match="HF_HUB_OFFLINE is set"):
        load("hf:me/other/x")
    with pytest.raises(ResourceError, match="cache does not have all of `layer7`.*`layer8`"):
        load("hf:me/toy/layer7")
    with pytest.raises(ResourceError, match="HF_HUB_OFFLINE"):
        load("hf:me/toy@v3/layer8")
    snapshot = cache / "models--me--toy" / "snapshots" / COMMIT
    (snapshot / "layer9" / "sae_weights.safetensors").unlink()
    with pytest.raises(ResourceError, match="holds no weights.*cfg.json"):
        load("hf:me/toy/layer9")


def test_a_damaged_or_led_astray_file_is_refused(cache, tmp_path):
    snapshot = cache / "models--me--toy" / "snapshots" / COMMIT
    weights = snapshot / "layer9" / "sae_weights.safetensors"
    blob, good = weights.resolve(), weights.read_bytes()
    blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(FormatError, match="not `layer9/sae_weights.safetensors` as it was publ"):
        load("hf:me/toy/layer9")
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(good)
    weights.unlink()
    weights.symlink_to(outside)
    with pytest.raises(FormatError, match="leads out of the hub's cache"):
        load("hf:me/toy/layer9")


def test_which_files_an_sae_needs():
    there = [
        "README.md",
        "config.json",
        "run_me.py",
        "a/cfg.json",
        "a/sae_weights.safetensors",
        "a/optimizer.bin",
        "a/checkpoints/ae_1.pt",
        "a/eval/core.json",
        "b/hyperparams.json",
        "b/checkpoints/final.safetensors",
        "c/layer_1.safetensors",
        "c/layer_10.safetensors",
        "c/config.yaml",
        "c/layer_1_cfg.json",
        "c/layer_10_cfg.json",
        "d/x.json",
        "../a/cfg.json",
        "/etc/x.json",
        "a/../../x.pt",
    ]
    lens_files = {"a/cfg.json", "a/sae_weights.safetensors", "a/eval/core.json", "config.json"}
    assert set(needed(there, "a", "R")) == lens_files
    assert set(needed(there, "b", "R")) == {
        "b/hyperparams.json",
        "b/checkpoints/final.safetensors",
        "config.json",
    }
    assert set(needed(there, "c/layer_1.safetensors", "R")) == {
        "c/layer_1.safetensors",
        "c/config.yaml",
        "c/layer_1_cfg.json",
        "config.json",
    }
    with pytest.raises(UnknownNameError, match="no `e` in R.*It has"):
        needed(there, "e", "R")
    with pytest.raises(FormatError, match="holds no weights"):
        needed(there, "d", "R")
    with pytest.raises(FormatError, match="holds 4 SAEs. Name one of"):
        needed([n for n in there if n != "config.json"], "", "R")


def test_the_limit_of_a_download_is_checked(monkeypatch):
    monkeypatch.setenv(fetching.LIMIT, "plenty")
    with pytest.raises(ConfigError, match="number of gigabytes; got 'plenty'"):
        fetching._most_gb()


def test_published_lists_and_filters(known):
    every = saekit.published()
    assert len(every) == 7
    row = saekit.published("toy", site="L8", l0="1-5").rows()
    assert [r["name"] for r in row] == ["saelens:toy-res/blocks.8.hook_resid_pre"]
    assert row[0]["site"] == "L8.resid_pre" and row[0]["l0"] == 3
    scope = saekit.published(model="gemma-2-2b", site="L5.resid_post", width="16k", l0=20)
    assert scope.columns["l0"] == [18] and scope.columns["width"] == [16384]
    assert len(saekit.published("no such thing")) == 0
    for wrong in ({"l0": "few"}, {"width": "wide"}):
        with pytest.raises(ConfigError):
            saekit.published(**wrong)


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    return ended.value.code, *capsys.readouterr()


def test_commands_take_names(cache, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "published", "toy-res")
    assert code == 0 and out.splitlines()[0].startswith("saelens:toy-res/blocks.8.hook_resid_pre  ")
    code, out, _ = call(capsys, "published", "toy-res", "--json")
    assert len(json.loads(out)["published"]) == 2
    code, out, err = call(
        capsys, "convert", "saelens:toy-res/blocks.8.hook_resid_pre", "--out", "mine"
    )
    assert code == 0 and load("mine").card.provenance["published"]["revision"] == COMMIT, err
    code, _, err = call(capsys, "eval", "saelens:toy-res/blocks.88.hook_resid_pre")
    assert code == 2 and "Did you mean" in err and err.count("\n") == 1
    code, _, err = call(capsys, "eval", "hf:me/toy/layer9", "--corpus", "none.txt")
    assert code != 0 and "none.txt" in err


def test_results_of_a_name_go_to_a_folder_of_its_own(cache, tmp_path, capsys, monkeypatch):
    from saekit.models.tiny import save_tiny
    from tests import world

    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "lm")
    text = world.text_file(tmp_path)
    made = tmp_path / "own"
    weights = files.tensors(W_enc=(32, 64), W_dec=(64, 32), b_enc=(64,), b_dec=(32,))
    lens_of = {"sae_lens_version": "6.1.0", "hook_name": "blocks.1.hook_resid_post"}
    files.sae_lens(made / "x", d_in=32, d_sae=64, weights=weights, metadata=lens_of)
    hub_cache.lay(cache, "me/own", COMMIT, made)
    words = [
        "hf:me/own/x",
        "--model",
        "lm",
        "--corpus",
        text,
        "--quiet",
        "--n-ctx",
        "32",
        "--dtype",
        "float32",
    ]
    sizes = ["--set", "n_tokens=1024", "--set", "ce_tokens=256"]
    code, out, err = call(capsys, "eval", *words, *sizes)
    assert code == 0 and Path("saes/hf/me/own/x/eval/core.json").exists(), err
    code, out, err = call(capsys, "index", *words, "--tokens", "500")
    assert code == 0 and Path("saes/hf/me/own/x/index").is_dir(), err
    code, out, err = call(capsys, "report", "hf:me/own/x")
    assert code == 0 and Path("saes/hf/me/own/x/report.html").exists(), err
    code, out, err = call(capsys, "analyse", "latent_stats", "hf:me/own/x")
    assert code == 0, err
    shutil.rmtree("saes")


def test_loading_a_local_sae_brings_no_library_of_the_hub(tmp_path):
    lens(tmp_path / "x")
    code = (
        "import sys, time; import saekit; from saekit.hub import native\n"
        f"t = time.perf_counter(); saekit.load({str(tmp_path / 'x')!r})\n"
        "assert time.perf_counter() - t < 1, time.perf_counter() - t\n"
        "assert not {'huggingface_hub', 'yaml', 'transformers'} & set(sys.modules), sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
