"""Measures of corpora, against closed forms and planted differences."""

import json
import math

import pytest
import torch

from saekit.cli.main import main
from saekit.core.errors import ConfigError, DataError
from saekit.data.corpora.texts import Texts as TextCorpus
from saekit.models.tiny import tiny
from saekit.studies.corpus import statistics
from saekit.studies.corpus.generate import Generation, generate
from saekit.studies.corpus.measure import Measurement, measure, write

HOW = Measurement(tokens=2000, embedded_docs=20, embedded_tokens=16)


def letters(alphabet, n, seed):
    chance = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(alphabet), (n, 30), generator=chance).tolist()
    return TextCorpus.of(["".join(alphabet[i] for i in row) for row in rows])


@pytest.fixture(scope="module")
def found():
    corpora = {
        "a": letters("abcdefgh", 90, 0),
        "same": letters("abcdefgh", 90, 1),
        "other": letters("ghijklmn", 90, 2),
    }
    return measure(corpora, tiny("llama"), HOW, reference=letters("abcdefgh", 90, 0), shown=False)


def score(found, name):
    return found.result.scores[name]


def test_uniform_letters_have_their_entropy_and_coverage(found):
    assert score(found, "a/coverage").value == pytest.approx(8 / 258)
    one = score(found, "a/entropy_corrected")
    assert one.low <= 3.0 <= one.high + 0.005
    assert score(found, "a/entropy").value <= one.value + 1e-9
    assert score(found, "a/length").value == 30 and score(found, "a/length_std").value == 0
    assert 0 < score(found, "a/distinct_1").value < 0.01 < score(found, "a/distinct_3").value


def test_divergence_of_alike_texts_is_its_floor_and_of_others_far_above(found):
    alike, other = score(found, "a|same/unigram_js"), score(found, "a|other/unigram_js")
    assert alike.value < 3 * score(found, "a|same/unigram_js_floor").value
    assert other.value == pytest.approx(0.75, abs=0.03)  # 2 of 8 letters are shared
    assert other.low < other.value < other.high
    assert other.value > 50 * score(found, "a|other/unigram_js_floor").value
    kl = score(found, "a|other/unigram_kl")
    assert kl.value > 3


def test_shared_runs_are_those_of_the_reference(found):
    assert score(found, "a/contamination").value == 1.0
    assert score(found, "other/contamination").value == 0.0


def test_the_floor_mixes_documents_and_the_reference_is_read_whole():
    texts = {
        name: ["".join(chance) for chance in _words(alphabet, 500, seed)]
        for seed, (name, alphabet) in enumerate({"a": "abcd", "b": "wxyz"}.items())
    }
    how = Measurement(tokens=9000, embedded_docs=2, embedded_tokens=2)
    corpora = {name: TextCorpus.of(some) for name, some in texts.items()}
    reference = TextCorpus.of(
        [f"{one} {other}" for one, other in zip(*texts.values(), strict=True)]
    )
    found = measure(corpora, tiny("llama"), how, reference=reference, shown=False)
    assert score(found, "a|b/unigram_js").value == pytest.approx(1)
    # Sides of 450 documents: a share of `a` that differs by 1 / sqrt(900), and 8 shares of 9,000.
    assert score(found, "a|b/unigram_js_floor").value == pytest.approx(
        1 / 900 / math.log(4), rel=0.9
    )
    # Held-out documents of the reference hold runs of what is measured too.
    assert score(found, "a/contamination").value == score(found, "b/contamination").value == 1


def _words(alphabet, n, seed):
    chance = torch.Generator().manual_seed(seed)
    return [
        [alphabet[i] for i in row]
        for row in torch.randint(len(alphabet), (n, 20), generator=chance).tolist()
    ]


def test_what_a_corpus_does_not_tell_is_undefined(found):
    assert score(found, "a/duplicates").value is None and score(found, "a/ended").reason
    assert "-" in str(found) and len(found.table()) == len(found.result.scores)


@pytest.mark.slow
def test_own_text_begins_as_the_model_does_and_other_text_not(tmp_path):
    lm = tiny("llama")
    own = generate(
        lm, tmp_path / "own", tokens=1500, how=Generation(length=12, seed=1), shown=False
    )
    found = measure({"own": own.corpus, "a": letters("abcdefgh", 90, 0)}, lm, HOW, shown=False)
    assert score(found, "own/first_token_p").value > 0.01
    assert score(found, "a/first_token_p").value == pytest.approx(1 / 201)
    js = score(found, "own/first_token_js").value
    assert js < score(found, "own/first_token_js_floor").high
    # The first generated token, not the prompt's.
    first = [int(one.ids[one.n_prompt]) for one in own.corpus.sequences()]
    assert set(found.texts["own"].first.tolist()) <= set(first)
    written = own.counts["sequences"] + own.counts["duplicates"]
    assert score(found, "own/duplicates").value == own.counts["duplicates"] / written
    assert 256 not in torch.cat(found.texts["own"].ids)
    files = write(found, tmp_path / "out", lm, ".png")
    assert all(f.stat().st_size > 100 for f in files) and len(files) == 7
    csv = (tmp_path / "out" / "first_tokens.csv").read_text().splitlines()
    assert csv[0] == "id,token,model,own,a" and len(csv) == 16
    assert json.loads((tmp_path / "out" / "measures.json").read_text())["name"] == "corpus"


def test_statistics_in_closed_form():
    uniform = torch.full((8,), 5.0)
    assert statistics.entropy(uniform) == pytest.approx(3)
    once = torch.ones(10)
    assert statistics.chao_shen(once) > statistics.entropy(once) and math.isfinite(
        statistics.chao_shen(once)
    )
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert (
        float(statistics.jensen_shannon(a, b)) == 1 and float(statistics.jensen_shannon(a, a)) == 0
    )
    half = torch.tensor([0.5, 0.5])
    assert statistics.kl(a, half) == pytest.approx(math.log(2), abs=1e-8)
    ids = torch.tensor([1, 2, 3, 1, 2, 3, 4])
    assert len(statistics.ngrams(ids, 3).unique()) == 4 and len(statistics.ngrams(ids, 9)) == 0
    value, rest = statistics.distinct(ids, torch.tensor([0, 0, 0, 1, 1, 1, 1]), 2)
    assert value == pytest.approx(4 / 7) and rest.tolist() == pytest.approx([1.0, 1.0])


def test_a_correction_makes_up_for_tokens_that_were_not_seen():
    shares = 1 / torch.arange(1, 501, dtype=torch.float64)
    shares /= shares.sum()
    true = float(-(shares * shares.log2()).sum())
    chance = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(shares, 400, replacement=True, generator=chance)
    counts = torch.bincount(drawn, minlength=500).double()
    assert abs(statistics.chao_shen(counts) - true) < 0.3 * (true - statistics.entropy(counts))


def test_bad_input_is_refused(tmp_path):
    lm = tiny("llama")
    with pytest.raises(ConfigError, match="called"):
        measure({"a/b": letters("ab", 30, 0)}, lm, HOW, shown=False)
    own = generate(lm, tmp_path / "own", tokens=50, how=Generation(length=8), shown=False)
    other = tiny("llama")
    other.tokenizer = type("T", (type(lm.tokenizer),), {"digest": "x"})()
    with pytest.raises(DataError, match="another tokenizer"):
        measure({"own": own.corpus}, other, HOW, shown=False)


def test_the_command_writes_a_table_and_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("saekit.models.hf.load", lambda *args, **kwargs: tiny("llama"))
    (tmp_path / "a.txt").write_text(
        "\n\n".join("some text of a kind " * 200 + str(i) for i in range(20))
    )
    (tmp_path / "b.txt").write_text("\n\n".join("OTHER WORDS " * 400 + str(i) for i in range(20)))
    with pytest.raises(SystemExit) as ended:
        main(
            ["corpus", "measure", f"one={tmp_path / 'a.txt'}", str(tmp_path / "b.txt")]
            + ["--set", "embedded_docs=4", "--out", str(tmp_path / "m"), "--quiet"]
        )
    out = capsys.readouterr().out
    assert not ended.value.code and "one|b.txt" in out and "unigram_js" in out
    assert (tmp_path / "m" / "embeddings.csv").exists()


def test_one_document_has_values_without_intervals_and_a_figure(tmp_path):
    lm, one = tiny(), TextCorpus.of(["some words of one document"])
    made = measure({"$x$": one}, lm, HOW, shown=False)
    entropy = score(made, "$x$/entropy")
    assert entropy.value > 0 and entropy.low is None and entropy.reason
    assert all(path.is_file() for path in write(made, tmp_path, lm))
    for names in ((), ("model",), ("",), ("a/b",)):
        with pytest.raises(ConfigError):
            measure(dict.fromkeys(names, one), lm, HOW, shown=False)
