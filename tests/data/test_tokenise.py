from dataclasses import dataclass

import pytest
import torch

from saekit.core.errors import ConfigError, DataError
from saekit.data import token_cache
from saekit.data.base import Corpus, Document
from saekit.data.tokenise import TokenStream

BOS, EOS = 1, 2


@dataclass(frozen=True, kw_only=True)
class Fixed(Corpus):
    """Documents given in the configuration, all of them train."""

    name = "fixed"
    texts: tuple[str, ...]

    def documents(self, split):
        return iter([Document(t, "here") for t in self.texts] if split == "train" else [])

    def provenance(self):
        return {"version": 1}


class Letters:
    """One token a character; a space is none. Counts the texts it was given."""

    def __init__(self, bos_id: int | None = BOS, eos_id: int | None = EOS, digest: str = "letters"):
        self.bos_id, self.eos_id, self.digest = bos_id, eos_id, digest
        self.n_texts = 0

    def encode(self, texts):
        self.n_texts += len(texts)
        return [[ord(c) for c in text if c != " "] for text in texts]


@pytest.fixture(autouse=True)
def own_cache(cache):
    return cache


def stream(texts, n_ctx=4, tokenizer=None, **settings):
    corpus = Fixed(texts=tuple(texts))
    return TokenStream(corpus, "train", tokenizer or Letters(), n_ctx, **settings)


def shown(rows):
    """Return rows as text: ^ is BOS, | is EOS."""
    names = {BOS: "^", EOS: "|"}
    lines = rows.tokens.tolist()
    return ["".join(names.get(t) or chr(t) for t in line) for line in lines]


def all_rows(made, batch_rows=3, **where):
    parts = list(made.rows(batch_rows, **where))
    if not parts:
        return [], []
    tokens = [line for part in parts for line in shown(part)]
    return tokens, torch.cat([p.doc_ids for p in parts]).tolist()


def test_packing_with_both_special_tokens():
    tokens, docs = all_rows(stream(["abcd", "ef", "ghij"]))
    assert tokens == ["^abc", "^d|e", "^f|g", "^hij"]
    assert docs == [[0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 2], [2, 2, 2, 2]]


def test_a_row_that_begins_with_a_separator_begins_in_the_document_it_ends():
    tokens, docs = all_rows(stream(["abc", "defgh"]))
    assert tokens == ["^abc", "^|de", "^fgh"]
    assert docs[1] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("tokenizer", "settings", "tokens"),
    [
        (Letters(), {"bos_each_row": False}, ["abcd", "|ef|"]),
        (Letters(), {"bos_each_row": False, "separator": "none"}, ["abcd", "efgh"]),
        (Letters(), {"separator": "none"}, ["^abc", "^def", "^ghi"]),
        (Letters(bos_id=None), {}, ["abcd", "|ef|"]),
        (Letters(eos_id=None), {}, ["^abc", "^def", "^ghi"]),
        (Letters(bos_id=None, eos_id=None), {}, ["abcd", "efgh"]),
    ],
)
def test_special_tokens_by_policy_and_by_tokenizer(tokenizer, settings, tokens):
    got, _ = all_rows(stream(["abcd", "ef", "ghi"], tokenizer=tokenizer, **settings))
    assert got == tokens


def test_a_token_id_of_zero_is_an_id():
    made = stream(["abc", "de"], tokenizer=Letters(bos_id=0, eos_id=0))
    rows = next(made.rows(2))
    assert rows.tokens[:, 0].tolist() == [0, 0] and int((rows.tokens == 0).sum()) == 3


def test_rows_are_int64_with_their_place():
    parts = list(stream(["a" * 100], n_ctx=5).rows(7, first_row=2))
    assert [p.first_row for p in parts] == [2, 9, 16, 23]
    assert [len(p.tokens) for p in parts] == [7, 7, 7, 2]
    assert parts[0].tokens.dtype == parts[0].doc_ids.dtype == torch.int64


TEXTS = ["".join(chr(97 + (i * j) % 26) for j in range(i % 11)) for i in range(60)]


@pytest.mark.parametrize("shard_tokens", [1, 10, 1000])
@pytest.mark.parametrize("batch_rows", [1, 2, 5, 1000])
def test_any_batching_and_any_beginning_give_the_same_rows(monkeypatch, shard_tokens, batch_rows):
    whole = all_rows(stream(TEXTS, cache=False), 1000)  # one shard, nothing kept
    assert len(whole[0]) > 50
    monkeypatch.setattr(token_cache, "SHARD_TOKENS", shard_tokens)
    for _ in ("made", "read"):
        made = stream(TEXTS)
        for first_row in (0, 1, 17, len(whole[0]) - 1, len(whole[0])):
            tokens, docs = all_rows(made, batch_rows, first_row=first_row)
            assert (tokens, docs) == (whole[0][first_row:], whole[1][first_row:])
            few = all_rows(made, batch_rows, first_row=first_row, n_rows=3)
            assert few == (whole[0][first_row : first_row + 3], whole[1][first_row : first_row + 3])


def test_rows_agree_with_the_definition():
    run = [(t, i) for i, text in enumerate(TEXTS) if text for t in [*map(ord, text), EOS]][:-1]
    tokens = [list(t) for t, _ in [zip(*run[i : i + 3], strict=True) for i in range(0, 297, 3)]]
    parts = list(stream(TEXTS).rows(4))
    got = torch.cat([p.tokens for p in parts])[:, 1:].tolist()
    assert got[:99] == tokens and len(got) == len(run) // 3


def test_n_rows_of_zero_is_no_rows():
    assert list(stream(["abc"]).rows(2, n_rows=0)) == []


def test_empty_documents_are_skipped_and_counted_and_keep_their_index():
    made = stream(["", "abcd", "  ", "", "ef"], n_ctx=3, bos_each_row=False)
    tokens, docs = all_rows(made)
    assert tokens == ["abc", "d|e"] and docs == [[1, 1, 1], [1, 1, 4]]
    seen = made.provenance()["seen"]
    assert seen == {"n_docs": 5, "n_empty_docs": 3, "n_text_tokens": 6, "complete": True}


def test_a_text_shorter_than_a_row_is_refused_with_numbers():
    with pytest.raises(DataError, match=r"train split of `fixed` has 5 tokens.*of 9 need 9"):
        list(stream(["ab", "cd"], n_ctx=10).rows(2))
    with pytest.raises(DataError, match="has 0 tokens"):
        list(stream(["", " "]).rows(2))
    empty = TokenStream(Fixed(texts=("abcdef",)), "test", Letters(), 3)
    with pytest.raises(DataError, match="The test split of `fixed` has 0 tokens"):
        list(empty.rows(2))


def test_need_and_count():
    made = stream(["abcd", "ef", "ghij"])  # 12 tokens, 3 a row
    assert made.count() == 4 and made.count(at_most=2) == 2
    made.need(4)
    with pytest.raises(DataError, match="12 tokens, with separators; 5 rows of 3 need 15"):
        made.need(5)


@pytest.mark.parametrize("settings", [{"n_ctx": 1}, {"n_ctx": 0, "bos_each_row": False}])
def test_rows_need_a_place_for_text(settings):
    with pytest.raises(ConfigError, match="`n_ctx` must be at least"):
        stream(["abc"], **settings)


@pytest.mark.parametrize("asked", [(0, 0, None), (1, -1, None), (1, 0, -1)])
def test_impossible_requests(asked):
    with pytest.raises(ConfigError, match="batch_rows >= 1"):
        stream(["abc"]).rows(*asked)


def test_a_second_use_tokenises_nothing(own_cache):
    first, second = Letters(), Letters()
    whole = all_rows(stream(TEXTS, tokenizer=first))
    assert all_rows(stream(TEXTS, tokenizer=second)) == whole
    assert (first.n_texts, second.n_texts) == (60, 0)
    # Width and special ids are chosen when reading: the same ids serve.
    all_rows(stream(TEXTS, n_ctx=7, separator="none", tokenizer=second))
    assert second.n_texts == 0 and len(list((own_cache / "tokens").iterdir())) == 1


def test_a_part_that_was_read_is_kept(monkeypatch):
    monkeypatch.setattr(token_cache, "SHARD_TOKENS", 10)
    monkeypatch.setattr(token_cache, "_BATCH_DOCS", 1)
    first, second = Letters(), Letters()
    part = stream(TEXTS, tokenizer=first)
    next(part.rows(20))
    assert 0 < first.n_texts < 40
    whole = all_rows(stream(TEXTS, tokenizer=second))
    # Every document was tokenised by one of them; at most a shard in making by both.
    assert 60 <= first.n_texts + second.n_texts <= 64
    assert whole == all_rows(stream(TEXTS, cache=False))


def test_another_text_split_or_tokenizer_reads_nothing_of_it():
    made = [
        stream(TEXTS),
        stream(TEXTS[1:]),
        TokenStream(Fixed(texts=tuple(TEXTS)), "test", Letters(), 4),
        stream(TEXTS, tokenizer=Letters(digest="other")),
    ]
    assert len({m._cache.folder for m in made}) == 4
    assert len({m.digest for m in [*made, stream(TEXTS, n_ctx=5)]}) == 5
    assert stream(TEXTS).digest == made[0].digest


@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_a_damaged_shard_is_made_again(own_cache, damage, monkeypatch):
    monkeypatch.setattr(token_cache, "SHARD_TOKENS", 50)
    whole = all_rows(stream(TEXTS))
    shards = sorted((own_cache / "tokens").rglob("*.safetensors"))
    assert len(shards) > 3
    data = shards[1].read_bytes()
    shards[1].write_bytes(data[:-7] if damage == "cut" else b"nonsense")
    assert all_rows(stream(TEXTS)) == whole
    assert shards[1].read_bytes() == data


def test_past_the_limit_nothing_is_kept_and_rows_are_the_same(own_cache, monkeypatch):
    monkeypatch.setattr(token_cache, "SHARD_TOKENS", 50)
    whole = all_rows(stream(TEXTS, cache=False))
    assert not (own_cache / "tokens").exists()
    limited = stream(TEXTS)
    limited._cache.most_bytes = 500
    for _ in range(2):
        assert all_rows(limited) == whole
    # Its folder, and two shards with a checksum each.
    assert len(list((own_cache / "tokens").rglob("*"))) == 5


def test_unicode_passes_through():
    texts = ["äö🙂", "第二"]
    assert all_rows(stream(texts, n_ctx=3, bos_each_row=False))[0] == ["äö🙂", "|第二"]


def test_provenance_names_text_tokenizer_and_packing():
    found = stream(["abcd"]).provenance()
    assert found["corpus"]["name"] == "fixed" and found["text"] == {"version": 1}
    assert (found["tokenizer"], found["n_ctx"], found["bos_id"], found["separator_id"]) == (
        "letters",
        4,
        BOS,
        EOS,
    )
    assert found["seen"]["n_docs"] == 0 and not found["seen"]["complete"]
