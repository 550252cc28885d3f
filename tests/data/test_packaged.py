import csv
import hashlib
import io
import json
import re
import zipfile

import pytest

from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import cache_folder, read_json
from saekit.core.wheels import SAE_PROBES
from saekit.data.base import SPLITS, Corpus
from saekit.data.corpora import packaged
from saekit.data.corpora.packaged import Packaged

zstandard = pytest.importorskip("zstandard")

WHEEL = cache_folder() / "wheels" / f"{SAE_PROBES.package}-{SAE_PROBES.version}.whl"


def story(i, n=60):
    """Return a text of which no run of words is in another."""
    return " ".join(f"Word{i}x{j}" for j in range(n)) + "."


def tables():
    question = "\nWho?\nA. one B. two C. three D. four"
    copied = story(2, 30) + " " + story(901, 30)  # half of it is in story 2
    quoting = [story(i + 500, 100) for i in range(40)]
    return {
        "45_context_ans": [story(1) + question, story(1) + "\nWhen?\nA. x B. y C. z D. w"],
        "100_news_fake": [story(2), story(2).upper(), copied, "short", *quoting],
        "111_yelp_data": [story(3) + '\\n\\nAnd \\"more\\".'],
        "157_amazon_5star": [f"Title: Fine\nReview: {story(4)}<br /><br />Bought &amp; kept"],
        "159_code_Python": ["left of a line\nimport os\n" + story(5), "no\n" + story(6)],
    }


@pytest.fixture
def wheel(cache, tmp_path, monkeypatch):
    """A wheel with tables of our own in place of the pinned one; counts how often it is got."""
    path, got = tmp_path / "fake.whl", []
    with zipfile.ZipFile(path, "w") as archive:
        for name, prompts in tables().items():
            text = io.StringIO(newline="")
            rows = [(p, int(i == 0)) for i, p in enumerate(prompts)]
            csv.writer(text).writerows([("prompt", "target"), *rows])
            data = zstandard.compress(text.getvalue().encode())
            archive.writestr(f"sae_probes/data/cleaned_data/{name}.csv.zst", data)
    monkeypatch.setattr(packaged, "fetch", lambda wheel: got.append(wheel) or path)
    return got


def texts(*sets, split="train", share=0.0, validation=0.0):
    corpus = Packaged(sets=sets, test_share=share, validation_share=validation)
    return [d.text for d in corpus.documents(split)]


def test_each_set_is_cleaned(wheel):
    assert texts("passages") == [story(1)]  # two questions on one passage
    assert texts("yelp") == [story(3) + '\n\nAnd "more".']
    assert texts("amazon") == [f"Fine\n{story(4)}\n\nBought & kept"]
    assert texts("python") == ["import os\n" + story(5)]  # whole lines, class 1 only


def test_copies_and_short_texts_are_left_out_and_counted(wheel):
    found = texts("news")
    # Of story 2 and the text that begins like it, one is left, whichever comes first.
    assert len(found) == 41 and sum("Word2x29" in t for t in found) == 1
    whole = Packaged(sets=("news",), test_share=0.0, validation_share=0.0)
    left_out = whole.provenance()["left_out_docs"]
    assert left_out["same_beginning"] == 2 and left_out["short"] == 1


def test_a_test_document_with_train_text_in_it_is_left_out(wheel, monkeypatch):
    texts_in = [f"{story(i, 80)} {story(10_000, 14)}" for i in range(60)]  # 7 of 87 runs shared
    more = [f"{story(i, 80)} {story(20_000, 20)}" for i in range(100, 160)]  # 13 of 93
    monkeypatch.setattr(packaged, "read_set", lambda wheel, name: iter(texts_in + more))
    test = texts("news", split="test", share=0.5)
    assert any("Word10000x" in t for t in test)
    assert not any("Word20000x" in t for t in test)
    assert sum("Word20000x" in t for t in texts("news", share=0.5)) > 10
    shares = {"share": 0.3, "validation": 0.2}
    for split in ("validation", "test"):
        kept = texts("news", split=split, **shares)
        assert any("Word10000x" in t for t in kept) and not any("Word20000x" in t for t in kept)


def test_text_is_made_as_it_was_where_none_is_kept_for_validation(wheel):
    """The files of an earlier version are found, and no byte of them is another."""
    raw = {"name": "packaged", "sets": ["news"], "test_share": 0.4, "seed": 0}
    old = Corpus.from_dict(raw)
    key = hashlib.sha256()
    for part in (json.dumps(raw), SAE_PROBES.sha256, "1"):
        key.update(len(part).to_bytes(8, "big") + part.encode())
    manifest = old.provenance()
    assert old.folder.name == f"packaged-{key.hexdigest()[:16]}"
    assert {p.name for p in old.folder.iterdir()} == {"manifest.json", "train.jsonl", "test.jsonl"}
    assert manifest["split_rule"] == (
        "sha256 of NFC, case-folded, whitespace-collapsed text; first 64 bits below share are "
        "test; test documents with over 10% of their 8-word runs in train left out"
    )
    assert list(manifest["left_out_docs"])[-2:] == ["copies", "test_like_train"]
    assert set(manifest["splits"]) == {"train", "test"} and not list(old.documents("validation"))
    both = {d.text for s in ("train", "test") for d in old.documents(s)}
    new = Packaged(sets=("news",), test_share=0.2, validation_share=0.2)
    assert {d.text for s in SPLITS for d in new.documents(s)} == both  # nothing is near train here
    assert list(new.documents("train")) == list(old.documents("train"))
    assert new.folder != old.folder and "validation_like_train" in new.provenance()["left_out_docs"]


def test_order_is_fixed_by_the_seed_and_mixes_the_sets(wheel):
    sets = ("news", "amazon", "yelp", "python")
    one, other = (list(Packaged(sets=sets, seed=s).documents("train")) for s in (0, 1))
    assert one != other and sorted(one) == sorted(other)
    assert one == list(Packaged(sets=sets).documents("train"))


def test_made_once_then_read(wheel):
    corpus = Packaged(sets=("news",))
    first = list(corpus.documents("train")), list(corpus.documents("test"))
    packaged._whole.cache_clear()
    assert (list(corpus.documents("train")), list(corpus.documents("test"))) == first
    assert len(wheel) == 1
    manifest = read_json(corpus.folder / "manifest.json")
    assert manifest == corpus.provenance()
    assert manifest["splits"]["train"]["n_docs"] == len(first[0])
    assert manifest["wheel"]["sha256"] == SAE_PROBES.sha256


@pytest.mark.parametrize("damaged", ["train.jsonl", "manifest.json", None])
def test_damaged_or_half_made_files_are_made_again(wheel, damaged):
    corpus = Packaged(sets=("news",))
    first = list(corpus.documents("train"))
    if damaged:
        (corpus.folder / damaged).write_text("{")
    else:
        (corpus.folder / "test.jsonl").unlink()
    packaged._whole.cache_clear()
    assert list(corpus.documents("train")) == first and len(wheel) == 2


def test_a_wheel_without_the_table(wheel):
    with pytest.raises(FormatError, match="no table 158_code_C"):
        texts("c")


@pytest.mark.parametrize("sets", [(), ("news", "news"), ("newz",)])
def test_sets_that_cannot_be(sets):
    with pytest.raises(ConfigError, match="sets|Did you mean `news`"):
        Packaged(sets=sets)


@pytest.mark.slow
@pytest.mark.skipif(not WHEEL.exists(), reason=f"{SAE_PROBES.package} is not in the cache")
def test_no_held_out_document_shares_more_than_a_tenth_with_train():
    """Counted again with sets of words, not by the code that made the splits."""

    def grams(text):
        words = re.findall(r"\w+", text.lower())
        return [tuple(words[i : i + 8]) for i in range(len(words) - 7)]

    corpus = Packaged()
    train: set[int] = set()
    n_chars = 0
    for document in corpus.documents("train"):
        train.update(map(hash, grams(document.text)))
        n_chars += len(document.text)
    for split in ("validation", "test"):
        n_docs = 0
        for document in corpus.documents(split):
            own = grams(document.text)
            shared = sum(hash(gram) in train for gram in own)
            assert shared <= 0.1 * len(own), document.text[:200]
            n_docs += 1
        assert n_docs > 1000
    assert n_chars > 10_000_000
    json.dumps(corpus.provenance())
