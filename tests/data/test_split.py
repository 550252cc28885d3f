import pytest

from saekit.core.errors import DataError
from saekit.data.base import Document, Shares
from saekit.data.split import Deduper, documents_of, fingerprint, split_of


def documents(texts):
    return [Document(text, "here") for text in texts]


def split(texts, which, share=0.3):
    return [d.text for d in documents_of(which, documents(texts), share)]


def test_every_text_is_in_one_split_and_the_shares_are_about_right():
    texts = [f"text number {i}" for i in range(2000)]
    train, test = split(texts, "train"), split(texts, "test")
    assert sorted(train + test) == sorted(texts)
    assert 500 < len(test) < 700  # 600 expected, standard deviation 20


def test_adding_documents_moves_none_of_the_others():
    before = split([f"a {i}" for i in range(200)], "test")
    after = split([f"b {i}" for i in range(200)] + [f"a {i}" for i in range(200)], "test")
    assert [t for t in after if t.startswith("a")] == before


def test_each_split_is_a_stretch_of_the_hash_from_below():
    """Validation is [0, v), test [v, v + t), and train the rest."""
    texts = [f"text number {i}" for i in range(500)]
    v, t = 0.15, 0.25
    place = {x: fingerprint(x) / 2**64 for x in texts}
    wanted = {
        "validation": [x for x in texts if place[x] < v],
        "test": [x for x in texts if v <= place[x] < v + t],
        "train": [x for x in texts if v + t <= place[x]],
    }
    for which, some in wanted.items():
        low, high = Shares(v, t).region(which)
        assert [d.text for d in documents_of(which, documents(texts), t, v)] == some
        assert all(low <= place[x] < high and split_of(x, t, v) == which for x in some)
    assert split(texts, "validation", t) == []  # none is kept where nobody asks for it
    assert split(texts, "test", v) == wanted["validation"]  # which was test text before


def test_a_larger_test_share_only_adds():
    texts = [f"a {i}" for i in range(300)]
    assert set(split(texts, "test", 0.1)) < set(split(texts, "test", 0.5))
    assert split(texts, "test", 0) == []


def test_copies_that_differ_in_case_spacing_or_unicode_form_count_once():
    texts = ["Café  au\nlait", "cafe\u0301 au lait", "CAFÉ AU LAIT", "tea"]
    found = split(texts, "train", 0)
    assert found == ["Café  au\nlait", "tea"]
    assert fingerprint(texts[0]) == fingerprint(texts[1])
    assert split_of(texts[0], 0.5) == split_of(texts[2], 0.5)


def test_documents_without_text_are_left_out():
    assert split(["", " \n\t", "x"], "train", 0) == ["x"]


def test_deduper_remembers_across_merges():
    seen = Deduper(recent_docs=7)
    texts = [f"text {i}" for i in range(100)]
    assert all(seen.is_new(t) for t in texts)
    assert not any(seen.is_new(t) for t in texts)
    assert len(seen) == 100


def test_deduper_refuses_to_forget():
    seen = Deduper(most_docs=3)
    assert all(seen.is_new(t) for t in "abc")
    assert not seen.is_new("a")
    with pytest.raises(DataError, match="more than 3 distinct documents"):
        seen.is_new("d")
