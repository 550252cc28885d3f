"""Which part of the text is measured: never what an SAE was trained on, and the result says it."""

import json

import pytest

import saekit
from saekit.cli.main import main
from saekit.core.errors import ConfigError, DataError
from saekit.core.result import split_lines
from saekit.data.base import Shares
from saekit.data.corpora.files import Files
from saekit.evals.evaluate import stream_of
from saekit.hub.opening import opened
from saekit.models.tiny import save_tiny, tiny
from tests import world
from tests.evals.test_suite import made

SMALL = {"n_tokens": 512, "ce_tokens": 64, "n_blocks": 2, "shown": False}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return Files(paths=(str(world.text_file(tmp_path_factory.mktemp("text"), 300)),))


@pytest.fixture(scope="module")
def old_text(text):
    return text.with_shares(Shares(0.0, 0.1))


@pytest.fixture
def pair(text, old_text, tmp_path):
    """An SAE of a run of now, and one of a run before there was a validation split."""
    return made(tmp_path / "new", text), made(tmp_path / "old", old_text, weights=1)


def seen(corpus, split):
    return {d.text for d in corpus.documents(split)}


def test_a_result_is_of_the_part_that_was_asked_for_and_says_so(pair, text):
    lm, found = tiny(), {}
    for split in ("validation", "test"):
        result = saekit.evaluate(pair[0], lm, split=split, **SMALL)
        rows = next(iter(stream_of(opened(pair[0], lm), split).rows(8))).tokens
        found[split] = result
        assert result.provenance["split"] == split
        assert f"read     the {split} split of text.jsonl" in str(result)
        assert lm.tokenizer.decode(rows[0].tolist()[1:20]) in "".join(seen(text, split))
    assert split_lines({"split": "test", "text": None}) == []  # of an evaluation that reads none
    assert found["test"].details["tokens_sha256"] != found["validation"].details["tokens_sha256"]
    assert saekit.evaluate(pair[0], lm, **SMALL).scores == found["test"].scores
    with pytest.raises(DataError, match="keeps no validation text"):
        saekit.evaluate(pair[1], lm, split="validation", **SMALL)


def test_text_by_name_is_split_as_that_of_the_run(pair, text, old_text):
    """Read with shares of its own, this text's test part would be of the old run's training."""
    assert seen(text, "test") <= seen(old_text, "train")
    for sae, trained_on in zip(pair, (text, old_text), strict=True):
        for given in (text.paths[0], text, old_text):
            found = opened(sae, tiny(), given).text
            assert not seen(found, "test") & seen(trained_on, "train")
            assert found.shares == trained_on.shares


def test_saes_of_an_old_and_a_new_run_are_not_measured_together(pair):
    lm = tiny()
    for measure in (
        lambda: saekit.compare(pair, lm, shown=False),
        lambda: saekit.evaluate(list(pair), lm, "seed_stability", shown=False),
    ):
        with pytest.raises(ConfigError, match="one by one"):
            measure()
    each = saekit.evaluate(list(pair), lm, **SMALL)  # each on its own text
    hashes = {r.details["tokens_sha256"] for r in each}
    assert len(hashes) == 2


def test_on_the_command_line_results_to_choose_by_lie_apart(text, tmp_path, capsys):
    save_tiny(tmp_path / "lm")
    from saekit.models.hf import load

    lm = load(str(tmp_path / "lm"), dtype="float32")
    made(tmp_path / "run", text, model=str(tmp_path / "lm"), lm=lm)
    words = ["eval", tmp_path / "run", "--set", "n_tokens=512", "--set", "ce_tokens=64", "--quiet"]

    def call(*more):
        with pytest.raises(SystemExit) as ended:
            main([str(w) for w in (*words, *more)])
        return ended.value.code, *capsys.readouterr()

    code, out, err = call("--split", "validation")
    assert code == 0 and "read     the validation split of " in out, err
    made_of = json.loads((tmp_path / "run/eval/validation/core.json").read_text())["provenance"]
    assert made_of["split"] == "validation" and not (tmp_path / "run/eval/core.json").exists()
    code, _, err = call("--split", "train")
    assert code == 2 and "not trained on" in err
