"""The threshold that replaces a batch in use is that of the finished weights, not a lagging one."""

import pytest
import torch

from saekit.activations.pairs import Pair
from saekit.saes.batch_topk import BatchTopK
from saekit.saes.crosscoder import Crosscoder
from saekit.training.loop import train
from saekit.training.trainer import Training
from tests import world
from tests.training.cut import Killed, assert_same, weights

SIZES = {"d_in": 32, "d_out": 32, "d_sae": 64}
SITES = ("L0.resid_post", "L1.resid_post")


@pytest.fixture(scope="module")
def lm():
    return world.model()


def run_of(folder, kind, **more):
    if kind == "crosscoder":
        more |= {"sae": Crosscoder(**SIZES, k=4.0, n_sites=2), "pair": Pair(read=SITES)}
    else:
        more |= {"sae": BatchTopK(**SIZES, k=4.0, threshold_decay=0.99)}
    return world.run(folder, **({"tokens": 5000} | more))


@pytest.mark.parametrize("kind", ["plain", "averaged", "crosscoder"])
def test_in_use_the_last_batches_have_k_latents_on(lm, tmp_path, monkeypatch, kind):
    seen, real = {}, Training.finish

    def finish(self):
        x = torch.cat(list(self._batches))
        seen["before"] = len(self.sae.encode(x).values) / len(x)
        real(self)
        seen["after"] = len(self.sae.encode(x).values) / len(x)

    monkeypatch.setattr(Training, "finish", finish)
    train(
        run_of(tmp_path, kind, ema=0.9 if kind == "averaged" else None),
        lm,
        tmp_path / "out",
        shown=False,
    )
    assert abs(seen["before"] - 4.0) > 0.02
    assert seen["after"] == pytest.approx(4.0, abs=0.02)


@pytest.mark.parametrize("at", [8, 33, 38])
def test_a_run_stopped_near_its_end_ends_with_the_same_threshold(lm, tmp_path, monkeypatch, at):
    """39 steps of 128 tokens are fewer than are looked back on, so checkpoints hold batches."""
    run = run_of(tmp_path, "plain", checkpoint_tokens=512)
    assert run.total_steps == 40
    train(run, lm, tmp_path / "whole", shown=False)
    real = Training.step

    def step(self, x, y):
        if self.index == at:
            raise Killed
        return real(self, x, y)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", step)
        with pytest.raises(Killed):
            train(run, lm, tmp_path / "cut", shown=False)
    train(run, lm, tmp_path / "cut", resume=True, shown=False)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
