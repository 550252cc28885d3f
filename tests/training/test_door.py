"""`saekit.train` and `saekit.sweep`: what their commands can do, with the same words."""

import pytest
import torch

import saekit
from saekit.core.errors import ConfigError, Interrupted
from saekit.training.trainer import Training
from tests import world
from tests.activations.cached import made

SMALL = {"n_ctx": 32, "batch_tokens": 128, "buffer_tokens": 512, "lr": 1e-2, "shown": False}
SITE = "L1.resid_post"


def same(one, other):
    for name, weight in one.sae.state_dict().items():
        assert torch.equal(weight, other.sae.state_dict()[name]), name


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a text, and a run on it."""
    folder = tmp_path_factory.mktemp("door")
    sae = saekit.TopK(k=4, d_sae=64)
    text = world.text_file(folder)
    saekit.train(
        world.model(), site=SITE, sae=sae, corpus=text, tokens=1000, out=folder / "a", **SMALL
    )
    return folder


def test_a_sweep_trains_what_train_does_of_each(base, tmp_path):
    words = {"site": SITE, "corpus": base / "text.jsonl", "tokens": 1000, **SMALL}
    vary = {"k": [2, 4], "lr": [1e-2]}
    found = saekit.sweep(
        world.model(), vary, sae=saekit.TopK(d_sae=64), out=tmp_path / "s", **words
    )
    assert list(found) == ["k2-lr0.01", "k4-lr0.01"] and len(found) == 2 and not found.failed
    assert (found["k2-lr0.01"].cfg.k, found["k4-lr0.01"].cfg.d_sae) == (2, 64)
    same(found["k4-lr0.01"], saekit.load(base / "a"))
    assert [row["status"] for row in found.table.rows()] == ["done", "done"]
    assert len(str(found).splitlines()) == 3 and "k2-lr0.01" in str(found)
    with pytest.raises(KeyError, match="it has k2-lr0.01, k4-lr0.01"):
        found["k8"]
    again = saekit.sweep(world.model(), out=tmp_path / "s", resume=True, shown=False)
    assert list(again) == list(found)


def test_a_sweep_of_runs_and_one_over_a_run(base, tmp_path):
    run = saekit.Run.from_dict(saekit.load(base / "a").card.run)
    named = saekit.sweep(world.model(), runs={"mine": run}, out=tmp_path / "r", shown=False)
    same(named["mine"], saekit.load(base / "a"))
    varied = saekit.sweep(
        world.model(), {"seed": [0, 1]}, run=base / "a/run.json", out=tmp_path / "v", shown=False
    )
    same(varied["seed0"], saekit.load(base / "a"))
    assert varied["seed1"].card.run["seed"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "vary={'k'"),
        ({"vary": {"k": 4}}, "varies over a list"),
        ({"vary": {"k": "4"}}, "varies over a list"),
        ({"vary": {"k": [4, 4]}}, "one name"),
        ({"vary": {"sae.nothing": [1]}}, "has no setting `nothing`"),
        ({"vary": {"k": [4]}, "nothing": 3}, "has no setting `nothing`"),
        ({"vary": {"k": [4]}, "runs": {}}, "Leave the other settings out"),
        ({"runs": {}}, "at least one run"),
        ({"resume": True}, "Name the folder of the sweep"),
    ],
)
def test_a_sweep_refuses_what_says_nothing(words, said):
    with pytest.raises(ConfigError, match=said):
        saekit.sweep(world.model(), **words, shown=False)


def test_a_cache_is_read_in_place_of_the_model(tmp_path):
    store = made(tmp_path, world.model())
    words = {"site": SITE, "sae": saekit.TopK(k=4, d_sae=64), "tokens": 1000, **SMALL}
    sae = saekit.train(cache=store.folder, out=tmp_path / "c", **words)
    assert sae.card.corpus["cache"]["identity"] == store.identity
    with pytest.raises(ConfigError, match="Leave `lm` out"):
        saekit.train(world.model(), cache=store.folder, out=tmp_path / "d", **words)
    with pytest.raises(ConfigError, match="does not fit the cache"):
        saekit.train("another", cache=store.folder, out=tmp_path / "d", **words)
    with pytest.raises(ConfigError, match="name what to read"):
        saekit.train(cache=store.folder, out=tmp_path / "d", **words | {"site": None})
    assert not (tmp_path / "d").exists()


def test_a_run_goes_on_with_the_settings_it_was_begun_with(base, tmp_path, monkeypatch):
    step = Training.step

    def stopped(self, x, y):
        if self.index == 4:
            raise KeyboardInterrupt
        return step(self, x, y)

    words = {"site": SITE, "corpus": base / "text.jsonl", "sae": saekit.TopK(k=4, d_sae=64)}
    with monkeypatch.context() as patch, pytest.raises((Interrupted, KeyboardInterrupt)):
        patch.setattr(Training, "step", stopped)
        saekit.train(world.model(), tokens=1000, out=tmp_path / "on", **words, **SMALL)
    sae = saekit.train(world.model(), out=tmp_path / "on", resume=True, shown=False)
    same(sae, saekit.load(base / "a"))
    with pytest.raises(ConfigError, match="finished"):
        saekit.train(world.model(), out=tmp_path / "on", resume=True, shown=False)
    with pytest.raises(ConfigError, match="Name the folder"):
        saekit.train(world.model(), resume=True)


def test_words_replace_single_settings_of_a_whole_run(base, tmp_path):
    file = base / "a/run.json"
    sae = saekit.train(
        world.model(), run=file, seed=3, tokens=500, out=tmp_path / "o", shown=False,
        **{"sae.k": 2, "optimiser.beta1": 0.8},
    )  # fmt: skip
    asked = sae.card.run
    assert (asked["seed"], asked["tokens"], asked["sae"]["k"], asked["n_ctx"]) == (3, 500, 2, 32)
    assert asked["optimiser"]["beta1"] == 0.8
    with pytest.raises(ConfigError, match="`sae` does not go with"):
        saekit.train(world.model(), run=file, sae="topk", out=tmp_path / "p", shown=False)
