"""A drawn prompt: whole documents, long enough, the same for the same seed."""

import json

import pytest

from saekit.cli.main import main
from saekit.core.errors import ConfigError, DataError
from saekit.data.corpora.files import Files
from saekit.studies.locality.windows.prompts import draw


@pytest.fixture
def corpus(tmp_path):
    texts = [c * n for c, n in zip("abcdefgh", (5, 40, 7, 60, 9, 30, 3, 2), strict=True)]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return Files(paths=(str(path),), test_share=0.0, validation_share=0.0), texts


def test_one_document_where_any_is_long_enough(corpus):
    files, texts = corpus
    found = {draw(files, "train", chars=40, seed=s).text for s in range(40)}
    assert found == {texts[1], texts[3]}
    told = draw(files, "train", chars=40, seed=3).told
    assert draw(files, "train", chars=40, seed=3).told == told
    assert told["row"] in (1, 3) and told["rows"] == 1 and told["n_chars"] in (40, 60)


def test_documents_are_joined_where_none_is(corpus):
    files, texts = corpus
    for seed in range(20):
        found = draw(files, "train", chars=100, seed=seed)
        first, n = found.told["row"], found.told["rows"]
        assert found.text == "\n\n".join(texts[first : first + n])
        assert len(found.text) >= 100 > len("\n\n".join(texts[first : first + n - 1]))
    whole = "\n\n".join(texts)
    assert draw(files, "train", chars=len(whole)).text == whole
    with pytest.raises(DataError, match="8 documents have 156 characters"):
        draw(files, "train", chars=len(whole) + 1)
    assert draw(files, "train", chars=20, most_docs=2).told["row"] == 1
    with pytest.raises(ConfigError, match="got 0"):
        draw(files, "train", chars=0)


def test_a_prompt_is_of_the_whole_corpus(tmp_path):
    """Only document 11,000 is long enough; it lies beyond the first 10,000."""
    path = tmp_path / "t.jsonl"
    texts = [f"{i} a" for i in range(11_500)]
    texts[11_000] = "long " * 20
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    found = draw(Files(paths=(str(path),), test_share=0.0, validation_share=0.0), "train", chars=60)
    assert found.text == texts[11_000] and found.told["documents"] == 11_500


def test_the_command_writes_text_and_where_it_is_from(tmp_path, capsys, corpus):
    out = tmp_path / "p.txt"
    words = ["locality", "prompt", "--out", out, "--corpus", tmp_path / "t.jsonl"]
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in [*words, "--split", "train", "--chars", 1, "--json"]])
    assert ended.value.code == 0
    told = json.loads((tmp_path / "p.txt.meta.json").read_text())
    assert told["n_chars"] == len(out.read_text()) and told["split"] == "train"
    assert json.loads(capsys.readouterr().out)["sha256"] == told["sha256"]
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in [*words, "--split", "half"]])
    assert ended.value.code == 2 and "--split" in capsys.readouterr().err
