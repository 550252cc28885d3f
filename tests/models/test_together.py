"""Several models over the same tokens: each site is its own model's, and one SAE codes them."""

import pytest
import torch

import saekit
from saekit.cli.main import main
from saekit.core.errors import ConfigError, UnknownNameError
from saekit.core.files import read_json
from saekit.models.hf import load
from saekit.models.sites import parse_site
from saekit.models.tiny import save_tiny, tiny
from saekit.models.together import Together, named
from tests import world

BASE, CHAT = "base:L1.resid_post", "chat:L0.mlp_out"


@pytest.fixture(scope="module")
def both():
    return Together({"base": tiny(seed=0), "chat": tiny(seed=1)})


def test_a_site_names_its_model_and_back():
    assert str(parse_site(BASE)) == BASE
    assert parse_site(BASE).model == "base"
    assert parse_site("base:embed").layer is None
    with pytest.raises(UnknownNameError, match="nonsense"):
        parse_site("base:nonsense")


def test_each_site_is_read_in_its_own_model(both):
    tokens = torch.randint(0, 250, (2, 9), generator=torch.Generator().manual_seed(0))
    acts = both.read(tokens, [BASE, CHAT])
    for name, plain in (("base", "L1.resid_post"), ("chat", "L0.mlp_out")):
        alone = both.models[name].read(tokens, plain)
        assert torch.equal(acts[f"{name}:{plain}"], alone)


def test_a_change_at_one_model_leaves_the_other(both):
    tokens = torch.arange(12).view(2, 6)
    asked = [BASE, "chat:L1.resid_post"]
    plain = both.read(tokens, asked)
    moved = both.read(tokens, asked, replace={"chat:L0.resid_post": lambda x: x + 1})
    assert torch.equal(plain[BASE], moved[BASE])
    assert not torch.equal(plain["chat:L1.resid_post"], moved["chat:L1.resid_post"])


def test_what_belongs_to_one_model_is_refused(both):
    tokens = torch.arange(6).view(1, 6)
    for ask in (lambda: both.logits(tokens), lambda: both.generate("a", 2)):
        with pytest.raises(ConfigError, match="of its own"):
            ask()
    with pytest.raises(UnknownNameError, match=r"base:L0\.resid_post"):
        both.read(tokens, "L0.resid_post")
    with pytest.raises(ConfigError, match="two models"):
        Together({"one": tiny()})
    with pytest.raises(ConfigError, match="plain word"):
        Together({"a:b": tiny(), "c": tiny(seed=1)})
    with pytest.raises(ConfigError, match="each once"):
        named("base=a,base=b")
    with pytest.raises(ConfigError, match="base=NAME"):
        named("base=a,b")


def test_a_crosscoder_compares_two_models(both, tmp_path):
    text = world.text_file(tmp_path)
    sae = saekit.train(
        both,
        site=[BASE, "chat:L1.resid_post"],
        sae=saekit.Crosscoder(expansion=2, k=4),
        corpus=text,
        tokens=4000,
        n_ctx=32,
        out=tmp_path / "run",
        shown=False,
    )
    assert sae.directions.shape == (2, 64, 32)
    acts = both.read("the cat sat", sae.card.pair.reads)
    assert sae.encode(acts).n_rows == len("the cat sat") + 1
    result = saekit.evaluate(sae, both, n_tokens=2000, ce_tokens=0, shown=False)
    assert set(result.details["sites"]) == {BASE, "chat:L1.resid_post"}
    index = saekit.index(sae, both, tokens=1000, shown=False)
    assert index.n_tokens >= 1000
    with pytest.raises(ConfigError, match="ce_tokens=0"):
        saekit.evaluate(sae, both, n_tokens=2000, ce_tokens=500, shown=False)


def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    for seed, name in enumerate(("a", "b")):
        save_tiny(tmp_path / name, seed=seed)
    monkeypatch.chdir(tmp_path)
    model = "base=a,chat=b"
    assert isinstance(load(model), Together)
    words = [
        "train",
        "--model",
        model,
        "--site",
        "base:L*.resid_post",
        "--site",
        "chat:L1.resid_post",
        "--arch",
        "crosscoder",
        "--d-sae",
        "64",
        "--set",
        "sae.k=4",
        "--corpus",
        str(world.text_file(tmp_path)),
        "--tokens",
        "3000",
        "--set",
        "n_ctx=32",
        "--out",
        str(tmp_path / "run"),
        "--quiet",
    ]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert read_json(tmp_path / "run" / "run.json")["pair"]["read"] == [
        "base:L0.resid_post",
        "base:L1.resid_post",
        "chat:L1.resid_post",
    ]
    monkeypatch.chdir("/")  # folders are named so that they are found from anywhere
    for words in (
        ["eval", str(tmp_path / "run"), "--set", "ce_tokens=0", "--set", "n_tokens=1000"],
        ["index", str(tmp_path / "run"), "--tokens", "500"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--quiet"])
        assert ended.value.code == 0
    capsys.readouterr()
