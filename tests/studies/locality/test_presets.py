import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saekit.core.errors import ConfigError, UnknownNameError
from saekit.core.result import Result
from saekit.models.hf import load
from saekit.models.sites import parse_site
from saekit.models.tiny import save_tiny
from saekit.studies.locality.presets import PRESETS, preset
from saekit.studies.locality.runs.subjects import of_layer
from tests import world
from tests.hub.files import tensors
from tests.studies.locality import foreign
from tests.studies.locality.test_runs import call


def read_table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_there_are_the_published_six_and_the_embedded_model():
    six = {"pythia-70m", "gpt2-small", "gemma-2-2b", "llama-3.2-1b", "llama-3-8b", "qwen2-0.5b"}
    assert set(PRESETS) == six | {"smollm2-135m"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_whole(name):
    found = preset(name)
    assert found.key == name and all(0 <= i < found.n_layers for i in found.layers)
    assert str(found.site(found.layers[-1])) == f"L{found.layers[-1]}.resid_post"
    assert found.published_site(3).endswith("_layer3")
    assert "{" not in str(found.sae_folder(Path("root"), found.layers[0]))
    assert type(found).from_dict(found.to_dict()) == found


def test_layers_of_llama_3_8b_go_by_three():
    assert preset("llama-3-8b").layers == tuple(range(0, 31, 3))


def test_what_there_is_not():
    with pytest.raises(UnknownNameError, match="gpt2-small"):
        preset("gpt2-smal")
    with pytest.raises(ConfigError, match="0..5"):
        preset("pythia-70m").site(6)


def asked(base, name, out, *more):
    return [
        "locality",
        "depth",
        "--preset",
        name,
        "--sae-root",
        base / "saes",
        "--model",
        base / "lm",
        "--corpus",
        base / "text.jsonl",
        "--windows",
        "4",
        "--n-ctx",
        "12",
        "--token-vector",
        "none",
        "--no-figures",
        "--quiet",
        "--out",
        base / out,
        "--set",
        "corpus.test_share=0.5",
        *more,
    ]


@pytest.fixture(scope="module", params=foreign.LAYOUTS)
def released(request, tmp_path_factory):
    """A model of the preset's family and its SAEs at two layers, in their library's files."""
    base = tmp_path_factory.mktemp(request.param)
    family, maker = foreign.LAYOUTS[request.param]
    save_tiny(base / "lm", family, n_layers=2, d_model=foreign.D)
    world.text_file(base)
    return request.param, base, [maker(base / "saes", layer) for layer in (0, 1)]


@pytest.mark.parametrize("legacy", [False, True], ids=["own", "legacy"])
def test_files_of_a_release_give_the_codes_of_their_library(released, legacy):
    name, base, codes = released
    out = "legacy" if legacy else "own"
    words = asked(base, name, out, "--layer", "0", "--layer", "1")
    assert call(*words, *["--legacy-encode"] * legacy)[0] == 0
    result = Result.read(base / out / "result.json")
    lm, tokens = load(str(base / "lm"), dtype="float32"), torch.tensor(result.details["tokens"])
    rows = read_table(base / out / "latents.csv")
    for layer, site in enumerate(("L0.resid_post", "L1.resid_post")):
        x = lm.read(tokens, [parse_site(site)])[parse_site(site)][:, -1]
        want = foreign.on(codes[layer](x, legacy), preset(name).threshold)
        found = {
            (int(r["window"]), int(r["latent"])): float(r["activation"])
            for r in rows
            if r["site"] == site
        }
        assert found.keys() == want.keys() and len(want) > 8
        assert found == pytest.approx(want, rel=1e-3)
        other = foreign.on(codes[layer](x, not legacy), preset(name).threshold)
        assert (other == want) == (name in foreign.SAME_ENCODE)
    assert (preset(name).forgets == ()) == (name in foreign.SAME_ENCODE | {"llama-3.2-1b"})


@pytest.mark.parametrize("released", ["gemma-2-2b"], indirect=True)
def test_saelens_names_of_folders_are_read_too(released):
    _, base, _ = released
    real = base / "saes/layer_1/width_16k/average_l0_102"
    shutil.copytree(real, base / "named/layer_1/width_16k/canonical")
    words = asked(base, "gemma-2-2b", "named-out", "--layer", "1")
    words[words.index(base / "saes")] = base / "named"
    assert call(*words)[0] == 0


@pytest.mark.parametrize("released", ["pythia-70m"], indirect=True)
def test_files_that_do_not_belong_to_the_preset_are_told(released, capsys):
    name, base, _ = released
    layer = base / "saes/dictionaries/pythia-70m-deduped/resid_out_layer1"
    bad = base / "bad/dictionaries/pythia-70m-deduped"
    shutil.copytree(layer, bad / "resid_out_layer0")  # says that it is of layer 1
    narrow = bad / "resid_out_layer1/10_32768"
    narrow.mkdir(parents=True)
    shapes = {"encoder.weight": (40, 8), "decoder.weight": (8, 40), "bias": (8,)}
    torch.save(tensors(**shapes, **{"encoder.bias": (40,)}), narrow / "ae.pt")
    words = asked(base, name, "told", "--layer", "0", "--layer", "1", "--layer", "2")
    words[words.index(base / "saes")] = base / "bad"
    assert call(*words)[0] != 0  # the tiny model has no layer 2
    assert "L2.resid_post" in capsys.readouterr().err
    assert call(*words[:-2])[0] == 3
    said = capsys.readouterr().out
    assert "L0.resid_post, all" in said and "width 8" in said
    words[words.index(base / "bad")] = base / "nowhere"
    assert call(*words[:-2])[0] != 0 and "--sae-root" in capsys.readouterr().err


@pytest.mark.parametrize("released", ["llama-3-8b"], indirect=True)
def test_another_architecture_is_refused(released):
    _, base, _ = released
    with pytest.raises(ConfigError, match="`topk`; got architecture `jumprelu`"):
        of_layer(
            replace(preset("llama-3.2-1b"), folder="layers.{layer}", sae_format="sparsify"),
            base / "saes",
            0,
        )
