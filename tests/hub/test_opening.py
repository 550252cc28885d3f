"""What the files of other libraries do not say is filled in from a model and a text."""

import dataclasses
import json
import shlex
import shutil

import pytest
import torch

from saekit.activations.pairs import Pair
from saekit.cli.main import main
from saekit.core.errors import ConfigError, FormatError
from saekit.data.corpora.files import Files
from saekit.evals.core import Core
from saekit.evals.evaluate import measure
from saekit.hub.formats.base import FormatHints, registry
from saekit.hub.native import load
from saekit.hub.opening import OpenOptions, complete, notes_of, open_sae, said_of, text_of
from saekit.models.hf import load as load_model
from saekit.models.tiny import ByteTokenizer, save_tiny
from saekit.saes.temporal import Temporal
from saekit.saes.topk import TopK
from saekit.training.loop import train
from tests import world
from tests.hub import files
from tests.hub.test_native import card as a_card


@pytest.fixture
def folder(tmp_path):
    """Return an SAE of the tiny model as sparsify writes it, which says neither model nor rule."""
    sae = TopK(d_in=32, d_out=32, d_sae=64, k=4).build(torch.Generator().manual_seed(2))
    out = tmp_path / "layers.1"
    return registry.get("sparsify")().write(sae.eval(), a_card(), out)


def test_a_published_sae_is_measured_with_the_usual_rule(folder, tmp_path):
    lm, corpus = world.model(), Files(paths=(str(world.text_file(tmp_path)),))
    loaded = load(folder)
    with pytest.raises(ConfigError, match="--corpus"):
        text_of(loaded, None)
    done = complete(loaded, lm, corpus)
    assert done.card.rules["L1.resid_post"].median_norm > 0
    assert done.card.provenance["filled"]["n_ctx"] == done.card.n_ctx == 128
    assert done.card.model["name"] == lm.name
    assert complete(done, lm, corpus) is done
    short = dataclasses.replace(done, card=dataclasses.replace(done.card, n_ctx=32))
    config = Core(n_tokens=1024, ce_tokens=256)
    result = measure(short, lm, config, corpus=corpus.paths[0], shown=False)
    assert result.scores["l0"].value == pytest.approx(4, abs=0.1)


def test_a_temporal_sae_is_measured_in_windows_of_a_row(tmp_path):
    lm, corpus = world.model(), Files(paths=(str(world.text_file(tmp_path)),))
    sae = Temporal(d_in=32, d_out=32, d_sae=128, k=4, n_heads=2, d_key=4)
    place = registry.get("sae_lens")().write(
        sae.build(torch.Generator().manual_seed(2)).eval(), a_card(), tmp_path / "sae"
    )
    done = complete(load(place), lm, corpus, OpenOptions(n_ctx=32))
    assert done.card.pair == Pair(read=("L1.resid_post",), window=8)
    assert any("windows of 8 tokens" in note for note in notes_of(done.card))
    assert complete(done, lm, corpus) is done
    config = Core(n_tokens=1024, ce_tokens=256)
    assert measure(done, lm, config, corpus=corpus.paths[0], shown=False).scores["fvu"].value


def test_an_unknown_site_must_be_named(folder, tmp_path):
    place = folder.rename(tmp_path / "somewhere")
    lm, corpus = world.model(), Files(paths=(str(world.text_file(tmp_path)),))
    with pytest.raises(ConfigError, match="which site"):
        complete(load(place), lm, corpus)
    named = complete(load(place, site="L0.resid_post"), lm, corpus)
    assert named.card.pair == Pair(read=("L0.resid_post",))
    told = load(place, hints=FormatHints(read=("L0.mlp_in",), write=("L0.mlp_out",)))
    assert set(complete(told, lm, corpus).card.rules) == {"L0.mlp_in", "L0.mlp_out"}


def call(capsys, *words):
    """Return the exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    return ended.value.code, *capsys.readouterr()


def opened(folder, tmp_path, **changes):
    lm, corpus = world.model(), Files(paths=(str(world.text_file(tmp_path)),))
    use = OpenOptions(**changes)
    return complete(load(folder), lm, corpus, use).card, lm


@pytest.mark.parametrize("adds", [True, False])
def test_unknown_bos_is_what_the_tokenizer_does(folder, tmp_path, adds, monkeypatch):
    monkeypatch.setattr(ByteTokenizer, "adds_bos", adds)
    card, lm = opened(folder, tmp_path)
    assert card.bos is adds and card.provenance["filled"]["bos"] is adds
    assert any("BOS" in note and "--no-bos" in note for note in notes_of(card))
    assert card.row("hi", lm.tokenizer).tolist() == [[256] * adds + [104, 105]]
    assert said_of(card)["bos"] is adds


@pytest.mark.parametrize("asked", [True, False])
def test_the_user_decides_about_bos(folder, tmp_path, asked):
    card, _ = opened(folder, tmp_path, bos=asked)
    assert card.bos is asked and any("as asked" in note for note in notes_of(card))


def test_a_model_without_bos_has_rows_without(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ByteTokenizer, "bos_id", None)
    trained = world.run(tmp_path, tokens=1000)
    lm = world.model()
    train(trained, lm, tmp_path / "run", shown=False)
    sae, card = load(tmp_path / "run")
    assert trained.bos and card.bos is False
    registry.get("sae_lens")().write(sae, card, tmp_path / "lens")
    raw = json.loads((tmp_path / "lens" / "cfg.json").read_text())
    assert raw["metadata"]["prepend_bos"] is False
    # Earlier versions wrote the setting; what the rows were, the card's text says.
    path = tmp_path / "run" / "sae" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos": True}))
    assert load(tmp_path / "run").card.bos is False
    assert opened(folder, tmp_path)[0].bos is False
    with pytest.raises(ConfigError, match="has none"):
        opened(folder, tmp_path, bos=True)


def test_another_context_and_precision_are_said(folder, tmp_path):
    card, lm = opened(folder, tmp_path, n_ctx=32)
    assert card.n_ctx == 32 and any("rows of 32 tokens" in n for n in notes_of(card))
    assert any(f"computes in {str(lm.dtype)[6:]}" in n for n in notes_of(card))
    assert card.provenance["trained_on"]["name"] == "unknown"
    with pytest.raises(ConfigError, match="n_ctx"):
        opened(folder, tmp_path, n_ctx=-1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return folders of a model, of another of the same sizes, and an SAE of the first."""
    base = tmp_path_factory.mktemp("models")
    save_tiny(base / "base")
    save_tiny(base / "chat", seed=5)
    run = world.run(base, model=str(base / "base"), tokens=1000)
    train(run, load_model(str(base / "base")), base / "run", shown=False)
    return base


def test_an_sae_is_measured_on_another_model_when_the_user_says_so(models):
    own = open_sae(models / "run")
    assert own.notes == [] and own.lm.revision == own.loaded.card.model["revision"]
    other = open_sae(models / "run", OpenOptions(model=str(models / "chat")))
    assert other.lm.revision != own.lm.revision
    (note,) = other.notes
    assert "run on" in note and "chat" in note and "trained on" in note
    said = said_of(other.loaded.card)
    assert said["trained_on"] == own.loaded.card.model and said["notes"] == [note]
    core = Core(n_tokens=512, ce_tokens=128)
    result = measure(other.loaded, other.lm, core, shown=False)
    assert result.provenance["notes"] == [note]
    assert result.provenance["model"]["revision"] == other.lm.revision
    assert result.provenance["trained_on"]["revision"] == own.lm.revision


def test_a_model_that_changed_under_its_name_is_refused(models, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(models / "run", run)
    path = run / "sae" / "card.json"
    raw = json.loads(path.read_text())
    raw["model"]["revision"] = "another"
    path.write_text(json.dumps(raw))
    with pytest.raises(FormatError, match="--model"):
        open_sae(run)
    assert open_sae(run, OpenOptions(model=str(models / "base"))).notes


def test_special_tokens_are_those_of_the_model_that_is_run(models):
    own = open_sae(models / "run")
    card = own.loaded.card
    moved = {s: rule._replace(special_ids=(1, 2)) for s, rule in card.rules.items()}
    model = card.model | {"tokenizer": "another"}
    told = dataclasses.replace(card, rules=moved, model=model)
    loaded = dataclasses.replace(own.loaded, card=told)
    done = complete(loaded, own.lm, own.text)
    assert done.card.rules == card.rules


def test_eval_and_index_take_what_their_messages_ask_for(models, tmp_path, capsys):
    files.sae_lens(
        tmp_path / "x",
        normalize_activations="expected_average_only_in",
        d_in=32,
        d_sae=64,
        weights=files.tensors(W_enc=(32, 64), W_dec=(64, 32), b_enc=(64,), b_dec=(32,)),
        metadata={
            "sae_lens_version": "6.1.0",
            "hook_name": "blocks.1.hook_resid_post",
            "context_size": 4096,
        },
    )
    words = ["--model", models / "base", "--corpus", models / "text.jsonl", "--quiet"]
    code, _, err = call(capsys, "eval", tmp_path / "x", *words)
    assert code != 0 and "--input-scale" in err
    words += ["--input-scale", "0.5"]
    code, _, err = call(capsys, "eval", tmp_path / "x", *words)
    assert code != 0 and "--n-ctx" in err
    words += ["--n-ctx", "32", "--dtype", "float32", "--no-bos"]
    sizes = ["--set", "n_tokens=1024", "--set", "ce_tokens=256"]
    code, out, err = call(capsys, "eval", tmp_path / "x", *words, *sizes)
    assert code == 0, err
    assert "note     rows begin without BOS, as asked" in out
    result = json.loads((tmp_path / "x" / "eval" / "core.json").read_text())
    assert result["provenance"]["bos"] is False and result["provenance"]["n_ctx"] == 32
    # The next command is one that works as it is printed.
    (line,) = [row for row in out.splitlines() if row.startswith("next")]
    following = shlex.split(line.partition("saekit ")[2])
    code, out, err = call(capsys, *following, "--tokens", "500", "--quiet")
    assert code == 0 and "note     rows begin without BOS" in out, err
    index = json.loads((tmp_path / "x" / "index" / "index.json").read_text())
    assert index["said"]["bos"] is False and index["said"]["notes"]
    code, out, err = call(capsys, "report", tmp_path / "x")
    assert code == 0 and "note     rows begin without BOS" in out, err
    assert "as asked" in (tmp_path / "x" / "report.html").read_text()


def test_convert_takes_a_word_on_bos(tmp_path, capsys):
    files.sparsify(tmp_path / "layers.1")
    words = ["convert", tmp_path / "layers.1", "--out", tmp_path / "out", "--format", "sae_lens"]
    code, out, err = call(capsys, *words, "--bos")
    assert code == 0 and "bos" not in out.partition("unknown")[2].splitlines()[0], err
    raw = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert raw["metadata"]["prepend_bos"] is True
