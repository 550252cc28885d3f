"""Every evaluation: a perfect SAE beats a random one, the same seed gives the same numbers."""

import dataclasses
import json

import pytest
import torch

from saekit.core.errors import ConfigError, ShapeError, UnknownNameError
from saekit.core.progress import heard
from saekit.core.result import Result
from saekit.evals.base import Eval, registry
from saekit.models.sites import parse_site
from saekit.models.tiny import tiny
from tests.evals.world import mirror, random_topk, subject, text, tools

ALONE = [name for name in registry.names() if not registry.get(name).joint]


@pytest.fixture(params=ALONE)
def example(request: pytest.FixtureRequest) -> Eval:
    return registry.get(request.param).example()


class _Results(dict[tuple[str, str], Result]):
    """What each evaluation found of each SAE, measured when it is first asked for."""

    def __init__(self) -> None:
        self.progress: list[tuple[str, int, int | None]] = []  # of all: title, done, total

    def __missing__(self, key: tuple[str, str]) -> Result:
        sae = {"oracle": mirror, "random": random_topk}[key[1]]()
        with heard(lambda *told: self.progress.append(told)):
            self[key] = registry.get(key[0]).example().run(subject(sae), tools())
        return self[key]


@pytest.fixture(scope="module")
def results() -> _Results:
    return _Results()


def test_config_round_trips(example):
    raw = json.loads(json.dumps(example.to_dict()))
    assert Eval.from_dict(raw) == example
    assert example.version >= 1


def test_it_documents_itself(example):
    for word in ("Source:", "Cost:", "Reads:"):
        assert word in (type(example).__doc__ or "")


# The oracle loses nothing; how much of it a few of its latents hold, nobody said.
OF_FEW = {"probing": {"code_or_prose/sae_4_accuracy"}}


def test_the_oracle_beats_chance(example, results):
    oracle, chance = results[example.name, "oracle"], results[example.name, "random"]
    every = {k for k, s in oracle.scores.items() if s.better != "neither"}
    assert OF_FEW.get(example.name, set()) <= every
    directed = every - OF_FEW.get(example.name, set())
    assert directed or not example.ranks
    for key in directed:
        assert oracle.scores[key].beats(chance.scores[key]), key


def test_progress_never_passes_its_total(example, results):
    assert results[example.name, "random"]
    assert [told for told in results.progress if told[2] is not None and told[1] > told[2]] == []


def test_it_leaves_the_subject_as_it_was_and_notes_a_text_shorter_than_asked(example, results):
    measured = hasattr(example, "n_tokens")
    long = dataclasses.replace(example, n_tokens=10**12) if measured else example
    sae = random_topk().double()
    before = {k: v.clone() for k, v in sae.state_dict().items()}
    notes = long.run(subject(sae), tools()).provenance.get("notes", [])
    assert all(torch.equal(v, before[k]) for k, v in sae.state_dict().items())
    assert all(v.dtype == torch.float64 for v in sae.state_dict().values())
    asked = "asked for 1,000,000,000,000 tokens; the test text has 1,280"
    assert any(asked in note for note in notes) == measured
    if measured:
        first = results[example.name, "random"].provenance["notes"]
        assert not any("asked for" in note for note in first)


def test_the_result_survives_json(example, results, tmp_path):
    result = results[example.name, "random"]
    result.write(tmp_path / "result.json")
    again = Result.read(tmp_path / "result.json")
    assert again == result
    assert Eval.from_dict(again.config) == example


def test_scores_lie_in_their_intervals(example, results):
    for key, score in results[example.name, "random"].scores.items():
        if score.low is not None and score.value is not None and score.high is not None:
            assert score.low <= score.value <= score.high, key
        else:
            assert score.reason, key


def test_same_seed_same_numbers_and_together_those_of_each_alone(example, results):
    """Measured again, beside another SAE: all that an SAE has of it comes of the seed."""
    lm = tiny()
    saes = [subject(mirror(), lm), subject(random_topk(), lm)]
    found = example.run_all(saes, tools())
    for result, label in zip(found, ("oracle", "random"), strict=True):
        assert result.scores == results[example.name, label].scores
        assert result.details == results[example.name, label].details


def test_it_refuses_what_it_cannot_measure(example):
    good = subject(random_topk())
    with pytest.raises(ShapeError, match="width 16"):
        example.run(good._replace(sae=random_topk(16)), tools())
    with pytest.raises(UnknownNameError):
        example.run(good._replace(read=parse_site("L7.resid_post")), tools())
    if "lm" in example.needs:
        with pytest.raises(ConfigError, match="language model"):
            example.run(good._replace(lm=None), tools())


def test_text_that_is_too_short_is_an_error(example):
    from saekit.core.errors import DataError

    if not example.reads_text:
        assert example.run(subject(random_topk()), tools(text(0))).scores
        return
    with pytest.raises(DataError, match="held-out text"):
        example.run(subject(random_topk()), tools(text(0)))
