import csv
import json

import pytest

from saekit.core.errors import ConfigError, DataError, SaekitError
from saekit.data.base import SPLITS, Corpus
from saekit.data.corpora.files import Files

TEXTS = ["first text", "zweiter Text: äöü €", "третий\nв две строки", '四 🙂, "quoted"']


def read(*paths, split="train", **settings):
    settings = {"test_share": 0.0, "validation_share": 0.0} | settings
    return [d.text for d in Files(paths=tuple(map(str, paths)), **settings).documents(split)]


def write(path, kind, texts=TEXTS, column="text"):
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"n": 1, column: t}) + "\n" for t in texts), "utf-8")
    elif kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["n", column], *([1, t] for t in texts)])
    elif kind == "parquet":
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"n": [1] * len(texts), column: texts}), path)
    else:
        path.write_text("\n---\n".join(texts), "utf-8")
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "json-lines", "csv", "parquet"])
def test_formats_with_a_column(tmp_path, suffix):
    kind = suffix if suffix in ("csv", "parquet") else "jsonl"
    path = write(tmp_path / f"a.{suffix}", kind, column="body")
    assert read(path, text_column="body") == TEXTS


@pytest.mark.parametrize("suffix", ["txt", "md", "py"])
def test_text_is_one_document_or_many(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", "text")
    assert read(path) == ["\n---\n".join(TEXTS)]
    assert read(path, separator="\n---\n") == TEXTS


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_compressed_is_as_plain(tmp_path, name):
    zstandard = pytest.importorskip("zstandard")
    plain = write(tmp_path / name, name.partition(".")[2])
    packed = tmp_path / f"{name}.zst"
    packed.write_bytes(zstandard.compress(plain.read_bytes()))
    settings = {"separator": "\n---\n"} if name == "a.txt" else {}
    assert read(packed, **settings) == read(plain, **settings) == TEXTS
    frames = zstandard.compress(plain.read_bytes()) + zstandard.compress(plain.read_bytes())
    packed.write_bytes(frames)
    assert len(read(packed, **settings)) >= len(TEXTS)
    packed.write_bytes(frames[:-9])
    with pytest.raises(DataError, match=f"{name}.zst is cut short"):
        read(packed, **settings)
    packed.write_bytes(frames + b"no frame begins so")
    with pytest.raises(DataError, match=f"{name}.zst is damaged"):
        read(packed, **settings)


def test_pieces_are_joined_to_a_length(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("aa\n\nbb\n\ncc\n\ndd\n\ne")
    assert read(path, separator="\n\n", join_chars=4) == ["aa\n\nbb", "cc\n\ndd", "e"]


def test_line_ends_and_byte_order_mark_do_not_matter(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\r\ntwo".encode())
    assert read(path, separator="\n\n") == ["one", "two"]


def test_characters_and_line_ends_across_chunks(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes("é🙂\r\n\r\n".encode() * 20 + b"end")
    monkeypatch.setattr("saekit.data.readers._BLOCK_BYTES", 3)
    assert read(path) == ["é🙂\n\n" * 20 + "end"]


def test_folder_order_is_of_names_alone(tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.txt").write_text(f"text {i}")
    (tmp_path / ".hidden.txt").write_text("hidden")
    (tmp_path / "photo.png").write_bytes(b"\0")
    before = read(tmp_path)
    assert sorted(before) == sorted(f"text {i}" for i in range(30))
    assert before != sorted(before)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "more.md").write_text("more")
    assert [t for t in read(tmp_path) if t != "more"] == before
    assert sorted(read(tmp_path / "*.txt")) == sorted(before)
    assert sorted(read(tmp_path / "**" / "*.md")) == ["more"]


def test_several_paths_keep_their_order_and_count_once(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    assert read(tmp_path / "b.txt", tmp_path / "a.txt", tmp_path) == ["b", "a"]


def test_splits_share_nothing(tmp_path):
    path = write(tmp_path / "a.jsonl", "jsonl", [f"text {i}" for i in range(100)] * 2)
    shares = {"test_share": 0.3, "validation_share": 0.2}
    parts = [read(path, split=s, **shares) for s in SPLITS]
    assert sorted(sum(parts, [])) == sorted(f"text {i}" for i in range(100)) and all(parts)


def test_null_text_is_no_document(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": null}\n\n{"text": "x"}\n')
    assert read(path) == ["x"]


def test_provenance_follows_the_bytes(tmp_path):
    path = write(tmp_path / "a.jsonl", "jsonl")
    corpus = Files(paths=(str(path),))
    before = corpus.provenance()
    assert corpus.provenance() == before
    write(path, "jsonl", [*TEXTS, "more"])
    assert corpus.provenance()["sha256"] != before["sha256"]


BAD = {
    "a.jsonl": (b'{"text": "a"}\n{oops\n', "line 2 is not JSON"),
    "b.jsonl": (b'{"body": "a"}\n', "no column `text`; it has body"),
    "c.jsonl": (b'{"text": 5}\n', "must hold text; got int"),
    "d.jsonl": (b"[1]\n", "must be an object"),
    "e.csv": (b"n,texts\n1,a\n", "no column `text`; it has n, texts.* Did you mean `texts`"),
    "f.parquet": (b"not parquet at all", "not Parquet"),
    "g.txt": (b"text\0more", "a NUL byte at byte 4"),
    "h.txt": (b"good \xff bad", "invalid UTF-8 at byte 5"),
    "i.txt": (b"cut \xe2\x82", "invalid UTF-8 at byte 4"),
    "j.txt": (b" \n ", "every document is empty"),
    "k.jsonl": (b"", "every document is empty"),
    "l.docx": (b"x", "suffix must be one of"),
    "m.parquet.zst": (b"x", "suffix must be one of"),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_files_say_why(tmp_path, name):
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    data, message = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SaekitError, match=f"(?s){message}"):
        read(tmp_path / name)


def test_offset_counts_from_the_beginning_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("saekit.data.readers._BLOCK_BYTES", 4)
    (tmp_path / "a.txt").write_bytes("ab€€".encode() + b"\xe2(more text")
    with pytest.raises(DataError, match="byte 8"):
        read(tmp_path / "a.txt")


def test_missing_column_of_parquet_names_the_columns(tmp_path):
    path = write(tmp_path / "a.parquet", "parquet", column="body")
    with pytest.raises(DataError, match="no column `text`; it has n, body"):
        read(path)


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "stories.txt").write_text("x")
    with pytest.raises(DataError, match="Did you mean `stories.txt`"):
        read(tmp_path / "storys.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file to read"):
        read(tmp_path / "empty")


@pytest.mark.parametrize(
    "settings",
    [{"paths": ()}, {"separator": ""}, {"join_chars": 5}, {"join_chars": -1}, {"test_share": 1.0}],
)
def test_settings_that_cannot_be(settings):
    with pytest.raises(ConfigError):
        Files(**({"paths": ("a.txt",)} | settings))


def test_config_reads_back():
    corpus = Files(paths=("a.txt", "b"), separator="\n\n", join_chars=9)
    assert Corpus.from_dict(json.loads(json.dumps(corpus.to_dict()))) == corpus
