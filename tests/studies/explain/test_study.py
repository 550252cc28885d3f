"""The whole study on latents whose meaning is known: texts, explanations, scores, columns, page."""

import dataclasses
import json
import random
import shutil
import types

import pytest

from saekit.core.errors import ConfigError, FormatError
from saekit.data.corpora.files import Files
from saekit.generators.limits import Limits
from saekit.generators.scripted import Scripted
from saekit.models.tiny import tiny
from saekit.studies.explain.scoring import score
from saekit.studies.explain.study import Explain, explain, read, read_labels
from saekit.studies.sensitivity.examples import ExampleConfig
from saekit.studies.sensitivity.scoring import largest_acts
from tests import letters
from tests.studies.explain.made import embed
from tests.studies.explain.oracle import Oracle

CFG = Explain(
    n_latents=3,
    tokens=12000,
    steered=1,
    steered_tokens=4,
    tests=12,
    examples=ExampleConfig(
        around=6, top=6, weighted=2, spare=4, negatives=10, random=60, least_count=3
    ),
)
# What the oracle says of a latent, by its marked or its frequent letter.
RIGHT = Oracle(
    small=False, explains=(("{{z}}", "letters z"), ("{{q}}", "letters q"), ("", "letters e"))
)
MUTE = Scripted(answers=(("", "I'm sorry, I cannot help with that."),))


@pytest.fixture(scope="module")
def lm():
    return tiny("llama")


@pytest.fixture(scope="module")
def detector(lm):
    return letters.detector(lm)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    chance = random.Random(0)
    words = "the tree here we see at home a hill with bells on some other land in winter"
    lines = []
    for i in range(500):
        some = chance.choices(words.split(), k=30)
        if i % 2:
            some[chance.randrange(3, 27)] = "zoo"
        if i % 3 == 0:
            some[chance.randrange(3, 27)] = "quit"
        lines.append(json.dumps({"text": " ".join(some) + f" {i}"}))
    path = tmp_path_factory.mktemp("text") / "t.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return Files(paths=(str(path),), validation_share=0.0), "train"


@pytest.fixture(scope="module")
def found(lm, detector, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "explain"
    return explain(detector, lm, RIGHT, folder, CFG, text=text, latents=[0, 1], shown=False)


def test_each_latent_gets_the_line_that_fits_it(found):
    assert found.labels == {0: "letters z", 1: "letters q"}
    assert found.verdicts == {"usable": 2, "empty": 0, "refusal": 0, "too long": 0}
    assert read(found.folder).labels == found.labels and read(found.folder).cases == found.cases
    assert found.made[0].tokens.startswith('the words "z"')


def test_what_is_true_of_a_text_is_read_from_the_model(found, lm, detector):
    for latent, case in found.cases.items():
        ids = [lm.tokenizer.encode([s.text])[0] for s in case.tests]
        acts = largest_acts(detector, lm, ids, [latent])[:, 0]
        assert [s.is_on for s in case.tests] == (acts > 1e-6).tolist()
        assert [s.is_on for s in case.tests] == [
            letters.LETTERS[latent] in s.text for s in case.tests
        ]
        assert {s.kind for s in case.tests} == {"held_out", "same_document", "random"}
        shown = {s.text for s in [*case.shown, *case.negatives]}
        tested = [s.text for s in case.tests]
        assert not shown & set(tested) and len(tested) == len(set(tested)) == CFG.tests


def test_random_texts_on_which_it_is_on_are_not_called_negatives(lm, detector, text, tmp_path):
    """Latent 2 is on in every word: the texts that others would call negatives are none."""
    cfg = dataclasses.replace(CFG, steered=0)
    found = explain(
        detector, lm, RIGHT, tmp_path / "e", cfg, text=text, latents=[2, 0], shown=False
    )
    assert not found.cases[2].off and len(found.cases[2].on) == len(found.cases[2].tests)
    scored = score(found, RIGHT, embed=embed, shown=False)
    row = {r["latent"]: r for r in scored.latents.rows()}[2]
    assert row["detection"] is None and row["detection_reason"] == "no text on which it is off"
    assert scored.result.scores["detection"].n == 1
    assert "1 of 2 latents" in scored.result.scores["detection"].reason


def test_a_right_line_scores_full_and_another_at_chance(found):
    scored = score(found, RIGHT, "right", embed=embed, shown=False)
    assert scored.result.scores["detection"].value == scored.result.scores["fuzzing"].value == 1.0
    assert scored.result.scores["detection_random"].value < 0.75
    assert scored.result.details["explanations"]["usable"] == 2


def test_refusals_are_counted_asked_again_and_scored_never(lm, detector, text, tmp_path):
    from saekit.core.errors import DataError

    cfg = dataclasses.replace(CFG, steered=0)
    found = explain(detector, lm, MUTE, tmp_path / "e", cfg, text=text, latents=[0, 1], shown=False)
    assert found.labels == {} and found.verdicts["refusal"] == 2 * cfg.rounds
    with pytest.raises(DataError, match="No latent .* has a usable explanation: 6 refusal"):
        score(found, MUTE, embed=embed, shown=False)


def test_it_goes_on_where_it_stopped_and_refuses_other_settings(lm, detector, text, tmp_path):
    cfg = dataclasses.replace(CFG, steered=0)
    how = {"text": text, "latents": [0, 1], "shown": False}
    cut = explain(detector, lm, RIGHT, tmp_path / "e", cfg, **how, limits=Limits(requests=1))
    assert cut.stopped == "budget" and len(cut.labels) == 1
    again = explain(detector, lm, RIGHT, tmp_path / "e", cfg, **how)
    assert not again.stopped and again.labels == {0: "letters z", 1: "letters q"}
    lines = (tmp_path / "e/journal.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 2
    other = dataclasses.replace(cfg, with_negatives=False)
    with pytest.raises(ConfigError, match="another explain"):
        explain(detector, lm, RIGHT, tmp_path / "e", other, **how)
    with pytest.raises(ConfigError, match=r"distinct numbers in 0\.\.3"):
        explain(detector, lm, RIGHT, tmp_path / "f", cfg, **how | {"latents": [9]})


def test_one_budget_is_for_explaining_and_scoring(found):
    limits = Limits(requests=5)
    used = dataclasses.replace(found.spent, requests=3)
    scored = score(found, Oracle(), "tight", embed=embed, shown=False, limits=limits, spent=used)
    assert scored.stopped == "budget" and scored.result.details["requests_sent"] == 2


def test_the_page_of_a_latent_shows_its_line_scores_and_texts(found, tmp_path):
    from saekit.studies.explain.panels.explain import ExplainPanel

    scored = score(found, Oracle(chooses_=True), "page", embed=embed, shown=False)
    run, index = found.folder.parent, types.SimpleNamespace(d_sae=4)
    blocks = ExplainPanel().blocks(run, index, 0)
    mine = [b for b in blocks if b["kind"] == "label" and b["title"] == "Judged by page"]
    assert mine[0]["text"] == "letters z"
    blocks = blocks[blocks.index(mine[0]) :][:3]
    facts = {label: value for label, value, *_ in blocks[1]["facts"]}
    assert facts["Detection"] == scored.latents.rows()[0]["detection"] == 1.0
    texts = [t for b in blocks if b["kind"] == "texts" for t in b["texts"]]
    assert {t["mark"] for t in texts} == {"hit"} and len(texts) == CFG.tests
    (missing,) = ExplainPanel().blocks(run, index, 3)
    assert missing["kind"] == "missing" and "--latent 3" in missing["command"]
    assert ExplainPanel().blocks(run / "nothing", index, 0) is None
    bare = tmp_path / "run" / found.folder.name  # explained, and not judged yet
    shutil.copytree(found.folder, bare, ignore=shutil.ignore_patterns("scores"))
    line, judge = ExplainPanel().blocks(bare.parent, index, 0)
    assert line["kind"] == "label" and line["text"] == found.labels[0]
    assert judge["command"] == f"saekit explain score {bare}"


def test_labels_of_people_are_read_and_damage_is_told(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text('{"12": " the word\\n cat ", "3": "dates"}')
    assert read_labels(path) == {12: "the word cat", 3: "dates"}
    for wrong in ('{"x": "a"}', '{"1": ""}', '{"1": 3}'):
        path.write_text(wrong)
        with pytest.raises(FormatError, match="number of a latent"):
            read_labels(path)
    with pytest.raises(FormatError, match="holds no explanations"):
        read(tmp_path / "empty")
