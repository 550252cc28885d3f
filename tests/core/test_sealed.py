"""A flipped bit in what is kept between runs is noticed, wherever it is."""

import contextlib
import json

import pytest
import torch

from saekit.core.errors import FormatError
from saekit.core.sealed import read_sealed, write_sealed


def flipped(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << (at % 7)
    path.write_bytes(bytes(data))


def test_a_record_comes_back_as_it_was(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"abc")
    value = {"b": [1, 2.5, None, {"z": 1e-300, "a": True}], "a": "é", "n": float("nan")}
    write_sealed(tmp_path / "r.json", value, [tmp_path / "a.bin"])
    assert read_sealed(tmp_path / "r.json") == value | {"n": None}


def test_every_flipped_bit_is_noticed(tmp_path):
    path, other = tmp_path / "r.json", tmp_path / "a.bin"
    other.write_bytes(b"abc")
    write_sealed(path, {"tokens": 123456, "name": "x"}, [other])
    whole = path.read_bytes()
    for at in range(len(whole)):
        flipped(path, at)
        with contextlib.suppress(FormatError):  # or white space changed, which says the same
            assert read_sealed(path) == {"tokens": 123456, "name": "x"}, at
        path.write_bytes(whole)
    flipped(other, 1)
    with pytest.raises(FormatError, match="a.bin is missing or damaged"):
        read_sealed(path)


def test_records_of_earlier_versions_are_taken_only_where_that_is_said(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"a": 1}))
    with pytest.raises(FormatError, match="no checksum"):
        read_sealed(path)
    assert read_sealed(path, unsealed=True) == {"a": 1}


def test_a_damaged_token_cache_is_made_again(tmp_path, monkeypatch):
    from saekit.data.corpora.files import Files
    from saekit.data.token_cache import TokenCache
    from saekit.models.tiny import tiny
    from tests import world

    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "cache"))
    corpus = Files(paths=(str(world.text_file(tmp_path)),))
    tokenizer = tiny().tokenizer
    right = [s.tokens.tolist() for s in TokenCache(corpus, "train", tokenizer).shards()]
    files = sorted(TokenCache(corpus, "train", tokenizer).folder.iterdir())
    assert len(files) == 3  # a shard, its checksum, and the end
    for file in files:
        for at in (9, file.stat().st_size // 2, file.stat().st_size - 3):
            flipped(file, at)
            found = [s.tokens.tolist() for s in TokenCache(corpus, "train", tokenizer).shards()]
            assert found == right, (file.name, at)


def test_a_damaged_index_is_refused(tmp_path):
    from saekit.activations.latents import LatentStore, LatentStoreWriter
    from saekit.core.codes import Codes
    from saekit.data.tokenise import Rows

    tokens = torch.arange(400).view(50, 8)
    writer = LatentStoreWriter(tmp_path, n_ctx=8, d_sae=6, meta={"a": 1}, shard_tokens=200)
    at = torch.arange(400)
    acts = torch.rand(400, 6, generator=torch.Generator().manual_seed(0)).relu()
    writer.add(Rows(tokens, torch.zeros_like(tokens), 0), at // 8, at % 8, Codes.from_dense(acts))
    writer.close()

    def read():
        store = LatentStore.open(tmp_path)
        return [shard.by_latent().values for shard in store.shards()], store.counts, store.meta

    read()
    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            flipped(file, int(share * len(whole)))
            if file.suffix == ".json" and file.read_bytes().split() == whole.split():
                continue
            with pytest.raises(FormatError):
                read()
            file.write_bytes(whole)
