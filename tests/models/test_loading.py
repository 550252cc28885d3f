"""Every way to a model: hub names in a cache laid by the test, folders, shards, what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saekit.core.errors import DataError, FormatError, ResourceError, UnknownNameError
from saekit.models import model_files
from saekit.models.hf import load
from saekit.models.short_names import SHORT_NAMES, full_name
from saekit.models.sites import Site
from saekit.models.tiny import save_tiny
from tests.hub_cache import lay as hub_cache_of

COMMIT, OLDER = "0123456789abcdef" * 2 + "01234567", "fedcba98" * 5
REPO = "EleutherAI/pythia-70m-deduped"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A cache of the hub in which nothing but what the test lays is, and no network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def lay(cache: Path, repo: str, commit: str, branch: str = "main", seed: int = 0) -> Path:
    made = save_tiny(cache / "made" / commit, "gpt_neox", seed, n_layers=2)
    return hub_cache_of(cache, repo, commit, made, branch)


def test_a_hub_name_loads_offline_and_its_commit_is_the_revision(hub_cache) -> None:
    lay(hub_cache, REPO, COMMIT)
    lm = load(REPO)
    assert (lm.name, lm.revision) == (REPO, COMMIT)
    short = load("pythia-70m-deduped")
    assert (short.name, short.revision) == (REPO, COMMIT)


def test_a_branch_and_a_commit_are_told_apart(hub_cache) -> None:
    lay(hub_cache, REPO, COMMIT)
    lay(hub_cache, REPO, OLDER, "step1000", seed=1)
    tokens = torch.arange(8)[None]
    site = Site(1, "resid_post")
    main, branch = load(REPO), load(REPO, revision="step1000")
    by_commit = load(REPO, revision=OLDER)
    assert (branch.revision, by_commit.revision) == (OLDER, OLDER)
    values = [m.read(tokens, [site])[site] for m in (main, branch, by_commit)]
    assert torch.equal(values[1], values[2]) and not torch.equal(values[0], values[1])
    with pytest.raises(ResourceError, match="not in the local cache") as caught:
        load(REPO, revision="step2000")
    assert "\n" not in str(caught.value)


def test_what_the_hub_lists_is_fetched_of_one_commit(hub_cache, monkeypatch) -> None:
    import types

    import huggingface_hub

    snapshot = lay(hub_cache, REPO, COMMIT)
    asked: list[tuple[str, str]] = []

    class Api:
        def model_info(self, repo, *, revision, timeout):
            names = [file.name for file in snapshot.iterdir()] + ["pytorch_model.bin", "run_me.py"]
            return types.SimpleNamespace(
                sha=COMMIT, siblings=[types.SimpleNamespace(rfilename=n) for n in names]
            )

    def download(repo, name, *, revision):
        asked.append((name, revision))
        return str(snapshot / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert load(REPO, revision="main").revision == COMMIT
    assert {revision for _, revision in asked} == {COMMIT}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {name for name, _ in asked}
    assert not any(name.endswith((".bin", ".py")) for name, _ in asked)


def test_no_network_and_nothing_cached_is_one_sentence(hub_cache, monkeypatch) -> None:
    import httpx2
    import huggingface_hub.constants as constants

    with pytest.raises(ResourceError, match="HF_HUB_OFFLINE is set"):
        load(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def refuse(*_args, **_kwargs):
        raise httpx2.ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(ResourceError, match="the hub cannot be reached. Check") as caught:
        load(REPO)
    assert "\n" not in str(caught.value)
    lay(hub_cache, REPO, COMMIT)  # with a cache, no network is no reason to stop
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load(REPO).revision == COMMIT


def test_the_hubs_own_refusals_say_what_is_wrong(hub_cache, monkeypatch) -> None:
    import huggingface_hub.errors as errors

    class Repo(errors.RepositoryNotFoundError):
        def __init__(self):
            Exception.__init__(self, "404 Client Error. (Request ID: x)")

    def refuse(*_args, **_kwargs):
        raise Repo

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(ResourceError, match="no such repository, or it is private"):
        load("owner/misspelt")
    monkeypatch.undo()
    with pytest.raises(UnknownNameError, match="reads owner/name"):
        load("a b/c")


def test_shards_load_as_one_file_does(tmp_path) -> None:
    whole = save_tiny(tmp_path / "one", "llama")
    shards = tmp_path / "many"
    shutil.copytree(whole, shards)
    tensors = load_file(shards / "model.safetensors")
    (shards / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, keys in parts.items():
        save_file({k: tensors[k] for k in keys}, shards / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {k: f for f, keys in parts.items() for k in keys}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    tokens = torch.arange(9)[None]
    assert torch.equal(load(str(shards)).logits(tokens), load(str(whole)).logits(tokens))
    (shards / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FormatError, match="lacks model-00002-of-00002.safetensors"):
        load(str(shards))
    index["weight_map"]["x"] = "../elsewhere.safetensors"
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="of its own folder"):
        load(str(shards))


def test_pickled_weights_are_refused_with_a_way_out_and_not_opened(tmp_path) -> None:
    folder = save_tiny(tmp_path / "lm")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FormatError, match="has no weights"):
        load(str(folder))
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(FormatError, match=r"pytorch_model.bin.*save_pretrained\('converted'\)"):
        load(str(folder))
    assert not Path("ran").exists()


def test_an_adapter_is_refused_with_a_word_on_merging(tmp_path, hub_cache) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    with pytest.raises(FormatError, match=r"adapter.*of owner/base.*merge_and_unload"):
        load(str(folder))
    snapshot = hub_cache / "models--own--adapter/snapshots" / COMMIT
    shutil.copytree(folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text(COMMIT)
    with pytest.raises(FormatError, match="merge_and_unload"):
        load("own/adapter")


def change(folder: Path, edit) -> None:
    """Rewrite the weights of a folder after `edit` changed the dict of them."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), r"lack model.layers.1.mlp.up_proj"),
        (lambda t: t.pop("lm_head.weight"), "lack lm_head.weight"),
        (lambda t: t.update({"value_head.weight": torch.ones(1)}), "also hold value_head.weight"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(31)}),
            r"another shape of model.norm.weight \(31,\) where config.json makes it \(32,\)",
        ),
    ],
)
def test_weights_that_are_not_the_models_are_named(tmp_path, edit, says) -> None:
    folder = save_tiny(tmp_path / "lm", "llama")
    change(folder, edit)
    with pytest.raises(FormatError, match=says):
        load(str(folder))


def test_what_may_be_absent_or_over_is_let_be(tmp_path) -> None:
    tied = save_tiny(tmp_path / "tied", "gemma2")  # has no lm_head of its own
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    load(str(tied))
    neox = save_tiny(tmp_path / "neox", "gpt_neox")
    old = {
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(2),
    }
    change(neox, lambda t: t.update(old))
    load(str(neox))


def set_config(folder: Path, **settings) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_kernels_that_a_config_names_are_not_fetched(tmp_path, key) -> None:
    folder = save_tiny(tmp_path / "lm")
    set_config(folder, **{key: "someone/their-kernels"})
    with pytest.raises(FormatError, match="someone/their-kernels.*runs none"):
        load(str(folder))
    set_config(folder, **{key: "flash_attention_2"})  # asks for a library: the built-in one does
    assert load(str(folder)).module.config._attn_implementation in ("sdpa", "eager")


def test_code_in_a_model_folder_neither_runs_nor_asks(tmp_path, monkeypatch) -> None:
    folder = save_tiny(tmp_path / "lm")
    mark = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass C: pass\nclass M: pass\n")
    own = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    set_config(folder, model_type="no_such_type", auto_map=own)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    with pytest.raises(FormatError, match="code of its own"):
        load(str(folder))
    set_config(folder, model_type="llama")  # a type that transformers has: its own class is used
    load(str(folder))
    assert not mark.exists()


def test_short_names_are_names_on_the_hub() -> None:
    wanted = {
        "gpt2-small": "openai-community/gpt2",
        "gpt2-xl": "openai-community/gpt2-xl",
        "pythia-70m-deduped": "EleutherAI/pythia-70m-deduped",
        "pythia-2.8b": "EleutherAI/pythia-2.8b",
        "gemma-2b": "google/gemma-2b",
        "gemma-2-9b-it": "google/gemma-2-9b-it",
        "mistral-7b": "mistralai/Mistral-7B-v0.1",
        "Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama-3-8b-instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
        "qwen2.5-7b-instruct": "Qwen/Qwen2.5-7B-Instruct",
        "own/model": "own/model",
        "gelu-2l": "gelu-2l",
        "gpt2-mistral-small-a": "stanford-crfm/alias-gpt2-small-x21",
        "EleutherAI/pythia-19m-deduped": "EleutherAI/pythia-70m-deduped",
        "tiny-stories-instruct-1L-21M": "roneneldan/TinyStories-Instuct-1Layer-21M",
        "llama-2-13b-chat": "meta-llama/Llama-2-13b-chat-hf",
        "opt-xl": "facebook/opt-6.7b",
        "deepseek-r1-distill-qwen-14b-chat": "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
    }
    assert {name: full_name(name) for name in wanted} == wanted
    assert all(name == name.lower() and full.count("/") == 1 for name, full in SHORT_NAMES.items())
    with pytest.raises(UnknownNameError, match="no model or folder `gelu-2l`.*Lens' own"):
        load("gelu-2l")


def test_a_recorded_commit_is_loaded_again_though_the_branch_moved_on() -> None:
    assert model_files.pinned("main", {"revision": COMMIT}) == COMMIT
    assert model_files.pinned("main", {"revision": "f" * 64}) == "main"  # of a folder's weights
    assert model_files.pinned(None, {}) is None


def test_a_token_beyond_the_embedding_is_named_where_it_is_met(tmp_path) -> None:
    from transformers import AutoTokenizer

    folder = save_tiny(tmp_path / "lm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.save_pretrained(folder)
    lm = load(str(folder))  # as long as nobody uses it, the model can be used
    ids = lm.tokenizer.encode("hello <|im_start|>")
    assert len(ids) == 1 and ids[0][-1] == 258
    with pytest.raises(DataError, match=r"'<\|im_start\|>' \(id 258\).*0 to 257"):
        lm.logits(torch.tensor(ids))
    with pytest.raises(DataError, match="Token -1 "):
        lm.read(torch.tensor([[-1]]), [Site(0, "resid_pre")])


def test_a_text_is_one_text_and_ids_are_none() -> None:
    from saekit.models.base import as_texts
    from saekit.models.tiny import ByteTokenizer

    tokenizer = ByteTokenizer()
    assert tokenizer.encode("hello") == tokenizer.encode(["hello"]) == [list(b"hello")]
    assert tokenizer.encode([]) == []
    for wrong in ([1, 2, 3], [[1, 2]], [b"bytes"]):
        with pytest.raises(DataError, match="must be a string"):
            as_texts(wrong)
    with pytest.raises(DataError, match="half a surrogate"):
        tokenizer.encode(["fine", "broken \ud83d"])
