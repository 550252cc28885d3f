"""Documents in one row, each read as if alone."""

import pytest
import torch

from saekit.core.errors import ConfigError, ShapeError
from saekit.core.files import read_json
from saekit.models.tiny import tiny
from saekit.training.loop import train
from tests import world

FAMILIES = ["llama", "gpt2", "gpt_neox", "gemma", "qwen"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("begins", [False, True], ids=["ends", "begins too"])
def test_documents_in_a_row_are_as_each_alone(family, begins, monkeypatch):
    lm = tiny(family)
    eos = lm.tokenizer.eos_id
    monkeypatch.setattr(lm.tokenizer, "bos_id", eos if begins else eos + 1)
    g = torch.Generator().manual_seed(0)
    docs = [torch.randint(5, 60, (1, n), generator=g) for n in (7, 1, 12)]
    mark = torch.tensor([[eos]])
    docs = [torch.cat([mark, d] if begins else [d, mark], 1) for d in docs]
    row = torch.cat(docs, 1)
    sites = [lm.sites()[0], lm.sites()[-1]]
    apart = lm.separated()
    packed, logits = apart.read(row, sites), apart.logits(row)
    alone = [lm.read(d, sites) for d in docs]
    for site in sites:
        expected = torch.cat([a[site] for a in alone], 1)
        assert (packed[site] - expected).abs().max() < 2e-5 * expected.abs().max()
    expected = torch.cat([lm.logits(d) for d in docs], 1)
    assert (logits - expected).abs().max() < 2e-5 * expected.abs().max()
    assert not torch.allclose(lm.logits(row), logits)  # one attends to the other else


def test_a_row_of_one_document_is_what_it_was():
    lm = tiny()
    row = torch.randint(5, 60, (3, 20))
    assert torch.allclose(lm.logits(row), lm.separated().logits(row), atol=1e-5)
    assert lm.separated().provenance() == lm.provenance() | {"separate_documents": True}


def test_what_cannot_be_separated_is_refused(monkeypatch):
    lm = tiny()
    monkeypatch.setattr(lm.tokenizer, "eos_id", None)
    with pytest.raises(ConfigError, match="EOS"):
        lm.separated()
    lm = tiny("gemma")  # whose layers attend to 64 tokens
    with pytest.raises(ShapeError, match="64 tokens"):
        lm.separated().logits(torch.zeros(1, 65, dtype=torch.int64))


def test_a_run_with_separate_documents_says_so(tmp_path):
    lm, out = world.model(), tmp_path / "out"
    run = world.run(tmp_path, separate_documents=True, tokens=2000)
    train(run, lm, out, shown=False)
    assert read_json(out / "manifest.json")["model"]["separate_documents"] is True
    assert read_json(out / "sae" / "card.json")["model"]["separate_documents"] is True
