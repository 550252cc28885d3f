"""Ablation against a pass in which the latent's part is taken away by hand."""

import pytest
import torch

import saekit
from saekit.core.errors import UnknownNameError
from saekit.hub.ablation import ablate
from tests import world

TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    lm = world.model()
    return lm, saekit.train(
        lm, run=world.run(folder, model=lm.name), out=folder / "run", shown=False
    )


def losses(lm, row, replace=None):
    logits = lm.logits(row, replace)[0, :-1].float()
    return -logits.log_softmax(-1).gather(1, row[0, 1:, None])[:, 0]


def test_the_change_is_that_of_taking_its_part_away(made):
    lm, sae = made
    row = sae.tokens(TEXT, lm)
    acts = lm.read(row, sae.site)
    codes = sae.encode(acts)
    shown = saekit.prompt(lm, sae, TEXT)
    latent = shown.top(64)[3][0][0]
    strength = codes.columns(torch.tensor([latent])).view(1, -1, 1)
    kept = shown.kept[..., None]

    def without(x):
        return x - (strength * kept * sae.directions[latent]).to(x.dtype)

    before, after = losses(lm, row), losses(lm, row, {sae.site: without})
    found = ablate(lm, sae, latent, TEXT)
    assert found.loss[0] is None and found.change[0] is None
    torch.testing.assert_close(torch.tensor(found.loss[1:]), before)
    torch.testing.assert_close(torch.tensor(found.change[1:]), after - before, atol=1e-4, rtol=1e-3)
    assert found.acts == pytest.approx(strength.flatten().tolist())
    assert any(abs(c) > 1e-6 for c in found.change[1:])
    assert found.pieces == shown.pieces and found.to_dict()["tokens"] == row[0].tolist()


def test_a_latent_that_is_off_changes_nothing_to_the_bit(made):
    lm, sae = made
    on = {i for row in saekit.prompt(lm, sae, TEXT).top(64) for i, _ in row}
    off = next(i for i in range(sae.d_sae) if i not in on)
    assert set(ablate(lm, sae, off, TEXT).change[1:]) == {0.0}


def test_one_token_and_no_such_latent(made):
    lm, sae = made
    found = ablate(lm, sae, 0, "a")  # BOS and a letter
    assert len(found.loss) == 2
    with pytest.raises(UnknownNameError, match="no latent 64"):
        ablate(lm, sae, 64, TEXT)
    assert not lm.edits
