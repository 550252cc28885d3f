"""Every evaluation of several SAEs together: it agrees of an SAE with itself, and refuses one."""

import dataclasses
import json

import pytest
import torch

from saekit.core.errors import ConfigError, DataError
from saekit.core.progress import heard
from saekit.core.result import Result, Table
from saekit.evals.base import Eval, JointEval, registry
from saekit.models.tiny import tiny
from tests.evals.world import random_topk, subject, text, tools

JOINT = [name for name in registry.names() if registry.get(name).joint]


@pytest.fixture(params=JOINT)
def example(request: pytest.FixtureRequest) -> JointEval:
    return registry.get(request.param).example()


def subjects(*seeds, lm=None):
    found = [subject(random_topk(seed=seed), lm) for seed in seeds]
    return [one._replace(name=f"sae {i}") for i, one in enumerate(found)]


def run(example, *seeds):
    kept: dict[tuple[str, str], Table] = {}
    lm = tiny()
    with_keep = tools()._replace(keep=lambda s, n, t: kept.__setitem__((s.name, n), t))
    return example.run_together(subjects(*seeds, lm=lm), with_keep), kept


@pytest.fixture(scope="module")
def results():
    found = {}
    for name in JOINT:
        example = registry.get(name).example()
        found[name] = {"same": run(example, 0, 0), "other": run(example, 0, 1)}
    return found


def test_config_round_trips(example):
    raw = json.loads(json.dumps(example.to_dict()))
    assert Eval.from_dict(raw) == example
    assert example.version >= 1


def test_it_documents_itself(example):
    for word in ("Source:", "Cost:", "Reads:"):
        assert word in (type(example).__doc__ or "")


def test_progress_ends_at_its_total_and_a_shorter_text_is_noted(example):
    if "n_tokens" not in example.to_dict():
        pytest.skip("asks for no number of tokens")
    odd, told = dataclasses.replace(example, n_tokens=1001), []
    with heard(lambda *one: told.append(one)):
        assert not any("asked for" in note for note in run(odd, 0, 1)[0].provenance["notes"])
    assert max(done for _, done, total in told if total == 1001) == 1001
    result, _ = run(dataclasses.replace(example, n_tokens=10**12), 0, 1)
    assert "asked for 1,000,000,000,000 tokens" in result.provenance["notes"][0]


def test_an_sae_agrees_with_itself_more_than_with_another(example, results):
    same, other = (results[example.name][k][0] for k in ("same", "other"))
    directed = [k for k, s in same.scores.items() if s.better != "neither" and s.value is not None]
    assert directed
    wrong = [k for k in directed if other.scores[k].beats(same.scores[k])]
    assert not wrong and any(same.scores[k].beats(other.scores[k]) for k in directed)


def test_same_seed_same_numbers(example, results):
    again, kept = run(example, 0, 1)
    first, before = results[example.name]["other"]
    assert again.scores == first.scores and again.details == first.details
    assert {k: repr(t.columns) for k, t in kept.items()} == {
        k: repr(t.columns) for k, t in before.items()
    }


def test_tables_have_a_row_for_each_latent_of_their_sae(example, results):
    for (name, _), table in results[example.name]["other"][1].items():
        assert name in ("sae 0", "sae 1")
        assert len(table) == random_topk().cfg.d_sae and "latent" in table.columns


def test_the_result_survives_json(example, results, tmp_path):
    result = results[example.name]["other"][0]
    result.write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json") == result


def test_scores_lie_in_their_intervals(example, results):
    for key, score in results[example.name]["other"][0].scores.items():
        if score.low is not None and score.value is not None and score.high is not None:
            assert score.low <= score.value <= score.high, key
        else:
            assert score.reason, key


def test_it_refuses_one_sae_two_models_and_a_name_twice(example):
    one, other = subjects(0, 1, lm=tiny())
    with pytest.raises(ConfigError, match="several SAEs together"):
        example.run(one, tools())
    with pytest.raises(ConfigError, match="several SAEs together"):
        example.run_together([one], tools())
    with pytest.raises(ConfigError, match="several models"):
        example.run_together([one, other._replace(lm=tiny("gpt2"))], tools())
    with pytest.raises(ConfigError, match="twice"):
        example.run_together([one, one], tools())


def test_it_leaves_the_subjects_as_they_were(example):
    saes = [random_topk(seed=seed).double() for seed in (0, 1)]
    before = [{k: v.clone() for k, v in sae.state_dict().items()} for sae in saes]
    lm = tiny()
    named = [subject(sae, lm)._replace(name=str(i)) for i, sae in enumerate(saes)]
    example.run_together(named, tools())
    for sae, kept in zip(saes, before, strict=True):
        assert all(torch.equal(v, kept[k]) for k, v in sae.state_dict().items())


def test_text_that_is_too_short_is_an_error(example):
    with pytest.raises(DataError, match="held-out text"):
        example.run_together(subjects(0, 1, lm=tiny()), tools(text(0)))
