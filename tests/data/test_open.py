import pytest

from saekit.core.errors import DataError, UnknownNameError
from saekit.data.base import SPLITS
from saekit.data.corpora.files import Files
from saekit.data.corpora.hub import Hub
from saekit.data.corpora.packaged import Packaged
from saekit.data.corpora.stdlib import Stdlib
from saekit.data.open import as_corpus, open_corpus


def test_names():
    assert open_corpus("packaged") == Packaged()
    assert open_corpus("stdlib") == Stdlib()


def test_hub_names_and_revisions():
    assert open_corpus("owner/some-name") == Hub(repo="owner/some-name")
    assert open_corpus("owner/n.a_me@refs/pr/1") == Hub(repo="owner/n.a_me", revision="refs/pr/1")


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jsonl").write_text('{"text": "x"}\n')
    for text in ("d", "d/a.jsonl", "d/*.jsonl", str(tmp_path / "d")):
        assert open_corpus(text) == Files(paths=(str(tmp_path / text),))


def test_what_a_text_is_called_in_a_line(tmp_path):
    (tmp_path / "notes.jsonl").write_text('{"text": "x"}\n')
    assert open_corpus("packaged").label == "packaged"
    assert open_corpus("owner/some-name").label == "owner/some-name"
    assert open_corpus(f"0.7*packaged + 0.3*{tmp_path}/notes.jsonl").label == (
        "packaged + notes.jsonl"
    )
    many = Files(paths=tuple(f"/data/{name}.txt" for name in "abcde"))
    assert many.label == "a.txt, b.txt, c.txt and 2 more"
    assert as_corpus(["one", "two"]).label == "a list of 2 texts"


def test_one_text_file_is_divided_so_that_it_has_every_split(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"paragraph {i} " + "word " * 200 for i in range(400)))
    corpus = open_corpus(str(path))
    sizes = [sum(1 for _ in corpus.documents(s)) for s in SPLITS]
    assert sum(sizes) == 100 and min(sizes) >= 2


@pytest.mark.parametrize("text", ["./nothing", "/no/such/place", "data/file.jsonl", "x/*.txt"])
def test_a_path_with_nothing_there(text):
    with pytest.raises(DataError, match="There is no file"):
        open_corpus(text)


def test_unknown_name():
    with pytest.raises(UnknownNameError, match="Did you mean `packaged`"):
        open_corpus("pakaged")
