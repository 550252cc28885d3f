"""Small files that unpack to large ones: bounded, with a sentence."""

import resource

import pytest

from saekit.core.errors import SaekitError
from saekit.data import readers, table_files
from saekit.data.readers import read_texts

MEGABYTE = 2**20


def peak_kb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_a_zst_bomb_is_refused(tmp_path, monkeypatch):
    import zstandard

    monkeypatch.setattr(readers, "LEAST_UNPACKED", MEGABYTE)

    path = tmp_path / "a.jsonl.zst"
    packer = zstandard.ZstdCompressor().compressobj()
    block = b"a" * MEGABYTE
    with path.open("wb") as file:
        for _ in range(48):
            file.write(packer.compress(block))
        file.write(packer.flush())
    before = peak_kb()
    with pytest.raises(SaekitError, match=r"a\.jsonl\.zst unpacks to more than 1,000 times"):
        list(read_texts(path, "text", None))
    assert peak_kb() - before < 300_000


def test_a_long_text_in_every_row_of_a_parquet_file_is_read_row_by_row(tmp_path):
    """Seen: 3.1 GB from 600 bytes."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    rows, words = pa.array([0] * 1000, pa.int32()), pa.array(["x" * MEGABYTE])
    texts = pa.DictionaryArray.from_arrays(rows, words)
    for column, name in ((texts, "a"), (texts.slice(0, 64).dictionary_decode(), "b")):
        path = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(pa.table({"text": column}), path, compression="zstd")
        before = peak_kb()
        found = read_texts(path, "text", None)
        assert all(len(next(found)) == MEGABYTE for _ in range(60))
        assert peak_kb() - before < 200_000


def test_a_parquet_bomb_is_refused_by_what_it_claims(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pa.table({"text": ["x" * MEGABYTE, "y" * MEGABYTE]}), path, compression="zstd"
    )
    monkeypatch.setattr(table_files, "LEAST_UNPACKED", MEGABYTE)
    for read in (lambda p: list(read_texts(p, "text", None)), lambda p: list(table_files.rows(p))):
        with pytest.raises(SaekitError, match=r"a\.parquet has .* claims to unpack to 2,097"):
            read(path)


def test_a_text_of_a_parquet_file_is_bounded(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"text": ["a", "b" * 5000]}), path)
    monkeypatch.setattr(readers, "LINE_CHARS", 1000)
    with pytest.raises(SaekitError, match=r"a\.parquet has a text of 5,000 characters; at most"):
        list(read_texts(path, "text", None))


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv", "a.parquet", "a.jsonl.zst"])
def test_a_pipe_for_a_corpus_is_refused_at_once(name, tmp_path):
    import os

    os.mkfifo(tmp_path / name)
    with pytest.raises(SaekitError, match="a pipe"):
        list(read_texts(tmp_path / name, "text", None))


def test_half_a_character_names_file_and_line(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\\ud800"}\n')
    assert list(read_texts(path, "text", None)) == ["a", "\ufffd"]
    assert "a.jsonl, line 2" in capsys.readouterr().err
