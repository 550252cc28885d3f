"""Untrained floors: SAEs that are as wide and as sparse have one, and its codes are made once."""

from collections import Counter

import pytest
import torch

from saekit.saes.topk import TopK, TopKSAE
from saekit.studies.faithful.evals.fake_features import FakeFeatures
from saekit.studies.faithful.evals.probing import Probing
from saekit.studies.faithful.sequences import Padded, held_out
from saekit.studies.faithful.untrained import untrained
from saekit.studies.structure.evals.absorption import Absorption
from tests.evals.world import subject
from tests.studies.faithful.world import tools

PROBING = Probing(
    tasks=("code_or_prose",), n_train=60, n_test=40, sparse=(2,), folds=2, n_draws=20, n_ctx=32
)


def several(ks=(2, 2, 3)):
    cfg = {"d_in": 32, "d_out": 32, "d_sae": 256}
    made = [TopK(**cfg, k=k).build(torch.Generator().manual_seed(i)) for i, k in enumerate(ks)]
    return [subject(sae.eval()) for sae in made]


def test_saes_that_are_as_wide_and_as_sparse_have_one_floor():
    tokens = held_out(tools(), 16).tokens
    few = Padded(tokens, torch.ones_like(tokens, dtype=torch.bool))
    same, alike, denser = untrained(several(), few, 8, seed=0)
    assert same.sae is alike.sae
    assert (same.sae.cfg.k, denser.sae.cfg.k) == (2, 3)


@pytest.mark.parametrize(
    "evaluation", [PROBING, FakeFeatures.example(), Absorption.example()], ids=lambda e: e.name
)
def test_a_floor_is_coded_once_for_several_saes_and_scores_are_those_of_one(
    monkeypatch, evaluation
):
    some, calls = several(), Counter()
    alone = [evaluation.run_all([one], tools())[0] for one in some]
    encode = TopKSAE.encode

    def counted(self, x):
        calls[self] += 1
        return encode(self, x)

    monkeypatch.setattr(TopKSAE, "encode", counted)
    together = evaluation.run_all(some, tools())
    assert len(calls) == len(some) + 2  # two floors: one for k = 2, one for k = 3
    for one, other in zip(alone, together, strict=True):
        assert {n: s.value for n, s in one.scores.items()} == pytest.approx(
            {n: s.value for n, s in other.scores.items()}, nan_ok=True
        )
