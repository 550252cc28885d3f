"""Training from a store: the weights that the model itself would have given."""

import dataclasses

import pytest
import torch

from saekit.activations.cache.caching import Caching, write
from saekit.activations.cache.recorded import RecordedModel
from saekit.activations.pairs import Pair
from saekit.activations.rules import TokenRule
from saekit.activations.shuffle import Resident, Rolling
from saekit.core.errors import ConfigError, UnknownNameError
from saekit.core.files import read_json
from saekit.hub import native
from saekit.saes.crosscoder import Crosscoder
from saekit.saes.temporal import Temporal
from saekit.saes.topk import TopK
from saekit.training.loop import open_harvest, train
from saekit.training.trainer import open_shuffle
from tests import world
from tests.training.cut import assert_resumes, assert_same, left_alone, weights

SITES = ("L0.resid_post", "L1.resid_post", "L1.mlp_out")
SIZES = {"d_in": 32, "d_out": 32, "d_sae": 64}
RUNS = {
    "resident": {"buffer_tokens": 8000, "epochs": 2},
    "rolling": {},
    "mixing": {"mixing": 0.5, "epochs": 2},
    "transcoder": {"pair": Pair(read=("L1.resid_post",), write=("L1.mlp_out",))},
    "folded": {"pair": Pair(read=SITES[:2], fold=True)},
    "crosscoder": {"pair": Pair(read=SITES[:2]), "sae": Crosscoder(**SIZES, k=4, n_sites=2)},
    "temporal": {
        "pair": Pair(read=("L0.resid_post",), window=8),
        "tokens": 5000,
        "sae": Temporal(**SIZES, k=4, n_heads=2, d_key=4, n_attn_layers=1),
    },
    "whitened": {"normalise": "whiten", "centre": "geometric_median"},
    "another rule": {"rule": TokenRule(max_norm=None)},
}


@pytest.fixture(scope="module")
def lm():
    return world.model()


@pytest.fixture(scope="module")
def made(lm, tmp_path_factory):
    """A run, and a store that fits it."""
    folder = tmp_path_factory.mktemp("made")
    run = world.run(folder)
    config = Caching(
        model="tiny",
        sites=SITES,
        corpus=run.corpus,
        n_ctx=32,
        precision="float32",
        shard_bytes=200_000,
    )
    write(config, lm, folder / "cache", tokens=7000, shown=False)
    return run, folder / "cache"


@pytest.mark.parametrize("kind", RUNS)
def test_the_weights_are_those_of_training_on_the_model(lm, made, tmp_path, kind):
    run = dataclasses.replace(made[0], **RUNS[kind])
    train(run, lm, tmp_path / "live", shown=False)
    train(run, RecordedModel.open(made[1]), tmp_path / "cached", shown=False)
    assert_same(weights(tmp_path / "live"), weights(tmp_path / "cached"))
    one, other = (read_json(tmp_path / n / "manifest.json") for n in ("live", "cached"))
    assert one["harvest"] == other["harvest"] and one["rules"] == other["rules"]


def test_a_model_in_bfloat16_loses_nothing_in_a_bfloat16_store(made, tmp_path):
    run, lm = made[0], world.tiny(dtype=torch.bfloat16)
    config = Caching(model="tiny", sites=SITES[:2], corpus=run.corpus, n_ctx=32)
    write(config, lm, tmp_path / "cache", tokens=6000, shown=False)
    train(run, lm, tmp_path / "live", shown=False)
    train(run, RecordedModel.open(tmp_path / "cache"), tmp_path / "cached", shown=False)
    assert_same(weights(tmp_path / "live"), weights(tmp_path / "cached"))


FULL = {"shuffle": "full", "block_tokens": 16, "epochs": 2, "buffer_tokens": 512}


@pytest.fixture(scope="module")
def full(made, tmp_path_factory):
    """A run in the order of a full shuffle, and the weights that it ends with."""
    run = dataclasses.replace(made[0], **FULL)
    return run, left_alone(
        run, RecordedModel.open(made[1]), tmp_path_factory.mktemp("full") / "run"
    )


@pytest.mark.parametrize("at", [15, 80])
def test_a_full_shuffle_goes_on_exactly(made, full, tmp_path, monkeypatch, at):
    run, whole = full
    assert_resumes(run, RecordedModel.open(made[1]), tmp_path, monkeypatch, at, whole)


def test_mixing_goes_on_exactly(made, tmp_path, monkeypatch):
    run = dataclasses.replace(made[0], mixing=0.7)
    assert_resumes(run, RecordedModel.open(made[1]), tmp_path, monkeypatch, at=40)


@pytest.mark.parametrize("kind", ["transcoder", "folded", "crosscoder", "temporal"])
def test_a_full_shuffle_trains_every_pair(made, tmp_path, kind):
    run = dataclasses.replace(made[0], **(RUNS[kind] | FULL | {"epochs": 1}))
    train(run, RecordedModel.open(made[1]), tmp_path / "run", shown=False)
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert '"fvu"' in log


def test_the_card_says_what_the_activations_were(made, tmp_path):
    out = train(made[0], RecordedModel.open(made[1]), tmp_path / "run", shown=False)
    cache = native.load(out.parent).card.corpus["cache"]
    assert cache["precision"] == "float32" and len(cache["identity"]) == 64


@pytest.mark.parametrize(
    ("field", "value"), [("n_ctx", 64), ("bos", False), ("model", "other"), ("revision", "abc")]
)
def test_a_run_that_does_not_fit_is_refused_and_the_field_named(made, tmp_path, field, value):
    run = dataclasses.replace(made[0], **{field: value})
    with pytest.raises(ConfigError, match=f"`{field}` does not fit the cache"):
        train(run, RecordedModel.open(made[1]), tmp_path / "run", shown=False)
    assert not (tmp_path / "run").exists()


def test_another_text_is_refused(made, tmp_path):
    other = dataclasses.replace(made[0].corpus, paths=(str(world.text_file(tmp_path, seed=1)),))
    run = dataclasses.replace(made[0], corpus=other)
    with pytest.raises(ConfigError, match="`corpus` does not fit"):
        train(run, RecordedModel.open(made[1]), tmp_path / "run", shown=False)


def test_a_site_that_is_not_there_is_refused(made, tmp_path):
    run = dataclasses.replace(made[0], pair=Pair(read=("L0.mlp_out",)))
    with pytest.raises(UnknownNameError, match=r"has L0.resid_post.*got L0.mlp_out"):
        train(run, RecordedModel.open(made[1]), tmp_path / "run", shown=False)


def test_a_run_is_resumed_from_the_activations_it_began_with(lm, made, full, tmp_path, monkeypatch):
    run, whole = full
    assert_resumes(run, RecordedModel.open(made[1]), tmp_path, monkeypatch, 40, whole)
    with pytest.raises(ConfigError, match="Put the text back|Resume it from the same activations"):
        train(run, lm, tmp_path / "cut", resume=True, shown=False)


def test_a_full_shuffle_without_a_cache_says_what_to_do(lm, made, tmp_path):
    run = dataclasses.replace(made[0], shuffle="full")
    with pytest.raises(ConfigError, match="saekit cache write"):
        train(run, lm, tmp_path / "run", shown=False)


@pytest.mark.parametrize(
    ("changes", "kind"), [({}, Rolling), ({"shuffle": "full", "buffer_tokens": 6000}, Resident)]
)
def test_what_a_run_asks_for_is_what_it_gets(lm, made, changes, kind):
    run = dataclasses.replace(made[0], **changes)
    assert type(open_shuffle(run, open_harvest(run, lm), shown=False)) is kind


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mixing": 1.5}, "0 to 1"),
        ({"mixing": 0.5, "buffer_tokens": 7000}, "order of the text"),
        ({"mixing": 0.5, "shuffle": "full"}, "keeps nothing back"),
        ({"block_tokens": 0}, "at least 1"),
    ],
)
def test_settings_that_exclude_each_other(made, changes, said):
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(made[0], sae=TopK(**SIZES, k=4), **changes)
