"""The published way of picking examples, stated again; and SAEBench's files as a source."""

import dataclasses
import json
import random

import pytest
import torch

from saekit.core.errors import ConfigError, DataError, FormatError
from saekit.models.tiny import tiny
from saekit.studies.sensitivity import legacy
from saekit.studies.sensitivity.published_examples import read_published
from saekit.studies.sensitivity.study import collect, measure
from tests import letters
from tests.studies.sensitivity.test_study import ALL_Z, CFG, script


def again(acts, special, latents, top, weighted):
    """The same draws in other words: a loop over a sorted list, and weights place by place."""
    found = {}
    for i, latent in enumerate(latents):
        own = torch.where(special, 0.0, acts[..., i]).bfloat16()
        rows, n = own.shape
        places = [(r, c) for r in range(rows) for c in range(10, n - 10)]
        ranked = sorted(places, key=lambda p: -float(own[p]))  # Python's sort keeps ties in order
        peaks = []
        for r, c in ranked:
            if not any(r == r2 and abs(c - c2) <= 10 for r2, c2 in peaks):
                peaks.append((r, c))
            if len(peaks) == top + 2:
                break
        windows = {(r, c): (r, c - 10, own[r, c - 10 : c + 11].tolist()) for r, c in places}
        if max(max(windows[p][2]) for p in peaks) < 1e-6:
            continue
        least = min(float(own[p]) for p in peaks)
        weights = torch.tensor([0.0 if own[p] >= least else float(own[p]) ** 2 for p in places])
        drawn = []
        if weights.sqrt().max() >= 1e-6:
            n_drawn = min(weighted + 2, int(weights.gt(0).sum()))
            drawn = [places[j] for j in torch.multinomial(weights, n_drawn).tolist()]
        kept = [peaks[j] for j in torch.randperm(len(peaks))[:top]]
        if drawn:
            kept += [drawn[j] for j in torch.randperm(len(drawn))[:weighted]]
        found[latent] = sorted((windows[p] for p in kept), key=lambda w: -max(w[2]))
    return found


def test_peaks_and_draws_are_those_of_the_published_pipeline_one_for_one():
    draw = torch.Generator().manual_seed(0)
    acts = torch.rand(12, 60, 4, generator=draw)
    acts = acts.where(acts > 0.7, 0.0)
    acts[..., 2] = 0.0  # never on
    acts[..., 3] = 0.0
    acts[0, 5, 3] = 1.0  # on, but nowhere that a window fits around
    acts[0, 12, 3] = 0.5  # on in one place
    special = torch.rand(12, 60, generator=draw) < 0.05
    special[:, 0] = True
    special[0, 5:13] = False
    torch.manual_seed(42)
    expected = again(acts, special, [7, 3, 9, 11], 10, 5)
    found = legacy.examples(acts, special, [7, 3, 9, 11])
    assert {k: [tuple(w) for w in v] for k, v in found.items()} == expected
    assert list(found) == [7, 3, 11] and len(found[7]) == 15
    with pytest.raises(ConfigError, match="rows of over 20 tokens"):
        legacy.examples(acts[:, :20], special[:, :20], [7, 3, 9, 11])


def test_a_latent_on_at_15_tokens_is_dead_and_at_16_alive():
    on = torch.tensor([15, 16, 40, 0, 99])
    assert legacy.drawn(on, 1000, 1000, None) == [1, 2, 4]
    assert legacy.drawn(on, 1000, 1000, 9) == [1, 2, 4]
    random.seed(42)
    expected = sorted(random.sample([1, 2, 4], 2))
    assert legacy.drawn(on, 1000, 1000, 2) == expected


def test_the_published_way_runs_on_a_corpus(tmp_path):
    lm = tiny("llama")
    sae, text = letters.detector(lm), letters.documents(tmp_path)
    how = dataclasses.replace(CFG.examples, way="published", top=4, weighted=2)
    cfg = dataclasses.replace(CFG, examples=how, n_latents=2)
    found = collect(sae, lm, cfg, text, shown=False)
    assert len(found.latents) == 2 and set(found.latents) <= {0, 1, 2}
    for latent, one in found.latents.items():
        # All peaks of a detector are equal, so none is below the weakest of the strongest.
        assert len(one.shown) == 4 and not one.held_out and not one.negatives
        letter = ord(letters.LETTERS[latent])
        assert all(s.tokens[s.peak] == letter and s.acts[s.peak] > 0 for s in one.shown)


LOG = """Generation phase
Some words about the prompt
┌───────────┬──────────────────────────────┐
│   Top act │ Sequence                     │
├───────────┼──────────────────────────────┤
│     3.125 │ a <<z>>oo│with a bar ─ line  │
│     2.5   │ b <<z>><<z>> if (x << 2)↵end │
│     1     │ no mark \ufffd here          │
└───────────┴──────────────────────────────┘
Scoring phase
│     9     │ not <<this>> one             │
"""


def test_a_published_file_is_read_with_what_it_lost_counted(tmp_path):
    path = tmp_path / "eval_results.json"
    logs = {"0": {"logs": LOG}, "1": {"logs": "Generation phase nothing"}, "x": {"logs": LOG}}
    path.write_text(json.dumps({"eval_result_unstructured": logs}))
    found = read_published(path)
    assert list(found.latents) == [0]
    first, second, third = found.latents[0]
    assert first == (3.125, "a zoo│with a bar ─ line", [(2, 3)])
    assert second.text == "b zz if (x << 2)\nend" and second.marked == [(2, 3), (3, 4)]
    assert third.top_act == 1.0 and third.marked == []
    assert {k: v for k, v in found.defects.items() if v} == {
        "latents without a table": 1,
        "latents without a log": 1,
        "texts with a bar": 1,
        "texts with lost bytes": 1,
        "texts with ambiguous marks": 1,
        "texts without a mark": 1,
        "texts whose ends lost their spaces": 3,
    }
    for wrong in ({}, {"eval_result_unstructured": {"0": {"logs": "no table"}}}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(FormatError, match="automatic interpretation|no table of examples"):
            read_published(path)


def test_published_examples_are_shown_and_the_corpus_is_held_out(tmp_path):
    lm = tiny("llama")
    sae, text = letters.detector(lm), letters.documents(tmp_path)
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"eval_result_unstructured": {"0": {"logs": LOG}}}))
    given = read_published(path)
    run = measure(
        sae, lm, script(*ALL_Z), tmp_path / "s", CFG, text=text, published=given, shown=False
    )
    (line,) = run.latents.rows()
    # Two of the three texts have a z in them; those of the corpus all do.
    assert line["feature_index"] == 0 and line["n_original"] == 3
    assert line["original_sensitivity"] == pytest.approx(2 / 3)
    assert line["heldout_sensitivity"] == 1.0 and line["n_heldout"] > 3
    assert run.result.config["published_examples"] == given.digest
    with pytest.raises(DataError, match="have none of latent 1"):
        collect(sae, lm, CFG, text, [1], False, given)
