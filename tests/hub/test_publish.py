"""Publishing: one folder for saekit and sae-lens, up to a hub on this machine and down again."""

import dataclasses
import json
import logging

import pytest
import torch
import yaml
from safetensors.torch import load_file

import saekit
from saekit.cli.main import main
from saekit.core.errors import ConfigError, FormatError, ResourceError
from saekit.core.files import read_tensors
from saekit.core.result import Result, Score
from saekit.hub import publish
from saekit.hub.formats.base import FormatHints, find, registry
from saekit.hub.native import load
from saekit.hub.trained import TrainedSAE
from saekit.saes.base import registry as architectures
from tests.hub import files
from tests.hub.fake_hub import TOKEN, FakeHub
from tests.hub.test_native import built
from tests.hub.test_native import card as a_card

# The hub's library hands files to its HTTP client in a way that the client would have otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO = "me/saes"
RESULT = Result(
    name="core",
    version=3,
    config={},
    scores={
        "l0": Score(
            value=4.0, low=3.5, high=4.5, n=90, unit="latents/token", better="neither", label="L0"
        ),
        "fvu": Score(value=None, n=0, unit="ratio", better="lower", reason="no | variance"),
    },
    provenance={"n_ctx": 32, "notes": ["rows begin <b>with</b> BOS"]},
)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, a user who is logged in, and an empty cache."""
    import huggingface_hub.constants as constants

    made = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    template = made.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield made
    made.close()


def trained(name="topk"):
    return TrainedSAE(built(name).eval(), a_card())


def weights_equal(one, other):
    state = other.sae.state_dict()
    return state.keys() == one.sae.state_dict().keys() and all(
        torch.equal(w, state[n]) and w.dtype == state[n].dtype
        for n, w in one.sae.state_dict().items()
    )


@pytest.mark.parametrize("name", architectures.names())
def test_a_published_folder_comes_back_bit_for_bit_and_holds_no_weight_twice(name, tmp_path):
    sae = trained(name)
    lens = publish.lay(sae, tmp_path / "x", repo="me/x", path="x")
    again = load(tmp_path / "x")
    assert weights_equal(sae, again) and again.card == sae.card
    assert find(tmp_path / "x").name == "saekit"
    own = tmp_path / "x" / "weights.safetensors"
    ours = read_tensors(own) if own.exists() else {}
    if lens:
        assert not (tmp_path / "x" / "cfg.json").exists()
        return
    theirs = load_file(tmp_path / "x" / "sae_weights.safetensors")
    large = [t for t in theirs.values() if t.ndim > 1]
    for n, tensor in ours.items():
        assert not any(tensor.shape == t.shape and torch.equal(tensor, t) for t in large), n
    if name in ("topk", "relu", "jumprelu", "abs_topk"):
        assert not ours
    x = torch.randn(5, sae.d_in)
    other = load(tmp_path / "x", format="sae_lens")
    torch.testing.assert_close(other(x), sae(x), rtol=1e-5, atol=1e-5)


def test_a_shared_file_that_was_changed_is_refused(tmp_path):
    publish.lay(trained(), tmp_path / "x", repo="me/x", path="x")
    config = tmp_path / "x" / "config.json"
    raw = json.loads(config.read_text())
    raw["shared"]["file"] = "../elsewhere.safetensors"
    config.write_text(json.dumps(raw))
    with pytest.raises(FormatError, match="plain name"):
        load(tmp_path / "x")
    raw["shared"] |= {"file": "sae_weights.safetensors", "tensors": {"W_enc": "W_other"}}
    config.write_text(json.dumps(raw))
    with pytest.raises(FormatError, match="lacks `W_other`"):
        load(tmp_path / "x")
    path = tmp_path / "x" / "sae_weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(FormatError, match="SHA-256"):
        load(tmp_path / "x")


def test_up_and_down_again(hub, tmp_path):
    sae = trained("batch_topk")
    done = saekit.push(sae, REPO, path_in_repo="L1/batch", results=RESULT)
    assert hub.made[REPO]["visibility"] == "private"
    assert done.name == f"hf:{REPO}@{hub.at(REPO, 'main')[0]}/L1/batch" and done.notes == ()
    there = hub.at(REPO, "main")[1]
    inside = {
        "README.md",
        "card.json",
        "cfg.json",
        "config.json",
        "eval/core.json",
        "sae_weights.safetensors",
        "weights.safetensors",
    }
    assert set(there) == {".gitattributes", "README.md", *(f"L1/batch/{n}" for n in inside)}
    for name in (done.name, f"hf:{REPO}/L1/batch"):
        again = saekit.load(name)
        assert weights_equal(sae, again)
        said = again.card.provenance["published"]
        assert said["revision"] == hub.at(REPO, "main")[0] and said["repo"] == REPO
        assert said["sha256"].items() <= done.sha256.items()
        assert not any(n.endswith("README.md") for n in said["sha256"])
    pulled = saekit.pull(f"hf:{REPO}/L1/batch", tmp_path / "mine")
    assert weights_equal(sae, pulled) and weights_equal(sae, load(tmp_path / "mine"))
    assert Result.read(tmp_path / "mine" / "eval" / "core.json").scores == RESULT.scores
    assert load(tmp_path / "mine").card.provenance["published"]["revision"] == said["revision"]
    with pytest.raises(ConfigError, match="not an empty folder"):
        saekit.pull(f"hf:{REPO}/L1/batch", tmp_path / "mine")
    with pytest.raises(ConfigError, match="not the name of a published SAE"):
        saekit.pull("runs/a", tmp_path / "other")


def test_a_branch_moves_and_a_commit_does_not(hub):
    first = saekit.push(trained("topk"), REPO, path_in_repo="x")
    second = saekit.push(trained("relu"), REPO, path_in_repo="x")
    assert load(first.name).cfg.name == "topk" and load(second.name).cfg.name == "relu"
    assert load(f"hf:{REPO}/x").cfg.name == "relu"
    branch = saekit.push(trained("gated"), REPO, path_in_repo="x", revision="v2")
    assert load(f"hf:{REPO}@v2/x").cfg.name == load(branch.name).cfg.name == "gated"
    assert load(f"hf:{REPO}/x").cfg.name == "relu"


def test_a_second_sae_keeps_the_first_and_a_page_of_ones_own_stays(hub):
    saekit.push(trained("topk"), REPO, path_in_repo="one")
    saekit.push(trained("relu"), REPO, path_in_repo="two")
    page = hub.at(REPO, "main")[1]["README.md"].decode()
    assert "# relu SAE" in page and "[one](one/README.md)" in page
    assert load(f"hf:{REPO}/one").cfg.name == "topk"
    hub.put(REPO, {"README.md": b"my own words"})
    done = saekit.push(trained("gated"), REPO, path_in_repo="three")
    assert "left as it is" in done.notes[0]
    assert hub.at(REPO, "main")[1]["README.md"] == b"my own words"
    with pytest.raises(FormatError, match="holds 3 SAEs. Name one of one, three, two"):
        load(f"hf:{REPO}")


def test_an_upload_that_was_broken_off_goes_on(hub):
    sae = trained("batch_topk")
    hub.refuse_large_after = 1
    with pytest.raises(ResourceError, match="Repeat it to go on") as caught:
        saekit.push(sae, REPO, path_in_repo="x")
    assert TOKEN not in str(caught.value) and len(hub.sent) == 1
    assert set(hub.at(REPO, "main")[1]) == {".gitattributes"}  # nothing half done is seen
    hub.refuse_large_after = None
    saekit.push(sae, REPO, path_in_repo="x")
    assert len(hub.sent) == len(set(hub.sent)) == 2  # each once
    assert weights_equal(sae, load(f"hf:{REPO}/x"))


def test_an_sae_that_sae_lens_cannot_hold_goes_up_in_saekits_layout(hub):
    done = saekit.push(trained("matching_pursuit"), REPO, path_in_repo="x")
    lens = any(n.endswith("cfg.json") for n in done.sha256)
    assert lens or "sae-lens cannot read it" in done.notes[0]
    assert load(f"hf:{REPO}/x").cfg.name == "matching_pursuit"


def test_wrong_words_are_told_before_anything_is_loaded(hub):
    for repo, path in (("saes", None), ("a/b/c", None), ("a/b", "../x"), ("a/b@v1", None)):
        with pytest.raises(ConfigError):
            saekit.push("nowhere", repo, path_in_repo=path)
    unknown = load_unknown_site()
    with pytest.raises(ConfigError, match="--path"):
        saekit.push(unknown, REPO)
    assert hub.asked == []


def load_unknown_site():
    sae = trained()
    from saekit.hub.formats.base import make_card

    return dataclasses.replace(sae, card=make_card("sparsify", FormatHints()))


def test_the_token_is_never_shown(hub, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    wrong = "another-secret-that-the-hub-repeats"
    monkeypatch.setenv("HF_TOKEN", wrong)
    with pytest.raises(ResourceError) as caught:
        saekit.push(trained(), REPO, path_in_repo="x")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    saekit.push(trained(), REPO, path_in_repo="x")
    text = saekit.card(trained()) + hub.at(REPO, "main")[1]["x/card.json"].decode()
    everything = str(caught.value) + "".join(capfd.readouterr()) + caplog.text + text
    assert wrong not in everything and TOKEN not in everything


def test_what_the_hub_sends_is_checked(hub):
    done = saekit.push(trained(), REPO, path_in_repo="x")
    good = hub.at(REPO, "main")[1]["x/sae_weights.safetensors"]
    hub.tampered["x/sae_weights.safetensors"] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(FormatError, match="as it was published"):
        load(done.name)


def test_a_download_above_the_limit_is_refused_before_it_begins(hub, monkeypatch):
    saekit.push(trained(), REPO, path_in_repo="x")
    hub.asked.clear()
    monkeypatch.setenv("SAEKIT_MOST_GB", "0.000001")
    with pytest.raises(ConfigError, match="the limit is 1e-06 GB.*SAEKIT_MOST_GB=1"):
        load(f"hf:{REPO}/x")
    assert not any("/resolve/" in one for one in hub.asked)


def test_the_cache_serves_again_without_the_hub(hub, monkeypatch):
    import huggingface_hub.constants as constants

    saekit.push(trained(), REPO, path_in_repo="x")
    first = load(f"hf:{REPO}/x")
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = load(f"hf:{REPO}/x")
    assert hub.asked == [] and weights_equal(first, again)
    assert again.card.provenance["published"] == first.card.provenance["published"]


def test_what_the_hub_does_not_have_is_one_sentence(hub):
    saekit.push(trained(), REPO, path_in_repo="L1/x")
    cases = {
        "hf:me/none/x": "no such repository",
        f"hf:{REPO}@none/x": "no such branch, tag or commit",
        f"hf:{REPO}/L1/y": "Did you mean `L1/x`",
    }
    for name, says in cases.items():
        with pytest.raises((ResourceError, LookupError), match=says) as caught:
            load(name)
        assert "\n" not in str(caught.value)


def test_the_card_says_what_is_known_and_what_is_not(tmp_path):
    sae = trained()
    text = saekit.card(sae, RESULT)
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["library_name"] == "saelens" and "sparse-autoencoder" in head["tags"]
    assert "base_model" not in head  # `tiny` is no model of the hub
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "l0", "name": "L0", "value": 4.0}]
    assert "| L0 | 4 | 3.5 to 4.5 | latents/token | 90 |" in text
    assert "undefined: no \\| variance" in text and "&lt;b>" in text and "<b>" not in text
    assert "SAE.from_pretrained('OWNER/REPO', 'PATH')" in text
    named = dataclasses.replace(
        sae.card,
        model={"name": "pythia-70m-deduped", "revision": "abc", "dtype": "float32"},
        corpus={"corpus": {"name": "hub", "repo": "me/text", "split": "train"}},
        provenance={"command": ["saekit", "train", "--out", "a b"], "unknown": ["bos"]},
    )
    text = saekit.card(dataclasses.replace(sae, card=named))
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["base_model"] == "EleutherAI/pythia-70m-deduped" and head["datasets"] == ["me/text"]
    assert "saekit train --out 'a b'" in text and "Not known: bos" in text
    assert "Nobody has measured it" in text
    other = saekit.card(trained("crosscoder"))
    assert "library_name: saekit" in other and "sae-lens cannot read it" in other


def test_results_next_to_an_sae_are_on_its_card(tmp_path):
    saved = trained().save(tmp_path / "x")
    RESULT.write(tmp_path / "x" / "eval" / "core.json")
    assert "3.5 to 4.5" in saekit.card(tmp_path / "x") == saekit.card(saved)
    (tmp_path / "x" / "eval" / "other.json").write_text("{}")
    with pytest.raises(FormatError, match="other.json"):
        saekit.card(tmp_path / "x")


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    return ended.value.code, *capsys.readouterr()


def test_commands(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained().save("mine")
    code, out, err = call(capsys, "push", "mine", REPO, "--path", "x", "--public")
    assert code == 0 and "load     saekit.load('hf:me/saes@" in out, err
    assert hub.made[REPO]["visibility"] == "public"
    code, out, err = call(capsys, "pull", f"hf:{REPO}/x", "--out", "copy")
    assert code == 0 and "next     saekit eval copy" in out, err
    code, out, err = call(capsys, "pull", f"hf:{REPO}/x", "--out", "copy", "--json")
    assert code == 2 and err.count("\n") == 1 and "not an empty" in err
    code, out, _ = call(capsys, "card", "copy", "--out", "page.md")
    assert code == 0 and (tmp_path / "page.md").read_text().startswith("---\n")
    code, out, _ = call(capsys, "card", f"hf:{REPO}/x")
    assert code == 0 and "# topk SAE of L1.resid_post of tiny" in out
    for words in (
        ["push", "mine", "saes"],
        ["push", "none", REPO],
        ["pull", "x", "--out", "y"],
        ["card", "none"],
        ["pull", f"hf:{REPO}/none", "--out", "z"],
    ):
        code, out, err = call(capsys, *words)
        assert code in (1, 2) and out == "" and err.count("\n") == 1, words


def test_a_foreign_format_is_pulled_with_what_the_name_says(hub, tmp_path):
    folder = tmp_path / "made"
    files.sae_lens(folder)
    data = {f"a/{p.name}": p.read_bytes() for p in folder.iterdir()}
    hub.put(REPO, data)
    saekit.pull(f"hf:{REPO}/a", tmp_path / "mine")
    mine, theirs = load(tmp_path / "mine"), load(folder)
    x = torch.randn(4, theirs.d_in)
    assert torch.equal(mine(x), theirs(x)) and mine.card.pair == theirs.card.pair
    text = (tmp_path / "mine" / "README.md").read_text()
    assert "load_from_disk('mine')" in text and f"{REPO}/a" in text
    assert registry.get("saekit")().detect(tmp_path / "mine")
