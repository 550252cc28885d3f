"""Labelled texts: nothing near a test text is in train, and what was used is said."""

import json
import sys
import types

import pytest

from saekit.core.errors import DataError, ResourceError, UnknownNameError
from saekit.core.files import cache_folder
from saekit.core.wheels import SAE_PROBES
from saekit.data.labelled import _published
from saekit.data.labelled._splitting import keep_test, split_by_text, unique
from saekit.data.labelled.base import Example, open_task, registry
from saekit.data.split import normalise

WHEEL = cache_folder() / "wheels" / f"{SAE_PROBES.package}-{SAE_PROBES.version}.whl"


def sentences(n):
    return [Example(f"number {i} has {i * i} in it and {i + 7} too", i % 2) for i in range(n)]


def test_a_passage_with_two_questions_is_on_one_side_alone():
    passage = "the quick brown fox {} jumps over the lazy dog in the yard of the old mill today"
    asked = [
        Example(f"{passage.format(i)} question {q} about it", i % 2)
        for i in range(200)
        for q in range(3)
    ]
    parts = split_by_text(asked, 0.3)
    of_train = {e.text.split(" question")[0] for e in parts.train}
    assert parts.train and not of_train & {e.text.split(" question")[0] for e in parts.test}


def test_texts_that_share_nothing_stay_and_split_by_themselves():
    parts = split_by_text(sentences(400), 0.3)
    assert len(parts.train) + len(parts.test) + parts.left_out["test_near_train"] == 400
    assert 80 < len(parts.test) < 160
    fewer = split_by_text(sentences(200), 0.3)
    assert {e.text for e in fewer.train} <= {e.text for e in parts.train}


def test_copies_go_and_so_does_a_text_with_two_labels():
    given = [Example("A b c d.", 0), Example("a  B c d.", 0), Example("x y", 0), Example("x y", 1)]
    kept, counts = unique([*given, Example("  ", 0)])
    assert [e.text for e in kept] == ["A b c d."]
    assert counts == {"without_text": 1, "copies": 2, "with_two_labels": 1}


def test_a_published_test_part_stays_whole_and_leaves_train():
    parts = keep_test([Example("One two", 0), Example("three", 1)], [Example("one  TWO", 0)])
    assert [e.text for e in parts.test] == ["one  TWO"]
    assert [e.text for e in parts.train] == ["three"]
    assert parts.left_out["train_in_test"] == 1


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_of_ones_own(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    rows = [(e.text, "yes" if e.label else 3) for e in sentences(60)]
    if suffix == ".csv":
        lines = ["text,label", *(f'"{t}",{v}' for t, v in rows)]
    else:
        lines = [json.dumps({"text": t, "label": v}) for t, v in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    found = open_task(str(path)).read()
    assert found.classes == ("3", "yes")
    assert {(e.text, found.classes[e.label]) for e in (*found.train, *found.test)} <= {
        (t, str(v)) for t, v in rows
    }
    assert found.provenance["source"] == "file" and len(found.provenance["sha256"]) == 64


def test_a_file_that_cannot_be_used(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a b c d e", "lable": 1}\n', encoding="utf-8")
    with pytest.raises(DataError, match="Did you mean `lable`"):
        open_task(str(tmp_path / "a.jsonl")).read()
    lines = "".join(f'{{"text": "{e.text}", "label": 1}}\n' for e in sentences(40))
    (tmp_path / "b.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(DataError, match="of 1 classes"):
        open_task(str(tmp_path / "b.jsonl")).read()
    (tmp_path / "c.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(DataError, match=r"\.csv or \.jsonl"):
        open_task(str(tmp_path / "c.txt")).read()
    with pytest.raises(UnknownNameError, match="Did you mean `sst2`"):
        open_task("sst-2")


def fake_hub(monkeypatch, rows, error=None):
    def info(self, repo, timeout):
        if error:
            raise error
        return types.SimpleNamespace(sha="abc123")

    def load_dataset(repo, config, *, split, revision, streaming):
        assert revision == "abc123"
        return rows[split]

    library = types.SimpleNamespace(HfApi=type("HfApi", (), {"dataset_info": info}))
    monkeypatch.setattr(_published, "hub_library", lambda: library)
    datasets = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", datasets)  # pyright: ignore[reportArgumentType]
    _published._read.cache_clear()


def test_the_hub_keeps_its_own_test_part(monkeypatch):
    rows = [{"sentence": e.text, "label": e.label} for e in sentences(50)]
    fake_hub(monkeypatch, {"train": rows, "validation": rows[:10]})
    found = open_task("sst2", "hub").read()
    assert len(found.test) == 10 and len(found.train) == 40
    assert found.provenance["commit"] == "abc123" and not found.provenance["notes"]
    fake_hub(monkeypatch, {"train": [{"sentence": "a b", "label": -1}], "validation": rows})
    with pytest.raises(DataError, match="label -1"):
        open_task("sst2", "hub").read()


def test_without_the_hub_it_says_so_or_stops(monkeypatch):
    fake_hub(monkeypatch, {}, OSError("no network"))
    with pytest.raises(ResourceError, match="source=packaged"):
        open_task("cola", "hub").read()
    monkeypatch.setattr(
        _published,
        "table_rows",
        lambda wheel, table: [{"prompt": e.text, "target": str(e.label)} for e in sentences(50)],
    )
    monkeypatch.setattr(_published, "fetch", lambda wheel: WHEEL)
    found = open_task("cola", "auto").read()
    assert found.provenance["source"] == "packaged"
    assert any("not the hub" in note for note in found.provenance["notes"])
    _published._read.cache_clear()


@pytest.mark.skipif(not WHEEL.exists(), reason="the wheel of labelled texts is not in the cache")
@pytest.mark.parametrize("name", ["sst2", "code_or_prose"])
def test_packaged_tasks_are_whole_and_do_not_leak(name):
    found = open_task(name, "packaged").read()
    assert len(found.train) > 2000 and len(found.test) > 700
    assert {e.label for e in found.test} == set(range(len(found.classes)))
    train = {normalise(e.text) for e in found.train}
    assert not train & {normalise(e.text) for e in found.test}
    again = open_task(name, "packaged").read().first(50, 20)
    assert (len(again.train), len(again.test)) == (50, 20)
    assert again.train == found.train[:50]


@pytest.mark.skipif(not WHEEL.exists(), reason="the wheel of labelled texts is not in the cache")
def test_names_of_news_classes_are_put_right():
    found = open_task("ag_news", "packaged").read()
    business = [e.text for e in found.train if found.classes[e.label] == "Business"]
    science = [e.text for e in found.train if found.classes[e.label] == "Sci/Tech"]
    assert sum("Microsoft" in t for t in science) > 3 * sum("Microsoft" in t for t in business)
    assert sum("profit" in t for t in business) > 3 * sum("profit" in t for t in science)


def test_every_task_documents_itself():
    for name in registry.names():
        assert "Source:" in (registry.get(name).__doc__ or ""), name
