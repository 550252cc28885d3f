import json
import sys
import types

import pytest

from saekit.core.errors import ConfigError, DataError, MissingExtraError, ResourceError
from saekit.data.base import SPLITS
from saekit.data.corpora import hub
from saekit.data.corpora.hub import Hub

COMMIT = "0123abcd" * 5


@pytest.fixture(autouse=True)
def fresh_commits():
    hub._commit.cache_clear()
    yield
    hub._commit.cache_clear()


class Api:
    def dataset_info(self, repo, revision):
        if repo != "owner/name":
            raise OSError("404")
        return types.SimpleNamespace(sha=COMMIT if revision == "main" else revision)


@pytest.fixture
def asked(monkeypatch):
    """Libraries of the hub, faked at the border; holds what was asked of them."""
    calls = []

    def load_dataset(repo, config, *, split, revision, streaming):
        calls.append((repo, config, split, revision, streaming))
        return iter([{"text": f"text {i % 50}", "n": i} for i in range(100)])

    datasets = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    monkeypatch.setattr(hub, "hub_library", lambda: types.SimpleNamespace(HfApi=Api))
    return calls


def test_reads_the_resolved_commit_and_splits_by_text(asked):
    corpus = Hub(repo="owner/name", config="en", test_share=0.3)
    parts = [[d.text for d in corpus.documents(s)] for s in SPLITS]
    assert sorted(sum(parts, [])) == sorted(f"text {i}" for i in range(50)) and all(parts)
    assert asked == [("owner/name", "en", "train", COMMIT, True)] * 3
    assert corpus.provenance()["commit"] == COMMIT


def test_a_commit_given_is_the_commit_read(asked):
    next(Hub(repo="owner/name", revision="v1").documents("train"))
    assert asked[0][3] == "v1"


def test_errors(asked):
    with pytest.raises(ResourceError, match="owner/other at main: 404"):
        Hub(repo="owner/other").provenance()
    with pytest.raises(DataError, match="no column `body`; it has text, n"):
        list(Hub(repo="owner/name", text_column="body").documents("train"))
    with pytest.raises(DataError, match="must hold text; got int"):
        list(Hub(repo="owner/name", text_column="n").documents("train"))
    with pytest.raises(ConfigError, match="test_share"):
        Hub(repo="owner/name", test_share=1.5)


def test_missing_libraries(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"saekit\[hub\]"):
        Hub(repo="owner/name").provenance()


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    import httpx2

    def refuse(*_args, **_kwargs):
        raise httpx2.ConnectError("[Errno -2] Name or service not known\nand a page more")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)
    with pytest.raises(ResourceError, match="the hub cannot be reached") as caught:
        Hub(repo="owner/name").provenance()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_real_library_streams_a_folder(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr(hub, "_commit", lambda repo, revision: None)
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(20))
    )
    found = Hub(repo=str(tmp_path), test_share=0.0, validation_share=0.0).documents("train")
    assert [d.text for d in found] == [f"text {i}" for i in range(20)]
    with pytest.raises(ResourceError, match="split dev"):
        list(Hub(repo=str(tmp_path), split="dev").documents("train"))
