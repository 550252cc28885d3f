import json
import re

import pytest
import torch

from saekit.core.errors import ConfigError, DataError, UnknownNameError
from saekit.data.corpora.files import Files
from saekit.data.corpora.question_answer import QuestionAnswer
from saekit.models.tiny import ByteTokenizer
from saekit.studies.locality.filters.base import Candidate, registry
from saekit.studies.locality.filters.plain import Plain
from saekit.studies.locality.windows.drawing import (
    Stream,
    candidate,
    check_length,
    crossing,
    draw,
    from_corpus,
    read_stream,
    sample_documents,
)
from tests.studies.locality.world import Mixing

TOKENIZER = ByteTokenizer()
PROSE = "The quick brown fox jumps over the lazy dog, and it runs."


def seen(text, **fields):
    ids = TOKENIZER.encode([text])[0]
    given = {"ids": ids, "pieces": TOKENIZER.pieces(ids), "first": 99, "documents": 1, "special": 0}
    return Candidate(**(given | fields))


@pytest.mark.parametrize("name", registry.names())
def test_rules_of_every_text(name):
    rule = registry.get(name)()
    assert rule.refuses(seen(PROSE)) is None
    assert rule.refuses(seen(PROSE, special=1)) == "special token"
    assert rule.refuses(seen("ab" * 40)) == "too few distinct tokens"
    assert registry.get("plain")(least_distinct=0.0).refuses(seen("ab" * 40)) is None


@pytest.mark.parametrize(
    ("name", "window", "reason"),
    [
        ("plain", {"documents": 2}, "crosses documents"),
        ("gsm8k", {"documents": 2}, "crosses documents"),
        ("code-python", {"documents": 2}, "crosses documents"),
        ("wikitext", {"documents": 2}, None),
        ("wikitext", {"text": "The end.\n = = Early life = = \nHe was born"}, "heading"),
        ("wikitext", {"text": "a = b and c = d is not a heading, nor so"}, None),
        ("wikitext", {"text": "one line\nand two\nand three\nand four"}, "newlines"),
        ("wikitext", {"text": "the <unk> was seen by all of them"}, "<unk>"),
        ("code-python", {"first": 49}, "head of a file"),
        ("code-python", {"text": "x = 1" + " " * 7 + "y  z"}, "white space"),
        ("code-python", {"text": "".join(chr(33 + i % 90) for i in range(401))}, "long line"),
        ("code-python", {"text": "def f(x):\n    return x + 1\n"}, None),
    ],
)
def test_rules_of_each_text(name, window, reason):
    window = dict(window)
    text = window.pop("text", PROSE)
    rule = registry.get(name)(least_distinct=0.0)
    assert rule.refuses(seen(text, **window)) == reason


def test_shares_and_names_are_checked():
    with pytest.raises(ConfigError):
        registry.get("plain")(least_distinct=1.5)
    with pytest.raises(UnknownNameError, match="wikitext"):
        registry.get("wikitxt")


def stream(texts):
    ids = [TOKENIZER.encode([t])[0] for t in texts]
    starts = [sum(map(len, ids[:i])) for i in range(len(ids))]
    return Stream(torch.tensor(sum(ids, [])), torch.tensor(starts), [f"doc {i}" for i in range(9)])


def test_a_candidate_knows_its_documents():
    text = stream(["abcdef", "ghij", "klmnop"])
    at = candidate(text, TOKENIZER, 4, 4)
    assert (at.text, at.first, at.documents) == ("efgh", 4, 2)
    assert candidate(text, TOKENIZER, 6, 4)[2:4] == (0, 1)
    assert candidate(text, TOKENIZER, 5, 6).documents == 3


def test_windows_do_not_overlap_and_the_same_seed_draws_the_same():
    text = stream([PROSE * 4])
    rule = registry.get("plain")()
    one = draw(text, TOKENIZER, rule, n_ctx=16, windows=5, seed=3)
    assert one.start.tolist() == sorted(set(one.start.tolist())) and (one.start % 16 == 0).all()
    assert one.tokens.equal(text.ids[one.start[:, None] + torch.arange(16)])
    assert draw(text, TOKENIZER, rule, n_ctx=16, windows=5, seed=3).start.equal(one.start)
    other = draw(text, TOKENIZER, rule, n_ctx=16, windows=5, seed=4)
    assert not other.start.equal(one.start)


def test_too_few_places_are_taken_at_every_offset_and_none_is_an_error():
    rule = registry.get("plain")()
    text = stream([PROSE])
    found = draw(text, TOKENIZER, rule, n_ctx=40, windows=7)
    assert len(found.start.unique()) == 7 and found.candidates == len(PROSE) - 39
    with pytest.raises(DataError, match="too short"):
        draw(text, TOKENIZER, rule, n_ctx=400, windows=7)
    with pytest.raises(DataError, match="crosses documents"):
        draw(stream(["abc"] * 9), TOKENIZER, rule, n_ctx=8, windows=2)


def test_bos_comes_before_and_counts():
    found = draw(stream([PROSE]), TOKENIZER, registry.get("plain")(), n_ctx=16, windows=2, bos=True)
    assert found.tokens.shape == (2, 16) and (found.tokens[:, 0] == 256).all()


def test_from_files_to_windows(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "".join(f'{{"text": "{PROSE} {i}"}}\n' for i in range(40)), encoding="utf-8"
    )
    corpus = Files(paths=(str(tmp_path),), test_share=0.5, validation_share=0.0)
    found = from_corpus(corpus, "test", TOKENIZER, registry.get("plain")(), n_ctx=16, windows=6)
    assert len(found.tokens) == 6 and found.refused and found.source[0].endswith("a.jsonl")
    rule = registry.get("wikitext")()
    sample = sample_documents(corpus, "test", rule, chars=10**6, piece_chars=300)
    joined = read_stream(sample, TOKENIZER)
    assert sample.whole and len(joined.starts) == sample.documents > 1
    lengths = joined.starts.diff().tolist()
    assert min(lengths) >= 300 > min(lengths) - len(PROSE) - 4


def many(folder, n):
    """A corpus of so many documents, each of which says its number in every window."""
    path = folder / "many.jsonl"
    texts = [f"{chr(97 + i % 26)}{i:05d} quick brown fox " * 2 for i in range(n)]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return Files(paths=(str(path),), test_share=0.0, validation_share=0.0)


def test_windows_are_of_the_whole_corpus(tmp_path):
    """4,000 documents hold 40 times the text that is tokenised: all parts of it are drawn."""
    corpus, plain = many(tmp_path, 4000), registry.get("plain")()
    places = []
    for seed in range(6):
        found = from_corpus(corpus, "train", TOKENIZER, plain, n_ctx=16, windows=3, seed=seed)
        again = from_corpus(corpus, "train", TOKENIZER, plain, n_ctx=16, windows=3, seed=seed)
        assert found.tokens.equal(again.tokens) and found.sample == again.sample
        texts = "\n".join(text for text, _ in found.sample.texts)
        places += [int(t) for t in re.findall(r"[a-z](\d{5})", texts)[::2]]
        told = found.sample.record()
        assert told["documents"] == 4000 and 100 < told["documents_tokenised"] < 800
        assert sum(len(t) for t, _ in found.sample.texts) >= 6 * 40 * 3 * 16
    counts = torch.histc(torch.tensor(places, dtype=torch.float), 8, 0, 4000)
    expected = counts.sum() / 8  # each eighth of the corpus as often as any other
    assert float(((counts - expected) ** 2 / expected).sum()) < 24.3  # 99.9 % of chi squared, 7
    first = from_corpus(
        corpus, "train", TOKENIZER, plain, n_ctx=16, windows=3, seed=0, most_docs=50
    )
    assert first.sample.documents == 50 and first.sample.whole
    with pytest.raises(ConfigError, match="documents"):
        from_corpus(corpus, "train", TOKENIZER, plain, n_ctx=16, windows=3, most_docs=-1)


def test_more_text_is_read_where_too_few_windows_pass(tmp_path):
    """One document of 3,000 is long enough, and is found wherever it lies."""
    path = tmp_path / "rare.jsonl"
    texts = [f"{i} short" for i in range(3000)]
    texts[2345] = "".join(chr(33 + i % 90) for i in range(400))
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    corpus, plain = (
        Files(paths=(str(path),), test_share=0.0, validation_share=0.0),
        registry.get("plain")(),
    )
    for seed in range(3):
        found = from_corpus(corpus, "train", TOKENIZER, plain, n_ctx=64, windows=1, seed=seed)
        assert len(found.tokens) == 1 and found.source[0].endswith("rare.jsonl")
    with pytest.raises(DataError, match="for crosses documents"):
        from_corpus(corpus, "train", TOKENIZER, plain, n_ctx=420, windows=1)


def test_a_corpus_without_a_test_part_is_read_whole(tmp_path):
    corpus = many(tmp_path, 20)
    found = from_corpus(corpus, "test", TOKENIZER, registry.get("plain")(), n_ctx=16, windows=2)
    assert found.sample.record()["split"] == "train" and found.sample.documents == 20


def test_a_sample_of_more_text_holds_that_of_less(tmp_path):
    corpus, plain = many(tmp_path, 300), registry.get("plain")()
    some = [sample_documents(corpus, "train", plain, chars=c, seed=5) for c in (1, 900, 3000)]
    for less, more in zip(some, some[1:], strict=False):
        assert set(less.texts) < set(more.texts)
    assert len(some[0].texts) == 1 and len({s.characters for s in some}) == 1
    order = [int(text[1:6]) for text, _ in some[2].texts]
    assert order == sorted(order)


def test_joined_rows_of_distant_pieces_are_not_one_window(tmp_path):
    """Rows 0..: windows of the joined stream lie in runs of rows that follow each other."""
    path = tmp_path / "rows.jsonl"
    texts = [f"<{i:04d}>{chr(65 + i % 26)}{chr(97 + i % 23)}" for i in range(3000)]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    corpus = Files(paths=(str(path),), test_share=0.0, validation_share=0.0)
    rule = registry.get("wikitext")(least_distinct=0.0)
    found = from_corpus(corpus, "train", TOKENIZER, rule, n_ctx=24, windows=2, seed=1)
    assert not found.sample.whole
    for row in found.tokens.tolist():
        rows = [int(x) for x in re.findall(r"<(\d{4})>", TOKENIZER.decode(row))]
        assert rows == list(range(rows[0], rows[0] + len(rows))) and len(rows) >= 2


def test_gsm8k_joins_question_and_answer_and_drops_calculations(tmp_path):
    row = '{"question": "Two and two?", "answer": "2+2=<<2+2=4>>4\\n#### 4"}\n'
    (tmp_path / "g.jsonl").write_text(row, encoding="utf-8")
    corpus = QuestionAnswer(
        paths=(str(tmp_path / "g.jsonl"),), test_share=0.0, validation_share=0.0
    )
    (document,) = corpus.documents("train")
    kept, plain = registry.get("gsm8k")(keep_calculations=True), registry.get("gsm8k")()
    assert plain.prepare(document.text) == "Two and two?\n2+2=4\n#### 4"
    assert "<<2+2=4>>" in kept.prepare(document.text)


def test_windows_over_borders_cost_no_strings(monkeypatch):
    from saekit.studies.locality.windows import drawing as module

    stream = Stream(torch.arange(400) % 97, torch.arange(0, 400, 10), ["x"] * 40)
    monkeypatch.setattr(module, "candidate", lambda *_: pytest.fail("a window was read"))
    with pytest.raises(DataError, match="381 for crosses documents"):
        draw(stream, ByteTokenizer(), Plain(), n_ctx=20, windows=50)
    ends = crossing(stream, torch.tensor([0, 1, 10, 19]), 10)
    assert ends.tolist() == [False, True, False, True]


def test_windows_longer_than_the_model_reads_are_refused_before_text_is_read():
    lm = Mixing([[1.0]])
    check_length(lm, lm.n_ctx_max, "n_ctx")
    with pytest.raises(ConfigError, match="`n_ctx` must be at most 4096 tokens"):
        check_length(lm, lm.n_ctx_max + 1, "n_ctx")


def test_what_is_refused_late_is_replaced_and_counted():
    """Late refusals meet only windows that the filter lets pass, whole; others take their place."""
    letters = torch.randint(97, 123, (400,), generator=torch.Generator().manual_seed(0))
    text, shown = stream(["ab" * 40, "".join(map(chr, letters.tolist()))]), []
    rule = registry.get("wikitext")()
    plain = draw(text, TOKENIZER, rule, n_ctx=16, windows=5, bos=True)
    gone = {tuple(plain.tokens[1].tolist()), tuple(plain.tokens[3].tolist())}

    def late(tokens):
        shown.append(tokens)
        return ["too dull" if tuple(row) in gone else None for row in tokens.tolist()]

    found = draw(text, TOKENIZER, rule, n_ctx=16, windows=5, bos=True, late=late)
    assert found.refused.pop("too dull") == 2 and found.refused["too few distinct tokens"]
    kept = {tuple(row) for row in found.tokens.tolist()}
    assert len(kept) == 5 and not kept & gone
    assert len(kept & {tuple(row) for row in plain.tokens.tolist()}) == 3
    assert all(tokens.shape[1] == 16 and (tokens[:, 0] == 256).all() for tokens in shown)
    same = draw(
        text,
        TOKENIZER,
        rule,
        n_ctx=16,
        windows=5,
        bos=True,
        late=lambda tokens: [None] * len(tokens),
    )
    assert same.tokens.equal(plain.tokens) and same.refused == plain.refused
    with pytest.raises(DataError, match="for dull"):
        draw(text, TOKENIZER, rule, n_ctx=16, windows=5, late=lambda tokens: ["dull"] * len(tokens))
