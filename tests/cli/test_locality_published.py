"""Locality of an SAE whose files say neither its model, its site nor its rows."""

import json

import pytest
import torch

from saekit.cli.main import main
from saekit.core.files import read_json
from saekit.core.result import Result
from saekit.hub.formats.base import registry
from saekit.models.tiny import save_tiny
from saekit.saes.topk import TopK
from saekit.terminal.sae_options import HintOptions
from tests import world
from tests.hub.test_native import card

OPENING = ["autocorr", "check", "context", "depth", "events", "geometry", "levels", "neuronpedia"]


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with an SAE as sparsify writes it, a model and a text."""
    base = tmp_path_factory.mktemp("published")
    sae = TopK(d_in=32, d_out=32, d_sae=64, k=4).build(torch.Generator().manual_seed(2)).eval()
    registry.get("sparsify")().write(sae, card(), base / "sae")
    cfg = read_json(base / "sae" / "cfg.json")
    assert "L1" not in json.dumps(cfg) and "model" not in cfg
    save_tiny(base / "lm", "llama")
    world.text_file(base, n_docs=200)
    return base


def known(place, *, site=True, model=True):
    return [
        *(["--site", "L1.resid_post"] if site else []),
        *(["--model", place / "lm"] if model else []),
    ]


def small(place, out):
    return [
        "--corpus",
        place / "text.jsonl",
        "--windows",
        3,
        "--n-ctx",
        8,
        "--token-vector",
        "none",
        "--no-figures",
        "--quiet",
        "--json",
        "--out",
        out,
    ]


def test_depth_takes_what_files_leave_out(place, tmp_path, capsys):
    words = ["locality", "depth", place / "sae", *small(place, tmp_path / "a")]
    code, out, err = call(capsys, *words, *known(place))
    assert code == 0 and "L1.resid_post/entropy_bits_pooled" in json.loads(out)["scores"], err
    words[-1] = tmp_path / "b"
    code, _, err = call(capsys, *words, *known(place, site=False))
    assert code == 2 and "--site" in err and "--read and --write" in err
    code, _, err = call(capsys, *words, *known(place, model=False))
    assert code != 0 and "--model" in err
    code, _, err = call(capsys, *words, *known(place), "--k", "5")
    assert code == 2 and "k" in err and not (tmp_path / "b").exists()


def test_a_transcoder_is_named_by_what_it_reads_and_predicts(place, tmp_path, capsys):
    words = ["locality", "depth", place / "sae", *small(place, tmp_path / "a")]
    pair = ["--read", "L1.mlp_in", "--write", "L1.mlp_out", "--model", place / "lm"]
    code, out, err = call(capsys, *words, *pair)
    assert code == 0 and any(k.startswith("L1.mlp_in/") for k in json.loads(out)["scores"]), err


def test_bos_is_put_before_windows_where_it_is_asked_for(place, tmp_path, capsys):
    from saekit.models.hf import load

    bos = load(str(place / "lm")).tokenizer.bos_id
    words = ["locality", "depth", place / "sae", *small(place, tmp_path / "a"), *known(place)]
    assert call(capsys, *words, "--bos")[0] == 0
    made = Result.read(tmp_path / "a" / "result.json")
    assert made.config["bos"] is True and {t[0] for t in made.details["tokens"]} == {bos}
    words = [
        "locality",
        "check",
        place / "sae",
        "--corpus",
        place / "text.jsonl",
        "--windows",
        2,
        "--n-ctx",
        8,
        "--latents",
        2,
        "--method",
        "vjp",
        "--quiet",
        "--out",
        tmp_path / "c",
        *known(place),
    ]
    assert call(capsys, *words, "--bos")[0] == 0
    made = Result.read(tmp_path / "c" / "result.json")
    assert {t[0] for t in made.details["tokens"]} == {bos}
    assert call(capsys, *words)[0] == 0
    made = Result.read(tmp_path / "c" / "result.json")
    assert bos not in {t[0] for t in made.details["tokens"]}


def test_events_and_their_geometry(place, tmp_path, capsys):
    told = known(place)
    words = [
        "locality",
        "events",
        place / "sae",
        "--corpus",
        place / "text.jsonl",
        "--tokens",
        1500,
        "--n-latents",
        6,
        "--top",
        3,
        "--n-ctx",
        8,
        "--max-density",
        1,
        "--no-figures",
        "--quiet",
        "--json",
    ]
    for bos in ("--bos", "--no-bos"):
        code, _, err = call(capsys, *words, *told, bos, "--out", tmp_path / bos)
        assert code == 0, err
        made = read_json(tmp_path / bos / "manifest.json")
        assert made["bos"] is (bos == "--bos")
    code, _, err = call(
        capsys,
        "locality",
        "geometry",
        tmp_path / "--bos",
        "--sae",
        place / "sae",
        *told,
        "--neighbours",
        2,
        "--anchors",
        0,
        "--least-events",
        1,
        "--permutations",
        20,
        "--no-figures",
        "--out",
        tmp_path / "geometry",
    )
    assert code == 0, err
    assert read_json(tmp_path / "geometry" / "manifest.json")["site"] == "L1.resid_post"
    code, _, err = call(capsys, *words, *known(place, site=False), "--out", tmp_path / "none")
    assert code == 2 and "--site" in err and not (tmp_path / "none").exists()


def test_a_preset_leaves_nothing_to_say_of_its_files(tmp_path, capsys):
    words = ["--preset", "gpt2-small", "--layers", "6", "--architecture", "topk"]
    for command in (["depth", "--sae-root", tmp_path], ["events", tmp_path]):
        code, _, err = call(capsys, "locality", *command, *words)
        assert code == 2 and "got --architecture" in err, err


@pytest.mark.parametrize("command", OPENING)
def test_every_command_that_opens_an_sae_takes_the_same_words(command, capsys):
    code, out, _ = call(capsys, "locality", command, "--help")
    words = out.split()
    for field in HintOptions.__dataclass_fields__:
        option = f"--{field.strip('_').replace('_', '-')}"
        assert code == 0 and any(w.strip(",") == option for w in words), option
