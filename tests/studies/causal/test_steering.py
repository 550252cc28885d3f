"""Steering: a latent that is what made the texts of a class makes them again, a random one not."""

import dataclasses

import pytest
import torch
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.data.labelled.base import Example, Labelled
from saekit.models.base import as_texts
from saekit.models.tiny import ByteTokenizer, tiny
from saekit.saes.base import SAE
from saekit.studies.causal import edits, writing
from saekit.studies.causal.edits import Placed
from saekit.studies.causal.evals import steering
from saekit.studies.causal.evals.steering import Steering
from tests.evals.world import SITE, mirror, subject, tools
from tests.studies.faithful.world import TableConfig

SMALL = Steering(
    tasks=("code_or_prose",),
    strengths=(0.01, 1.0),
    n_prompts=8,
    n_new=20,
    folds=2,
    n_draws=50,
    temperature=0.3,
    most_cost=20.0,
)


class Latin(ByteTokenizer):
    """A character for every byte, so that whatever a tiny model writes is text."""

    @override
    def encode(self, texts):
        return [list(text.encode("latin-1")) for text in as_texts(texts)]

    @override
    def decode(self, ids):
        return bytes(i for i in ids if i < 256).decode("latin-1")


class Planted(SAE):
    """Latent 0 is on where an activation leans to a class, and writes what made that class."""

    def __init__(self, towards, middle, vector):
        super().__init__()
        chance, d = torch.Generator().manual_seed(0), len(vector)
        self.cfg = TableConfig(d_in=d, d_out=d, d_sae=16)
        others = torch.randn(15, d, generator=chance)
        self.reads = torch.nn.Parameter(torch.cat([towards[None], others]))
        self.middle = torch.nn.Parameter(middle)
        self.W = torch.nn.Parameter(torch.cat([vector[None], 0.05 * others]))

    @override
    def encode(self, x):
        return Codes.from_dense(((x - self.middle) @ self.reads.T > 0).float())

    @override
    def decode(self, acts):
        return acts.dense() @ self.W

    @override
    def directions(self):
        return self.W

    @override
    def loss(self, x, y, step):
        raise NotImplementedError

    @override
    def rescale(self, x, y):
        raise NotImplementedError


def made():
    """Return a model, texts that it wrote with and without a vector added, and the vector."""
    lm = tiny()
    lm.tokenizer = Latin()
    own = subject(mirror(), lm, max_norm=None)
    vector = 20 * torch.nn.functional.normalize(
        torch.randn(32, generator=torch.Generator().manual_seed(3)), dim=0
    )
    prompts = [[256, i % 256] for i in range(80)]
    examples = []
    for label, added in ((0, 0.0), (1, 1.0)):
        with edits.attached(lm, Placed.of(own).change(lambda x, a=added: x + a * vector)):
            rows = lm.continue_tokens(prompts, 20, seed=label, stop=[], temperature=0.3)
        examples.append([Example(lm.tokenizer.decode(row), label) for row in rows])
    mixed = [e for pair in zip(*examples, strict=True) for e in pair]
    return lm, own, Labelled(mixed[:100], mixed[100:], ("plain", "moved"), {"notes": []}), vector


@pytest.mark.slow  # writes some hundred texts, a token at a time
def test_the_latent_that_made_a_class_makes_it_again(monkeypatch):
    lm, own, texts, vector = made()
    monkeypatch.setattr(steering, "open_task", lambda word, source: _Given(texts))
    x = {
        c: torch.cat(
            [
                lm.read(torch.tensor([lm.tokenizer.encode(e.text)[0]]), SITE)[0]
                for e in texts.train
                if e.label == c
            ]
        )
        for c in (0, 1)
    }
    gap, middle = x[1].mean(0) - x[0].mean(0), (x[0].mean(0) + x[1].mean(0)) / 2
    planted = own._replace(sae=Planted(gap, middle, vector))
    found = SMALL.run(planted, tools())
    scores, name = found.scores, "code_or_prose/moved"
    accuracy = scores["code_or_prose/judge_accuracy"]
    assert accuracy.value > 0.8 and accuracy.low > 0.5
    chosen = found.details["tasks"]["code_or_prose"]["classes"]["moved"]["latent"]
    assert chosen["strength"] == 1 and len(chosen["validation"]) == 2
    assert scores[f"{name}/success"].value > scores[f"{name}/unsteered"].value + 0.5
    assert scores[f"{name}/success"].value > scores[f"{name}/random_success"].value + 0.3
    assert scores["cost"].value > scores["random_cost"].value
    # A bound that no strength keeps leaves the model alone, and the score at nothing.
    bound = dataclasses.replace(SMALL, most_cost=1e-9, strengths=(1.0,)).run(planted, tools())
    kept = bound.details["tasks"]["code_or_prose"]["classes"]["moved"]["latent"]
    assert kept["strength"] == 0
    assert bound.scores[f"{name}/success"].value == bound.scores[f"{name}/unsteered"].value


class _Given:
    def __init__(self, texts):
        self.texts = texts

    def read(self):
        return self.texts


def test_a_model_that_predicts_no_text_is_not_steered():
    found = Steering.example().run(subject(mirror()), tools())
    assert found.scores["steering"].value is None
    assert "the model writes no text" in found.scores["steering"].reason
    assert found.scores["reach"].value == pytest.approx(1)


def test_the_judge_reads_another_layer_than_the_one_that_is_written():
    lm = tiny(n_layers=4)
    assert str(writing.judge_site(lm, SITE)) == "L3.resid_post"
    assert str(writing.judge_site(lm, SITE._replace(layer=3))) == "L2.resid_post"


def test_changes_end_with_their_block_also_after_an_error():
    lm = tiny()
    own = Placed.of(subject(mirror(), lm, max_norm=None))
    before = lm.logits([256, 5, 6])
    with pytest.raises(KeyError), edits.attached(lm, own.change(lambda x: x + 1)):
        assert not torch.equal(lm.logits([256, 5, 6]), before)
        raise KeyError
    assert torch.equal(lm.logits([256, 5, 6]), before) and lm.edits == ()
