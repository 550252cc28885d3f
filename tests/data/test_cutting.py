"""How a text file is cut into documents, and what half a character does."""

import random

import pytest

from saekit.data.base import SPLITS
from saekit.data.corpora.files import Files
from saekit.data.open import open_corpus
from saekit.data.readers import cut_text, read_texts


def chunked(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def sentences(n: int, seed: int = 0) -> str:
    chance = random.Random(seed)
    return "".join(f"Sentence {i} is of {chance.choice('abcdefgh') * 20}.\n" for i in range(n))


def test_short_documents_end_at_the_separator_and_nowhere_else():
    text = "one\ntwo\n\nthree\n\n\n\nfour"
    assert list(cut_text([text], "\n\n", 100)) == text.split("\n\n")
    assert list(cut_text([text], None, 100)) == [text]
    assert list(cut_text([], "\n\n", 100)) == [""]


def test_a_long_document_is_cut_at_line_ends_and_nothing_is_lost():
    text = sentences(400)
    parts = list(cut_text([text], "\n\n", 1600))
    assert "\n".join(parts) == text
    assert all(400 <= len(part) <= 1600 for part in parts[:-1])
    assert all(part.startswith("Sentence") for part in parts if part)


def test_lines_that_are_too_long_are_cut_at_spaces_or_where_it_must_be():
    words = "word " * 500
    parts = list(cut_text([words], None, 200))
    assert "".join(parts) == words and all(len(p) <= 200 for p in parts)
    assert all(p.endswith(" ") for p in parts[:-1])
    solid = "x" * 1001
    assert [len(p) for p in cut_text([solid], None, 200)] == [200] * 5 + [1]


@pytest.mark.parametrize("size", [1, 7, 63, 1000, 10_000])
def test_cuts_depend_on_the_text_alone(size):
    text = sentences(60) + "\n" + "x" * 900 + "\n\n" + "word " * 300 + "\n\nend"
    whole = list(cut_text([text], "\n\n", 400))
    assert list(cut_text(chunked(text, size), "\n\n", 400)) == whole
    assert list(cut_text(chunked(text, size), None, 400)) == list(cut_text([text], None, 400))


def test_reading_a_text_without_blank_lines_takes_time_in_proportion():
    """Counted in characters that are copied: each chunk once, and what is left of the last."""

    class Counting(str):
        copied = 0

        def __add__(self, other):
            Counting.copied += len(self) + len(other)
            return Counting(str.__add__(self, other))

        def __radd__(self, other):
            Counting.copied += len(self) + len(other)
            return Counting(str.__add__(other, self))

        def __getitem__(self, key):
            return Counting(str.__getitem__(self, key))

    for n in (2000, 4000):
        Counting.copied = 0
        text = sentences(n)
        assert sum(map(len, cut_text(map(Counting, chunked(text, 4096)), "\n\n", 2000)))
        assert len(text) <= Counting.copied < 3 * len(text)


def test_a_file_of_a_sentence_a_line_is_many_documents_that_split_stably(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text(sentences(4000))
    corpus = open_corpus(str(path))
    parts = [[d.text for d in corpus.documents(s)] for s in SPLITS]
    texts = sum(parts, [])
    assert all(len(text) <= 16_000 for text in texts) and len(set(texts)) == len(texts)
    assert len(parts[0]) > 20 and all(parts)
    path.write_text(sentences(4000) + sentences(50, seed=1))
    # Text put after moves no document but the one that the file ended in.
    assert set(texts) - {d.text for s in SPLITS for d in corpus.documents(s)} <= {
        max(texts, key=sentences(4000).find)
    }


def test_a_file_that_is_one_document_stays_one_up_to_the_bound(tmp_path):
    (tmp_path / "book.txt").write_text("line\n\nline\n" * 60_000)  # 660,000 characters
    (tmp_path / "long.txt").write_text("a line\n" * 200_000)  # 1,400,000
    found = [d for s in SPLITS for d in Files(paths=(str(tmp_path),)).documents(s)]
    of = {name: [d.text for d in found if d.source.endswith(name)] for name in ("book.txt",)}
    assert len(of["book.txt"]) == 1
    texts = list(read_texts(tmp_path / "long.txt", "text", None))
    assert len(texts) > 1 and "\n".join(texts) == "a line\n" * 200_000
    assert max(map(len, texts)) <= 1_000_000


def test_half_a_character_names_file_and_line_and_the_others_go_on(tmp_path, capsys):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "cut \\ud83d"}\n{"text": "whole \\ud83d\\ude00"}\n')
    assert list(read_texts(path, "text", None)) == ["fine", "cut \ufffd", "whole \U0001f600"]
    said = capsys.readouterr().err
    assert f"{path}, line 2" in said and "U+FFFD" in said and said.count("\n") == 1
    list(read_texts(path, "text", None))
    assert not capsys.readouterr().err  # said once, though a corpus is read many times
