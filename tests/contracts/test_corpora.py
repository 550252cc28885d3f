"""What every corpus keeps, whichever file it is in."""

import inspect
import itertools
import json

import numpy as np
import pytest

from saekit.core.errors import ConfigError
from saekit.core.files import cache_folder
from saekit.core.sealed import write_sealed
from saekit.core.wheels import SAE_PROBES
from saekit.data.base import SPLITS, Corpus, Document, Shares, registry
from saekit.data.corpora.generated import KIND, Sequence, Shard, write_shard
from saekit.data.corpora.texts import Texts

MOST_DOCS = 3000
WHEEL = cache_folder() / "wheels" / f"{SAE_PROBES.package}-{SAE_PROBES.version}.whl"


@pytest.fixture(params=registry.names())
def corpus(request, tmp_path) -> Corpus:
    lines = [json.dumps({"text": f"text number {i % 150}"}) for i in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = [json.dumps({"question": f"how many {i}", "answer": str(i)}) for i in range(200)]
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa" / "b.jsonl").write_text("\n".join(rows), encoding="utf-8")
    chats = [
        json.dumps({"messages": [{"role": "user", "content": f"number {i}"}]}) for i in range(200)
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(chats), encoding="utf-8")
    ids = [json.dumps({"input_ids": [i, i + 1, 7]}) for i in range(200)]
    (tmp_path / "ids.jsonl").write_text("\n".join(ids), encoding="utf-8")
    here = {"name": "files", "paths": [str(tmp_path / "a.jsonl")]}
    texts = Texts.of([f"text number {i}" for i in range(200)]).to_dict()
    made = [Sequence(i, 1, np.array([256, i, i + 1, 257], np.int32)) for i in range(200)]
    write_shard(tmp_path / "own" / "shards" / "000000.safetensors", Shard(0, 200, made))
    about = {"kind": KIND, "made_by": {"model": "tiny"}, "tokenizer": "b", "counts": {"shards": 1}}
    write_sealed(tmp_path / "own" / "manifest.json", about)
    fields = {
        "generated": {"path": str(tmp_path / "own")},
        "files": {"paths": [str(tmp_path / "a.jsonl")]},
        "hub": {"repo": "owner/name"},
        "mixture": {"parts": [here, texts], "weights": [1, 1]},
        "packaged": {"sets": ["abstracts"]},
        "question_answer": {"paths": [str(tmp_path / "qa")]},
        "chats": {"paths": [str(tmp_path / "chats.jsonl")]},
        "token_ids": {"paths": [str(tmp_path / "ids.jsonl")]},
        "texts": texts,
    }
    return Corpus.from_dict({"name": request.param} | fields.get(request.param, {}))


@pytest.fixture
def offline(corpus) -> Corpus:
    """The corpus, where its text can be had without a network."""
    if corpus.name == "hub":
        pytest.skip("hub: needs the network")
    if corpus.name == "packaged" and not WHEEL.exists():
        pytest.skip(f"packaged: {SAE_PROBES.package} is not in the cache")
    pytest.importorskip("zstandard")
    return corpus


def first(corpus, split):
    return list(itertools.islice(corpus.documents(split), MOST_DOCS))


def test_config_goes_through_json(corpus):
    raw = json.loads(json.dumps(corpus.to_dict()))
    assert Corpus.from_dict(raw) == corpus and type(corpus).from_dict(raw) == corpus
    assert hash(corpus) == hash(Corpus.from_dict(raw))


def test_docstring_has_one_line_and_a_source(corpus):
    doc = inspect.getdoc(type(corpus)) or ""
    about, blank = doc.split("\n")[:2]
    assert about.endswith(".") and not blank and "Source:" in doc and "Args:" in doc


def test_splits_are_in_one_order_disjoint_and_of_the_share_asked_for(offline):
    parts = {}
    for split in SPLITS:
        documents = first(offline, split)
        assert documents == first(offline, split)
        assert all(isinstance(d, Document) and d.text.strip() and d.source for d in documents)
        parts[split] = {d.text for d in documents}
        assert len(parts[split]) == len(documents) > 0
    together = set.union(*parts.values())
    assert len(together) == sum(map(len, parts.values()))
    if max(map(len, parts.values())) < MOST_DOCS:
        for split in ("validation", "test"):
            assert 0.04 < len(parts[split]) / len(together) < 0.16


def test_text_stored_before_there_was_a_validation_split_is_split_as_it_was(corpus):
    raw = corpus.to_dict()
    for part in (raw, *raw.get("parts", ())):
        part.pop("validation_share", None)
    old = Corpus.from_dict(raw)
    assert old.shares == (0.0, 0.1) and old.to_dict() == raw
    assert Corpus.from_dict(json.loads(json.dumps(raw))) == old != corpus
    assert old.with_shares(corpus.shares) == corpus and corpus.with_shares(old.shares) == old


def test_shares_leave_something_to_train_on(corpus):
    with pytest.raises(ConfigError, match="validation_share"):
        corpus.with_shares(Shares(0.5, 0.5))


def test_provenance_is_json_and_stable(offline):
    found = offline.provenance()
    assert found == offline.provenance() == json.loads(json.dumps(found))
    assert "split_rule" in found
