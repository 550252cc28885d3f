"""A plan of explaining asks nothing, and counts what the run then sends."""

import pytest

from saekit.generators.limits import Limits
from saekit.generators.scripted import Scripted
from saekit.models.tiny import tiny
from saekit.studies.explain.scorers.base import registry
from saekit.studies.explain.scoring import estimate, score
from saekit.studies.explain.study import JOURNAL, Explain, explain
from saekit.studies.sensitivity.examples import ExampleConfig
from tests import letters

CFG = Explain(
    n_latents=3,
    tokens=6000,
    tests=6,
    steered=0,
    most_words=12,
    examples=ExampleConfig(around=6, top=4, weighted=2, spare=3, random=40, least_count=3),
)


def test_a_plan_counts_at_least_the_requests_of_the_run_that_follows(tmp_path):
    lm = tiny("llama")
    sae, text = letters.detector(lm), letters.documents(tmp_path)
    by = Scripted(answers=(("zoo", "words with the letter z"), ("quit", "q words"), ("", "an e")))
    used = [registry.get("detection")()]
    prices = Limits(usd_in=1.0, usd_out=2.0)
    out = tmp_path / "e"
    plan = estimate(sae, lm, by, out, CFG, text=text, scorers=used, limits=prices, shown=False)
    assert not (out / JOURNAL).exists() and plan["latents"] == plan["explaining"] == 3
    cost = (plan["tokens_read"] + 2 * plan["tokens_written"]) / 1e6
    assert plan["usd"] == pytest.approx(cost) and plan["requests"] == 3 + plan["judging"]
    found = explain(sae, lm, by, out, CFG, text=text, shown=False)
    scored = score(found, by, scorers=used, shown=False)
    # Lines that come out the same make questions that are the same, which are asked once.
    assert 0 < scored.result.details["requests_sent"] <= plan["judging"] and not found.stopped
    later = estimate(sae, lm, by, out, CFG, text=text, scorers=used, limits=prices, shown=False)
    assert later["known"] == 3 and later["requests"] == plan["judging"]


def test_labels_are_what_the_explorer_imports(tmp_path):
    from saekit.core.errors import DataError
    from saekit.core.files import read_object
    from saekit.explorer.labels import Labels
    from saekit.explorer.schemas import Exported
    from saekit.hub.trained import weights_digest
    from saekit.studies.explain.labels_file import write_labels

    lm = tiny("llama")
    sae, text = letters.detector(lm), letters.documents(tmp_path)
    by = Scripted(answers=(("", "words with an e"),))
    found = explain(sae, lm, by, tmp_path / "e", CFG, text=text, latents=[0, 2], shown=False)
    scored = score(found, by, scorers=[registry.get("detection")()], shown=False)
    made = read_object(write_labels(found, scores=scored.folder))
    store = Labels(tmp_path / "labels.db")
    assert store.restore(Exported(**made).model_dump())["labels"] == 2
    one = store.get(weights_digest(sae.sae), 0)
    assert one.text == "words with an e" and "detection" in one.note and one.by == "scripted"
    store.close()
    with pytest.raises(DataError, match="scores 0.99"):
        write_labels(found, scores=scored.folder, least=0.99)
