import pytest
import torch

from saekit.analysis import logit_lens
from saekit.analysis.logit_lens import top_logits
from saekit.core.errors import ConfigError, ShapeError
from tests.world import model


@pytest.mark.parametrize("bytes_at_once", [1, 2**26])
def test_equals_the_full_matrix(monkeypatch, bytes_at_once):
    monkeypatch.setattr(logit_lens, "CHUNK_BYTES", bytes_at_once)
    lm = model()
    directions = torch.randn(9, lm.d_model, generator=torch.Generator().manual_seed(0))
    found = top_logits(lm, directions, n=3)
    effects = lm.logit_effects(directions).detach()
    order = effects.argsort(dim=1, descending=True)
    torch.testing.assert_close(found.promoted_values, effects.gather(1, order[:, :3]))
    torch.testing.assert_close(found.suppressed_values, effects.gather(1, order.flip(1)[:, :3]))
    torch.testing.assert_close(effects.gather(1, found.promoted), found.promoted_values)
    torch.testing.assert_close(effects.gather(1, found.suppressed), found.suppressed_values)
    first = found.records()[4]["promoted"][0]
    assert first[0] == lm.tokenizer.pieces([int(found.promoted[4, 0])])[0]
    assert first[1] == pytest.approx(float(found.promoted_values[4, 0]), rel=1e-3)
    table = found.table()
    assert len(table) == 9 * 6
    assert table.columns["side"][:6] == ["promoted"] * 3 + ["suppressed"] * 3
    assert table.columns["token_id"][3] == int(found.suppressed[0, 0])


def test_refuses_what_it_cannot_read():
    lm = model()
    with pytest.raises(ShapeError, match="residual stream"):
        top_logits(lm, torch.zeros(2, lm.d_model + 1))
    with pytest.raises(ConfigError, match="`n`"):
        top_logits(lm, torch.zeros(2, lm.d_model), n=0)
