"""Text of the user's own that is no file of text: lists, chats, token ids."""

import json

import numpy as np
import pytest

import saekit
from saekit.core.errors import ConfigError, DataError
from saekit.data.base import SPLITS, Corpus, Document
from saekit.data.corpora.chats import Chats
from saekit.data.corpora.files import Files
from saekit.data.corpora.generated import Generated
from saekit.data.corpora.mixture import Mixture
from saekit.data.corpora.texts import Texts, _held
from saekit.data.corpora.token_ids import TokenIds
from saekit.data.open import as_corpus, open_corpus
from saekit.data.tokenise import TokenStream
from saekit.models.tokenizer import HFTokenizer, SpecialIds, byte_alphabet, byte_level_bpe
from tests import world

SHORT = {"tokens": 600, "n_ctx": 32, "lr": 1e-2, "shown": False}
KIND = saekit.TopK(k=4, d_sae=64)
BOS, END = "<s>", "</s>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'robot' %}{{ raise_exception('no robots') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)


def texts(n=120):
    return [f"text {i} is about {'cats and dogs and hats ' * 8}" for i in range(n)]


def tokenizer(template=TEMPLATE):
    from transformers import PreTrainedTokenizerFast

    backend = byte_level_bpe([BOS, END, *sorted(byte_alphabet())], [], [BOS, END])
    chats = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, eos_token=END)
    chats.chat_template = template
    return HFTokenizer(backend, SpecialIds(0, 1), chats=chats if template else None)


def chat(i):
    return [
        {"role": "user", "content": f"How many are {i} cats?"},
        {"role": "assistant", "content": f"They are {i}."},
    ]


def rows_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# Lists of texts


def test_a_list_of_texts_is_a_corpus_that_settings_hold_the_digest_of():
    corpus = as_corpus(texts())
    assert isinstance(corpus, Texts) and corpus.n_texts == 120
    again = Corpus.from_dict(json.loads(json.dumps(corpus.to_dict())))
    both = [d.text for split in SPLITS for d in again.documents(split)]
    assert sorted(both) == sorted(texts())
    assert as_corpus(texts()[1:]).sha256 != corpus.sha256
    assert len(json.dumps(corpus.to_dict())) < 200


def test_it_trains_measures_and_indexes(tmp_path):
    lm = world.model()
    sae = saekit.train(
        lm, site="L1.resid_post", sae=KIND, corpus=texts(), out=tmp_path / "a", **SHORT
    )
    said = sae.card.corpus["text"]
    assert (said["n_texts"], len(said["sha256"])) == (120, 64)
    result = saekit.evaluate(sae, lm, corpus=texts(), n_tokens=300, ce_tokens=0, shown=False)
    assert 0 < result.scores["fvu"].value < 2
    assert len(saekit.index(sae, lm, corpus=texts(), tokens=300, shown=False).latents) == 64


def test_what_was_given_in_another_process_is_asked_for_again(tmp_path, monkeypatch):
    lm = world.model()
    sae = saekit.train(
        lm, site="L1.resid_post", sae=KIND, corpus=texts(), out=tmp_path / "a", **SHORT
    )
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "cache"))  # which has its token ids
    monkeypatch.delitem(_held, sae.card.run["corpus"]["sha256"])
    with pytest.raises(DataError, match=r"Give the same list again: corpus=\[...\]"):
        saekit.evaluate(sae, lm, n_tokens=300, ce_tokens=0, shown=False)


@pytest.mark.parametrize(
    ("given", "said"),
    [([], "empty"), (["a", 3], r"got 3 \(int\) at place 1"), ([[1, 2]], "list"), ([" "], "empty")],
)
def test_a_list_of_anything_else_is_refused(given, said):
    with pytest.raises(DataError, match=said):
        as_corpus(given)


# Chats


def test_chats_go_through_the_template_of_the_tokenizer(tmp_path):
    path = rows_of(tmp_path / "chats.jsonl", [{"messages": chat(i)} for i in range(60)])
    corpus, words = open_corpus(str(path)), tokenizer()
    assert corpus == Chats(paths=(str(path),))
    stream = TokenStream(corpus, "train", words, n_ctx=16, bos_each_row=False)
    rows = next(stream.rows(40))
    text = words.decode(rows.tokens.flatten().tolist())
    first = next(corpus.documents("train"))
    number = json.loads(first.text)[1]["content"]
    assert text.startswith(f"[user]How many are {number[9:-1]} cats?[assistant]{number}{END}[user]")
    assert BOS not in text  # rows have their own
    assert stream.provenance()["chat_template"]
    other = TokenStream(corpus, "train", tokenizer(TEMPLATE + "!"), n_ctx=16)
    assert other.digest != TokenStream(corpus, "train", words, n_ctx=16).digest


def test_so_do_those_of_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path = tmp_path / "chats.parquet"
    table = arrow.table({"id": [0, 1], "messages": [chat(0), chat(1)]})
    pyarrow.parquet.write_table(table, path)
    found = [d for split in SPLITS for d in open_corpus(str(path)).documents(split)]
    assert sorted(json.loads(d.text) == chat(0) for d in found) == [False, True]


def test_a_mixture_holds_documents_of_every_kind(tmp_path):
    chats = rows_of(tmp_path / "chats.jsonl", [{"messages": chat(i)} for i in range(40)])
    ids = rows_of(tmp_path / "ids.jsonl", [{"input_ids": [5, 6, i + 7]} for i in range(40)])
    parts = (
        Files(paths=(str(world.text_file(tmp_path)),)),
        Chats(paths=(str(chats),)),
        TokenIds(paths=(str(ids),)),
    )
    corpus = Mixture(parts=parts, weights=(1, 1, 1), when_short="go_on")
    assert corpus.holds_chats and {d.kind for d in corpus.documents("train")} == {
        "text",
        "chat",
        "ids",
    }
    rows = next(TokenStream(corpus, "train", tokenizer(), n_ctx=16).rows(8))
    assert rows.tokens.shape == (8, 16)


def test_chats_of_a_model_without_a_template_are_refused(tmp_path):
    path = rows_of(tmp_path / "chats.jsonl", [{"messages": chat(i)} for i in range(40)])
    for words in (tokenizer(None), world.model().tokenizer):
        with pytest.raises(DataError, match="no chat template"):
            next(TokenStream(open_corpus(str(path)), "train", words, n_ctx=16).rows(4))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": "hello"}, "must hold a list of messages"),
        ({"messages": [{"role": "user"}]}, "each with role and content"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "no robots"),
        ({"other": 1}, "no column `messages`"),
    ],
)
def test_chats_that_are_none_are_named(tmp_path, row, said):
    path = rows_of(tmp_path / "chats.jsonl", [*({"messages": chat(i)} for i in range(40)), row])
    corpus = Chats(paths=(str(path),), test_share=0.0, validation_share=0.0)
    with pytest.raises(DataError, match=said):
        list(TokenStream(corpus, "train", tokenizer(), n_ctx=16).rows(4))


# Token ids


@pytest.mark.parametrize("kind", ["input_ids", "tokens", "npy", "rows", "parquet"])
def test_token_ids_are_taken_as_they_are(tmp_path, kind):
    words = tokenizer()
    lists = [words.encode(text)[0] for text in texts(40)]
    if kind in ("input_ids", "tokens"):
        path = rows_of(tmp_path / "ids.jsonl", [{kind: ids} for ids in lists])
    elif kind == "parquet":
        arrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        path = tmp_path / "ids.parquet"
        pyarrow.parquet.write_table(arrow.table({"input_ids": lists}), path)
    else:
        path, lists = tmp_path / "ids.npy", [ids[:150] for ids in lists]
        array = np.array(lists, np.uint16)
        np.save(path, array if kind == "rows" else array.flatten())
    corpus = open_corpus(str(path))
    assert isinstance(corpus, TokenIds) and Corpus.from_dict(corpus.to_dict()) == corpus
    found = [d.text for split in SPLITS for d in corpus.documents(split)]
    if kind == "npy":
        flat = [i for ids in lists for i in ids]
        lists = [flat[i : i + 1024] for i in range(0, len(flat), 1024)]
    assert sorted(found) == sorted(" ".join(map(str, ids)) for ids in lists)
    stream = TokenStream(corpus, "train", words, n_ctx=16, bos_each_row=False)
    rows = next(stream.rows(8))
    own = [int(i) for i in next(corpus.documents("train")).text.split()]
    assert rows.tokens.flatten().tolist()[: len(own)] == own[:128]
    assert stream.provenance()["tokenizer"] == words.digest


def test_the_same_text_as_ids_gives_the_same_sae(tmp_path):
    lm = world.model()
    path = world.text_file(tmp_path)
    lines = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    ids = rows_of(tmp_path / "ids.jsonl", [{"input_ids": lm.tokenizer.encode(t)[0]} for t in lines])
    assert open_corpus(str(ids)) == TokenIds(paths=(str(ids),))
    kinds = [
        TokenIds(paths=(str(ids),), test_share=0.0, validation_share=0.0),
        Files(paths=(str(path),), test_share=0.0, validation_share=0.0),
    ]
    rows = [next(TokenStream(c, "train", lm.tokenizer, n_ctx=32).rows(50)).tokens for c in kinds]
    assert rows[0].equal(rows[1])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"input_ids": [3, 400]}, "token id 400; the tokenizer has 258 tokens"),
        ({"input_ids": [3, -1]}, "token id -1"),
        ({"input_ids": [0.5]}, "must hold a list of token ids"),
        ({"input_ids": [True]}, "must hold a list of token ids"),
        ({"input_ids": "3 4"}, "must hold a list of token ids"),
    ],
)
def test_ids_of_another_tokenizer_are_refused(tmp_path, row, said):
    path = rows_of(tmp_path / "ids.jsonl", [{"input_ids": [3, 4, i]} for i in range(9)] + [row])
    corpus = TokenIds(paths=(str(path),), test_share=0.0, validation_share=0.0)
    with pytest.raises(DataError, match=said):
        list(TokenStream(corpus, "train", tokenizer(), n_ctx=16).rows(4))


def test_an_array_of_something_else_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 4, 4), np.int64))
    np.save(tmp_path / "b.npy", np.ones(4, np.float32))
    for name, said in (("a.npy", "rows of ids"), ("b.npy", "not numbers|float|kind")):
        with pytest.raises((DataError, ValueError), match=said):
            list(open_corpus(str(tmp_path / name)).documents("train"))
    with pytest.raises(ConfigError, match="empty"):
        TokenIds(paths=())


def test_a_model_in_a_folder_trains_on_chats_by_its_own_template(tmp_path):
    from saekit.models.hf import load
    from saekit.models.tiny import save_tiny

    save_tiny(tmp_path / "lm", "llama")
    config = tmp_path / "lm" / "tokenizer_config.json"
    settings = json.loads(config.read_text()) | {"chat_template": TEMPLATE}
    config.write_text(json.dumps(settings))
    lm = load(str(tmp_path / "lm"), dtype="float32", device="cpu")
    assert lm.tokenizer.chat(chat(3)[:1]).endswith("[user]How many are 3 cats?")
    path = rows_of(tmp_path / "chats.jsonl", [{"messages": chat(i)} for i in range(90)])
    sae = saekit.train(lm, site="L1.resid_post", sae=KIND, corpus=path, out=tmp_path / "a", **SHORT)
    assert sae.card.corpus["chat_template"] and sae.card.corpus["corpus"]["name"] == "chats"


def test_in_a_mixture_an_end_is_marked_behind_each_document_that_does_not_do_it_itself(tmp_path):
    class Own(Corpus):
        """Two kinds of documents, as a mixture of text and of generated text has."""

        name, mixes_ends = "own", True

        def documents(self, split):
            yield Document("12 13", "ids", "ids", marks_end=True)
            yield Document("ab", "text")
            yield Document("", "empty")
            yield Document("14 1", "ids", "ids", marks_end=True)
            yield Document("15", "ids", "ids", marks_end=True)
            yield Document("cd", "text")
            yield Document("ef", "text")

        def provenance(self):
            return {"sha256": str(tmp_path)}

    words = tokenizer()
    ab, cd, ef = words.encode(["ab", "cd", "ef"])
    run = [12, 13, *ab, 1, 14, 1, 15, *cd, 1, *ef]
    owners = [0, 0, 1, 1, 1, 3, 3, 4, 5, 5, 5, 6, 6]
    for _ in range(2):  # made, then as it was kept
        stream = TokenStream(Own(), "train", words, n_ctx=len(run), bos_each_row=False)
        (rows,) = stream.rows(4)
        assert rows.tokens.tolist() == [run] and rows.doc_ids.tolist() == [owners]
    files = Files(paths=(str(world.text_file(tmp_path)),))
    pair = Mixture(parts=(files, Generated(path=str(tmp_path))), weights=(1, 1))
    both = Mixture(parts=(Generated(path="a"), Generated(path="b")), weights=(1, 1))
    assert (pair.mixes_ends, pair.marks_ends) == (True, False)
    assert (both.mixes_ends, both.marks_ends) == (False, True)
