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
        ({"vary": ["k"]}, "settings with lists of values"),
        ({"vary": {"model": ["a"]}}, "the same for all runs"),
        ({"vary": {"arch": [saekit.TopK(k=4)]}}, "varied by its name"),
        ({"vary": {"k": [float("nan")]}}, "must be a number"),
        ({"vary": {"seed": [0, 1]}, "seed": 7}, "varies too"),
        ({"runs": {"../x": world}}, "runs by name"),
        ({"runs": ["x"]}, "runs by name"),
        ({"vary": {"k": [4]}, "start_from": "a"}, "word of its own"),
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
    with pytest.raises(ConfigError, match="Name the folder"):
        saekit.train(world.model(), resume=True)


def begun(folder, monkeypatch, words):
    """Leave a run that was stopped at its fourth step."""
    step = Training.step

    def stopped(self, x, y):
        if self.index == 4:
            raise KeyboardInterrupt
        return step(self, x, y)

    with monkeypatch.context() as patch, pytest.raises((Interrupted, KeyboardInterrupt)):
        patch.setattr(Training, "step", stopped)
        saekit.train(world.model(), tokens=1000, out=folder, **words, **SMALL)


def test_what_is_said_of_a_run_that_goes_on_must_be_the_same(base, tmp_path, monkeypatch):
    out = tmp_path / "on"
    begun(
        out,
        monkeypatch,
        {"site": SITE, "corpus": base / "text.jsonl", "sae": saekit.TopK(k=4, d_sae=64)},
    )
    again = {"out": out, "resume": True, "shown": False}
    for words in ({"tokens": 900}, {"seed": 3}, {"sae": saekit.TopK(k=3)}, {"lr": 0.1}):
        with pytest.raises(ConfigError, match="other settings"):
            saekit.train(world.model(), **words, **again)
    with pytest.raises(ConfigError, match="begun with the model `tiny-llama`; got `another`"):
        saekit.train("another", **again)
    with pytest.raises(ConfigError, match="got dtype='bfloat16'"):
        saekit.train(dtype="bfloat16", **again)
    with pytest.raises(ConfigError, match="reads no cache"):
        saekit.train(cache=tmp_path, **again)
    words = {"tokens": 1000, "sae": saekit.TopK(k=4, expansion=2), "corpus": base / "text.jsonl"}
    same(saekit.train(world.model(), **words, **again), saekit.load(base / "a"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"model": "other"}, "first argument, --model"),
        ({"k": 4}, "a setting of the SAE: say sae="),
        ({"sae": saekit.TopK}, "got the class"),
        ({"sae": 5}, "`sae` is an architecture"),
        ({"site": []}, "A site is named"),
        ({"target": 5}, "A site is named"),
        ({"revision": "abc"}, "decided by a model that is loaded"),
        ({"dtype": "bfloat16"}, "decided by a model that is loaded"),
        ({"device": None}, "`device` is text"),
        ({"tokens": 0}, "at least 1"),
        ({"tokens": 500, "sae.d_sae": 32, "seed": 1, "pair.read": ["L0.resid_post"]}, "said twice"),
        ({"run": 5}, "`run` is a saekit.Run"),
        ({"out": ""}, "`out` is a path"),
        ({"cache": 5}, "`cache` is a path"),
        ({"start_from": ""}, "`start_from` is a path"),
    ],
)
def test_words_that_say_nothing_are_refused(tmp_path, words, said):
    base = {"site": SITE, "tokens": 500, "out": tmp_path / "o", "shown": False}
    with pytest.raises(ConfigError, match=said):
        saekit.train(world.model(), **base | words)
    with pytest.raises(ConfigError, match="language model is given by its name"):
        saekit.train(5)  # type: ignore[arg-type]
    assert not (tmp_path / "o").exists()


def test_a_whole_run_of_another_model_is_refused(base, tmp_path):
    run = saekit.Run.from_dict(saekit.load(base / "a").card.run | {"model": "another"})
    with pytest.raises(ConfigError, match="The run is of the model `another`; got `tiny-llama`"):
        saekit.train(world.model(), run=run, out=tmp_path / "o", shown=False)
    with pytest.raises(ConfigError, match="The run is of the model `another`; got `tiny-llama`"):
        saekit.sweep(world.model(), runs={"a": run}, out=tmp_path / "o", shown=False)
    for name in ("../x", "/x", "", "sweep.json"):
        with pytest.raises(ConfigError, match="named as the folder"):
            saekit.sweep(world.model(), runs={name: run}, out=tmp_path / "o", shown=False)
    assert not (tmp_path / "o").exists()


def test_a_run_that_began_from_an_sae_is_made_again_with_it(base, tmp_path):
    words = {"corpus": base / "text.jsonl", "tokens": 500, **SMALL}
    on = saekit.train(world.model(), start_from=base / "a", out=tmp_path / "on", **words)
    file = tmp_path / "on" / "run.json"
    again = {"run": file, "shown": False, "out": tmp_path / "again"}
    with pytest.raises(ConfigError, match="start_from"):
        saekit.train(world.model(), **again)
    with pytest.raises(ConfigError, match="began from another SAE"):
        saekit.train(world.model(), start_from=on, **again)
    same(saekit.train(world.model(), start_from=base / "a", **again), on)


def test_what_is_predicted_changes_with_the_word_for_it(base, tmp_path):
    words = {"corpus": base / "text.jsonl", "tokens": 500, **SMALL}
    sae = saekit.train(
        world.model(), start_from=base / "a", target="L1.mlp_out", out=tmp_path / "t", **words
    )
    pair = sae.card.run["pair"]
    assert (pair["read"], pair["write"]) == ([SITE], ["L1.mlp_out"])
    with pytest.raises(ConfigError, match="Name what to predict"):
        saekit.train(world.model(), start_from=sae, site="L0.resid_post", **words)


def test_words_replace_single_settings_of_a_whole_run(base, tmp_path):
    file = base / "a/run.json"
    sae = saekit.train(
        world.model(),
        run=file,
        seed=3,
        tokens=500,
        out=tmp_path / "o",
        shown=False,
        **{"sae.k": 2, "optimiser.beta1": 0.8},
    )
    asked = sae.card.run
    assert (asked["seed"], asked["tokens"], asked["sae"]["k"], asked["n_ctx"]) == (3, 500, 2, 32)
    assert asked["optimiser"]["beta1"] == 0.8
    with pytest.raises(ConfigError, match="`sae` does not go with"):
        saekit.train(world.model(), run=file, sae="topk", out=tmp_path / "p", shown=False)
